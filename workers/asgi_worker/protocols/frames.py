"""WebSocket frames (RFC 6455 §5): bytes in, messages and control frames out. No input, no output.

The common frame – a whole unfragmented message, all of it in the buffer – takes the short way in
:meth:`FrameReader.feed`. Everything else is read piece by piece as it arrives: unmasked, inflated,
counted against the limit and checked as UTF-8 at once, so that what is wrong with a message is
answered when its first wrong byte is here, and nothing is ever read twice.

Considered and refused: the reader of ``websockets``, a generator that asks for exact numbers of
bytes and makes an object of each frame: it is most of the time an echo takes.
"""

from __future__ import annotations

import codecs
import struct
from typing import TYPE_CHECKING, Final, Protocol

from websockets.exceptions import ProtocolError
from websockets.frames import Close

if TYPE_CHECKING:
    from asgi_worker.protocols.deflate import Deflate

try:
    from websockets.speedups import apply_mask
except ImportError:
    from websockets.utils import apply_mask

TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

_FINAL: Final = 0x80
_COMPRESSED: Final = 0x40  # RSV1 (RFC 7692 §6)
_RESERVED: Final = 0x70
_CONTROL: Final = 0x08
_FINAL_TEXT: Final = _FINAL | TEXT
_FINAL_BINARY: Final = _FINAL | BINARY
_WHOLE: Final = frozenset((_FINAL_TEXT, _FINAL_BINARY))

_SLICE_MAX_BYTES: Final = 8 * 1024
"""A payload up to this size is sliced for unmasking: the copy is cheaper than a memoryview."""
_CONTROL_MAX_BYTES: Final = 125
_REASON_MAX_BYTES: Final = _CONTROL_MAX_BYTES - 2

_pack_short = struct.Struct("!BBH").pack
_pack_long = struct.Struct("!BBQ").pack
_long_length = struct.Struct("!Q").unpack_from
_utf8_decoder = codecs.getincrementaldecoder("utf-8")


