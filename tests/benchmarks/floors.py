"""The floor: a uvloop protocol that knows the requests and writes ready-made bytes.

Neither a parser nor an application nor any rule of HTTP: what is left is the price of the kernel
and the event loop, which no server on uvloop can go below. Run as
`python -m tests.benchmarks.floors PORT`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import sys
from typing import cast

import uvloop
from websockets.speedups import apply_mask

from tests.benchmarks.app import CHUNK, CHUNKS, HELLO, MEBIBYTE

_COMMON = b"server: raw\r\ndate: Sun, 01 Nov 2026 00:00:00 GMT\r\ncontent-type: text/plain\r\n"
_OK = b"HTTP/1.1 200 OK\r\n" + _COMMON
_HELLO = _OK + b"content-length: %d\r\n\r\n%b" % (len(HELLO), HELLO)
_HELLO_CLOSE = _OK + b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(HELLO), HELLO)
_MEBIBYTE_HEAD = _OK + b"content-length: %d\r\n\r\n" % len(MEBIBYTE)
_CHUNKS = b"%x\r\n%b\r\n" % (len(CHUNK), CHUNK) * CHUNKS
_STREAM = _OK + b"transfer-encoding: chunked\r\n\r\n" + _CHUNKS + b"0\r\n\r\n"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Raw:
    """One connection. Relies on what wrk and echo_load.py send: no pipelining, whole heads."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.body: list[bytes] = []
        self.missing = 0
        self.echoes = False
        self.frames = b""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def connection_lost(self, reason: Exception | None) -> None: ...

    def eof_received(self) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def data_received(self, data: bytes) -> None:
        if self.echoes:
            self.echo(data)
        elif self.missing:
            self.receive_body(data)
        elif data.startswith(b"GET /hello"):
            if b"Connection: close" in data:
                self.transport.write(_HELLO_CLOSE)
                self.transport.close()
            else:
                self.transport.write(_HELLO)
        elif data.startswith(b"POST"):
            head, _, rest = data.partition(b"\r\n\r\n")
            length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            self.missing = int(length)
            self.receive_body(rest)
        elif data.startswith(b"GET /1mib"):
            self.transport.writelines((_MEBIBYTE_HEAD, MEBIBYTE))
        elif data.startswith(b"GET /stream"):
            self.transport.write(_STREAM)
        else:
            self.upgrade(data)

    def receive_body(self, data: bytes) -> None:
        self.body.append(data)
        self.missing -= len(data)
        if not self.missing:
            size = sum(map(len, self.body))
            self.transport.writelines((_OK, b"content-length: %d\r\n\r\n" % size, *self.body))
            self.body.clear()

    def upgrade(self, data: bytes) -> None:
        key = data.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
        accept = base64.b64encode(hashlib.sha1(key + _GUID).digest())
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n"
            b"connection: Upgrade\r\nsec-websocket-accept: " + accept + b"\r\n\r\n"
        )
        self.echoes = True

    def echo(self, data: bytes) -> None:
        """Whole masked frames of up to 64 KiB, whatever they mean."""
        if self.frames:
            data = self.frames + data
        echoes: list[bytes] = []
        at = 0
        while len(data) - at >= 8:
            size = data[at + 1] & 127
            start = at + 2
            if size == 126:
                size = data[at + 2] << 8 | data[at + 3]
                start = at + 4
            end = start + 4 + size
            if len(data) < end:
                break
            payload = apply_mask(data[start + 4 : end], data[start : start + 4])
            echoes += (data[at : at + 1] + _length(size), payload)
            at = end
        self.transport.writelines(echoes)
        self.frames = data[at:]


def _length(size: int) -> bytes:
    return bytes((size,)) if size < 126 else b"\x7e" + size.to_bytes(2, "big")


def _raw() -> asyncio.Protocol:
    return cast("asyncio.Protocol", Raw())


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_raw, "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1])))
