"""Children as the kernel has them: the subreaper, pidfds, reaping.

Signals go through pidfds, never to bare pids: a pid may belong to somebody else by the time it is
used, a pidfd cannot.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import NoReturn

from asgi_supervise.host import signals
from asgi_worker import channel

GO_ON = b"go"
"""What a process forked by :func:`fork_twice` waits for."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


class UnsupportedSystem(Exception):
    """The kernel lacks what the master stands on."""


def become_subreaper() -> None:
    """Orphaned descendants become our children, so that we alone reap every worker."""
    if not hasattr(os, "pidfd_open"):
        raise UnsupportedSystem("asgi-supervise needs Linux 5.4 or newer (pidfds)")
    if reason := _prctl(_PR_SET_CHILD_SUBREAPER, 1):
        raise UnsupportedSystem(f"cannot become a child subreaper: {reason}")


def die_with_parent() -> None:
    """From now on SIGKILL comes when the parent ends; if it had before, nothing does.

    Not passed on by fork.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def outlive_parent() -> None:
    """Undo :func:`die_with_parent`."""
    _prctl(_PR_SET_PDEATHSIG, 0)


def fork_twice(
    work: Callable[[socket.socket, set[int]], NoReturn],
) -> tuple[int, int, socket.socket]:
    """Fork a grandchild, which becomes the child of our subreaper: the process in between ends at
    once. While that one lives, the pid of the grandchild cannot be used again, and so that is when
    the pidfd is opened.

    The grandchild calls ``work`` with a socket and the signal mask to which to return; the signals
    are blocked, and it shall wait until it reads GO_ON: at end-of-file nobody knows of it. Returns
    its pid, its pidfd, and where to send GO_ON. Raises ``OSError``, and leaves nothing then.
    """
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.ExitStack() as undo:
        undo.enter_context(here)
        with there:
            with signals.blocked() as mask:
                middle = _fork()
                if middle == 0:
                    here.close()
                    _fork_again(lambda: work(there, mask), there)
            with contextlib.suppress(ChildProcessError):  # the application ignores SIGCHLD
                os.waitpid(middle, 0)
        try:
            answer, fds = channel.receive(here, socket.MSG_DONTWAIT)
        except BlockingIOError:
            answer, fds = b"", []
        if not answer:
            raise OSError(errno.ECHILD, "the child was killed")
        number = int(answer)
        if not fds:
            failed = -number if number < 0 else errno.EMFILE
            raise OSError(failed, os.strerror(failed))
        undo.pop_all()
        return number, fds[0], here


def _fork_again(work: Callable[[], NoReturn], there: socket.socket) -> NoReturn:
    """In the middle: fork, answer with pid and pidfd (or, less than 0, what failed), and end."""
    try:
        pid = _fork()
        if pid == 0:
            work()
        socket.send_fds(there, [b"%d" % pid], [os.pidfd_open(pid)])
    except OSError as error:
        there.send(b"%d" % -(error.errno or errno.EIO))
    finally:
        os._exit(0)


def _fork() -> int:
    """As ``os.fork``, without its warning about threads: those of a preloaded application have been
    named where something can be done about them.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is multi-threaded, use of fork", DeprecationWarning)
        return os.fork()


def answer_of(work: Callable[[], bytes]) -> tuple[bytes, int]:
    """What ``work`` returns in a child, and the child's exit status, as a shell would say it.

    ``work`` may leave by :class:`SystemExit`; the answer is empty then.
    """
    # Whoever started us may ignore it, and this is inherited: then no child leaves a status.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _answer(work, reader, writer)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return answer, status if status >= 0 else 128 - status


def _answer(work: Callable[[], bytes], reader: int, writer: int) -> NoReturn:
    status = 1
    try:
        os.close(reader)
        with open(writer, "wb") as pipe:
            pipe.write(work())
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except BaseException:  # noqa: BLE001 - a child must not return into its parent's code
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


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


def _prctl(option: int, value: int) -> str:
    """Why it was refused; "" if it was not."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) == 0:
        return ""
    return os.strerror(ctypes.get_errno())
