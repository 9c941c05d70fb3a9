"""The input half of an HTTP/1.1 connection: bytes in, exchanges started in order (RFC 9112).

With ``http1_output`` the fast path of the whole project, and its one honest exception to layering:
``httptools`` calls this object, which starts the application with an
:class:`~.exchange.Exchange`. Nothing is allocated per callback, no timer and no future per request;
``deadline`` is compared by the server's sweep once a second.

Reading stops (``pause_reading``) while the application lags behind with a body, and while
``pipeline_max_requests`` parsed requests wait for their turn.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Final

import httptools

from asgi_worker.protocols import request, websocket
from asgi_worker.protocols.exchange import (
    BODY,
    BODY_HIGH_WATER_BYTES,
    COMPLETE,
    NOTHING,
    Exchange,
)
from asgi_worker.protocols.http1_output import Output
from asgi_worker.protocols.request import BadRequest

if TYPE_CHECKING:
    from asgi_worker.application import Scope
    from asgi_worker.server import Server

PIECE_BYTES: Final = 16 * 1024
"""Input is parsed in pieces of this size, so that a burst of pipelined requests can be stopped."""
DISCARD_MAX_BYTES: Final = 1024 * 1024
"""A body that the application did not read is skipped up to here to keep the connection."""
LINGER_S: Final = 2.0
"""How long a connection that we close is still read, so that a reset does not eat the response."""
INFINITY: Final = math.inf

_SPECIAL: Final = frozenset({b"content-length", b"transfer-encoding", b"expect", b"upgrade", b"te"})
_FORWARDED: Final = frozenset(
    {b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port"}
)
_METHODS: Final = {
    name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
}


class HttpConnection:
    """An ``asyncio.Protocol``, the parser's callbacks and the :class:`~.exchange.Source` in one."""

    __slots__ = (
        "__weakref__",
        "body_bytes",
        "closing",
        "deadline",
        "exchange",
        "feed",
        "head_bytes",
        "head_start",
        "headers",
        "in_head",
        "incoming",
        "output",
        "parser",
        "pause_writing",
        "read_paused",
        "refusal",
        "resume_writing",
        "server",
        "should_keep_alive",
        "special",
        "stash",
        "template",
        "transport",
        "upgrading",
        "url",
        "waiting",
    )

    def __init__(self, server: Server) -> None:
        self.server = server
        self.output = output = Output(server)
        self.pause_writing = output.pause_writing
        self.resume_writing = output.resume_writing
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.in_head = False
        self.head_bytes = 0  # of an unfinished head, over all chunks
        self.head_start = b""  # its first bytes
        self.body_bytes = 0  # of the request body that is arriving
        self.incoming: Exchange | None = None  # its body is arriving
        self.waiting: deque[Exchange] = deque()  # their heads are parsed
        self.exchange: Exchange | None = None  # being answered
        self.upgrading = False
        self.refusal: BadRequest | None = None
        self.closing = False  # nothing more is parsed
        self.stash = b""  # read, but there was no room for more requests
        self.read_paused = False
        self.deadline = INFINITY
        self._new_parser()

    def _new_parser(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.feed = self.parser.feed_data
        self.should_keep_alive = _never if self.server.draining else self.parser.should_keep_alive

    # The transport calls.

    def connection_made(self, transport: asyncio.Transport) -> None:
        server = self.server
        self.transport = self.output.transport = transport
        self.template, trusted = server.template(transport)
        self.special = _SPECIAL | _FORWARDED if trusted else _SPECIAL
        self.deadline = server.now + server.settings.head_timeout_s
        server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closing = True
        self.output.lost = True
        self.server.lost(self)
        self.waiting.clear()
        self.disconnect()
        self.resume_writing()

    def eof_received(self) -> None:
        """The client has closed its side: the transport writes what it holds, then closes."""

    def data_received(self, data: bytes) -> None:
        if self.closing:
            return  # lingering: read, so that the client can read, and dropped
        if self.stash or len(data) > PIECE_BYTES:
            self._parse_in_pieces(data)
            return
        try:
            self.feed(data)
        except httptools.HttpParserError as error:
            self._interrupted(error, data)
        if self.in_head:
            self._head_unfinished(data)
        if self.waiting:
            self.advance()
        if self.incoming is not None:
            self._body_unfinished()

    def _parse_in_pieces(self, data: bytes) -> None:
        """Parse as far as there is room for the requests in ``data``; the rest is stashed."""
        if self.stash:
            data = self.stash + data
            self.stash = b""
        start = 0
        while start < len(data) and not self.closing and not self.refusal:
            if len(self.waiting) >= self.server.settings.pipeline_max_requests:
                self.stash = data[start:]
                self._pause_reading()
                break
            end = start + (PIECE_BYTES if self.incoming is None else 4 * PIECE_BYTES)
            piece = data[start:end]
            start = end
            try:
                self.feed(piece)
            except httptools.HttpParserError as error:
                self._interrupted(error, data[end - len(piece) :])
                if isinstance(error, httptools.HttpParserUpgrade):
                    break  # the rest went with it
            if self.in_head:
                self._head_unfinished(piece)
            if self.waiting:
                self.advance()
        if self.incoming is not None:
            self._body_unfinished()

    # The parser calls.

    def on_message_begin(self) -> None:
        self.in_head = True

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        headers, url, parser = self.headers, self.url, self.parser
        self.headers, self.url = [], b""
        self.in_head = False
        scope = self.template.copy()
        scope["headers"] = headers
        method = parser.get_method()
        scope["method"] = _METHODS.get(method) or method.decode("ascii")
        scope["state"] = scope["state"].copy()
        scope["extensions"] = scope["extensions"].copy()
        version = parser.get_http_version()
        fields = dict(headers)
        try:
            if version != "1.1":
                if version != "1.0":
                    raise BadRequest(505, f"HTTP/{version} is not spoken here")
                scope["http_version"] = version
            elif b"host" not in fields:
                raise BadRequest(400, "no Host field")
            if len(fields) != len(headers):
                request.check_repeated(headers)
            self._check_size(url, headers)
            if url[0] != 47 or b"%" in url or b"#" in url or scope["root_path"]:
                request.read_target(scope, url)
            else:
                path, _, scope["query_string"] = url.partition(b"?")
                scope["path"] = path.decode("ascii")
                scope["raw_path"] = path
            request.check_host(fields.get(b"host", b""))
            exchange = Exchange(self, self.output, scope, self.should_keep_alive())
            if not self.special.isdisjoint(fields):
                self._read_special(exchange, fields)
        except BadRequest as refusal:
            self.refusal = refusal
            raise
        self.incoming = exchange
        self.waiting.append(exchange)

    def on_body(self, data: bytes) -> None:
        incoming = self.incoming
        if incoming is None:
            return
        self.body_bytes += len(data)
        incoming.feed(data)
        limit = self.server.settings.body_max_bytes
        if limit is not None and self.body_bytes > limit:
            self.refusal = BadRequest(413, f"the body is longer than {limit} bytes")
            raise self.refusal
        if incoming.body_bytes > BODY_HIGH_WATER_BYTES:
            self._pause_reading()

    def on_message_complete(self) -> None:
        if self.upgrading:
            return
        incoming, self.incoming = self.incoming, None
        if incoming is not None:
            incoming.end()
            if incoming is not self.exchange and incoming.phase == COMPLETE:
                self.deadline = self.server.now + self.server.settings.keep_alive_timeout_s
        if self.headers:  # trailers: swallowed (RFC 9112 §7.1.2 permits it)
            self.headers = []
        self.body_bytes = 0

    # Rare turns of parsing.

    def _check_size(self, url: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        settings = self.server.settings
        if len(headers) > settings.head_max_fields:
            raise BadRequest(431, f"more than {settings.head_max_fields} header fields")
        if self.head_bytes:
            size = sum(len(name) + len(value) + 4 for name, value in headers)
            if len(url) > settings.head_max_bytes:
                raise BadRequest(414, f"the target is longer than {settings.head_max_bytes} bytes")
            if len(url) + size > settings.head_max_bytes:
                raise BadRequest(431, f"the head is longer than {settings.head_max_bytes} bytes")
            self.head_bytes = 0
            self.head_start = b""

    def _read_special(self, exchange: Exchange, fields: dict[bytes, bytes]) -> None:
        """Header fields that change what happens to the request."""
        scope = exchange.scope
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        version = scope["http_version"]
        if b"transfer-encoding" in fields:
            repeated = sum(name == b"transfer-encoding" for name, _ in headers) > 1
            request.check_transfer_encoding(
                fields[b"transfer-encoding"], version, repeated=repeated
            )
        limit = self.server.settings.body_max_bytes
        length = int(fields.get(b"content-length", b"0"))
        if limit is not None and length > limit:
            raise BadRequest(413, f"the body is longer than {limit} bytes")
        if b"expect" in fields and version == "1.1":
            if fields[b"expect"].strip().lower() != b"100-continue":
                raise BadRequest(417, "an expectation other than 100-continue")
            exchange.expects_continue = length > 0 or b"transfer-encoding" in fields
        if b"te" in fields and b"trailers" in fields[b"te"].lower() and version == "1.1":
            scope["extensions"]["http.response.trailers"] = {}
        if self.special is not _SPECIAL and not _FORWARDED.isdisjoint(fields):
            trusted = self.server.trusted
            if trusted is not None:
                trusted.apply(scope, headers)
        if b"upgrade" in fields and self.parser.should_upgrade():
            self.upgrading = True

    def _interrupted(self, error: httptools.HttpParserError, data: bytes) -> None:
        """The parser has stopped within ``data``: an upgrade, or something it refuses."""
        if self.upgrading and isinstance(error, httptools.HttpParserUpgrade):
            self._upgrade(data[error.args[0] :])
            return
        if self.refusal is None:
            head = self.head_start + data
            if isinstance(error, httptools.HttpParserInvalidMethodError):
                word = head.lstrip(b"\r\n")
                if len(word) <= request.METHOD_MAX_BYTES and not word.strip(request.TOKEN):
                    self.head_start = head  # wait for the end of the word: it may be a method yet
                    self.feed = self._feed_method
                    return
            self.refusal = request.blame(error, head)
        self.in_head = False
        incoming, self.incoming = self.incoming, None
        if incoming is not None:  # its body broke
            incoming.disconnect()
            if incoming in self.waiting:
                self.waiting.remove(incoming)
        self._refuse_in_turn()

    def _feed_method(self, data: bytes) -> None:
        """Stands in for the parser, which gave up, until the first word of the request is whole."""
        raise httptools.HttpParserInvalidMethodError("Invalid method encountered")

    def _upgrade(self, rest: bytes) -> None:
        """A head asked for another protocol: WebSocket is one of ours, others are ignored."""
        self.upgrading = False
        exchange = self.waiting[-1]
        scope = exchange.scope
        fields = dict(scope["headers"])
        protocols = [one.strip().lower() for one in fields[b"upgrade"].split(b",")]
        has_body = fields.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in fields
        if (
            b"websocket" in protocols
            and scope["method"] == "GET"
            and scope["http_version"] == "1.1"
            and not has_body
            and self.exchange is None
            and len(self.waiting) == 1
        ):
            self.waiting.clear()
            self.incoming = None
            self.closing = True
            self.server.connections.discard(self)
            scope["type"] = "websocket"
            scope["scheme"] = "wss" if scope["scheme"] == "https" else "ws"
            scope["extensions"] = {
                "websocket.http.response": {},
                "asgi_supervise": scope["extensions"]["asgi_supervise"],
            }
            websocket.upgrade(self.server, self.transport, scope, rest)
            return
        # llhttp takes the message for complete at its head. Go on with a new parser, which is told
        # how the body is delimited, so that the body is not mistaken for the next request.
        self._new_parser()
        if has_body:
            framing = b"transfer-encoding", b"content-length"
            head = b"".join(b"%b:%b\r\n" % (n, v) for n, v in scope["headers"] if n in framing)
            waiting, self.waiting = self.waiting, deque()
            self.feed(b"POST / HTTP/1.1\r\nhost:\r\n" + head + b"\r\n")
            self.waiting = waiting
            self.incoming = exchange
        else:
            self.on_message_complete()
        if rest:
            self.data_received(rest)

    def _head_unfinished(self, data: bytes) -> None:
        """A head has begun but is not whole."""
        settings = self.server.settings
        if not self.head_bytes:
            self.deadline = self.server.now + settings.head_timeout_s
        self.head_bytes += len(data)
        if len(self.head_start) < request.METHOD_MAX_BYTES:
            self.head_start += data
        if self.head_bytes > settings.head_max_bytes or len(self.headers) > settings.head_max_fields:
            if self.headers:
                self.refusal = BadRequest(431, "the head is too large")
            else:
                self.refusal = BadRequest(414, "the request line is too long")
            self.in_head = False
            self._refuse_in_turn()

    def _body_unfinished(self) -> None:
        incoming = self.incoming
        if incoming is None:
            return
        limit_s = self.server.settings.body_timeout_s
        self.deadline = INFINITY if limit_s is None or self.read_paused else self.server.now + limit_s
        if len(self.headers) > self.server.settings.head_max_fields:
            self.refusal = BadRequest(431, "too many trailer fields")
            self._refuse_in_turn()
        elif incoming.phase == COMPLETE and self.body_bytes > DISCARD_MAX_BYTES:
            self._linger()

    # Exchanges, one after the other.

    def advance(self) -> None:
        """Start the next exchange when there is one and none is being answered."""
        server = self.server
        while self.waiting and self.exchange is None and not self.closing:
            exchange = self.exchange = self.waiting.popleft()
            if server.access_log is not None:
                exchange.started_at = perf_counter()
            self.deadline = INFINITY
            limit = server.settings.limit_concurrency
            if limit is not None and (
                len(server.tasks) >= limit or len(server.connections) > limit
            ):
                exchange.keep_alive = False
                exchange.answer(503, b"Service Unavailable")
            else:
                exchange.start()
        if self.refusal is not None:
            self._refuse_in_turn()
        elif self.stash and len(self.waiting) < server.settings.pipeline_max_requests:
            stash, self.stash = self.stash, b""
            self._resume_reading()
            self.data_received(stash)

    def want_body(self, exchange: Exchange) -> None:
        """The application has taken what there was of the body and asks for more."""
        if exchange.expects_continue:
            exchange.expects_continue = False
            if exchange.phase == NOTHING:
                self.output.inform(exchange, 100, [])
        self._resume_reading()
        self._body_unfinished()

    def responded(self, exchange: Exchange) -> None:
        """The response is complete: log it and make room for the next."""
        server = self.server
        server.requests += 1
        if exchange.status >= 500:
            server.errors += 1
        if server.access_log is not None:
            server.record(exchange)
        self.exchange = None
        if self.closing:
            return
        if not exchange.keep_alive or (exchange.more_body and exchange.expects_continue):
            if exchange.more_body:
                self._linger()
            else:
                self._close()
        elif exchange.more_body:
            self._resume_reading()  # what is left of the body is skipped
            self._body_unfinished()
        else:
            self.deadline = server.now + server.settings.keep_alive_timeout_s
            if self.waiting or self.refusal or self.stash:
                server.call_soon(self.advance)

    def cut(self, exchange: Exchange) -> None:
        """The response cannot be completed: close, so that the client does not take it for whole."""
        self.output.flush()
        self.closing = True
        if exchange.remaining >= -1:  # a length or chunks are missing: a plain close tells
            self.transport.close()
        else:
            self.transport.abort()

    # Ends.

    def _refuse_in_turn(self) -> None:
        """Answer what is wrong with the input, after what is right before it has been answered."""
        refusal = self.refusal
        if refusal is None or self.closing:
            return
        if self.waiting:
            return
        exchange = self.exchange
        if exchange is not None and not exchange.disconnected:
            return
        self.refusal = None
        self.server.log.info("%s refused: %s (%d)", self._who(), refusal.reason, refusal.status)
        if exchange is None or exchange.phase < BODY:
            self.transport.write(request.refusal(refusal.status, self.server.default_headers()))
        self._linger()

    def _linger(self) -> None:
        """Close, but read on for a while what the client still sends (RFC 9112 §9.6)."""
        self.closing = True
        self.output.flush()
        self._resume_reading()
        self.deadline = self.server.now + LINGER_S
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def _close(self) -> None:
        self.closing = True
        self.output.flush()
        self.transport.close()

    def expire(self, now: float) -> None:
        """The deadline has passed: of lingering, of a head or body that does not come, of idling."""
        if self.closing:
            self.transport.abort()
        elif self.in_head:
            self.refusal = BadRequest(408, "the request head did not arrive in time")
            self._refuse_in_turn()
        elif self.incoming is not None:
            self.refusal = BadRequest(408, "the request body did not arrive in time")
            self.incoming.disconnect()
            self._refuse_in_turn()
        else:
            self._close()

    def drain(self, successor: bool) -> None:
        """Announce the close with the next response; an idle connection gets a moment for one."""
        self.should_keep_alive = _never
        if self.exchange is not None and self.exchange.phase < BODY:
            self.exchange.keep_alive = False
        for exchange in self.waiting:
            exchange.keep_alive = False
        if self.exchange is None and not self.in_head and self.incoming is None:
            self.deadline = self.server.now + LINGER_S

    def disconnect(self) -> None:
        """Tell the application that the client has gone."""
        if self.exchange is not None:
            self.exchange.disconnect()
        if self.incoming is not None:
            self.incoming.disconnect()

    def abort(self) -> None:
        """End now."""
        self.transport.abort()

    def _pause_reading(self) -> None:
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        if self.read_paused and not self.stash:
            self.read_paused = False
            self.transport.resume_reading()

    def _who(self) -> str:
        client = self.template["client"]
        return "request on a unix socket" if client is None else f"request of {client[0]}:{client[1]}"


def _never() -> bool:
    return False
