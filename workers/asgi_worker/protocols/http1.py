"""One HTTP/1.1 connection: requests served in order, its time-outs, its end (RFC 9112).

With ``http1_input`` and ``http1_output`` the fast path of the whole project, and its one honest
exception to layering: bytes come in here, the parser calls the reader, an exchange starts the
application and writes to the output half. No timer and no future per request; ``deadline`` is
compared by the server's sweep once a second.

Reading stops while the application lags behind with a body, and while ``pipeline_max_requests``
parsed requests wait for their turn.
"""

from __future__ import annotations

import asyncio
import math
from time import perf_counter
from typing import TYPE_CHECKING, Final

import httptools

from asgi_worker.protocols import request, websocket
from asgi_worker.protocols.exchange import BODY, COMPLETE, Exchange
from asgi_worker.protocols.http1_input import DISCARD_MAX_BYTES, Data, RequestReader
from asgi_worker.protocols.http1_output import CHUNKED, Output
from asgi_worker.protocols.repeated import RepeatedHead
from asgi_worker.protocols.request import BadRequest

if TYPE_CHECKING:
    from asgi_worker.balance import Cohort
    from asgi_worker.server import Address, Server

LINGER_S: Final = 2.0
"""How long a connection that we close is still read, so that a reset does not eat the response."""
INFINITY: Final = math.inf
INTERRUPTIONS: Final = (httptools.HttpParserError, httptools.HttpParserUpgrade)


