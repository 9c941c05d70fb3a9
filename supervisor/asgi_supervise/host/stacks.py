"""The files in which our processes write the Python stacks of their threads.

Each process has one, held by the master too: an anonymous file in memory, so nothing is written to
disk, nothing can block and what was written survives the writer (:mod:`asgi_worker.stacks`). The
file is opened for appending, so that the master can empty it without the writer having to know.

Considered and refused: a pipe (a full one blocks the crashing process inside its handler), standard
error (lines of several processes mix, and the master could not read them), ``ptrace`` (containers
forbid it).
"""

from __future__ import annotations

import contextlib
import fcntl
import os

from asgi_worker.processor import ran_ns

MOST_BYTES = 1024 * 1024
"""More than faulthandler writes: a hundred threads of a hundred frames."""
_RAN_NS = 20_000_000
"""Python code that ran for so long has seen a signal."""
_CRASH = b"Fatal Python error: "
"""How faulthandler begins what it writes on SIGSEGV and the like."""


def make() -> int:
    """A file for one process, empty; its descriptor. Raises ``OSError``."""
    descriptor = os.memfd_create("stacks")
    fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_APPEND)
    return descriptor


def empty(descriptor: int) -> None:
    """Forget what was written."""
    os.ftruncate(descriptor, 0)


def read(descriptor: int) -> str:
    """What was written since it was emptied."""
    return os.pread(descriptor, MOST_BYTES, 0).decode(errors="backslashreplace")


def read_crash(descriptor: int) -> str:
    """What a crash wrote; stacks that were asked for before are no part of it."""
    written = os.pread(descriptor, MOST_BYTES, 0)
    begin = written.rfind(_CRASH)
    return written[begin:].decode(errors="backslashreplace") if begin >= 0 else ""


def kernel_state(pid: int) -> str:
    """The letter for what a process does (proc(5): R, S, D, T, Z …); "" if there is none."""
    with contextlib.suppress(OSError, IndexError), open(f"/proc/{pid}/stat", "rb") as file:
        # The name before it is the process's own choice and may hold anything.
        return file.read().rpartition(b") ")[2][:1].decode("ascii", "replace")
    return ""


def is_in_native_code(pid: int, ran_before_ns: int) -> bool:
    """Whether a process that has not answered, though it was asked when it had run for
    ``ran_before_ns``, must be in native code: it waits there, or has run since.
    """
    match kernel_state(pid):
        case "R":
            return ran_ns(pid) - ran_before_ns >= _RAN_NS
        case state:
            return state == "S"
