"""The pid file: written at start, removed at exit if it is still ours.

A record lock tells a live file from a stale one. Considered and refused: looking whether the pid
in it runs, because pids are used again (a stale file would block the start after a reboot).
Record locks are not inherited by fork and end with the process, however it ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat


class PidFileError(Exception):
    """The file cannot be written: a wrong setting. One line that says what to do."""


class PidFileTaken(Exception):
    """Another master lives behind this file. One line that says what to do."""


class PidFile:
    """Holds the lock until closed."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        while True:
            self.descriptor = self._open()
            if self._is_ours():
                break
            os.close(self.descriptor)  # another master removed it between our open and our lock
        try:
            os.ftruncate(self.descriptor, 0)
            os.pwrite(self.descriptor, b"%d\n" % os.getpid(), 0)
        except OSError as error:  # above all: no space left
            self.close()
            raise _cannot_write(self.path, error) from None

    def close(self) -> None:
        """Remove the file unless somebody put another in its place; let go of the lock."""
        if self._is_ours():
            with contextlib.suppress(OSError):
                os.unlink(self.path)
        os.close(self.descriptor)

    def _open(self) -> int:
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise _cannot_write(self.path, error) from None
        if not stat.S_ISREG(os.fstat(fd).st_mode):  # we would remove it in the end
            os.close(fd)
            raise _cannot_write(self.path, OSError(0, "it is not a regular file"))
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):  # it cannot be locked at all
                os.close(fd)
                raise _cannot_write(self.path, error) from None
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip()
            os.close(fd)
            who = f"pid {holder}" if re.fullmatch(r"\d+", holder) else "another process"
            raise PidFileTaken(
                f"cannot write pid file {self.path}: {who} is running and holds it; "
                "stop that one first, or choose another file with --pid"
            ) from None
        return fd

    def _is_ours(self) -> bool:
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self.descriptor))
        except OSError:
            return False


def _cannot_write(path: str, error: OSError) -> PidFileError:
    return PidFileError(
        f"cannot write pid file {path}: {error.strerror}; choose another place with --pid"
    )