class HttpConnection:
    """An ``asyncio.Protocol``, and the :class:`~.exchange.Source` of its exchanges."""

    __slots__ = (
        "__weakref__",
        "closing",
        "cohort",
        "deadline",
        "exchange",
        "local",
        "output",
        "pause_writing",
        "read_paused",
        "reader",
        "repeated",
        "resume_writing",
        "server",
        "stash",
        "transport",
        "waiting",
    )
    cohort: Cohort

    def __init__(
        self, server: Server, local: Address | None = None, idle_until: float = 0.0
    ) -> None:
        """``idle_until``: its deadline, if it was idle in another worker."""
        self.server = server
        self.deadline = idle_until
        self.local = local
        self.output = output = Output(server)
        self.pause_writing = output.pause_writing
        self.resume_writing = output.resume_writing
        self.waiting: list[Exchange] = []  # their heads are parsed
        self.exchange: Exchange | None = None  # being answered
        self.stash = b""  # read, but there was no room for more requests
        self.closing = False  # nothing more is parsed
        self.read_paused = False

    # The transport calls.

    def connection_made(self, transport: asyncio.Transport) -> None:
        server = self.server
        self.transport = self.output.transport = transport
        self.reader = RequestReader(self, transport)
        self.repeated = RepeatedHead(self.reader)
        if not self.deadline:
            self.deadline = server.now + server.settings.head_timeout_s
        server.came(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closing = True
        self.output.lost = True
        self.server.lost(self)
        self.waiting.clear()
        exchange = self.exchange
        if exchange is not None and exchange.phase >= BODY and self.server.access_log is not None:
            self.server.record(exchange)  # it broke off, but there was a response
        self.disconnect()
        self.resume_writing()

    def eof_received(self) -> bool:
        """The client has closed its side. Whether the transport stays open for writing."""
        exchanges = [*self.waiting] if self.exchange is None else [self.exchange, *self.waiting]
        if self.closing or not exchanges or exchanges[-1].more_body:
            return False
        exchanges[-1].keep_alive = False
        for exchange in exchanges:
            exchange.hang_up()
        return True

    def data_received(self, data: bytes) -> None:
        reader = self.reader
        if self.closing or reader.refusal is not None:
            return  # read, so that the client can read, and dropped
        if self.stash or reader.head or len(data) > self.server.piece_bytes:
            self._parse_in_pieces(data)
            return
        repeated = self.repeated
        if not (data.endswith(repeated.block) and repeated.take(data)):
            in_body = reader.incoming is not None
            taken = self._parse(data, 0)
            plain_scope = reader.plain_scope
            if plain_scope is not None:
                reader.plain_scope = None
                if not in_body:
                    repeated.remember(data, plain_scope)
            if taken < len(data):
                if self.waiting:
                    self._advance()
                self._parse_in_pieces(data[taken:])
                return
        if self.waiting:
            self._advance()
        if reader.incoming is not None:
            self._body_unfinished()

    def _parse_in_pieces(self, data: bytes) -> None:
        """Parse as far as there is room for the requests in ``data``; the rest is stashed."""
        reader = self.reader
        settings = self.server.settings
        if self.stash:
            data = self.stash + data
            self.stash = b""
        start = 0
        while start < len(data) and not self.closing and reader.refusal is None:
            if len(self.waiting) >= settings.pipeline_max_requests:
                self._advance()
            if len(self.waiting) >= settings.pipeline_max_requests:
                self.stash = data[start:]
                self.pause_reading()
                break
            start = self._parse(data, start)
        reader.plain_scope = None
        if self.waiting:
            self._advance()
        if reader.incoming is not None:
            self._body_unfinished()

    def _parse(self, data: bytes, start: int) -> int:
        """Let the reader have the next piece of ``data``. Returns where the one after it starts."""
        reader = self.reader
        incoming = reader.incoming
        body_bytes = reader.body_bytes
        waiting = len(self.waiting)
        before, left = b"", 0  # what had come of a head, how much of a body was to come
        end = len(data)
        if start or incoming is not None or reader.head or end > self.server.piece_bytes:
            end = reader.end_of_piece(data, start)
            before = bytes(reader.head)
            left = reader.length - body_bytes
            in_body = incoming is not None and left > 0
            piece: Data = memoryview(data)[start:end] if in_body else data[start:end]
        else:
            piece = data
        reader.chunk = piece
        error: Exception | None = None
        try:
            reader.feed(piece)
        except INTERRUPTIONS as caught:
            error = caught
        if error is not None:  # seen to here, lest the application find it being handled
            if reader.upgrading and isinstance(error, httptools.HttpParserUpgrade):
                return self._upgrade(data, start + error.args[0])
            known = incoming is None or left > 0
            reader.interrupted(error, (before + bytes(piece))[left:] if known else b"")
        elif reader.in_head:
            if incoming is not None or waiting != len(self.waiting):
                piece = request.last_head((before + bytes(piece))[left:])
                reader.head.clear()
            if reader.head_unfinished(piece):
                self.deadline = self.server.now + self.server.settings.head_timeout_s
        elif reader.incoming is not None:
            overhead = len(piece) - (reader.body_bytes - body_bytes)
            is_same = reader.incoming is incoming
            reader.body_unfinished(overhead if is_same else 0, len(data) - end)
        else:
            return end
        if reader.refusal is not None:
            self._refuse()
        return end

    def _upgrade(self, data: bytes, start: int) -> int:
        """The head that ended at ``start`` asks for another protocol: only WebSocket is granted."""
        exchange = self.waiting[-1]
        alone = self.exchange is None and len(self.waiting) == 1
        if alone and request.asks_for_websocket(exchange.scope):
            self._become_websocket(exchange, data[start:])
            return len(data)
        self.reader.ignore_upgrade(exchange)
        return start

    def _become_websocket(self, exchange: Exchange, rest: bytes) -> None:
        self.waiting.clear()
        self.reader.incoming = None
        self.closing = True
        request.make_websocket(exchange.scope)
        websocket.upgrade(self, exchange.scope, rest)

    def _body_unfinished(self) -> None:
        """A body goes on: the client has a while for its next piece, unless it waits for us."""
        reader = self.reader
        incoming = reader.incoming
        if incoming is None or self.closing:
            return
        limit_s = self.server.settings.body_timeout_s
        if limit_s is None or self.read_paused or incoming.expects_continue:
            self.deadline = INFINITY
        else:
            self.deadline = self.server.now + limit_s
        if incoming.phase == COMPLETE and reader.body_bytes > DISCARD_MAX_BYTES:
            self._linger()

    # Exchanges, one after the other.

    def _advance(self) -> None:
        """Start the next exchange when there is one and none is being answered."""
        server = self.server
        while self.waiting and self.exchange is None and not self.closing:
            self.exchange = exchange = self.waiting.pop(0)
            self.deadline = INFINITY
            if server.access_log is not None:
                exchange.started_at = perf_counter()
            if server.limit_concurrency is not None and server.is_full():
                exchange.keep_alive = False
                exchange.answer(503, b"Service Unavailable")
            else:
                exchange.start(server)
        if self.reader.refusal is not None:
            self._refuse()
        elif len(self.waiting) >= server.settings.pipeline_max_requests:
            self.pause_reading()
        elif self.stash:
            stash, self.stash = self.stash, b""
            self.resume_reading()
            self.data_received(stash)
        elif self.read_paused and self.reader.incoming is None:
            self.resume_reading()

    def want_body(self, exchange: Exchange) -> None:
        """The application has taken what there was of the body and asks for more."""
        if exchange.expects_continue:
            exchange.expects_continue = False
            if exchange.phase < BODY:
                self.output.inform(exchange, 100, [])
        self.resume_reading()
        self._body_unfinished()

    def responded(self, exchange: Exchange) -> None:
        """The response is complete: log it and make room for the next."""
        server = self.server
        server.requests += 1
        if server.access_log is not None:
            server.record(exchange)
        if exchange.status >= 500:
            server.errors += 1
        self.exchange = None
        if exchange.keep_alive and not exchange.more_body:
            self.deadline = server.idle_deadline
            if self.reader.in_head:
                self.deadline = server.now + server.settings.head_timeout_s
            if self.waiting or self.reader.refusal is not None or self.stash:
                server.call_soon(self._advance)
            elif server.moving:
                server.move_soon(self)
        elif self.closing:
            pass
        elif exchange.hung_up or not (exchange.more_body or server.draining or self._has_more()):
            self._close()
        elif exchange.expects_continue or not exchange.keep_alive:
            self._linger()  # the client may still send the body, or its next request
        else:
            exchange.forget_body()  # … and skip what is still to come of it
            self.resume_reading()
            self._body_unfinished()

    def received(self, exchange: Exchange) -> None:
        """The request is complete: from now on it is the application that takes its time."""
        self.deadline = self.server.idle_deadline if exchange.phase == COMPLETE else INFINITY
        if self.read_paused:
            self.resume_reading()

    def _has_more(self) -> bool:
        """Whether the client has sent more than the request that was answered."""
        return bool(self.waiting or self.stash or self.read_paused or self.reader.in_head)

    def cut(self, exchange: Exchange) -> None:
        """The response cannot be completed: close, or the client would take it for whole."""
        if self.closing:
            return
        self._close()
        if exchange.remaining < CHUNKED:  # else what is missing tells
            self.transport.abort()

    # Ends.

    def _refuse(self) -> None:
        """Answer what is wrong with the input, after what came before it has been answered."""
        refusal = self.reader.refusal
        exchange = self.exchange
        if refusal is None or self.closing or self.waiting:
            return
        if exchange is not None and not exchange.disconnected:
            return
        self.server.log.info("%s", request.describe(refusal, self.reader.template["client"]))
        if not self.reader.was_answered and (exchange is None or exchange.phase < BODY):
            self.output.flush()
            self.transport.write(request.refusal(refusal.status, self.server.defaults))
        self._linger()

    def _linger(self) -> None:
        """Close, but read on for a while what the client still sends (RFC 9112 §9.6)."""
        self.closing = True
        self.output.flush()
        self.stash = b""
        self.resume_reading()
        self.deadline = self.server.now + LINGER_S
        self.output.end()

    def _close(self) -> None:
        self.closing = True
        self.deadline = self.server.now + LINGER_S
        self.output.flush()
        self.transport.close()

    def expire(self, now: float) -> None:
        """The deadline has passed: of lingering, idling, or a head or body that does not come."""
        reader = self.reader
        if self.output.is_flowing(now):
            self.deadline = now + LINGER_S
        elif self.closing or self.output.unsent_bytes:
            self.transport.abort()
        elif self.read_paused and reader.incoming is None:
            self.deadline = now + self.server.settings.head_timeout_s  # it waits for us
        elif reader.in_head:
            reader.refusal = BadRequest(408, "the request head did not arrive in time")
            self._refuse()
        elif reader.incoming is not None:
            reader.refusal = BadRequest(408, "the request body did not arrive in time")
            reader.was_answered = reader.incoming.phase == COMPLETE
            reader.incoming.disconnect()
            self._refuse()
        elif self.exchange is None:
            self._close()

    def drain(self, successor: bool) -> None:
        """Announce the close with the next response; an idle connection gets a moment for one."""
        self.reader.announce_close()
        self.repeated.forget()
        exchange = self.exchange
        if exchange is None:
            if self.reader.incoming is not None:
                self._linger()  # what is left of a body that was answered
            elif not self.reader.in_head:
                self.deadline = min(self.deadline, self.server.now + LINGER_S)
        elif exchange.phase < BODY:
            exchange.keep_alive = False
        for exchange in self.waiting:
            exchange.keep_alive = False

    def disconnect(self) -> None:
        """Tell the application that the client has gone."""
        if self.exchange is not None:
            self.exchange.disconnect()
        if self.reader.incoming is not None:
            self.reader.incoming.disconnect()

    def abort(self) -> None:
        """End now."""
        self.transport.abort()

    def pause_reading(self) -> None:
        """Let the client wait, by way of its TCP window."""
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on, unless there is no room for what was read already."""
        if self.read_paused and not self.stash:
            self.read_paused = False
            self.transport.resume_reading()
