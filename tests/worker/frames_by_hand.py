"""A WebSocket client that does what it is told, also what no library would do."""

from __future__ import annotations

import base64
import hashlib
import os
import struct
from typing import NamedTuple

from tests.worker.serving import Arena, Wire

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FIN, RSV1 = 0x80, 0x40
MASK = b"\x37\xfa\x21\x3d"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"


class Frame(NamedTuple):
    first: int
    payload: bytes


class Closed(NamedTuple):
    code: int | None
    reason: str


def masked(payload: bytes, mask: bytes = MASK) -> bytes:
    return bytes(octet ^ mask[i % 4] for i, octet in enumerate(payload))


def frame(first: int, payload: bytes = b"", *, mask: bytes | None = MASK) -> bytes:
    """The octets of one frame; ``first`` is its whole first octet."""
    size = len(payload)
    bit = 0 if mask is None else 0x80
    if size < 126:
        head = bytes((first, bit | size))
    elif size < 65536:
        head = bytes((first, bit | 126)) + struct.pack("!H", size)
    else:
        head = bytes((first, bit | 127)) + struct.pack("!Q", size)
    if mask is None:
        return head + payload
    if size > 4096:  # the same, faster
        whole = int.from_bytes(payload, "big") ^ int.from_bytes(
            (mask * (size // 4 + 1))[:size], "big"
        )
        return head + mask + whole.to_bytes(size, "big")
    return head + mask + masked(payload, mask)


def text(payload: str) -> bytes:
    return frame(FIN | TEXT, payload.encode())


def close(code: int | None = None, reason: str = "") -> bytes:
    payload = b"" if code is None else struct.pack("!H", code) + reason.encode()
    return frame(FIN | CLOSE, payload)


def handshake(
    path: str = "/", *lines: str, key: str | None = KEY, version: str | None = "13"
) -> bytes:
    request = [f"GET {path} HTTP/1.1", "Host: test", "Upgrade: websocket", "Connection: Upgrade"]
    if key is not None:
        request.append(f"Sec-WebSocket-Key: {key}")
    if version is not None:
        request.append(f"Sec-WebSocket-Version: {version}")
    return "\r\n".join((*request, *lines, "", "")).encode()


class Client:
    """One raw connection that has been accepted."""

    def __init__(self, wire: Wire, head: bytes) -> None:
        self.wire = wire
        self.head = head

    async def send(self, *octets: bytes) -> None:
        await self.wire.write(b"".join(octets))

    async def frame(self) -> Frame:
        first, size = await self.wire.read_exactly(2)
        assert size < 128, "a server must not mask"
        if size == 126:
            (size,) = struct.unpack("!H", await self.wire.read_exactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await self.wire.read_exactly(8))
        return Frame(first, await self.wire.read_exactly(size) if size else b"")

    async def text(self) -> str:
        first, payload = await self.frame()
        assert first == FIN | TEXT, (first, payload)
        return payload.decode()

    async def closed(self) -> Closed:
        first, payload = await self.frame()
        assert first == FIN | CLOSE, (first, payload)
        if not payload:
            return Closed(None, "")
        (code,) = struct.unpack("!H", payload[:2])
        return Closed(code, payload[2:].decode())

    async def end(self) -> bytes:
        """What still comes until the server closes the connection."""
        return await self.wire.read_to_end()


async def open_websocket(arena: Arena, path: str = "/", *lines: str) -> Client:
    """Shake hands; the server must accept, rightly."""
    key = base64.b64encode(os.urandom(16)).decode()
    wire = await arena.connect()
    await wire.write(handshake(path, *lines, key=key))
    head = await wire.read_until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n"), head
    digest = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
    assert b"\r\nSec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n" in head, head
    return Client(wire, head)
