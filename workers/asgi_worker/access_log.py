"""Access-log lines: the only place that formats and writes them.

A line costs one f-string and one ``list.append``; what a turn of the event loop has gathered leaves
in one ``os.write``. Considered and refused: ``logging`` (a record, a lock and a write for each
request cost half of a small request's time), a writing thread (it fights for the interpreter
lock), and waiting longer than a turn (lines of a worker that dies would be missing).

The reader is somebody else's program and must not be able to stop the service: where writing could
block – a pipe, a socket, a terminal – the kernel is asked first. While the reader does not read,
lines are kept up to ``BACKLOG_BYTES``, then they are dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import stat
import time

BACKLOG_BYTES = 1024 * 1024
RETRY_S = 0.02
CALM_S = 1.0
"""When writing has worked again for so long, what was lost is reported; the next loss is news."""
LONGEST_REQUEST = 3000
"""Characters shown of a request line: with the rest, a line is shorter than ``PIPE_BUF``."""

log = logging.getLogger("asgi_worker.access_log")


class AccessLog:
    """Writes access-log lines to ``fd``, one write per turn of ``loop``.

    ``lost`` counts the lines that could not be written.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int) -> None:
        self.lost = 0
        self._loop = loop
        self._number = fd
        self._fd = -1
        self._lines: list[str] = []
        self._backlog = bytearray()
        self._told: set[str] = set()
        self._lost_before = 0  # lines whose loss was reported
        self._lost_at = 0.0  # loop time
        self._torn = False  # the file ends with a part of a line
        self._in_pieces = False
        self._poll: select.poll | None = None
        self.reopened()

    def reopened(self) -> None:
        """There is another file behind the descriptor: see of what kind."""
        self._torn = False
        self._fd = self._number
        try:
            mode = os.fstat(self._fd).st_mode
        except OSError:
            # Closed: whatever gets this number next must not receive our lines.
            mode, self._fd = 0, -1
        # Up to PIPE_BUF bytes reach a pipe whole, however many processes write to it.
        self._in_pieces = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
        self._poll = None
        if self._in_pieces or os.isatty(self._fd):
            self._poll = select.poll()
            self._poll.register(self._fd, select.POLLOUT)

    def record(
        self,
        client: tuple[str, int] | None,
        method: str,
        target: str,
        http_version: str,
        status: int,
        body_bytes: int,
        duration_s: float,
    ) -> None:
        """Note one finished request; ``target`` as it came, with its query."""
        request = f"{method} {target}"
        if (
            len(request) > LONGEST_REQUEST
            or '"' in request
            or "\\" in request
            or not (request.isascii() and request.isprintable())
        ):
            request = _shown(request)
        if client is None:
            peer = "-"
        else:
            host, port = client
            peer = f"{host}:{port}" if ":" not in host else f"[{host}]:{port}"
        lines = self._lines
        if not lines:
            self._loop.call_soon(self._write_turn)
        lines.append(
            f'{peer} - "{request} HTTP/{http_version}" {status} {body_bytes}B '
            f"{duration_s * 1000:.1f}ms\n"
        )

    def flush(self, timeout_s: float = 1.0) -> None:
        """Write what is left, before the process exits; gives a slow reader ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        self._backlog += self._taken()
        while self._backlog:
            self._write_backlog()
            left_s = deadline - time.monotonic()
            if not self._backlog or left_s <= 0:
                break
            if self._poll is not None:
                self._poll.poll(left_s * 1000)
        if self._backlog:
            self._lose(bytes(self._backlog), 0, "its reader does not read")
            self._backlog.clear()
        self._report_lost()

    def _taken(self) -> bytes:
        data = "".join(self._lines).encode("ascii", "backslashreplace")
        self._lines.clear()
        return data

    def _write_turn(self) -> None:
        data = self._taken()
        if self._backlog:
            if len(self._backlog) + len(data) <= BACKLOG_BYTES:
                self._backlog += data
            else:
                self._lose(data, 0, "its reader does not read")
            return
        written = self._write(data)
        if written < len(data):
            self._backlog += data[written:]
            self._loop.call_later(RETRY_S, self._retry)

    def _retry(self) -> None:
        self._write_backlog()
        if self._backlog:
            self._loop.call_later(RETRY_S, self._retry)

    def _write_backlog(self) -> None:
        data = bytes(self._backlog)
        del self._backlog[: self._write(data)]

    def _write(self, data: bytes) -> int:
        """How many bytes are done with: written, or lost to an error that waiting cannot cure."""
        start = 0
        while start < len(data):
            if self._poll is not None and not self._poll.poll(0):
                break
            try:
                if self._torn:
                    os.write(self._fd, b"\n")
                    self._torn = False
                start += os.write(self._fd, self._piece(data, start))
            except BlockingIOError:
                break
            except OSError as error:
                self._torn = self._torn or data[start - 1 : start] not in (b"", b"\n")
                self._lose(data, start, error.strerror or str(error))
                return len(data)
        if self._told and self._loop.time() >= self._lost_at + CALM_S:
            self._report_lost()
        return start

    def _piece(self, data: bytes, start: int) -> bytes:
        """Whole lines from ``start``, as many as a pipe takes at once."""
        if not self._in_pieces or len(data) - start <= select.PIPE_BUF:
            return data[start:] if start else data
        end = data.rfind(b"\n", start, start + select.PIPE_BUF) + 1
        return data[start : end or data.find(b"\n", start) + 1]

    def _lose(self, data: bytes, start: int, why: str) -> None:
        self.lost += data.count(b"\n", start)
        self._lost_at = self._loop.time()
        if why not in self._told:
            self._told.add(why)
            log.error(
                "cannot write the access log: %s; lines are lost, and counted until it works again",
                why,
            )

    def _report_lost(self) -> None:
        if self.lost > self._lost_before:
            log.warning("%d lines of the access log were lost", self.lost - self._lost_before)
            self._lost_before = self.lost
        self._told.clear()


def _shown(request: str) -> str:
    """``request`` in printable ASCII without quotes, cut to its limit."""
    text = request.encode("unicode_escape").decode("ascii").replace('"', '\\"')
    return text if len(text) <= LONGEST_REQUEST else f"{text[: LONGEST_REQUEST - 3]}..."
