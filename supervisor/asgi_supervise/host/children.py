"""Children as the kernel has them: the subreaper, pidfds, reaping.

Signals go through pidfds, never to bare pids: a pid may belong to somebody else by the time it is
used, a pidfd cannot.
"""

from __future__ import annotations

import contextlib
import os
import signal

_PR_SET_CHILD_SUBREAPER = 36


class UnsupportedSystem(Exception):
    """The kernel lacks what the master stands on."""


def become_subreaper() -> None:
    """Orphaned descendants become our children, so that we alone reap every worker."""
    if not hasattr(os, "pidfd_open"):
        raise UnsupportedSystem("asgi-supervise needs Linux 5.4 or newer (pidfds)")
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise UnsupportedSystem(f"cannot become a child subreaper: {reason}")


def send_signal(pidfd: int, number: int) -> None:
    """As ``kill(2)``; to a process that is gone, nothing."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)


def reap(pidfd: int) -> int | None:
    """Exit status, or minus the killing signal, of a child that ended; ``None`` if it has not."""
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    return None if result is None else _status(result)


def first_ended_child() -> int | None:
    """The pid of some child that ended and was not reaped; it is not reaped by this."""
    try:
        result = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if result is None else result.si_pid


def reap_stray(pid: int) -> None:
    """Reap a child nobody waits for: an orphan of the application, or of a template that died."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)


def _status(result: os.waitid_result) -> int:
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
