"""A user of a WebSocket: what it says has to come back, and whoever closes has to say why."""

from __future__ import annotations

import asyncio
import random
import time

from tests.process.tally import Book, Kind
from tests.process.users import AGAIN_S, IDENTITY, Line, Rounds, connect

HANDSHAKE = (
    b"GET /echo HTTP/1.1\r\nHost: crowd\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA
SIZES = (1, 60, 125, 126, 300, 4000)
_MASK = b"\x37\xfa\x21\x3d"


def frame(opcode: int, payload: bytes) -> bytes:
    """A masked frame, shorter than 64 KiB."""
    size = len(payload)
    head = bytes((0x80 | opcode, 0x80 | min(size, 126)))
    if size > 125:
        head += size.to_bytes(2, "big")
    key = int.from_bytes((_MASK * (size // 4 + 1))[:size], "big")
    return head + _MASK + (int.from_bytes(payload, "big") ^ key).to_bytes(size, "big")


def next_frame(data: bytearray) -> tuple[int, bytes] | None:
    """Take the first frame, which must not be masked, off ``data``; ``None``: not all is there."""
    if len(data) < 2:
        return None
    start, size = 2, data[1] & 0x7F
    if size > 125:
        start, size = (4, int.from_bytes(data[2:4], "big")) if size == 126 else (10, 0)
    if len(data) < start + size:
        return None
    opcode, payload = data[0] & 0x0F, bytes(data[start : start + size])
    del data[: start + size]
    return opcode, payload


class Talker:
    """Keeps a WebSocket, and connects it again when the server closes it as it may."""

    def __init__(self, book: Book, rate: float) -> None:
        self.name = "WebSocket"
        self.served = False
        self.busy = False
        self._book = book
        self._line: Line | None = None
        self._open = False
        self._said = b""
        self._wanted_at = 0.0
        self._version = ""
        self._task: asyncio.Task[None] | None = None
        self._rounds = Rounds(book, rate, self._visit)

    def look_at_the_clock(self, now: float) -> None:
        if self.busy and now - self._wanted_at > self._book.plan.patience_s:
            self._fail(Kind.TIMED_OUT, "echo" if self._open else "handshake")

    def leave(self) -> None:
        if self._line is not None:
            self._line.leave()

    def _visit(self) -> None:
        self._wanted_at = time.monotonic()
        if self._line is not None:
            self.busy = True
            self._said = random.randbytes(random.choice(SIZES) // 2 + 1).hex().encode()
            self._line.write(frame(TEXT, self._said))
        elif not self.busy:
            self.busy = True
            self._task = self._book.loop.create_task(self._connect())

    async def _connect(self) -> None:
        wanted_at = self._wanted_at
        self._open = False
        try:
            line = await connect(self._book.plan, self._make)
        except OSError as error:
            if self.busy and self._wanted_at == wanted_at:
                refused = isinstance(error, ConnectionRefusedError)
                self._fail(Kind.REFUSED if refused else Kind.RESET_FIRST, error)
        else:
            self._book.opened[self.name] += 1
            if line is self._line:
                line.write(HANDSHAKE)
            else:
                line.leave()

    def _make(self) -> Line:
        self._line = Line(self._received, self._lost)
        return self._line

    def _received(self, line: Line) -> None:
        if not self._open:
            head, end, _ = bytes(line.data).partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 101 "):
                self._fail(Kind.WRONG_STATUS, head.partition(b"\r\n")[0].decode("latin-1"))
                return
            del line.data[: len(head) + 4]
            self._open = True
        while line is self._line and (found := next_frame(line.data)) is not None:
            self._take(line, *found)

    def _take(self, line: Line, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            line.write(frame(PONG, payload))
        elif opcode == CLOSE:
            self._closed(line, int.from_bytes(payload[:2], "big"))
        elif not line.answers and (identity := IDENTITY.fullmatch(payload)):
            self._version, line.pid = identity[1].decode(), int(identity[2])
            self._answered(line)
        elif opcode == TEXT and self.busy and line.answers and payload == self._said:
            self._answered(line)
        else:
            self._fail(Kind.WRONG_BODY, f"opcode {opcode}, {payload[:80]!r}")

    def _answered(self, line: Line) -> None:
        line.answers += 1
        self.busy = False
        self.served = True
        self._book.answered(time.monotonic() - self._wanted_at, self._version, line.pid)
        self._rounds.again()

    def _closed(self, line: Line, code: int) -> None:
        if code not in self._book.plan.may_close:
            self._fail(Kind.WEBSOCKET_CLOSED, code)
            return
        self._book.renewals += 1
        self._book.interrupted += self.busy
        was_busy, self.busy = self.busy, False
        line.write(frame(CLOSE, code.to_bytes(2, "big")))
        line.leave()
        self._line = None
        if was_busy:  # else it comes by itself
            self._rounds.after(0.0)

    def _lost(self, line: Line, error: Exception | None) -> None:
        if line is not self._line:
            return
        how = repr(error) if error else "end of file"
        if self._open:
            self._fail(Kind.WEBSOCKET_LOST, how)
        else:
            self._fail(Kind.CUT if line.data else Kind.RESET_FIRST, f"{how} in the handshake")

    def _fail(self, kind: Kind, detail: object) -> None:
        line, self._line = self._line, None
        self._book.failed(kind, self.name, line.pid if line is not None else 0, detail)
        if line is not None:
            line.leave()
        was_busy, self.busy = self.busy, False
        if was_busy and not (kind is Kind.REFUSED and self._book.plan.leaves_when_refused):
            self._rounds.after(AGAIN_S)
