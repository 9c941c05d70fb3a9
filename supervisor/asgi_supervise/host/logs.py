"""Where our log goes: descriptor 2 of every process, and the files that may be behind it.

A record is one write to the descriptor, so that records of many processes do not mix. Whoever reads
it is somebody else's program and must not be able to stop the service: where writing could wait – a
pipe, a socket, a terminal – it does not. A reader that is behind gets :data:`PATIENCE_S` once; what
cannot be written is lost, counted, and said as soon as writing works again. Nothing here raises for
what happens to a descriptor: a full disk is not the application's problem.

Log files take the place of the descriptors that are written to anyway. So everything that a process
writes to standard error is in ``log_file``, whoever wrote it, and reopening is the same ``dup2`` in
every process.

Considered and refused: ``logging.FileHandler`` (only our own records would be in the file),
``WatchedFileHandler`` (a ``stat`` for each record, and each process for itself), ``O_NONBLOCK`` (it
belongs to everybody who has the pipe or terminal, also to the shell we were started from).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import stat
import sys
import time

STDOUT, STDERR = 1, 2
PATIENCE_S = 0.1
LOGGERS = ("asgi_supervise", "asgi_worker")
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY
_NO_WAIT: int | None = getattr(os, "RWF_NOWAIT", None)  # musl has it since 1.2.5
_NO_SUCH_WRITE = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM}
_FORMAT = logging.Formatter(
    "{asctime}.{msecs:03.0f} [{process}] {levelname} {message}",
    datefmt="%Y-%m-%d %H:%M:%S",
    style="{",
)

log = logging.getLogger("asgi_supervise")


def configure(level: str) -> None:
    """Our loggers, here and in every process forked from here, to standard error.

    Only ours: the application's logging is the application's.
    """
    _occupy_standard_descriptors()
    to_stderr = logging.StreamHandler(RecordStream())
    to_stderr.setFormatter(_FORMAT)
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [to_stderr]
        logger.propagate = False
    set_level(level)


def set_level(level: str) -> None:
    """The least level that is logged, here and in every process forked from here."""
    for name in LOGGERS:
        logging.getLogger(name).setLevel(level.upper())


class RecordStream:
    """Takes the text of one record at a time to descriptor 2; for ``logging.StreamHandler``.

    ``lost`` counts the records of this process that could not be written and were not told of yet.
    """

    def __init__(self) -> None:
        self.lost = 0
        self._why = ""
        self._torn = False
        self._pid = os.getpid()

    def write(self, text: str) -> None:
        """Write one record, or lose it."""
        if self._pid != os.getpid():  # what the parent has lost it says itself
            self._pid, self.lost, self._torn = os.getpid(), 0, False
        try:
            if self.lost:
                self._put(self._confession(), patience_s=0.0)
                self.lost = 0
            self._put(text, PATIENCE_S)
        except OSError as error:
            self.lost += 1
            behind = isinstance(error, BlockingIOError)
            self._why = "its reader does not read" if behind else os.strerror(error.errno or 0)

    def _confession(self) -> str:
        records = "1 log record was" if self.lost == 1 else f"{self.lost} log records were"
        text = f"{records} lost: {self._why}"
        record = logging.LogRecord(LOGGERS[0], logging.WARNING, "", 0, text, None, None)
        return _FORMAT.format(record) + "\n"

    def _put(self, text: str, patience_s: float) -> None:
        """All of ``text``; raises ``OSError`` if it cannot be."""
        data = text.encode("utf-8", "backslashreplace")
        if self._torn:  # the line before ended in the middle
            data = b"\n" + data
        mode = os.fstat(STDERR).st_mode
        deadline = time.monotonic() + patience_s
        start = 0
        try:
            while start < len(data):
                if stat.S_ISREG(mode):
                    start += os.write(STDERR, data[start:])
                else:
                    end = _end_of_piece(data, start) if stat.S_ISFIFO(mode) else len(data)
                    start += _write_in_time(data[start:end], deadline)
        finally:
            if start:
                self._torn = data[start - 1] != 0x0A


def _end_of_piece(data: bytes, start: int) -> int:
    """Where to cut what a pipe takes whole, however many write to it: after a line if possible."""
    if len(data) - start <= select.PIPE_BUF:
        return len(data)
    most = start + select.PIPE_BUF
    return data.rfind(b"\n", start, most) + 1 or most


def _write_in_time(data: bytes, deadline: float) -> int:
    """How much of ``data`` was written; raises ``BlockingIOError`` when none can be in time."""
    poll = select.poll()
    poll.register(STDERR, select.POLLOUT)
    while True:
        try:
            return _write_at_once(data, poll)
        except BlockingIOError:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise
            poll.poll(left_s * 1000)


def _write_at_once(data: bytes, poll: select.poll) -> int:
    """write(2), but never waits, though the descriptor may be one that does.

    Pipes and sockets can be asked for that by each write (Linux 6.5). Elsewhere there is a gap
    between asking whether there is room and writing, in which another process may take it.
    """
    if _NO_WAIT is not None:
        try:
            return os.pwritev(STDERR, [data], -1, _NO_WAIT)
        except OSError as error:
            if error.errno not in _NO_SUCH_WRITE:
                raise
    if not poll.poll(0):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return os.write(STDERR, data)


def _occupy_standard_descriptors() -> None:
    """Whoever started us may have closed some; nothing else must get these numbers."""
    for number in (0, STDOUT, STDERR):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened == number:
                os.set_inheritable(opened, True)
            else:
                os.dup2(opened, number)
                os.close(opened)


class LogFileError(Exception):
    """A log file cannot be opened. One line that says what to do."""


class LogFiles:
    """The files behind the descriptors, if there are any; opened by the master alone, before
    workers become somebody else. Raises :class:`LogFileError`.
    """

    def __init__(self, log_file: str | None, access_log_file: str | None) -> None:
        self._paths: dict[int, str] = {}
        self.access_log = STDOUT
        """The descriptor for access-log lines; its number never changes."""
        if access_log_file is not None:  # first: what is wrong with it is still said where we are
            self.access_log = _open(access_log_file, "access-log-file")
            self._paths[self.access_log] = access_log_file
        if log_file is not None:
            try:
                opened = _open(log_file, "log-file")
            except LogFileError:
                self.close()
                raise
            _put_in_place(opened, STDERR)
            self._paths[STDERR] = log_file

    def reopen(self) -> dict[int, int]:
        """Open all anew: they were moved away. Those that cannot be opened go on as they are.

        What is to be put in which place in other processes, as :meth:`Host.pass_on` takes it; the
        descriptors stay ours.
        """
        reopened = {}
        for target, path in self._paths.items():
            try:
                word = "log-file" if target == STDERR else "access-log-file"
                _put_in_place(_open(path, word), target)
                reopened[target] = target
            except (LogFileError, OSError) as error:
                log.error("%s; the old file goes on", error)
        if reopened:
            log.info("reopened %s", ", ".join(self._paths[target] for target in reopened))
        elif not self._paths:
            log.info(
                "there are no log files to reopen: neither log-file nor access-log-file is set"
            )
        return reopened

    def close(self) -> None:
        """Close what is ours alone; standard error stays."""
        if self.access_log != STDOUT:
            os.close(self.access_log)
            self.access_log = STDOUT


def _open(path: str, word: str) -> int:
    """``path`` for appending. A pipe that nobody reads is refused instead of waited for."""
    try:
        opened = os.open(path, _FLAGS | os.O_NONBLOCK, 0o640)
    except OSError as error:
        raise LogFileError(f"cannot open {path}: {error.strerror} (see --{word})") from None
    os.set_blocking(opened, True)
    return opened


def _put_in_place(opened: int, target: int) -> None:
    """Programs that the application starts inherit standard error, nothing else."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
    try:
        os.dup2(opened, target, inheritable=target == STDERR)
    finally:
        os.close(opened)
