"""What an application imported once, in the template, leaves there that workers do not get.

fork(2) copies memory and descriptors, but no thread; and one socket or event loop in several
processes serves none of them. An application is not refused for it – much of it is harmless, and
what is not shows in tests – but it is told, once, by name.

Nothing is imported that the application did not import, and no loop is made by looking for one.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import gc
import os
import re
import socket
import stat
import sys
from collections.abc import Iterator
from typing import Any

ADVICE = (
    "Start threads, loops and connections in the lifespan startup of the application instead, "
    "which runs in every worker, or go without --preload."
)


def descriptors() -> dict[int, str]:
    """What is open in this process: descriptors and what the kernel calls each."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that lists the others
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def warning(app: str, remains: list[str]) -> str:
    """The text for the log."""
    lines = "".join(f"\n  {what}" for what in remains)
    return (
        f'--preload: what "{app}" started at import does not work in the workers:{lines}\n{ADVICE}'
    )


def remains(before: dict[int, str]) -> list[str]:
    """What was started since :func:`descriptors` was asked, and does not survive a fork; a line
    each.
    """
    loops = [f"event loop {loop}" for loop in _event_loops()]
    return [*_threads(), *loops, *_descriptors(before, bool(loops))]


# --- threads -------------------------------------------------------------------------------------


def _threads() -> Iterator[str]:
    threading = sys.modules.get("threading")
    named = {os.getpid()}  # the main thread, whose native_id may be that of our parent's
    main = threading and threading.main_thread()
    for thread in threading.enumerate() if threading else ():
        if thread is not main:
            named.add(thread.native_id)
            yield f'thread "{thread.name}" {_work_of(thread)}'
    native = [name for number, name in _tasks() if number not in named]
    if native:
        names = ", ".join(sorted(set(native)))
        yield f"{_count(len(native), 'native thread')} ({names}) of an extension module"


def _work_of(thread: Any) -> str:
    """What it runs and where that is defined."""
    work = getattr(thread, "_target", None) or type(thread).run
    while isinstance(work, functools.partial):
        work = work.func
    name = getattr(work, "__qualname__", type(work).__qualname__)
    code = getattr(work, "__code__", None) or getattr(type(work).__call__, "__code__", None)
    where = f" ({code.co_filename}:{code.co_firstlineno})" if code else ""
    return f"running {getattr(work, '__module__', None) or '?'}.{name}{where}"


def _tasks() -> Iterator[tuple[int, str]]:
    """Every thread the kernel knows in this process: number and name."""
    for number in os.listdir("/proc/self/task"):
        with (
            contextlib.suppress(OSError),  # it has just ended
            open(f"/proc/self/task/{number}/comm", encoding="utf-8", errors="replace") as file,
        ):
            yield int(number), file.read().strip()


# --- event loops ---------------------------------------------------------------------------------


def _event_loops() -> list[str]:
    """Loops that are not closed, whether set, running in a thread, or neither."""
    events = sys.modules.get("asyncio.events")
    if events is None:
        return []
    kinds: dict[type, bool] = {}
    found = []
    for thing in gc.get_objects():
        kind = type(thing)  # not __class__, which may be code of the application
        if kind not in kinds:
            kinds[kind] = issubclass(kind, events.AbstractEventLoop)
        if kinds[kind] and not thing.is_closed():
            state = "running" if thing.is_running() else "not running, not closed"
            found.append(f"{kind.__module__}.{kind.__qualname__} ({state})")
    return found


# --- descriptors ---------------------------------------------------------------------------------


def _descriptors(before: dict[int, str], with_loops: bool) -> Iterator[str]:
    of_loops: list[int] = []
    for number, name in sorted(descriptors().items()):
        if before.get(number) == name:
            continue
        with contextlib.suppress(OSError):  # closed meanwhile by a thread
            what = _what_is(number, name)
            if what in _OF_LOOPS and with_loops:
                of_loops.append(number)
            elif what:
                yield f"descriptor {number}: {what}"
    if of_loops:
        numbers = ", ".join(map(str, of_loops))
        yield f"descriptors {numbers}: such as event loops have (epoll, pipe or socket pair)"


_PIPE, _PAIR = "pipe", "socket pair"
_OF_LOOPS = ("eventpoll", "eventfd", "io_uring", _PIPE, _PAIR)


def _what_is(number: int, name: str) -> str:
    """In words; "" for what several processes may have open together."""
    mode = os.fstat(number).st_mode
    if stat.S_ISSOCK(mode):
        return _socket(number)
    if name.startswith("anon_inode:"):
        return name.removeprefix("anon_inode:").strip("[]")
    if stat.S_ISFIFO(mode):
        return _PIPE
    flags = fcntl.fcntl(number, fcntl.F_GETFL)
    writes = flags & os.O_ACCMODE != os.O_RDONLY and not flags & os.O_APPEND
    shared = name.startswith(("/memfd:", "/dev/shm/"))  # noqa: S108 - memory, not files
    if stat.S_ISREG(mode) and writes and not shared:
        return f"file {name}, open for writing: all workers write from the same place in it"
    return ""


def _socket(number: int) -> str:
    with socket.socket(fileno=os.dup(number)) as copy:
        here = _address(copy.getsockname())
        if copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return f"socket listening on {here}"
        try:
            there = _address(copy.getpeername())
        except OSError:
            return f"socket {here}, not connected" if here else "socket, not connected"
        if not here and not there:
            return _PAIR
        return f"socket {here} → {there}" if here else f"socket → {there}"


def _address(name: Any) -> str:
    if isinstance(name, tuple) and len(name) >= 2:
        host = f"[{name[0]}]" if ":" in str(name[0]) else name[0]
        return f"{host}:{name[1]}"
    text = os.fsdecode(name) if isinstance(name, (str, bytes)) else str(name)
    return re.sub("\0", "@", text)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
