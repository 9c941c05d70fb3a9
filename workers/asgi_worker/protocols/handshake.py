"""The opening handshake of a WebSocket, the server's side (RFC 6455 §4.2).

``websockets`` judges the request and negotiates extensions; the answer is serialised here, with the
default headers and the checks that every other response of ours has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from websockets.datastructures import Headers
from websockets.extensions.permessage_deflate import (
    PerMessageDeflate,
    enable_server_permessage_deflate,
)
from websockets.http11 import Request
from websockets.server import ServerProtocol

from asgi_worker.protocols.deflate import Deflate
from asgi_worker.protocols.exchange import BODY, COMPLETE, Exchange
from asgi_worker.protocols.response import DATE, SERVER, STATUS_LINES, pairs, serialise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from websockets.typing import Subprotocol

    from asgi_worker.access_log import AccessLog
    from asgi_worker.application import Message, Scope
    from asgi_worker.protocols.http1_output import Output
    from asgi_worker.server import Server

_DEFLATE: Final = enable_server_permessage_deflate(None)
_JUDGED: Final = frozenset((b"connection", b"upgrade"))
_OURS: Final = frozenset(
    (
        b"content-length",
        b"sec-websocket-accept",
        b"sec-websocket-extensions",
        b"sec-websocket-protocol",
        b"transfer-encoding",
        b"upgrade",
    )
)
"""What an application must not put into the headers of ``websocket.accept``."""


class Refused(Exception):
    """The request is no WebSocket handshake; ``status`` and ``headers`` are of the answer to it."""

    def __init__(self, status: int, reason: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = headers


class Agreement(NamedTuple):
    """What client and server have agreed on, should the application accept."""

    head: bytes
    """The answer as far as it does not depend on the application."""
    subprotocols: list[str]
    deflate: Deflate | None


def negotiate(scope: Scope, *, deflate: bool) -> Agreement:
    """Judge the handshake request in ``scope``; raises :class:`Refused`."""
    headers = Headers()
    try:
        for name, value in scope["headers"]:
            if name.startswith(b"sec-websocket-") or name in _JUDGED:
                headers[name.decode("ascii")] = value.decode("latin-1")
    except ValueError as error:
        raise Refused(400, f"malformed handshake: {error}", ()) from None
    version = headers.get_all("sec-websocket-version")
    if version != ["13"]:
        said = ", ".join(version) or "none"
        raise Refused(
            426,  # RFC 6455 §4.4: the answer names the versions that are understood
            f"WebSocket version 13 is spoken here, not {said}",
            ((b"sec-websocket-version", b"13"), (b"upgrade", b"websocket")),
        )
    offered: list[str] = []

    def note(_protocol: ServerProtocol, subprotocols: Sequence[Subprotocol]) -> None:
        offered.extend(subprotocols)

    protocol = ServerProtocol(
        extensions=_DEFLATE if deflate else None,
        select_subprotocol=note,
    )
    response = protocol.accept(Request("/", headers))
    if response.status_code != 101:
        kept = [
            (name.encode(), value.encode("latin-1"))
            for name, value in response.headers.raw_items()
            if name.lower() in ("upgrade", "allow")
        ]
        raise Refused(response.status_code, (response.body or b"").decode().strip(), kept)
    del response.headers["date"]
    agreed = [one for one in protocol.extensions if isinstance(one, PerMessageDeflate)]
    lines = "".join(f"{name}: {value}\r\n" for name, value in response.headers.raw_items())
    return Agreement(
        STATUS_LINES[101] + lines.encode("latin-1"),
        offered,
        Deflate(agreed[0]) if agreed else None,
    )


def acceptance(agreement: Agreement, message: Message, server: Server) -> bytes:
    """The answer to the client when the application sends ``websocket.accept``.

    Raises ``RuntimeError``, saying what is wrong, for what must not be in it.
    """
    head = agreement.head
    subprotocol = message.get("subprotocol")
    if subprotocol is not None:
        if subprotocol not in agreement.subprotocols:
            offers = ", ".join(agreement.subprotocols) or "none"
            raise RuntimeError(
                f"websocket.accept: subprotocol {subprotocol!r} is not one of those the client "
                f"offered ({offers}); leave it out"
            )
        head += f"Sec-WebSocket-Protocol: {subprotocol}\r\n".encode("ascii")
    headers: list[tuple[Any, bytes]] = pairs(message.get("headers") or ())
    for name, _ in headers:
        if isinstance(name, bytes) and name.lower() in _OURS:
            hint = "; use the key 'subprotocol'" if b"protocol" in name.lower() else ""
            raise RuntimeError(f"websocket.accept: header {name!r} is the server's to send{hint}")
    lines = [head]
    _, said = serialise(headers, lines)
    date, named = not said & 1 << DATE, not said & 1 << SERVER
    lines += (server.default_headers(date=date, server=named), b"\r\n")
    return b"".join(lines)


class Denial:
    """The HTTP response that takes the place of a WebSocket: the application's or our own.

    The :class:`~.exchange.Source` of an exchange, so that what may be sent when, and how it is
    delimited, is judged and done where it is for every other response.
    """

    __slots__ = ("_ended", "exchange", "server")

    def __init__(
        self, output: Output, scope: Scope, started_at: float, ended: Callable[[], None]
    ) -> None:
        """``ended`` is called when the response is complete, or cannot be completed."""
        self.server = output.server
        self._ended = ended
        self.exchange = Exchange(self, output, {**scope, "method": "GET"}, keep_alive=False)
        self.exchange.is_extended = False
        self.exchange.started_at = started_at

    async def send(self, message: Message) -> None:
        """Take a ``websocket.http.response.*`` message of the application."""
        kind = message["type"].removeprefix("websocket.")
        await self.exchange.send({**message, "type": kind})

    def answer(self, status: int, text: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Respond in place of the application, or cut what it has begun."""
        exchange = self.exchange
        if exchange.phase >= BODY:
            self.cut(exchange)
            return
        exchange.status = status
        exchange.head = exchange.wire.head(
            status, [(b"content-type", b"text/plain; charset=utf-8"), *headers]
        )
        exchange.promised_trailers = False
        exchange.wire.respond(exchange, text.encode(), more=False)
        exchange.complete()

    def lost(self) -> None:
        """The client has gone; a response that broke off is logged as those to requests are."""
        exchange, server = self.exchange, self.server
        if BODY <= exchange.phase < COMPLETE and server.access_log is not None:
            server.record(exchange)
        exchange.disconnect()

    def want_body(self, exchange: Exchange) -> None:
        """A handshake has no body."""

    def responded(self, exchange: Exchange) -> None:
        """The response is complete."""
        server = self.server
        server.requests += 1
        if exchange.status >= 500:
            server.errors += 1
        if server.access_log is not None:
            server.record(exchange)
        self._ended()

    def cut(self, exchange: Exchange) -> None:
        """The response cannot be completed: its length or its last chunk is missing."""
        self._ended()


def record(access_log: AccessLog, scope: Scope, started_at: float) -> None:
    """Write the access-log line of an accepted WebSocket, at its end."""
    target = (scope["raw_path"] or b"").decode("latin-1")
    if scope["query_string"]:
        target = f"{target}?{scope['query_string'].decode('latin-1')}"
    duration_s = perf_counter() - started_at
    access_log.record(scope["client"], "GET", target, "1.1", 101, 0, duration_s)
