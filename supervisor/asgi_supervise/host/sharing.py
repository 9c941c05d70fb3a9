"""Keep shared what master, template and workers share: a page is copied when it is written to.

Two things write to objects that nobody changes. The collector marks what it walks through:
``gc.freeze`` takes what exists out of its sight. And every use of an object counts its references:
each function that is called, each class that is looked at. CPython does not count those of objects
that are *immortal* (PEP 683), as ``None`` is. Code that was imported before the fork is needed as
long as the processes live, so it is made that: functions, their code and constants, classes and
their descriptors. Other objects are not: whoever imports an application may rely on a file or
connection being closed when the last reference to it goes. They must not hold such things
themselves: a function and the variables it closes over go with the process.

CPython has no call for this before 3.15, so the count is written where it is, the first word of an
object, after that was tried on an object of our own. Where it is not known to be so (before 3.12,
from 3.14, without the GIL, debug builds) nothing is done: processes share less, and that is all.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import sys
import sysconfig
import types
from typing import Any, Final

_LEAST_IMMORTAL: Final = 1 << 31
"""The count of an immortal object is at least that (CPython asks whether it is "less than 0")."""
_IMMORTAL: Final = 0xFFFFFFFF
"""``_Py_IMMORTAL_REFCNT`` of 3.12 and 3.13. Extensions for the ABI of 3.11 add 1 to it without
asking; it then flows over into the upper half of the word. 3.14 has no such half."""
_CODE: Final = (
    types.FunctionType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.CellType,
    property,
    classmethod,
    staticmethod,
    type,
)


def keep() -> None:
    """To be called before a fork: what there is now stays shared, as far as that is possible.

    What was kept before is not looked at again: to look at it would copy it.
    """
    gc.collect()
    found = gc.get_objects()
    gc.freeze()
    if not _possible():
        return
    pending: list[Any] = [thing for thing in found if _is_code(thing)]
    del found
    while pending:
        thing = pending.pop()
        if not _make_immortal(thing):
            continue
        if type(thing) is types.FunctionType:
            pending.append(thing.__code__)  # which the collector does not know
        elif type(thing) is types.CodeType:
            pending += thing.co_consts


def _is_code(thing: Any) -> bool:
    """Whether nothing but code goes with it. A method in C holds its object, perhaps a file.

    By type(): isinstance() asks the object for its class, and proxies would wake up what they are
    for.
    """
    if type(thing) is types.BuiltinFunctionType:
        return issubclass(type(thing.__self__), (types.NoneType, types.ModuleType, type))
    return issubclass(type(thing), _CODE)


def _make_immortal(thing: object) -> bool:
    """Whether it was not before; to write the same again would copy the page."""
    count = _count(thing)
    if count.value >= _LEAST_IMMORTAL:
        return False
    count.value = _IMMORTAL
    return True


def _count(thing: object) -> ctypes.c_uint32:
    """Where its references are counted."""
    return ctypes.c_uint32.from_address(id(thing))


@functools.cache
def _possible() -> bool:
    """Whether this is the interpreter we know, and does as we think."""
    if (
        sys.implementation.name != "cpython"
        or not (3, 12) <= sys.version_info < (3, 14)
        or sys.byteorder != "little"
        or sys.maxsize < 2**32
        or sysconfig.get_config_var("Py_GIL_DISABLED")
        or hasattr(sys, "gettotalrefcount")
    ):
        return False
    sample = lambda: None  # noqa: E731
    before = _count(sample).value
    several = [sample] * 10
    counted = _count(sample).value - before == len(several)
    if not counted:
        return False
    _make_immortal(sample)
    more = [sample] * 10
    stays = _count(sample).value
    del several, more
    return stays >= _LEAST_IMMORTAL and _count(sample).value >= _LEAST_IMMORTAL
