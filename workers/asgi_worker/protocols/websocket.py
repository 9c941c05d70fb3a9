"""One WebSocket connection as ASGI (ASGI WebSocket 2.5, RFC 6455).

The life of a connection is its ``phase``. What can happen to it comes from the transport, the frame
reader, the server and the application; each has its section below. No connection has a timer: the
server's sweep calls ``expire`` when ``deadline`` has passed.
"""

from __future__ import annotations

import asyncio
import math
import os
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Final

from asgi_worker.protocols import frames, handshake
from asgi_worker.protocols.exchange import ClientDisconnected, is_disconnect
from asgi_worker.protocols.frames import BINARY, BINARY_HEADS, TEXT, TEXT_HEADS
from asgi_worker.protocols.http1_output import JOIN_MAX_BYTES
from asgi_worker.protocols.incoming import Incoming
from asgi_worker.protocols.websocket_messages import (
    CLOSED,
    CLOSING,
    DENYING,
    HANDSHAKE,
    OPEN,
    binary_payload,
    log_end,
    unexpected,
)

if TYPE_CHECKING:
    from asgi_worker.application import Message, Scope
    from asgi_worker.protocols.deflate import Deflate
    from asgi_worker.protocols.http1 import HttpConnection

CLOSE_TIMEOUT_S: Final = 10.0
"""How long the peer may take to answer a close frame, or to read what was written before it."""
DRAIN_TIMEOUT_S: Final = 2.0
"""The same while the worker stops."""


def upgrade(before: HttpConnection, scope: Scope, data: bytes) -> None:
    """Take the connection over from ``before`` for the handshake request in ``scope``.

    ``data`` came after its head. Called for a GET that asks for ``Upgrade: websocket``; what is
    wrong with it is answered here. The output may be held back: by the response before this one.
    """
    server = before.server
    connection = WebSocketConnection(before, scope)
    before.transport.set_protocol(connection)  # type: ignore[arg-type]  # one by its methods
    server.connections.discard(before)
    server.connections.add(connection)
    connection.start(data)