class Violation(Exception):
    """The peer broke the protocol or a limit: close with ``code`` (RFC 6455 §7.1.7)."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({code})")
        self.code = code
        self.reason = reason


class Messages(Protocol):
    """Where a reader puts messages. Each method may call ``FrameReader.stop``."""

    def text(self, text: str) -> None:
        """A text message."""

    def binary(self, data: bytes) -> None:
        """A binary message."""


class Controls(Protocol):
    """Who acts on control frames."""

    def ping(self, payload: bytes) -> None:
        """A ping, to be answered by a pong with the same payload."""

    def pong(self, payload: bytes) -> None:
        """A pong, asked for or not."""

    def closed(self, code: int, reason: str) -> None:
        """A close frame; 1005 is the code of one that has none."""


class FrameReader:
    """Reads what one client sends. After a :class:`Violation` it must not be used any more."""

    __slots__ = (
        "_at",
        "_compressed",
        "_controls",
        "_deflate",
        "_final",
        "_is_text",
        "_left",
        "_limit",
        "_mask",
        "_message",
        "_messages",
        "_rest",
        "_stopped",
        "_utf8",
    )

    def __init__(
        self, messages: Messages, controls: Controls, limit_bytes: int, deflate: Deflate | None
    ) -> None:
        self._messages: Final = messages
        self._controls: Final = controls
        self._limit: Final = limit_bytes  # of a message, inflated
        self._deflate: Final = deflate
        self._rest = b""  # not looked at yet, from self._at on
        self._at = 0
        self._stopped = False
        self._left = 0  # bytes of the data frame being read that are still to come
        self._mask = b""  # of that frame, turned to its next byte
        self._final = False  # that frame ends its message
        self._message: bytearray | None = None  # the message being read
        self._is_text = False
        self._compressed = False
        self._utf8: codecs.IncrementalDecoder | None = None

    def feed(self, data: bytes) -> None:
        """Read ``data``, the next of the stream; raises :class:`Violation`."""
        if self._stopped:
            self._rest += data
        elif self._rest:
            rest, self._rest = self._rest, b""
            self._read(rest + data, 0)
        else:
            self._read(data, 0)

    def stop(self) -> None:
        """Hand out nothing more until :meth:`resume`."""
        self._stopped = True

    def resume(self) -> None:
        """Go on after :meth:`stop`, with what came before and after it; raises as ``feed`` does."""
        self._stopped = False
        rest, self._rest = self._rest, b""
        at, self._at = self._at, 0
        self._read(rest, at)

    def _read(self, data: bytes, at: int) -> None:
        size = len(data)
        if self._left:
            at = self._body(data, at)
        while size - at >= 2 and not self._stopped:
            first = data[at]
            length = data[at + 1] - 128
            if 0 <= length < 126:
                start = at + 6
            else:
                length, start = self._extended_length(data, at, length)
            end = start + length
            if end <= size and first in _WHOLE and self._message is None and length <= self._limit:
                at = end
                payload = apply_mask(
                    data[start:end] if length <= _SLICE_MAX_BYTES else memoryview(data)[start:end],
                    data[start - 4 : start],
                )
                if first == _FINAL_TEXT:
                    self._messages.text(_decoded(payload))
                else:
                    self._messages.binary(payload)
            else:
                after = self._uncommon(data, start, first, length)
                if not after:
                    break
                at = after
        if at < size:
            if self._stopped:
                self._rest, self._at = data, at
            else:
                self._rest = data[at:]

    def _uncommon(self, data: bytes, start: int, first: int, length: int) -> int:
        """Where ``data`` goes on after what could be read of this frame; 0 if it was nothing."""
        if first & _CONTROL:
            _check_control(first, length)
            end = start + length
            if end > len(data):
                return 0
            self._control(first, apply_mask(data[start:end], data[start - 4 : start]))
            return end
        if start > len(data):
            return 0
        self._begin(first, length)
        self._mask = data[start - 4 : start]
        return self._body(data, start)

    @staticmethod
    def _extended_length(data: bytes, at: int, length: int) -> tuple[int, int]:
        """Length and start of the payload; a start beyond ``data`` if the head is incomplete."""
        if length < 0:
            raise Violation(1002, "frame not masked")
        size = len(data)
        if length == 126:
            start = at + 8
            if start <= size:
                length = data[at + 2] << 8 | data[at + 3]
        else:
            start = at + 14
            if start <= size:
                (length,) = _long_length(data, at + 2)
                if length >> 63:
                    raise Violation(1002, "payload length with its highest bit set")
        return length, start

    def _begin(self, first: int, length: int) -> None:
        """The head of a data frame: does it fit to what came before it? (RFC 6455 §5.4)."""
        opcode = first & 0x0F
        if opcode > BINARY:
            raise Violation(1002, f"unknown opcode {opcode:#x}")
        reserved = first & _RESERVED
        if opcode == 0:
            if self._message is None:
                raise Violation(1002, "continuation of nothing")
        else:
            if self._message is not None:
                raise Violation(1002, "new message before the end of the last one")
            self._message = bytearray()
            self._is_text = opcode == TEXT
            self._compressed = reserved == _COMPRESSED and self._deflate is not None
            if self._compressed:
                reserved = 0
        if reserved:
            raise Violation(1002, "reserved bits set")
        if not self._compressed and len(self._message) + length > self._limit:
            raise Violation(1009, "message too big")
        self._final = first & _FINAL != 0
        self._left = length

    def _body(self, data: bytes, at: int) -> int:
        """Read on in the payload of a data frame; returns where ``data`` goes on after it."""
        end = min(at + self._left, len(data))
        piece = apply_mask(memoryview(data)[at:end], self._mask)
        self._left -= end - at
        if self._left:
            turn = (end - at) & 3
            self._mask = self._mask[turn:] + self._mask[:turn]
        last = self._final and not self._left
        message = self._message
        if message is None:
            raise AssertionError("a payload without the head of a frame")
        if self._compressed and self._deflate is not None:
            piece = self._deflate.inflate(piece, self._limit - len(message), last=last)
        if not last:
            if self._is_text:
                self._check_utf8(piece)
            message += piece
            return end
        if self._is_text and self._utf8 is not None:
            self._check_utf8(piece)
        if message:
            message += piece
            piece = bytes(message)
        self._message = self._utf8 = None
        if self._is_text:
            self._messages.text(_decoded(piece))
        else:
            self._messages.binary(piece)
        return end

    def _control(self, first: int, payload: bytes) -> None:
        if first == _FINAL | PING:
            self._controls.ping(payload)
        elif first == _FINAL | PONG:
            self._controls.pong(payload)
        else:
            try:
                close = Close.parse(payload)
            except ProtocolError as error:
                raise Violation(1002, f"close frame: {error}") from None
            except UnicodeDecodeError:
                raise Violation(1007, "reason of close frame is not UTF-8") from None
            self._stopped = True  # nothing after a close frame means anything
            self._controls.closed(int(close.code), close.reason)

    def _check_utf8(self, piece: bytes) -> None:
        """Refuse bad UTF-8 before the message is complete (RFC 6455 §8.1)."""
        if self._utf8 is None:
            self._utf8 = _utf8_decoder()
        try:
            self._utf8.decode(piece)
        except UnicodeDecodeError:
            raise Violation(1007, "text is not UTF-8") from None


def _decoded(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise Violation(1007, "text is not UTF-8") from None


def _check_control(first: int, length: int) -> None:
    if first & _RESERVED:
        raise Violation(1002, "reserved bits set")
    if not first & _FINAL:
        raise Violation(1002, "fragmented control frame")
    if length > _CONTROL_MAX_BYTES:
        raise Violation(1002, "control frame too long")
    if first & 0x0F > PONG:
        raise Violation(1002, f"unknown opcode {first & 0x0F:#x}")


TEXT_HEADS: Final = tuple(bytes((_FINAL_TEXT, size)) for size in range(126))
"""By payload size, the heads of short text messages."""
BINARY_HEADS: Final = tuple(bytes((_FINAL_BINARY, size)) for size in range(126))


def head(opcode: int, size: int, *, compressed: bool = False) -> bytes:
    """The head of a whole message or of a control frame that a server sends (unmasked)."""
    first = _FINAL | opcode | (_COMPRESSED if compressed else 0)
    if size < 126:
        return bytes((first, size))
    if size < 65536:
        return _pack_short(first, 126, size)
    return _pack_long(first, 127, size)


def control(opcode: int, payload: bytes) -> bytes:
    """A ping or pong with ``payload``, of 125 bytes at most."""
    return head(opcode, len(payload)) + payload


def close(code: int, reason: str = "") -> bytes:
    """A close frame; 1005 makes one without a code. A reason is cut to what fits.

    Raises ``ValueError`` for a code that must not be sent (RFC 6455 §7.4) or is no ``int``, and for
    a reason that is no ``str``.
    """
    if not isinstance(reason, str):
        raise ValueError(f"the reason must be str, not {type(reason).__name__}")
    if not isinstance(code, int):
        raise ValueError(f"the code must be int, not {code!r}")
    if code == 1005:
        return control(CLOSE, b"")
    cut = reason.encode("utf-8", "replace")[:_REASON_MAX_BYTES].decode("utf-8", "ignore")
    try:
        payload = Close(code, cut).serialize()
    except ProtocolError:
        raise ValueError(f"{code!r} is not a close code that may be sent") from None
    return control(CLOSE, payload)
