"""What an application may do on a WebSocket, when, and how what it does wrong is named.

Apart from the connection because nothing here is on the way of a message that is right.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from typing import TYPE_CHECKING, Final

from asgi_worker.tasks import from_application

if TYPE_CHECKING:
    from asgi_worker.application import Message


class Phase(enum.Enum):
    """Where a connection stands."""

    HANDSHAKE = enum.auto()  # the application has not answered websocket.connect yet
    DENYING = enum.auto()  # it answers with an HTTP response of its own
    OPEN = enum.auto()
    CLOSING = enum.auto()  # we sent a close frame, the client's is awaited
    CLOSED = enum.auto()  # nothing more is written or heard


HANDSHAKE: Final = Phase.HANDSHAKE
DENYING: Final = Phase.DENYING
OPEN: Final = Phase.OPEN
CLOSING: Final = Phase.CLOSING
CLOSED: Final = Phase.CLOSED

_EXPECTED: Final = {
    HANDSHAKE: "'websocket.accept', 'websocket.close' or 'websocket.http.response.start'",
    DENYING: "'websocket.http.response.body'",
    OPEN: "'websocket.send' or 'websocket.close'",
}


def unexpected(kind: str | None, phase: Phase) -> RuntimeError:
    """The error for a message that cannot be sent in ``phase``; ``None``: it has no type."""
    what = "ASGI message without a 'type'" if kind is None else f"unexpected ASGI message {kind!r}"
    if phase in _EXPECTED:
        return RuntimeError(f"{what}: expected {_EXPECTED[phase]} here")
    return RuntimeError(f"{what} after the application's last")


def binary_payload(message: Message) -> bytes:
    """The payload of a ``websocket.send`` that has no text; raises ``RuntimeError``."""
    data, text = message.get("bytes"), message.get("text")
    if text is None and isinstance(data, bytes):
        return data
    if (text is None) is (data is None):
        raise RuntimeError("websocket.send: exactly one of 'text' and 'bytes' must be given")
    if isinstance(data, bytearray | memoryview):
        return bytes(data)
    wrong = f"'text' must be str, not {type(text).__name__}"
    if text is None:
        wrong = f"'bytes' must be bytes, not {type(data).__name__}"
    raise RuntimeError(f"websocket.send: {wrong}")


def log_end(log: logging.Logger, path: str, error: BaseException | None, phase: Phase) -> None:
    """Log an application that has ended as it should not, if it has."""
    if isinstance(error, asyncio.CancelledError):
        log.error("WebSocket %r: the application was cancelled", path)
    elif error is not None:
        log.error(
            "WebSocket %r: exception in the application", path, exc_info=from_application(error)
        )
    elif phase is HANDSHAKE:
        log.error(
            "WebSocket %r: the application returned without accepting or refusing "
            "(is each send awaited?)",
            path,
        )
    elif phase is DENYING:
        log.error("WebSocket %r: the application returned without completing its response", path)
