"""The output half of an HTTP/1.1 connection: responses in, delimited bytes out (RFC 9112 §6).

The application's messages say what the response is; this module says how the client finds its end:
by a length when it is known, by chunks, or, for HTTP/1.0, by the close of the connection. A length
that the application states is enforced: a client would read a wrong one into the next response.

Small pieces of a streamed body are gathered and leave once per turn of the loop in one write; a
large piece is handed to the transport as it is, never copied to be joined with what comes before.

After much of it, or what the client gets nothing of, the application has to wait for a turn of the
loop: one that only sends, to a client as fast as itself, would else never wait for anything, nor
learn that the client has gone. What is counted is counted where it is rare, not for each piece.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from asgi_worker.protocols import response, sendfile
from asgi_worker.protocols.exchange import FILE, forget_waiter
from asgi_worker.protocols.response import (
    BODYLESS,
    CONNECTION,
    DATE,
    SERVER,
    STATUS_LINES,
    check_header,
)

if TYPE_CHECKING:
    from asgi_worker.protocols.exchange import Exchange
    from asgi_worker.server import Server

JOIN_MAX_BYTES: Final = 16 * 1024
"""A piece up to this size is copied to leave in one write with its neighbours."""
FLUSH_BYTES: Final = 64 * 1024
"""So much is gathered at most before it is handed to the transport."""

STALL_S: Final = 60.0

CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2
NO_BODY: Final = -3
"""Instead of the number of bytes still to come in ``Exchange.remaining``."""


class Output:
    """What exchanges write to; the :class:`~.exchange.Wire` of HTTP/1.1."""

    __slots__ = (
        "gathered",
        "gathered_bytes",
        "large_bytes",
        "lost",
        "must_wait",
        "progress_at",
        "server",
        "transport",
        "unsent_bytes",
        "waiters",
        "write_paused",
    )

    def __init__(self, server: Server) -> None:
        self.server = server
        self.transport: asyncio.Transport
        self.gathered: list[bytes] = []
        self.gathered_bytes = 0
        self.large_bytes = 0  # handed to the transport since the application last had to wait
        self.write_paused = False
        self.must_wait = False  # for the client, or for a turn of the loop
        self.lost = False
        self.unsent_bytes = 0  # when last asked
        self.progress_at = 0.0
        self.waiters: list[asyncio.Future[None]] = []

    # The exchange asks.

    head = staticmethod(response.head)

    def respond(self, exchange: Exchange, body: bytes, more: bool) -> None:
        """Write the head and the first piece of the body.

        Raises ``RuntimeError``, nothing written, for a head that must not be sent.
        """
        size = len(body)
        lines = self._head(exchange, size, more)
        remaining = exchange.remaining
        if remaining < 0:
            if remaining == CHUNKED:
                self.gather(b"".join(lines))
                self.write_body(exchange, body, more)
                return
            if remaining == NO_BODY:
                body = b""
                size = 0
        else:
            _account(exchange, size, more)
        exchange.sent_bytes = size
        if size > JOIN_MAX_BYTES:
            self.flush()
            self.write_pieces((b"".join(lines), body))
            return
        lines.append(body)
        if more or self.gathered:
            self.gather(b"".join(lines))
            if not more:
                self.flush()
        else:
            self.transport.write(b"".join(lines))

    def write_body(self, exchange: Exchange, body: bytes, more: bool) -> None:
        """Write a further piece of the body; raises ``RuntimeError`` when its length is wrong."""
        remaining = exchange.remaining
        if remaining == CHUNKED:
            size = len(body)
            exchange.sent_bytes += size
            if size > JOIN_MAX_BYTES:
                self.gather(b"%x\r\n" % size)
                self._write_large(body)
                self.gather(b"\r\n")
            elif size:
                self.gather(b"%x\r\n%b\r\n" % (size, body))
            else:
                self.must_wait = True
            if not more:
                self.gather(b"0\r\n" if _has_trailers(exchange) else b"0\r\n\r\n")
                self.flush()
            return
        if remaining != NO_BODY:
            if remaining >= 0:
                _account(exchange, len(body), more)
            exchange.sent_bytes += len(body)
            if len(body) > JOIN_MAX_BYTES:
                self._write_large(body)
            elif body:
                self.gather(body)
            else:
                self.must_wait = True
        else:
            self.must_wait = True
        if not more:
            self.flush()

    def write_trailers(self, exchange: Exchange, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Write all trailers and the end of the message (RFC 9112 §7.1.2), if that is to come."""
        if exchange.remaining == CHUNKED and exchange.takes_trailers:
            self.gather(_lines(headers) + b"\r\n")
        self.flush()

    def inform(
        self, exchange: Exchange, status: int, headers: Iterable[tuple[bytes, bytes]]
    ) -> None:
        """Write an interim response (RFC 9110 §15.2); HTTP/1.0 clients do not know them."""
        if exchange.scope["http_version"] != "1.0":
            self.gather(STATUS_LINES[status] + _lines(headers) + b"\r\n")
            self.flush()

    async def send_file(self, exchange: Exchange, path: str) -> None:
        """Write the head and the file; raises ``OSError`` of ``open``, nothing written."""
        with open(path, "rb") as file:  # noqa: ASYNC230 – a local file opens as fast as a thread starts
            size = sendfile.size_of(file)
            exchange.takes_trailers = False  # what has a length has no place for them
            head = b"".join(self._head(exchange, size, False))
            if exchange.remaining >= 0:
                _account(exchange, size, False)
            exchange.phase = FILE
            self.gather(head)
            self.flush()
            if exchange.remaining == NO_BODY:
                return
            await sendfile.send(self, exchange, file, size)

    async def writable(self) -> None:
        """Return when more may be written, others had a turn, or the client has gone."""
        if not self.write_paused:
            self.must_wait = False
            await asyncio.sleep(0)
        while self.write_paused and not self.lost:
            waiter = self.server.loop.create_future()
            self.waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                forget_waiter(self.waiters, waiter)
                raise

    # The transport tells (by way of the connection, whose protocol methods these are).

    def pause_writing(self) -> None:
        """The transport's buffer is above its high-water mark."""
        self.write_paused = self.must_wait = True

    def is_flowing(self, now: float) -> bool:
        """Whether the client still takes what was written, or has just taken the last of it.

        To be asked now and then; a client that takes nothing for ``STALL_S`` has gone.
        """
        unsent_bytes = self.transport.get_write_buffer_size()
        if unsent_bytes != self.unsent_bytes:
            self.unsent_bytes = unsent_bytes
            self.progress_at = now
            return True
        return unsent_bytes > 0 and now - self.progress_at < STALL_S

    def is_read(self) -> bool:
        """Whether the client has taken some of what it was sent since this was last asked."""
        before = self.unsent_bytes
        self.unsent_bytes = unsent_bytes = self.transport.get_write_buffer_size()
        # What is held back grows only after the client has taken most of it.
        return unsent_bytes < before or (self.write_paused and unsent_bytes > before)

    def resume_writing(self) -> None:
        """… is below its low-water mark again, or the connection is lost."""
        self.write_paused = self.must_wait = False
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def is_empty(self) -> bool:
        """Whether all that was written has left this process."""
        transport = self.transport
        return not (
            self.gathered or transport.is_closing() or transport.get_write_buffer_size() > 0
        )

    def flush(self) -> None:
        """Hand what was gathered to the transport."""
        if self.gathered:
            gathered, self.gathered = self.gathered, []
            size, self.gathered_bytes = self.gathered_bytes, 0
            if self.lost:
                return
            if size > JOIN_MAX_BYTES and size > 1024 * len(gathered):
                self.write_pieces(gathered)
            else:
                self.transport.write(b"".join(gathered))

    def write_pieces(self, pieces: Sequence[bytes]) -> None:
        """Write ``pieces``, too large to be joined; in one system call where that works."""
        if self.server.vectored:
            self.transport.writelines(pieces)
        else:
            for piece in pieces:
                if self.transport.is_closing():
                    return  # the client has gone: asyncio would warn of every further write
                self.transport.write(piece)

    def end(self) -> None:
        """Tell the client that nothing more is written; where only a close can tell it, close."""
        transport = self.transport
        if not transport.can_write_eof():
            transport.close()
            return
        try:
            transport.write_eof()
        except OSError:  # of asyncio: the client has reset the connection
            transport.abort()

    def gather(self, data: bytes) -> None:
        """Keep ``data`` until the end of this turn of the loop, or until there is much of it."""
        if not self.gathered:
            self.server.flush_soon(self)
        self.gathered.append(data)
        self.gathered_bytes += len(data)
        if self.gathered_bytes > FLUSH_BYTES:
            self.must_wait = True
            self.flush()

    def _write_large(self, body: bytes) -> None:
        self.flush()
        self.transport.write(body)
        self.large_bytes += len(body)
        if self.large_bytes > FLUSH_BYTES:
            self.large_bytes = 0
            self.must_wait = True

    def _head(  # noqa: PLR0912 – flat is fast
        self, exchange: Exchange, body_bytes: int, more: bool
    ) -> list[bytes]:
        """The head, in pieces, for a response whose first piece of body is ``body_bytes`` long.

        Sets ``exchange.remaining`` and, where the framing needs it, clears ``exchange.keep_alive``.
        """
        head, length, said = exchange.head
        lines = [head]
        status = exchange.status
        if said:
            if said & 1 << CONNECTION:
                exchange.keep_alive = False
            date, server = not said & 1 << DATE, not said & 1 << SERVER
            lines.append(self.server.default_headers(date=date, server=server))
        else:
            lines.append(self.server.defaults)
        scope = exchange.scope
        if status in BODYLESS or exchange.is_head:
            exchange.remaining = NO_BODY
            if length < 0 and not more and status not in BODYLESS:
                lines.append(b"content-length: %d\r\n" % body_bytes)
        elif length >= 0:
            exchange.remaining = length
        elif not (more or _has_trailers(exchange)):
            exchange.remaining = body_bytes
            lines.append(b"content-length: %d\r\n" % body_bytes)
        elif scope["http_version"] == "1.1":
            exchange.remaining = CHUNKED
            lines.append(b"transfer-encoding: chunked\r\n")
        else:
            exchange.remaining = UNTIL_CLOSE
            exchange.keep_alive = False
        if exchange.more_body:
            # Nobody knows whether the body will come, or it will not be skipped to the end. While
            # a success is being written the application may read on; hardly after a refusal.
            refused = status >= 400 or not more
            if exchange.expects_continue or (exchange.must_be_read and refused):
                exchange.keep_alive = False
        if not exchange.keep_alive:
            lines.append(b"connection: close\r\n\r\n")
        elif scope["http_version"] == "1.1":
            lines.append(b"\r\n")
        else:
            lines.append(b"connection: keep-alive\r\n\r\n")
        return lines


def _has_trailers(exchange: Exchange) -> bool:
    """Whether trailers are to be written behind the body."""
    return exchange.promised_trailers and exchange.takes_trailers


def _account(exchange: Exchange, body_bytes: int, more: bool) -> None:
    """Count a piece of a body whose length was stated."""
    remaining = exchange.remaining - body_bytes
    if remaining < 0:
        raise RuntimeError(f"the body is {-remaining} bytes longer than content-length says")
    if remaining and not more:
        raise RuntimeError(f"the body ends {remaining} bytes short of what content-length says")
    exchange.remaining = remaining


def _lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    for name, value in headers:
        check_header(name, value)
    return b"".join(b"%b: %b\r\n" % header for header in headers)