class WebSocketConnection:
    """The ``asyncio.Protocol``, and what the application and the server call."""

    __slots__ = (
        "_accepted",
        "_agreement",
        "_deflate",
        "_denial",
        "_drain_code",
        "_ended_by_application",
        "_incoming",
        "_output",
        "_owed_pong",
        "_ping",
        "_scope",
        "_started_at",
        "_transport",
        "cohort",
        "data_received",
        "deadline",
        "phase",
        "server",
    )

    def __init__(self, before: HttpConnection, scope: Scope) -> None:
        self.server = server = before.server
        self.cohort = before.cohort
        self.deadline = math.inf
        self.phase = HANDSHAKE
        self._output = before.output
        self._transport = transport = before.transport
        self._scope = scope
        self._started_at = perf_counter()
        self._incoming = Incoming(
            server.loop, transport, server.settings.ws_max_queue, self._failed
        )
        self.data_received = self._incoming.data_received
        self._agreement: handshake.Agreement
        self._accepted = False
        self._deflate: Deflate | None = None
        self._denial: handshake.Denial | None = None
        self._drain_code = 0
        self._ended_by_application = False
        self._owed_pong: bytes | None = None
        self._ping: bytes | None = None  # not answered yet

    def start(self, data: bytes) -> None:
        """Judge the handshake and, if it is one, call the application."""
        server, scope = self.server, self._scope
        scope.pop("method", None)  # ASGI has none for a WebSocket
        try:
            self._agreement = handshake.negotiate(
                scope, deflate=server.settings.ws_per_message_deflate
            )
        except handshake.Refused as refused:
            server.log.info("WebSocket %r refused: %s", scope["path"], refused)
            self._deny().answer(refused.status, f"{refused}\n", refused.headers)
            return
        if server.is_full():
            self._deny().answer(503, "Service Unavailable")
            return
        scope["subprotocols"] = self._agreement.subprotocols.copy()
        self._incoming.connect()
        if data:
            self.data_received(data)
        if server.draining:
            self.drain(server.successor)
        server.call(scope, self._incoming.receive, self.send, self._done)

    # The transport calls (data_received is an attribute: the queue's, without a detour).

    def eof_received(self) -> bool:
        """The client has closed its side: it may wait for a response, but does not talk."""
        if self.phase is DENYING:
            self._incoming.end(1006, "")
            return True
        self.server.call_soon(self._hang_up)  # after what is under way for a close frame
        return False

    def pause_writing(self) -> None:
        self._output.pause_writing()

    def resume_writing(self) -> None:
        self._output.resume_writing()
        if self._owed_pong is not None and self.phase is OPEN:
            payload, self._owed_pong = self._owed_pong, None
            self._write(frames.control(frames.PONG, payload))

    def connection_lost(self, exc: Exception | None) -> None:
        server = self.server
        self._over(1006, "")
        self._incoming.forget()
        server.lost(self)
        if self._denial is not None:
            self._denial.lost()
        if self._accepted:
            server.websockets -= 1
            if server.access_log is not None:
                handshake.record(server.access_log, self._scope, self._started_at)

    # The frame reader calls.

    def ping(self, payload: bytes) -> None:
        if self._output.write_paused:
            # Only the last ping needs an answer (RFC 6455 §5.5.3): a client that pings and does not
            # read must not fill our memory with pongs.
            self._owed_pong = payload
        elif self.phase is OPEN:
            self._output.gather(frames.control(frames.PONG, payload))

    def pong(self, payload: bytes) -> None:
        if payload == self._ping and self.phase is OPEN:
            self._ping = None
            self._ping_later()

    def closed(self, code: int, reason: str) -> None:
        self._incoming.in_turn(self._answer_close, code, reason)

    def _answer_close(self, code: int, reason: str) -> None:
        if self.phase is OPEN:
            self._write(frames.close(code))
        self._hang_up(code, reason)

    def _failed(self, violation: frames.Violation) -> None:
        """The client broke the protocol: say so and do not listen any more (RFC 6455 §7.1.7).

        The output is closed behind the close frame and the input drained: a connection closed with
        unread input would be reset, and the close frame lost.
        """
        if self.phase is CLOSED:
            return
        self.server.log.info("WebSocket %r failed: %s", self._scope["path"], violation)
        if self.phase is OPEN:
            self._write(frames.close(violation.code, violation.reason))
        self._over(violation.code, violation.reason)
        self._output.end()
        if self._incoming.paused:
            self._incoming.resume()

    # The server calls.

    def expire(self, now: float) -> None:
        """Time for a ping; or for its answer, for a close frame's or for the end to have come."""
        reads = self._output.is_read()
        if self.phase is not OPEN:
            self.deadline = now + CLOSE_TIMEOUT_S
            if not reads:
                self.abort()
            return
        timeout_s = self.server.settings.ws_ping_timeout_s
        incoming = self._incoming
        # Who is not read from may be there, unless it is waited for to read what it was sent.
        lags = incoming.paused and not self._output.write_paused
        heard, incoming.heard = incoming.heard or lags, False
        if self._ping is None:
            payload = os.urandom(4)
            self._write(frames.control(frames.PING, payload))
            if timeout_s is None:
                self._ping_later()
            else:
                self._ping = payload
                self.deadline = now + timeout_s
        elif timeout_s is not None and (heard or reads):
            # It is there: its pong is behind what it sends, or our ping behind what it reads.
            self.deadline = now + timeout_s
        else:
            self._close(1011, "keepalive ping timeout", CLOSE_TIMEOUT_S)

    def drain(self, successor: bool) -> None:
        code = 1012 if successor else 1001
        if self.phase is OPEN:
            self._close(code, "", DRAIN_TIMEOUT_S)
        elif self.phase is HANDSHAKE:
            self._drain_code = code  # the client learns it in a close frame, once there can be one
        elif self.phase is not DENYING:
            self.deadline = min(self.deadline, monotonic() + DRAIN_TIMEOUT_S)

    def disconnect(self) -> None:
        self._incoming.end(self._drain_code or 1006, "")
        if self.phase is HANDSHAKE:
            self._deny().answer(503, "Service Unavailable")
        if self._denial is not None:
            self._denial.exchange.disconnect()
        self._over(1006, "")

    def abort(self) -> None:
        self._transport.abort()

    # The application calls.

    async def send(self, message: Message) -> None:  # noqa: PLR0912 – flat is fast
        """Take one message of the application.

        Raises ``ClientDisconnected`` when the connection has ended, and ``RuntimeError``, saying
        what is wrong, for a message that ASGI does not allow here. A ``websocket.close`` for what
        has been ended from elsewhere asks for what is so already, and is no error.
        """
        if self.phase is not OPEN or message.get("type") != "websocket.send":
            await self._send_rare(message)
            return
        if self._output.write_paused:
            await self._output.writable()
            if self.phase is not OPEN:
                raise ClientDisconnected("the WebSocket is closed")
        text = message.get("text")
        if text is not None and message.get("bytes") is None and isinstance(text, str):
            payload, opcode, heads = text.encode(), TEXT, TEXT_HEADS
        else:
            payload, opcode, heads = binary_payload(message), BINARY, BINARY_HEADS
        size = len(payload)
        if self._deflate is not None and size:
            payload = self._deflate.deflate(payload)
            size = len(payload)
            head = frames.head(opcode, size, compressed=True)
        elif size < 126:
            head = heads[size]
        else:
            head = frames.head(opcode, size)
        # While more messages of the client wait to be taken, or the application has not asked for
        # one since it last sent, more is likely to follow within this turn of the loop: it leaves
        # together in one write.
        output, incoming = self._output, self._incoming
        more = incoming.queue or not incoming.asked
        incoming.asked = False
        if more or output.gathered:
            before = output.gathered_bytes
            if size < 126:
                output.gather(head + payload)
            else:
                output.gather(head)
                output.gather(payload)
            if not more:
                output.flush()
            elif output.gathered_bytes <= before:
                # Much has left in this turn. An application that only sends, to a client as fast
                # as itself, would else never wait, and never learn that the client has gone.
                await asyncio.sleep(0)
        elif size <= JOIN_MAX_BYTES:
            self._transport.write(head + payload)
        else:
            output.write_pieces((head, payload))

    async def _send_rare(self, message: Message) -> None:
        kind, phase = message.get("type"), self.phase
        if phase is HANDSHAKE and kind == "websocket.accept":
            self._accept(message)
        elif phase is HANDSHAKE and kind == "websocket.close":
            self._ended_by_application = True
            self._deny().answer(403, "Forbidden")
        elif phase is HANDSHAKE and kind == "websocket.http.response.start":
            self._ended_by_application = True
            await self._deny().send(message)
        elif self._denial is not None and kind == "websocket.http.response.body":
            await self._denial.send(message)
        elif phase is OPEN and kind == "websocket.close":
            code, reason = message.get("code"), message.get("reason")
            self._close(1000 if code is None else code, reason or "", CLOSE_TIMEOUT_S)
            self._ended_by_application = True
        elif phase in {HANDSHAKE, DENYING, OPEN} or self._ended_by_application:
            raise unexpected(kind, phase)
        elif kind != "websocket.close":
            raise ClientDisconnected("the WebSocket is closed")

    def _accept(self, message: Message) -> None:
        server = self.server
        self._transport.write(handshake.acceptance(self._agreement, message, server))
        self.phase = OPEN
        self._accepted = True
        self._deflate = self._agreement.deflate
        del self._agreement
        server.requests += 1
        server.websockets += 1
        self._ping_later()
        if self._drain_code:
            self._close(self._drain_code, "", DRAIN_TIMEOUT_S)
        limit_bytes = server.settings.ws_max_bytes
        self._incoming.listen(frames.FrameReader(self._incoming, self, limit_bytes, self._deflate))

    def _deny(self) -> handshake.Denial:
        self.phase = DENYING
        self._incoming.refuse()
        self._denial = handshake.Denial(self._output, self._scope, self._started_at, self._hang_up)
        return self._denial

    # The application has ended.

    def _done(self, task: asyncio.Task[None]) -> None:
        """Log what went wrong, and end the connection if that has not been done."""
        self.server.tasks.discard(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        stopped = error is not None and self._incoming.ended and is_disconnect(error)
        if not stopped:
            log_end(self.server.log, self._scope["path"], error, self.phase)
            self.server.errors += error is not None and self._accepted
        if self.phase is HANDSHAKE:
            self._deny().answer(500, "Internal Server Error")
        elif self.phase is DENYING and self._denial is not None:
            self._denial.answer(500, "Internal Server Error")
        elif self.phase is OPEN:
            self._close(1000 if error is None else 1011, "", CLOSE_TIMEOUT_S)

    # The connection ends.

    def _close(self, code: int, reason: str, timeout_s: float) -> None:
        """Send a close frame; the connection ends when the client answers it, or after a time."""
        try:
            frame = frames.close(code, reason)
        except ValueError as error:
            raise RuntimeError(f"websocket.close: {error}") from None
        self._write(frame)
        self._fall_silent(code, reason, timeout_s)
        self.phase = CLOSING
        if self._incoming.paused:
            self._incoming.resume()

    def _hang_up(self, code: int = 1006, reason: str = "") -> None:
        """Nothing more is to be said or heard; what was written still leaves."""
        self._output.flush()
        self._over(code, reason)
        self._transport.close()

    def _over(self, code: int, reason: str) -> None:
        self._fall_silent(code, reason, CLOSE_TIMEOUT_S)
        self.phase = CLOSED
        self._incoming.reader = self._deflate = None  # hundreds of kilobytes

    def _write(self, frame: bytes) -> None:
        self._output.flush()
        self._transport.write(frame)

    def _fall_silent(self, code: int, reason: str, timeout_s: float) -> None:
        """Nothing more is written. Of several reasons the application is told the first."""
        # Not by server.now, which is old when an application has held the loop.
        self.deadline = monotonic() + timeout_s
        self._incoming.end(code, reason)
        output = self._output
        output.lost = True  # nobody need wait for it to become writable
        output.resume_writing()
        output.unsent_bytes = self._transport.get_write_buffer_size()

    def _ping_later(self) -> None:
        interval_s = self.server.settings.ws_ping_interval_s
        self.deadline = math.inf if interval_s is None else self.server.now + interval_s
