"""One HTTP request and its response as ASGI, whatever the HTTP version.

The only place that knows which messages an application may send when, and what it is told (ASGI
HTTP 2.5). A connection fills in what arrives (:meth:`Exchange.feed`, :meth:`Exchange.end`,
:meth:`Exchange.disconnect`) and writes what :class:`Wire` asks of it; between the two there are no
event objects, because this path is walked for every request.

A response head is kept until the first body message, so that both leave in one write. A message is
judged when it is sent: one that is wrong raises and changes nothing, another may take its place.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Protocol

from asgi_worker.protocols import http_messages
from asgi_worker.protocols.http_messages import octets, unexpected
from asgi_worker.protocols.response import Head
from asgi_worker.tasks import from_application

if TYPE_CHECKING:
    from asgi_worker.application import Message, Scope
    from asgi_worker.server import Server

BODY_HIGH_WATER_BYTES: Final = 64 * 1024
"""More request body than this is not read ahead of the application."""


EXTENSIONS: Final = ("pathsend", "early_hint", "trailers")
"""What is offered as ``http.response.…``."""


class ClientDisconnected(OSError):
    """Raised by ``send()`` when the client has gone (ASGI HTTP 2.4). Not logged as an error."""


class Phase(enum.IntEnum):
    """How far the response is."""

    NOTHING = 0
    HEAD = 1  # http.response.start came, nothing is written yet
    BODY = 2  # the head is written
    FILE = 3  # … and the body is being, from a file
    TRAILERS = 4  # the body is complete, trailers were promised
    COMPLETE = 5


NOTHING: Final = Phase.NOTHING
HEAD: Final = Phase.HEAD
BODY: Final = Phase.BODY
FILE: Final = Phase.FILE
TRAILERS: Final = Phase.TRAILERS
COMPLETE: Final = Phase.COMPLETE


class Wire(Protocol):
    """Where the response goes: the output half of a connection, or a stream of one."""

    must_wait: bool
    """Whether an application that goes on sending has to wait in :meth:`writable` first."""

    def head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> Head:
        """What ``exchange.head`` is to be; raises ``RuntimeError`` for what must not be sent."""

    def respond(self, exchange: Exchange, body: bytes, more: bool) -> None:
        """Write the head and the first piece of the body."""

    def write_body(self, exchange: Exchange, body: bytes, more: bool) -> None:
        """Write a further piece of the body."""

    def inform(
        self, exchange: Exchange, status: int, headers: Iterable[tuple[bytes, bytes]]
    ) -> None:
        """Write an interim response (1xx)."""

    def write_trailers(self, exchange: Exchange, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Write all trailers, if the client takes them, and the end of the response."""

    async def send_file(self, exchange: Exchange, path: str) -> None:
        """Write the head and the whole file."""

    async def writable(self) -> None:
        """Return when more may be written, others had a turn, or the client has gone."""


class Source(Protocol):
    """Where the request comes from: the input half of a connection, or a stream of one."""

    server: Server

    def want_body(self, exchange: Exchange) -> None:
        """The application has taken what there was of the body and asks for more."""

    def responded(self, exchange: Exchange) -> None:
        """The response is complete."""

    def cut(self, exchange: Exchange) -> None:
        """The response cannot be completed: the client must notice."""


