"""Heads that repeat themselves, without the parser.

Most clients of a kept-alive connection repeat themselves: all fields of a request are, byte for
byte, those of the one before. What the parser made of them holds again if the new request, too, is
a head of its own and its request line is beyond doubt. So fields that came twice are remembered, on
the connection they came on and nowhere else, and a request that ends in the same bytes is taken
without the parser – at a quarter of its price. A test holds this way and the parser to one result.

Considered and refused: remembering single lines for all connections (looking up and joining them
costs as much as the parser does).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from asgi_worker.protocols.exchange import Exchange
from asgi_worker.protocols.http1_input import set_path

if TYPE_CHECKING:
    from asgi_worker.application import Scope
    from asgi_worker.protocols.http1_input import RequestReader

REMEMBERED_BYTES: Final = 4096
MISSES_MAX: Final = 8
"""A client that has sent so many different heads will not begin to repeat itself."""
NO_BLOCK: Final = b"\n\n\n"
"""No block of fields ends so."""

_LINE_END: Final = b"\r\n"
_METHODS: Final = {b"GET": "GET", b"HEAD": "HEAD"}
_PLAIN_TARGET: Final = bytes(range(0x21, 0x7F)).translate(None, b"#%")
"""What a target may consist of that needs no decoding: visible ASCII (RFC 9112 §3.2)."""


class RepeatedHead:
    """What one connection repeats. ``block`` is how data must end for :meth:`take` to be tried."""

    __slots__ = ("_last_block", "_misses", "_reader", "_scope", "block")

    def __init__(self, reader: RequestReader) -> None:
        self.block = NO_BLOCK
        self._reader = reader
        self._scope: Scope
        self._last_block = b""
        self._misses = 0

    def take(self, data: bytes) -> bool:
        """Queue the request that ``data`` is, if it is beyond doubt. Whether it was taken."""
        reader = self._reader
        if reader.in_head or reader.incoming is not None or reader.upgrading:
            return False
        try:
            method, target, version = data[: len(data) - len(self.block)].split(b" ")
        except ValueError:
            return False
        if version != b"HTTP/1.1" or method not in _METHODS:
            return False
        if target[:1] != b"/" or target.translate(None, _PLAIN_TARGET):
            return False
        scope = self._scope.copy()
        scope["headers"] = scope["headers"].copy()
        scope["state"] = scope["state"].copy()
        scope["extensions"] = scope["extensions"].copy()
        scope["method"] = _METHODS[method]
        set_path(scope, target)
        connection = reader.connection
        exchange = Exchange(connection, connection.output, scope, True)
        exchange.more_body = False
        exchange.is_head = method == b"HEAD"
        reader.waiting.append(exchange)
        return True

    def remember(self, data: bytes, scope: Scope) -> None:
        """``data`` brought a head, which became ``scope`` and asked for nothing special.

        It must not begin with the end of something else: its first line would be taken for one of
        the fields. The caller sees to bodies; empty lines (RFC 9112 §2.2) are looked for here.
        """
        reader = self._reader
        if (
            self._misses >= MISSES_MAX
            or data[0] in _LINE_END
            or reader.in_head
            or reader.incoming is not None
            or len(reader.waiting) != 1  # not alone
        ):
            return
        block = data[data.find(b"\r\n") :]
        if block != self._last_block:
            self._misses += 1
            if len(block) <= REMEMBERED_BYTES:
                self._last_block = block
        elif reader.waiting[0].keep_alive:
            self.block = block
            self._scope = {
                **scope,
                "headers": scope["headers"].copy(),
                "state": reader.template["state"],
                "extensions": reader.template["extensions"],
            }

    def forget(self) -> None:
        """Leave all heads to the parser from now on."""
        self.block = NO_BLOCK
        self._misses = MISSES_MAX
