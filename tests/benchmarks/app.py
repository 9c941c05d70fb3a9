"""The one application that every server serves: plain ASGI, no framework, nothing awaited but ASGI.

What a server costs is only seen when the application costs nothing; so all bodies and header
lists are made once, and the streaming route waits for nothing between its chunks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

HELLO = b"Hello, world!"
MEBIBYTE = bytes(range(256)) * 4096
CHUNK = b"0123456789abcdef" * 4
CHUNKS = 1000

_TEXT = (b"content-type", b"text/plain; charset=utf-8")
_BINARY = (b"content-type", b"application/octet-stream")


def _start(status: int, *headers: tuple[bytes, bytes]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def _length(size: int) -> tuple[bytes, bytes]:
    return (b"content-length", b"%d" % size)


_HELLO_START = _start(200, _TEXT, _length(len(HELLO)))
_HELLO_BODY = {"type": "http.response.body", "body": HELLO}
_MEBIBYTE_START = _start(200, _BINARY, _length(len(MEBIBYTE)))
_MEBIBYTE_BODY = {"type": "http.response.body", "body": MEBIBYTE}
_STREAM_START = _start(200, _BINARY)
_STREAM_CHUNK = {"type": "http.response.body", "body": CHUNK, "more_body": True}
_STREAM_END = {"type": "http.response.body", "body": b""}


async def app(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        path = scope["path"]
        if path == "/hello":
            # Copies, because a server may change what it is given.
            await send(_HELLO_START.copy())
            await send(_HELLO_BODY.copy())
        elif path == "/1mib":
            await send(_MEBIBYTE_START.copy())
            await send(_MEBIBYTE_BODY.copy())
        elif path == "/stream":
            await _stream(send)
        elif path == "/post":
            await _post(receive, send)
        else:
            await send(_start(404, _length(0)))
            await send({"type": "http.response.body", "body": b""})
    elif scope["type"] == "websocket":
        await _echo(receive, send)
    else:
        await _lifespan(receive, send)


async def _stream(send: Send) -> None:
    await send(_STREAM_START.copy())
    for _ in range(CHUNKS):
        await send(_STREAM_CHUNK.copy())
    await send(_STREAM_END.copy())


async def _post(receive: Receive, send: Send) -> None:
    """Collect the body, then send it back: what an application that parses JSON would do."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            break
    body = b"".join(parts)
    await send(_start(200, _BINARY, _length(len(body))))
    await send({"type": "http.response.body", "body": body})


async def _echo(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        text = message.get("text")
        if text is not None:
            await send({"type": "websocket.send", "text": text})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
