"""What a worker does once about its memory, before it serves."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os

_MALLOPT = {-1: 8 * 1024**2, -2: 1024**2, -3: 4 * 1024**2}
"""M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD in bytes."""


def freeze() -> None:
    """Take what the application is made of out of the collector's sight.

    Otherwise each full collection, in the middle of some request, walks through all of it: 25 ms
    for a FastAPI application without a route. One collection before costs just that, once, before
    any client waits, so that no garbage of the start stays for ever. What was preloaded is frozen
    already.
    """
    gc.collect()
    gc.freeze()


def keep_heap() -> None:
    """Let malloc keep some megabytes that are free for the moment (mallopt(3)).

    With its defaults, glibc gives the top of the heap back after every burst of request bodies and
    faults it in again for the next, which costs more than all else that a 64 KiB upload does.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return  # the operator has settled it
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in _MALLOPT.items():
            mallopt(parameter, value)
