"""The input half of an HTTP/1.1 connection: what ``httptools`` finds, as exchanges (RFC 9112).

The parser calls :class:`RequestReader`, which decides whether a request can be served and puts
its exchange into the queue of the connection. The common request – origin-form target, one Host
that was seen before, no field that changes anything – is read without leaving
:meth:`~RequestReader.on_headers_complete`; whatever needs thought is looked at by ``_examine``.
What must not be served raises :class:`~.request.BadRequest` through the parser, which stops for
good.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

import httptools

from asgi_worker.protocols import request
from asgi_worker.protocols.exchange import BODY_HIGH_WATER_BYTES, COMPLETE, Exchange
from asgi_worker.protocols.request import BadRequest

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from asgi_worker.application import Scope
    from asgi_worker.protocols.http1 import HttpConnection

Header = tuple[bytes, bytes]
Data = bytes | bytearray | memoryview

_SPECIAL: Final = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"expect", b"upgrade", b"te"}
)
_FORWARDED: Final = frozenset(
    {
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-proto",
    }
)
_SPECIAL_OF_PROXIES: Final = _SPECIAL | _FORWARDED
_METHODS: Final = {
    name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
}
_WITH_BODY: Final = (b"POST ", b"PUT ", b"PATCH ")
_HOSTS_MAX: Final = 1024
"""So many values of Host that were found valid are remembered by a worker."""
DISCARD_MAX_BYTES: Final = 1024 * 1024
"""A body that the application did not read is skipped up to here to keep the connection."""
_PARSED_BODY_BYTES: Final = 16 * 1024
_SLASH: Final = ord("/")


class RequestReader:
    """The parser and its callbacks. One a connection; ``feed`` takes what arrives."""

    __slots__ = (
        "body_bytes",
        "bypassing",
        "chunk",
        "connection",
        "feed",
        "head",
        "headers",
        "hosts",
        "in_head",
        "incoming",
        "length",
        "overhead_bytes",
        "parser",
        "plain_scope",
        "refusal",
        "server",
        "should_keep_alive",
        "special",
        "template",
        "upgrading",
        "url",
        "waiting",
        "was_answered",
    )

    def __init__(self, connection: HttpConnection, transport: asyncio.Transport) -> None:
        self.connection = connection
        self.server = connection.server
        self.waiting = connection.waiting
        self.template, trusted = self.server.template(transport, connection.local)
        self.special = _SPECIAL_OF_PROXIES if trusted else _SPECIAL
        self.url = b""
        self.headers: list[Header] = []
        self.hosts = self.server.hosts
        self.in_head = False
        self.chunk: Data = b""  # what the parser has before it
        self.head = bytearray()  # the chunks of a head that is unfinished
        self.length = 0  # what content-length says of the body that is arriving
        self.body_bytes = 0  # of it arrived
        self.overhead_bytes = 0  # chunk sizes, extensions and trailers that arrived with it
        self.incoming: Exchange | None = None  # its body is arriving
        self.upgrading = False
        self.refusal: BadRequest | None = None
        self.was_answered = False  # the request that is refused
        self.plain_scope: Scope | None = None  # of the last head, if it asked for nothing special
        self.restart()

    def restart(self) -> None:
        """A new parser, at the beginning of a message."""
        self.parser = parser = httptools.HttpRequestParser(self)
        self.feed: Callable[[Data], None] = parser.feed_data
        self.bypassing = False
        server = self.server
        announce = server.draining and not server.moving
        self.should_keep_alive = _never if announce else parser.should_keep_alive

    def is_between_requests(self) -> bool:
        """Whether nothing has come that was not passed on."""
        unfinished = self.in_head or self.head or self.waiting or self.incoming is not None
        return not unfinished and self.refusal is None

    def announce_close(self) -> None:
        """Every response from now on says ``Connection: close``."""
        self.should_keep_alive = _never

    # The parser calls.

    def on_message_begin(self) -> None:
        self.in_head = True

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        # The parser strips what is before a value, but not what is behind it (RFC 9112 §5.1).
        self.headers.append((name.lower(), value.rstrip()))

    def on_headers_complete(self) -> None:
        url, headers, parser, special = self.url, self.headers, self.parser, self.special
        self.url = b""
        self.headers = []
        self.in_head = False
        scope = self.template.copy()
        scope["headers"] = headers
        scope["method"] = method = _METHODS.get(parser.get_method())
        scope["state"] = scope["state"].copy()
        scope["extensions"] = scope["extensions"].copy()
        found = [header for header in headers if header[0] in special]
        connection = self.connection
        exchange = Exchange(connection, connection.output, scope, self.should_keep_alive())
        is_path = url[0] == _SLASH and b"%" not in url and b"#" not in url
        if (
            is_path
            and len(found) == 1
            and found[0][1] in self.hosts
            and method is not None
            and parser.get_http_version() == "1.1"
            and not self.head
            and len(headers) <= self.server.settings.head_max_fields
        ):
            set_path(scope, url)
            self.plain_scope = scope
        else:
            try:
                self._examine(exchange, url, found)
                if is_path:
                    set_path(scope, url)
                else:
                    request.read_target(scope, url)
                if len(found) > 1:
                    self._examine_fields(exchange, dict(found))
            except BadRequest as refusal:
                self._stop(refusal)
        if method == "HEAD":
            exchange.is_head = True
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
            self._stop(BadRequest(413, f"the body is longer than {limit} bytes"))
        if incoming.body_bytes > BODY_HIGH_WATER_BYTES:
            self.connection.pause_reading()

    def on_message_complete(self) -> None:
        if self.upgrading:
            return
        if self.headers:  # trailers: swallowed, as RFC 9112 §7.1.2 permits
            self._check_trailers()
            self.headers = []
        incoming = self.incoming
        self.incoming = None
        self.length = self.body_bytes = self.overhead_bytes = 0
        if incoming is not None:
            incoming.end()
            self.connection.received(incoming)

    def _feed_body(self, data: Data) -> None:
        """Stands in for the parser until ``length`` bytes of body have arrived; raises like it.

        ``data`` must not go beyond them (:meth:`end_of_piece`).
        """
        try:
            self.on_body(bytes(data))
        except BadRequest as refusal:
            raise httptools.HttpParserCallbackError(refusal.reason) from refusal
        if self.body_bytes == self.length:
            self.restart()
            self.on_message_complete()

    # What needs thought.

    def _examine(self, exchange: Exchange, url: bytes, found: list[Header]) -> None:
        """Read an uncommon head into ``exchange``; ``found`` are its special fields."""
        scope = exchange.scope
        settings = self.server.settings
        version = self.parser.get_http_version()
        if scope["method"] is None:
            request.check_method(scope, self.parser.get_method())
        fields = dict(found)
        host = fields.get(b"host")
        if version == "1.0":
            self._examine_old(exchange, url)
        elif version != "1.1":
            raise BadRequest(505, f"HTTP/{version} is not spoken here")
        elif host is None:
            raise BadRequest(400, "no Host field")
        if len(fields) != len(found):
            request.check_repeated(found)
        if host is not None and host not in self.hosts:
            request.check_host(host)
            if len(self.hosts) < _HOSTS_MAX:
                self.hosts.add(host)
        if len(scope["headers"]) > settings.head_max_fields:
            raise BadRequest(431, f"more than {settings.head_max_fields} header fields")
        self.head.clear()
        self._examine_body(exchange, fields, version)
        if b"upgrade" in fields and self.parser.should_upgrade():
            self.upgrading = True

    def _examine_old(self, exchange: Exchange, url: bytes) -> None:
        """HTTP/1.0, or another protocol that the parser takes for it: it knows RTSP and ICE."""
        line = b"\n%b %b HTTP/1.0" % (self.parser.get_method(), url)
        if line not in b"\n" + bytes(self.head) + self.chunk:
            raise BadRequest(400, "another protocol than HTTP")
        exchange.scope["http_version"] = "1.0"
        if request.says_close(exchange.scope["headers"]):
            exchange.keep_alive = False

    def _examine_fields(self, exchange: Exchange, fields: dict[bytes, bytes]) -> None:
        """Fields that change what the application is told, or what becomes of what it says."""
        scope = exchange.scope
        trusted = self.server.trusted if self.special is not _SPECIAL else None
        if trusted is not None and not _FORWARDED.isdisjoint(fields):
            trusted.apply(scope, scope["headers"])
        if b"trailers" in fields.get(b"te", b"").lower() and scope["http_version"] == "1.1":
            exchange.takes_trailers = True

    def _examine_body(self, exchange: Exchange, fields: dict[bytes, bytes], version: str) -> None:
        """Fields that say how a body is delimited, and whether the client waits to send it."""
        chunked = b"transfer-encoding" in fields
        if chunked:
            request.check_transfer_encoding(fields[b"transfer-encoding"], version)
        self.length = length = int(fields.get(b"content-length", b"0"))
        limit = self.server.settings.body_max_bytes
        if limit is not None and length > limit:
            raise BadRequest(413, f"the body is longer than {limit} bytes")
        if length > DISCARD_MAX_BYTES:
            exchange.must_be_read = True
        if b"expect" in fields and version == "1.1":
            if fields[b"expect"].strip().lower() != b"100-continue":
                raise BadRequest(417, "an expectation other than 100-continue")
            exchange.expects_continue = chunked or length > 0

    def interrupted(self, error: Exception, heads: bytes) -> None:
        """The parser refuses ``chunk``; ``heads`` is what came since a message began, if known.

        Sets ``refusal``, unless more input is needed to say what is wrong.
        """
        if self.refusal is None:
            if isinstance(error, httptools.HttpParserInvalidMethodError):
                heads = request.last_head(heads)
                word = heads.lstrip(b"\r\n")
                if word and len(word) <= request.METHOD_MAX_BYTES and not word.strip(request.TOKEN):
                    self.head = bytearray(heads)
                    self.feed = _still_no_method  # wait for the end of the word
                    return
            self.refusal = request.blame(error, heads)
        self._break_off()

    def head_unfinished(self, data: Data) -> bool:
        """A head goes on after ``data``; whether it has just begun. May set ``refusal``."""
        settings = self.server.settings
        begun = not self.head
        self.head += data
        too_many = len(self.headers) > settings.head_max_fields
        if too_many or len(self.head) >= settings.head_max_bytes:
            if self.headers or b"\n" in self.head.lstrip(b"\r\n"):
                self.refusal = BadRequest(431, "the head is too large")
            else:
                self.refusal = BadRequest(414, "the request line is too long")
            self._break_off()
        return begun

    def body_unfinished(self, overhead_bytes: int, rest_bytes: int) -> None:
        """A body goes on. May set ``refusal``.

        ``overhead_bytes`` of what was fed last were none of it; ``rest_bytes`` will be fed next.

        What is to come of a long body whose length is known needs no parser, which would copy it.
        """
        if self.length - self.body_bytes > max(rest_bytes, _PARSED_BODY_BYTES):
            self.bypassing = True
            self.feed = self._feed_body
        self.overhead_bytes += overhead_bytes
        if self.overhead_bytes > self.server.settings.head_max_bytes + 8 * self.body_bytes:
            self.refusal = BadRequest(413, "more chunk extensions and trailers than body")
            self._break_off()

    def end_of_piece(self, data: bytes, start: int) -> int:
        """How far to feed ``data`` from ``start``, so that a long head, or many, can be stopped."""
        if self.incoming is not None and self.length:
            return min(start + self.length - self.body_bytes, len(data))
        room = min(self.server.piece_bytes, self.server.settings.head_max_bytes - len(self.head))
        end = min(start + room, len(data))
        if self.incoming is None and not self.head and data.startswith(_WITH_BODY, start):
            # What follows this head is probably a body: let it begin a piece, and stay in one.
            head = data.find(b"\r\n\r\n", start, end)
            end = end if head < 0 else head + 4
        return end

    def _break_off(self) -> None:
        """Nothing that follows can be understood."""
        self.in_head = False
        incoming, self.incoming = self.incoming, None
        if incoming is not None:
            self.was_answered = incoming.phase == COMPLETE
            incoming.disconnect()
            if incoming in self.waiting:
                self.waiting.remove(incoming)

    def _check_trailers(self) -> None:
        settings = self.server.settings
        size = sum(len(name) + len(value) + 4 for name, value in self.headers)
        if len(self.headers) > settings.head_max_fields or size > settings.head_max_bytes:
            self._stop(BadRequest(413, "the trailers are too large"))
        if any(name == b"connection" for name, _ in self.headers):
            self._stop(BadRequest(400, "Connection as a trailer"))  # the parser would obey it

    def _stop(self, refusal: BadRequest) -> NoReturn:
        """Stop the parser, which passes the exception on as an error of its own."""
        self.refusal = refusal
        raise refusal

    # Upgrades.

    def ignore_upgrade(self, exchange: Exchange) -> None:
        """Go on as if no upgrade had been asked for (RFC 9110 §7.8).

        The parser takes such a message for complete at its head. A new one is told how the body is
        delimited, so that the body is not mistaken for the next request.
        """
        self.upgrading = False
        self.restart()
        framing = request.body_framing(exchange.scope["headers"])
        if not framing:
            self.on_message_complete()
            return
        waiting = self.waiting.copy()
        self.feed(b"POST / HTTP/1.1\r\nhost:\r\n" + framing + b"\r\n")
        self.waiting[:] = waiting
        self.incoming = exchange


def set_path(scope: Scope, target: bytes) -> None:
    """For a target that is a path, without percent-encoding, perhaps with a query."""
    path, _, scope["query_string"] = target.partition(b"?")
    root_path = scope["root_path"]
    if root_path:
        scope["path"] = root_path + path.decode("ascii")
        scope["raw_path"] = root_path.encode() + path
    else:
        scope["path"] = path.decode("ascii")
        scope["raw_path"] = path


def _still_no_method(_data: Data) -> None:
    """Stands in for a parser that gave up, until the first word of the request is whole."""
    raise httptools.HttpParserInvalidMethodError("Invalid method encountered")


def _never() -> bool:
    return False
