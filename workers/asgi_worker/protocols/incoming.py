"""What a WebSocket's client sends, on its way to the application: a bounded queue.

The only place that decides when reading stops. While the application lags behind, neither messages
nor the bytes they would be made of pile up: the frame reader is stopped in the middle of what it
has, and the transport stops reading, until the application has taken what is here.

No ``asyncio.Queue``: a future exists only while the application waits, and it waits only for an
empty queue. Messages stay in the queue until ``receive`` returns them, so cancelling it loses none.
Several tasks may wait: each message wakes one of them, in turn, and the end all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from asgi_worker.protocols.frames import FrameReader, Violation

if TYPE_CHECKING:
    from asgi_worker.application import Message

QUEUE_MAX_BYTES: Final = 1024 * 1024
"""More than this is not taken in ahead of the application, save to complete one message."""
EARLY_MAX_BYTES: Final = 64 * 1024
"""So much is kept of a client that sends before it is accepted (RFC 6455 §4.1: it must not)."""


class Incoming:
    """The queue, the one who waits for it, and the tap."""

    __slots__ = (
        "_early",
        "_end",
        "_failed",
        "_loop",
        "_max_messages",
        "_others",
        "_queued_bytes",
        "_transport",
        "_waiter",
        "asked",
        "heard",
        "paused",
        "queue",
        "reader",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        max_messages: int,
        failed: Callable[[Violation], None],
    ) -> None:
        """``failed`` is called when the client breaks the protocol; nothing is read after it."""
        self.reader: FrameReader | None = None
        self.paused = False
        self.heard = False  # something, since it was last set to False
        self.asked = True
        self._loop: Final = loop
        self._transport: Final = transport
        self._max_messages: Final = max_messages
        self._failed: Callable[[Violation], None] | None = failed
        self.queue: list[Message] = []  # short; a deque begins with 760 bytes
        self._queued_bytes = 0  # since the queue was empty
        self._waiter: asyncio.Future[None] | None = None  # who has waited longest
        self._others: list[asyncio.Future[None]] = []  # … and those after it, should there be any
        self._end: Message | None = None
        self._early: bytes | None = b""  # sent before the application accepted

    def data_received(self, data: bytes) -> None:
        """Bytes of the client, as the transport has them."""
        self.heard = True
        if self.reader is not None:
            try:
                self.reader.feed(data)
            except Violation as violation:
                self._violated(violation)
        elif self._early is not None:
            self._early += data
            if len(self._early) > EARLY_MAX_BYTES:
                self.pause()

    def listen(self, reader: FrameReader) -> None:
        """The application has accepted: hand out messages from now on."""
        self.reader = reader
        early, self._early = self._early, None
        if self.paused:
            self.resume()
        if early:
            self.data_received(early)

    def refuse(self) -> None:
        """The application does not accept: what the client sends goes nowhere."""
        self._early = None
        if self.paused:
            self.resume()

    def text(self, text: str) -> None:
        """Queue a text message."""
        if self._end is None:
            self.queue.append({"type": "websocket.receive", "text": text})
            self._arrived(len(text))

    def binary(self, data: bytes) -> None:
        """Queue a binary message."""
        if self._end is None:
            self.queue.append({"type": "websocket.receive", "bytes": data})
            self._arrived(len(data))

    def end(self, code: int, reason: str) -> None:
        """No message comes any more: the application learns why. Only the first call counts."""
        if self._end is None:
            self._end = {"type": "websocket.disconnect", "code": code, "reason": reason}
            while self._waiter is not None:
                self._wake()

    @property
    def ended(self) -> bool:
        """Whether :meth:`end` was called."""
        return self._end is not None

    async def receive(self) -> Message:
        """The next message; after the last, ``websocket.disconnect`` every time."""
        queue = self.queue
        self.asked = True
        while not queue:
            if self._end is not None:
                return self._end.copy()
            waiter = self._loop.create_future()
            if self._waiter is None:
                self._waiter = waiter
            else:
                self._others.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                self._give_up(waiter)
                raise
        message = queue.pop(0)
        if not queue:
            self._queued_bytes = 0
            if self.paused:
                # Not at once: an application that never waits would take all that is here within
                # one turn of the loop, while everybody else waits for it.
                self._loop.call_soon(self._go_on)
        return message

    def _wake(self) -> None:
        """Wake the one who has waited longest."""
        others, waiter = self._others, self._waiter
        while waiter is not None and waiter.done():
            waiter = others.pop(0) if others else None
        self._waiter = others.pop(0) if others else None
        if waiter is not None:
            waiter.set_result(None)

    def _give_up(self, waiter: asyncio.Future[None]) -> None:
        """``waiter`` does not wait any more; a message it was woken for is for the next."""
        if waiter in self._others:
            self._others.remove(waiter)
        elif self._waiter is waiter:
            self._waiter = self._others.pop(0) if self._others else None
        if self.queue and self._waiter is not None:
            self._wake()

    def _go_on(self) -> None:
        if self.paused and self._end is None and self.reader is not None:
            self.resume()

    def forget(self) -> None:
        """The connection is lost: hold nothing of it while the application has this."""
        self._failed = None

    def connect(self) -> None:
        """Begin with what the application is told first; reading waits for its answer."""
        self.queue.append({"type": "websocket.connect"})

    def pause(self) -> None:
        """Read no more from the client until :meth:`resume`."""
        if self.reader is not None:
            self.reader.stop()
        if not self.paused:
            self.paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on: first what is here already."""
        self.paused = False
        if self.reader is not None:
            try:
                self.reader.resume()
            except Violation as violation:
                self._violated(violation)
        if not (self.paused or self._transport.is_closing()):
            self._transport.resume_reading()

    def in_turn(self, callback: Callable[..., None], *args: object) -> None:
        """Call at once or, if messages wait for the application, when it had a chance to answer.

        So what a client sends in one packet with the end of the connection is not sent in vain.
        """
        if self.queue:
            self._loop.call_soon(callback, *args)  # it has been woken: its turn comes first
        else:
            callback(*args)

    def _violated(self, violation: Violation) -> None:
        self.reader = None
        if self._failed is not None:
            self.in_turn(self._failed, violation)

    def _arrived(self, size: int) -> None:
        self._queued_bytes += size
        waiter = self._waiter
        if waiter is not None:
            if self._others or waiter.done():
                self._wake()
            else:
                self._waiter = None
                waiter.set_result(None)
        elif self._queued_bytes > QUEUE_MAX_BYTES or len(self.queue) >= self._max_messages:
            self.pause()
