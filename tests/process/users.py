"""Users of a service, by hand on asyncio transports: thousands of requests a second cost little.

Each has at most one connection and one request at a time, and a rate of its own. What it could not
send in time because it still waited is not caught up with, so a stall makes no flood. Nothing is
sent a second time unless it is counted.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
import socket
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from tests.process.tally import Book, Kind, Plan

IDENTITY = re.compile(rb"version=(\S+) slot=\d+ gen=\d+ pid=(\d+)\n")
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
CLOSE = re.compile(rb"\r\nconnection: *close\r\n", re.IGNORECASE)
UPLOAD_BYTES = 16 * 1024
LARGE_BYTES = 512 * 1024
FILLING = bytes(range(256)) * (LARGE_BYTES // 256)
PIECES = 8
PIECE_S = 1.0 / PIECES
READ_PAUSE_S = 0.02
AGAIN_S = 0.1
"""How soon somebody comes again who was disappointed."""


class Question(NamedTuple):
    """A request; what comes before and after the worker's identity in the answer's body."""

    request: bytes
    before: bytes = b""
    after: bytes = b""


class User(Protocol):
    """One of the crowd."""

    name: str
    served: bool
    """Whether it has been answered at least once."""
    busy: bool
    """Whether it waits for an answer."""

    def look_at_the_clock(self, now: float) -> None:
        """Give up on an answer that does not come."""

    def leave(self) -> None:
        """Close what is open."""


class Line(asyncio.Protocol):
    """One connection: what has come on it, for the user who has it."""

    def __init__(
        self,
        received: Callable[[Line], None],
        lost: Callable[[Line, Exception | None], None],
        read_pause_s: float = 0.0,
    ) -> None:
        self.transport: asyncio.Transport | None = None
        self.data = bytearray()
        self.answers = 0
        self.pid = 0
        self._received = received
        self._lost = lost
        self._read_pause_s = read_pause_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.data += data
        if self._read_pause_s and self.transport is not None:
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(self._read_pause_s, self._read_on)
        self._received(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self._lost(self, error)

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def leave(self) -> None:
        """Close it; what still comes on it is nobody's business."""
        self._received = self._lost = _ignore
        if self.transport is not None:
            self.transport.close()

    def _read_on(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()


def _ignore(*_: object) -> None:
    pass


async def connect(plan: Plan, make: Callable[[], Line], *, small_window: bool = False) -> Line:
    """A connected line; raises OSError."""
    loop = asyncio.get_running_loop()
    sock = socket.socket(socket.AF_INET6 if ":" in plan.host else socket.AF_INET)
    try:
        sock.setblocking(False)
        if small_window:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        await loop.sock_connect(sock, (plan.host, plan.port))
        _, line = await loop.create_connection(make, sock=sock)
    except BaseException:
        sock.close()
        raise
    return line


class Rounds:
    """When a user comes again: ``rate`` times a second, or as soon as it can if it is late."""

    def __init__(self, book: Book, rate: float, visit: Callable[[], None]) -> None:
        self._book = book
        self._period_s = 1 / rate
        self._visit = visit
        self._due = 0.0
        self.after(random.random() * min(self._period_s, 1.0))

    def again(self) -> None:
        now = time.monotonic()
        self._due = max(self._due + self._period_s, now)
        self._book.loop.call_later(self._due - now, self._come)

    def after(self, delay_s: float) -> None:
        self._due = time.monotonic() + delay_s
        self._book.loop.call_later(delay_s, self._come)

    def _come(self) -> None:
        if not self._book.leaving:
            self._visit()


class Visitor:
    """Asks again and again over HTTP; with ``keep`` on one connection as long as that lasts."""

    def __init__(
        self,
        book: Book,
        name: str,
        rate: float,
        ask: Callable[[], Question],
        *,
        keep: bool,
        dribbles: bool = False,
        reads_slowly: bool = False,
    ) -> None:
        self.name = name
        self.served = False
        self.busy = False
        self._book = book
        self._ask = ask
        self._keep = keep
        self._dribbles = dribbles
        self._reads_slowly = reads_slowly
        self._question = Question(b"")
        self._unsent = b""
        self._line: Line | None = None
        self._need = 0  # octets of head and body together, once the head is there
        self._wanted_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self._rounds = Rounds(book, rate, self._visit)

    def look_at_the_clock(self, now: float) -> None:
        if self.busy and now - self._wanted_at > self._book.plan.patience_s:
            come = len(self._line.data) if self._line is not None else 0
            self._fail(Kind.TIMED_OUT, f"{come} octets had come")

    def leave(self) -> None:
        if self._line is not None:
            self._line.leave()

    def _visit(self) -> None:
        self.busy = True
        self._need = 0
        self._question = self._ask()
        self._unsent = self._question.request
        self._wanted_at = time.monotonic()
        if self._line is None:
            self._task = self._book.loop.create_task(self._connect())
        else:
            self._send(self._line)

    async def _connect(self) -> None:
        wanted_at = self._wanted_at
        try:
            line = await connect(self._book.plan, self._make, small_window=self._reads_slowly)
        except OSError as error:
            if self.busy and self._wanted_at == wanted_at:
                refused = isinstance(error, ConnectionRefusedError)
                self._fail(Kind.REFUSED if refused else Kind.RESET_FIRST, error)
        else:
            self._book.opened[self.name] += 1
            if self.busy and self._wanted_at == wanted_at and line is self._line:
                self._send(line)
            else:  # lost already and counted, or too late
                line.leave()

    def _make(self) -> Line:
        pause_s = READ_PAUSE_S if self._reads_slowly else 0.0
        self._line = Line(self._received, self._lost, pause_s)
        return self._line

    def _send(self, line: Line) -> None:
        size = len(self._question.request)
        if self._dribbles:
            size = -(-size // PIECES)
        piece, self._unsent = self._unsent[:size], self._unsent[size:]
        line.write(piece)
        if self._unsent:
            self._book.loop.call_later(PIECE_S, self._send_on, line, len(self._unsent))

    def _send_on(self, line: Line, left: int) -> None:
        if line is self._line and self.busy and left == len(self._unsent):
            self._send(line)

    def _received(self, line: Line) -> None:
        if not self.busy:
            return self._fail(Kind.WRONG_BODY, f"not asked for: {bytes(line.data[:80])!r}")
        if not self._need:
            end = line.data.find(b"\r\n\r\n") + 4
            if end < 4:
                return None
            head = bytes(line.data[:end])
            length = LENGTH.search(head)
            if not head.startswith(b"HTTP/1.1 200 ") or length is None:
                return self._fail(Kind.WRONG_STATUS, head.partition(b"\r\n")[0].decode("latin-1"))
            self._need = end + int(length[1])
        if len(line.data) >= self._need:
            self._judge(line)
        return None

    def _judge(self, line: Line) -> None:
        head, _, body = bytes(line.data).partition(b"\r\n\r\n")
        _, before, after = self._question
        identity = IDENTITY.match(body, len(before))
        if (
            len(line.data) > self._need
            or not body.startswith(before)
            or identity is None
            or body[identity.end() :] != after
            or self._unsent
        ):
            return self._fail(Kind.WRONG_BODY, f"{len(body)} octets: {body[:120]!r}")
        line.answers += 1
        line.pid = int(identity[2])
        line.data.clear()
        slow = self._dribbles or self._reads_slowly
        took_s = None if slow else time.monotonic() - self._wanted_at
        self._book.answered(took_s, identity[1].decode(), line.pid)
        self.served = True
        self.busy = False
        if not self._keep or CLOSE.search(head + b"\r\n"):
            if self._keep:
                self._book.reconnected()
            line.leave()
            self._line = None
        self._rounds.again()
        return None

    def _lost(self, line: Line, error: Exception | None) -> None:
        if line is not self._line:
            return
        self._line = None
        if not self.busy:
            self._book.reconnected()
        elif line.data:
            self._fail(Kind.CUT, f"{len(line.data)} of {self._need or '?'} octets", line)
        else:
            kind = Kind.RESET_KEPT if line.answers else Kind.RESET_FIRST
            how = repr(error) if error else "end of file"
            self._fail(kind, f"{how}, {'all' if not self._unsent else 'part'} was sent", line)

    def _fail(self, kind: Kind, detail: object, line: Line | None = None) -> None:
        line = line or self._line
        self._book.failed(kind, self.name, line.pid if line is not None else 0, detail)
        if line is not None:
            line.leave()
        self._line = None
        self.busy = False
        if not (kind is Kind.REFUSED and self._book.plan.leaves_when_refused):
            self._rounds.after(AGAIN_S)


def get(path: str, *, keep: bool) -> bytes:
    close = "" if keep else "Connection: close\r\n"
    return f"GET {path} HTTP/1.1\r\nHost: crowd\r\n{close}\r\n".encode()


def upload() -> Question:
    body = random.randbytes(UPLOAD_BYTES)
    head = f"POST /upload HTTP/1.1\r\nHost: crowd\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return Question(head + body, before=hashlib.sha256(body).hexdigest().encode() + b" ")
