"""What is to run when a process of ours ends (``atexit``).

A worker is forked and leaves by ``os._exit``, so the interpreter does not see to it. What the
application registers is run by each worker, also what it registered in the template
(``--preload``): exporters and error trackers send there what they still hold, and that is the
worker's. What our own modules registered before the application came is not its affair.
"""

from __future__ import annotations

import atexit
import logging
import sys
import weakref


def begin() -> None:
    """Forget what is registered, as the application is imported next and registers its own."""
    atexit._clear()  # noqa: SLF001 – there is no other way
    atexit.register(logging.shutdown)  # which was among it; the application may have handlers
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]  # noqa: SLF001


def inherit() -> None:
    """Keep what the application registered before the fork.

    Only what it made then and is to be removed at the end, above all temporary directories, is of
    all workers: the first one to leave must not take it from the others. Nor are the processes that
    it started then a worker's children: it could neither wait for them nor may it end them.
    """
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]  # noqa: SLF001
        finalizer.atexit = False
    if "multiprocessing.process" in sys.modules:  # as it does in those that it forks itself
        sys.modules["multiprocessing.process"]._children.clear()  # noqa: SLF001