class Exchange:
    """One request being answered. ``receive`` and ``send`` are what the application gets."""

    # Defaults stay on the class until something changes them: most requests touch few of them.
    phase: Phase = NOTHING
    more_body = True  # more of the request body is to come from the client
    request_read = False  # the application was given the last of it
    disconnected = False
    hung_up = False  # the client sends no more, but may still read
    expects_continue = False
    must_be_read = False  # the body is known to be longer than what is skipped
    is_head = False  # whatever the application makes of the scope
    is_extended = True  # by ``EXTENSIONS``
    body: list[bytes] | None = None
    body_bytes = 0  # held in ``body``
    status = 0
    head: Head = (b"", -1, 0)
    is_told = False  # that it goes on after the last of the body
    promised_trailers = False
    takes_trailers = False  # the client does, and there is a place for them
    trailers: tuple[tuple[bytes, bytes], ...] = ()
    remaining = 0  # bytes of the response body to come, or what http1_output says instead
    sent_bytes = 0  # of the response body
    started_at = 0.0
    waiters: list[asyncio.Future[None]] | None = None

    def __init__(self, source: Source, wire: Wire, scope: Scope, keep_alive: bool) -> None:
        self.source = source
        self.wire = wire
        self.scope = scope
        self.keep_alive = keep_alive

    def start(self, server: Server) -> None:
        """Call the application. What it does is logged and answered for; nothing is raised."""
        server.call(self.scope, self.receive, self.send, self._done)

    # What the connection says.

    def feed(self, data: bytes) -> None:
        """A piece of the request body arrived."""
        if self.phase == COMPLETE or self.disconnected:
            return  # nobody will ask for it
        if self.body is None:
            self.body = [data]
        else:
            self.body.append(data)
        self.body_bytes += len(data)
        if self.waiters:
            self._wake()

    def end(self) -> None:
        """The request body is complete."""
        self.more_body = False
        if self.waiters:
            self._wake()

    def disconnect(self) -> None:
        """The client has gone, or is to be taken for gone because the worker stops."""
        self.disconnected = True
        self.forget_body()
        if self.waiters:
            self._wake()

    def hang_up(self) -> None:
        """The client has closed its sending side, after the whole request.

        Most clients that do so have gone, so an application that asks is told. One that does not
        ask answers as ever, for a client may shut down its side and wait for the answer.
        """
        self.hung_up = True
        if self.waiters:
            self._wake()

    def forget_body(self) -> None:
        """Nobody will ask for what has arrived of the body."""
        self.body = None
        self.body_bytes = 0

    def _wake(self) -> None:
        waiters, self.waiters = self.waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    # What the application calls.

    async def receive(self) -> Message:
        """The next ``http.request`` or, when there is nothing more to come, ``http.disconnect``."""
        while True:
            if self.disconnected or self.phase == COMPLETE:
                return {"type": "http.disconnect"}
            if self.body:
                parts, self.body = self.body, None
                self.body_bytes = 0
                body = parts[0] if len(parts) == 1 else b"".join(parts)
                if self.more_body:
                    self.source.want_body(self)
                    return {"type": "http.request", "body": body, "more_body": True}
                self.request_read = True
                return {"type": "http.request", "body": body, "more_body": False}
            if not self.more_body and not self.request_read:
                self.request_read = True
                return {"type": "http.request", "body": b"", "more_body": False}
            if self.more_body:
                self.source.want_body(self)
            elif self.hung_up:
                self.disconnect()  # it is told, so what it sends now is refused
                return {"type": "http.disconnect"}
            waiter = asyncio.get_running_loop().create_future()
            if self.waiters is None:
                self.waiters = [waiter]
            else:
                self.waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                forget_waiter(self.waiters, waiter)
                raise

    async def send(self, message: Message) -> None:  # noqa: C901, PLR0912 – flat is fast
        """Take one message of the application.

        Raises ``ClientDisconnected`` when nobody is there to get it and ``RuntimeError``, saying
        what is wrong, for a message that ASGI does not allow here. What comes after a complete
        response is ignored, as the specification says.
        """
        try:
            kind = message["type"]
        except (KeyError, TypeError):
            raise http_messages.untyped(message) from None
        if self.disconnected:
            raise ClientDisconnected("the client has closed the connection")
        phase = self.phase
        if kind == "http.response.body":
            body = message.get("body", b"")
            if type(body) is not bytes:
                body = octets(body)
            more = message.get("more_body", False)
            if phase == HEAD:
                self.wire.respond(self, body, more)
                self.phase = BODY
            elif phase == BODY:
                self.wire.write_body(self, body, more)
            elif phase == COMPLETE:
                if body and not self.is_told:
                    self.is_told = True
                    self.source.server.log.warning(http_messages.TOO_LATE, self._what())
                return
            else:
                raise unexpected(kind, phase)
            if not more:
                if self.promised_trailers:
                    self.phase = TRAILERS
                else:
                    self.complete()
            elif self.wire.must_wait:
                await self._writable()
        elif kind == "http.response.start":
            if phase == COMPLETE:
                return
            if phase != NOTHING:
                raise unexpected(kind, phase)
            status: Any = message.get("status")
            self.head = self.wire.head(status, message.get("headers", ()))
            self.status = status
            if message.get("trailers", False):
                self.promised_trailers = self.is_extended
            self.phase = HEAD
        else:
            await self._send_rare(kind, message)

    def complete(self) -> None:
        """The last of the response has been handed to the wire."""
        self.phase = COMPLETE
        self.source.responded(self)
        if self.waiters:
            self._wake()

    async def _writable(self) -> None:
        await self.wire.writable()
        if self.disconnected:
            raise ClientDisconnected("the client has closed the connection")

    async def _send_rare(self, kind: str, message: Message) -> None:
        phase = self.phase
        if phase == COMPLETE:
            return
        if not self.is_extended:
            raise unexpected(kind, phase)
        if kind == "http.response.pathsend" and phase == HEAD:
            path = http_messages.file_path(message)
            try:
                await self.wire.send_file(self, path)
            except ConnectionError as error:
                raise ClientDisconnected("the client has closed the connection") from error
            if self.promised_trailers:
                self.phase = TRAILERS
            else:
                self.complete()
        elif kind == "http.response.early_hint" and phase <= BODY:
            links = http_messages.links(message)
            if phase != BODY:  # else it is too late to hint at what is there already
                self.wire.inform(self, 103, links)
        elif kind == "http.response.trailers" and phase == TRAILERS:
            self.trailers += http_messages.trailers(message.get("headers", ()))
            if not message.get("more_trailers", False):
                self.wire.write_trailers(self, self.trailers)
                self.complete()
        else:
            raise unexpected(kind, phase)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.source.server.tasks.discard(task)
        if task.cancelled():
            error: BaseException | None = asyncio.CancelledError("the worker stops")
        else:
            error = task.exception()
        if error is not None or self.phase != COMPLETE:
            self._failed(error)

    def _failed(self, error: BaseException | None) -> None:
        """The application raised, or returned before its response was complete."""
        if self.disconnected and (error is None or is_disconnect(error)):
            self.source.cut(self)
            return
        log = self.source.server.log
        what = self._what()
        if error is None:
            why = http_messages.MISSING[self.phase]
            # Endless streams may end so when the service stops (stopping.py), hundreds at a time.
            server = self.source.server
            given_up = self.phase == BODY and server.draining and not server.successor
            level = logging.DEBUG if given_up else logging.ERROR
            log.log(
                level, "%s: the application returned without completing its response: %s", what, why
            )
        elif isinstance(error, asyncio.CancelledError):
            log.error("%s: the application was cancelled", what)
        else:
            log.error("%s: exception in the application", what, exc_info=from_application(error))
        if self.phase == COMPLETE:
            return
        if self.phase in (NOTHING, HEAD) and not self.disconnected:
            self.answer(500, b"Internal Server Error")
        else:
            self.source.cut(self)

    def answer(self, status: int, text: bytes) -> None:
        """Respond in place of the application, which has not begun to."""
        self.status = status
        self.is_told = True  # what it still sends may be late, but that is not why
        self.head = self.wire.head(status, [(b"content-type", b"text/plain; charset=utf-8")])
        self.promised_trailers = False
        self.wire.respond(self, text, False)
        self.complete()

    def _what(self) -> str:
        return f"{self.scope['method']} {self.scope['path']!r}"


_DISCONNECTS: Final = frozenset(
    ("ClientDisconnect", "ClientDisconnected", "WebSocketDisconnect", "WebSocketDisconnected")
)
"""What frameworks raise when they are told so; that nobody catches it is how tutorials have it."""


def forget_waiter(waiters: list[asyncio.Future[None]] | None, waiter: asyncio.Future[None]) -> None:
    """Whoever waited has given up: what it waits for may come late, and it may ask often."""
    if waiters and waiter in waiters:
        waiters.remove(waiter)


def is_disconnect(error: BaseException) -> bool:
    """Whether ``error`` is, or was caused by, our telling that the client has gone."""
    if type(error).__name__ in _DISCONNECTS:
        return True
    seen = 0
    current: BaseException | None = error
    while current is not None and seen < 16:
        if isinstance(current, ClientDisconnected | asyncio.CancelledError):
            return True
        if isinstance(current, BaseExceptionGroup):
            return all(is_disconnect(one) for one in current.exceptions)
        current = current.__cause__ or current.__context__
        seen += 1
    return False
