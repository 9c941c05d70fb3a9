"""The input half of an HTTP/1.1 connection: what ``httptools`` finds, as exchanges (RFC 9112).

The parser calls :class:`RequestReader`, which decides whether a request can be served and puts
its exchange into the queue of the connection. The common request – origin-form target, one Host
that was seen before, no field that changes anything – is read without leaving
:meth:`~RequestReader.on_headers_complete`; whatever needs thought is looked at by ``_examine``.
What must not be served raises :class:`~.request.BadRequest` through the parser, which stops for
good.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

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
_BODYLESS_METHODS: Final = frozenset({b"GET", b"HEAD"})
_PLAIN_TARGET: Final = bytes(range(0x21, 0x7F)).translate(None, b"#%")
"""What a target may consist of that needs no decoding: visible ASCII (RFC 9112 §3.2)."""
_REMEMBERED_BYTES: Final = 4096
_PARSED_BODY_BYTES: Final = 16 * 1024
_NO_BLOCK: Final = b"\n\n\n"
"""No block of fields ends so."""
_SLASH: Final = ord("/")


class RequestReader:
    """The parser and its callbacks. One a connection; ``feed`` takes what arrives."""

    __slots__ = (
        "body_bytes",
        "connection",
        "feed",
        "head_bytes",
        "head_start",
        "headers",
        "host",
        "in_head",
        "incoming",
        "known_block",
        "known_scope",
        "last_block",
        "length",
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
    )

    def __init__(self, connection: HttpConnection, transport: asyncio.Transport) -> None:
        self.connection = connection
        self.server = connection.server
        self.waiting = connection.waiting
        self.template, trusted = self.server.template(transport)
        self.special = _SPECIAL_OF_PROXIES if trusted else _SPECIAL
        self.url = b""
        self.headers: list[Header] = []
        self.host = b"\n"  # the last one that was checked
        self.in_head = False
        self.head_bytes = 0  # of an unfinished head, over all chunks
        self.head_start = b""  # its first bytes
        self.length = 0  # what content-length says of the body that is arriving
        self.body_bytes = 0  # of it arrived
        self.incoming: Exchange | None = None  # its body is arriving
        self.upgrading = False
        self.refusal: BadRequest | None = None
        self.plain_scope: Scope | None = None  # of a head that may be remembered
        self.last_block = b""
        self.known_block = _NO_BLOCK
        self.known_scope: Scope
        self.restart()

    def restart(self) -> None:
        """A new parser, at the beginning of a message."""
        self.parser = parser = httptools.HttpRequestParser(self)
        self.feed: Callable[[Data], None] = parser.feed_data
        self.should_keep_alive = _never if self.server.draining else parser.should_keep_alive

    # Heads that repeat themselves.

    def feed_known(self, data: bytes) -> bool:
        """Take ``data``, which ends with ``known_block``, without the parser. Whether it was taken.

        Most clients repeat themselves: all fields of a request are, byte for byte, those of the one
        before on the same connection. What the parser made of them holds again if this, too, is a
        head of its own and its request line is beyond doubt.
        """
        if self.in_head or self.incoming is not None or self.upgrading:
            return False
        try:
            method, target, version = data[: len(data) - len(self.known_block)].split(b" ")
        except ValueError:
            return False
        if version != b"HTTP/1.1" or method not in _BODYLESS_METHODS:
            return False
        if target[:1] != b"/" or target.translate(None, _PLAIN_TARGET):
            return False
        scope = self.known_scope.copy()
        scope["headers"] = scope["headers"].copy()
        scope["state"] = scope["state"].copy()
        scope["extensions"] = scope["extensions"].copy()
        scope["method"] = _METHODS[method]
        _set_path(scope, target)
        exchange = Exchange(self.connection, self.connection.output, scope, True)
        exchange.more_body = False
        self.waiting.append(exchange)
        return True

    def remember(self, data: bytes) -> None:
        """``data`` may be a head that will be repeated; call it after the parser took it.

        Remembered are the fields of a head that came alone, asked for nothing special, and came
        twice: others would cost more than they save.
        """
        scope = self.plain_scope
        self.plain_scope = None
        if scope is None or self.in_head or self.incoming is not None or len(self.waiting) != 1:
            return
        block = data[data.find(b"\r\n") :]
        if block != self.last_block:
            if len(block) <= _REMEMBERED_BYTES:
                self.last_block = block
        elif self.waiting[0].keep_alive:
            self.known_block = block
            self.known_scope = {**scope, "headers": scope["headers"].copy()}
            self.known_scope["state"] = self.template["state"]
            self.known_scope["extensions"] = self.template["extensions"]

    def announce_close(self) -> None:
        """Every response from now on says ``Connection: close``."""
        self.should_keep_alive = _never
        self.known_block = _NO_BLOCK

    # The parser calls.

    def on_message_begin(self) -> None:
        self.in_head = True

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        url, headers, parser, special = self.url, self.headers, self.parser, self.special
        self.url = b""
        self.headers = []
        self.in_head = False
        scope = self.template.copy()
        scope["headers"] = headers
        method = parser.get_method()
        scope["method"] = _METHODS.get(method) or method.decode("ascii")
        scope["state"] = scope["state"].copy()
        scope["extensions"] = scope["extensions"].copy()
        found = [header for header in headers if header[0] in special]
        connection = self.connection
        exchange = Exchange(connection, connection.output, scope, self.should_keep_alive())
        if (
            len(found) == 1
            and found[0][1] == self.host
            and parser.get_http_version() == "1.1"
            and url[0] == _SLASH
            and b"%" not in url
            and b"#" not in url
            and not self.head_bytes
            and len(headers) <= self.server.settings.head_max_fields
        ):
            _set_path(scope, url)
            if not self.waiting:
                self.plain_scope = scope
        else:
            try:
                self._examine(exchange, url, found)
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
            self.connection.pause_reading()

    def on_message_complete(self) -> None:
        if self.upgrading:
            return
        incoming = self.incoming
        self.incoming = None
        if incoming is not None:
            incoming.end()
            if incoming.phase == COMPLETE:
                self.connection.idle()
        if self.body_bytes:
            self.length = self.body_bytes = 0
            self.connection.resume_reading()
        if self.headers:  # trailers: swallowed, as RFC 9112 §7.1.2 permits
            self.headers = []

    def feed_body(self, data: Data) -> None:
        """Stands in for the parser until ``length`` bytes of body have arrived; raises like it."""
        left = self.length - self.body_bytes
        body = data if len(data) <= left else memoryview(data)[:left]
        try:
            self.on_body(bytes(body))
        except BadRequest as refusal:
            raise httptools.HttpParserCallbackError(refusal.reason) from refusal
        if len(body) == left:
            self.restart()
            self.on_message_complete()
            if len(data) > left:
                self.feed(memoryview(data)[left:])

    # What needs thought.

    def _examine(self, exchange: Exchange, url: bytes, found: list[Header]) -> None:
        """Read an uncommon head into ``exchange``; ``found`` are its special fields."""
        scope = exchange.scope
        settings = self.server.settings
        version = self.parser.get_http_version()
        fields = dict(found)
        host = fields.get(b"host")
        if version == "1.0":
            scope["http_version"] = version
        elif version != "1.1":
            raise BadRequest(505, f"HTTP/{version} is not spoken here")
        elif host is None:
            raise BadRequest(400, "no Host field")
        if len(fields) != len(found):
            request.check_repeated(found)
        if host is not None:
            request.check_host(host)
            self.host = host
        if len(scope["headers"]) > settings.head_max_fields:
            raise BadRequest(431, f"more than {settings.head_max_fields} header fields")
        if self.head_bytes:
            request.check_size(url, scope["headers"], settings.head_max_bytes)
            self.head_bytes = 0
            self.head_start = b""
        request.read_target(scope, url)
        if self.special is not _SPECIAL and not _FORWARDED.isdisjoint(fields):
            trusted = self.server.trusted
            if trusted is not None:
                trusted.apply(scope, scope["headers"])
        if b"te" in fields and b"trailers" in fields[b"te"].lower() and version == "1.1":
            scope["extensions"]["http.response.trailers"] = {}
        self._examine_body(exchange, fields, version)
        if b"upgrade" in fields and self.parser.should_upgrade():
            self.upgrading = True

    def _examine_body(self, exchange: Exchange, fields: dict[bytes, bytes], version: str) -> None:
        """Fields that say how a body is delimited, and whether the client waits to send it."""
        chunked = b"transfer-encoding" in fields
        if chunked:
            request.check_transfer_encoding(fields[b"transfer-encoding"], version)
        self.length = length = int(fields.get(b"content-length", b"0"))
        limit = self.server.settings.body_max_bytes
        if limit is not None and length > limit:
            raise BadRequest(413, f"the body is longer than {limit} bytes")
        if b"expect" in fields and version == "1.1":
            if fields[b"expect"].strip().lower() != b"100-continue":
                raise BadRequest(417, "an expectation other than 100-continue")
            exchange.expects_continue = chunked or length > 0

    def interrupted(self, error: Exception, data: bytes) -> bytes | None:
        """The parser has stopped within ``data``.

        Returns what follows the head for an upgrade (the connection decides what becomes of it),
        ``None`` when the input is refused – ``refusal`` says why – or when more of it is needed to
        say why.
        """
        if self.upgrading and isinstance(error, httptools.HttpParserUpgrade):
            rest: bytes = data[error.args[0] :]
            return rest
        if self.refusal is None:
            head = self.head_start + data
            if isinstance(error, httptools.HttpParserInvalidMethodError):
                word = head.lstrip(b"\r\n")
                if len(word) <= request.METHOD_MAX_BYTES and not word.strip(request.TOKEN):
                    self.feed = _still_no_method  # wait for the end of the word
                    return None
            self.refusal = request.blame(error, head)
        self.in_head = False
        incoming, self.incoming = self.incoming, None
        if incoming is not None:  # its body broke
            incoming.disconnect()
            if incoming in self.waiting:
                self.waiting.remove(incoming)
        return None

    def head_unfinished(self, data: bytes) -> bool:
        """A head goes on after ``data``; whether it has just begun. May set ``refusal``."""
        settings = self.server.settings
        begun = not self.head_bytes
        self.head_bytes += len(data)
        if len(self.head_start) < request.METHOD_MAX_BYTES:
            self.head_start += data
        too_many = len(self.headers) > settings.head_max_fields
        if too_many or self.head_bytes > settings.head_max_bytes:
            if self.headers:
                self.refusal = BadRequest(431, "the head is too large")
            else:
                self.refusal = BadRequest(414, "the request line is too long")
            self.in_head = False
        return begun

    def body_unfinished(self) -> None:
        """A body goes on. May set ``refusal``.

        What is left of a long body whose length is known needs no parser, which would only copy it.
        """
        if self.length - self.body_bytes > _PARSED_BODY_BYTES:
            self.feed = self.feed_body
        if len(self.headers) > self.server.settings.head_max_fields:
            self.refusal = BadRequest(431, "too many trailer fields")

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


def _set_path(scope: Scope, target: bytes) -> None:
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
