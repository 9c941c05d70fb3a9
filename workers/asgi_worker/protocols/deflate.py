"""Compression of WebSocket messages (permessage-deflate, RFC 7692).

What was agreed on comes from ``websockets``, which negotiates; the work is done here, because its
``PerMessageDeflate`` takes and makes frame objects, starts both directions for connections that may
never send a byte, and has no way to say that nothing more may come out (a limit of 0 means none).
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Final

from asgi_worker.protocols.frames import Violation

if TYPE_CHECKING:
    from websockets.extensions.permessage_deflate import PerMessageDeflate

_TAIL: Final = b"\x00\x00\xff\xff"
_LARGEST_WINDOW: Final = 32 * 1024


class Deflate:
    """Both directions of one connection. Each is set up at its first message."""

    __slots__ = ("_agreed", "_deflater", "_inflater")

    def __init__(self, agreed: PerMessageDeflate) -> None:
        self._agreed: Final = agreed
        self._inflater: zlib._Decompress | None = None
        self._deflater: zlib._Compress | None = None

    def inflate(self, data: bytes, room: int, *, last: bool) -> bytes:
        """A piece of a message, inflated to ``room`` bytes at most; ``last`` ends the message.

        Raises :class:`Violation`: 1009 when there is more in it, 1007 when it is no deflate stream.
        No more than one byte beyond ``room`` is ever inflated.
        """
        inflater = self._inflater
        if inflater is None:
            inflater = zlib.decompressobj(-self._agreed.remote_max_window_bits)
        if last:
            data += _TAIL
        try:
            out = inflater.decompress(data, room + 1)
            if inflater.eof and len(out) <= room:
                # Senders without a sync flush end a message by a final block (RFC 7692 §7.2.3.4).
                # zlib stops there; what follows is read by a new stream that knows this output.
                rest = inflater.unused_data
                inflater = zlib.decompressobj(
                    -self._agreed.remote_max_window_bits, zdict=out[-_LARGEST_WINDOW:]
                )
                out += inflater.decompress(rest, room + 1 - len(out))
        except zlib.error as error:
            raise Violation(1007, "not a deflate stream") from error
        if len(out) > room:
            raise Violation(1009, "message too big when inflated")
        if inflater.eof:
            raise Violation(1007, "more than one final block in a piece of a deflate stream")
        self._inflater = None if last and self._agreed.remote_no_context_takeover else inflater
        return out

    def deflate(self, payload: Any) -> bytes:
        """A whole message, which must not be empty (RFC 7692 §7.2.1)."""
        agreed = self._agreed
        deflater = self._deflater
        if deflater is None:
            deflater = zlib.compressobj(
                wbits=-agreed.local_max_window_bits, **agreed.compress_settings
            )
        self._deflater = None if agreed.local_no_context_takeover else deflater
        return (deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]
