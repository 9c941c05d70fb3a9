"""The application of the fuzz test: each octet that it answers follows from what it was sent."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from typing import Any


def filling(seed: int, size: int) -> bytes:
    """What comes after the digest in an answer."""
    return random.Random(seed).randbytes(size)


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    match scope["type"]:
        case "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        case "websocket":
            await echo(receive, send)
        case _:
            await answer(scope, receive, send)


async def echo(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


async def answer(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """``/SEED/SIZE/PIECES/PAUSE_MS``: with no pieces in one message of known length."""
    seed, size, pieces, pause_ms = map(int, scope["path"].strip("/").split("/"))
    digest = hashlib.sha256()
    more = True
    while more:
        message = await receive()
        digest.update(message.get("body", b""))
        more = message.get("more_body", False)
    body = digest.hexdigest().encode() + filling(seed, size)
    headers = [(b"x-pid", b"%d" % os.getpid())]
    if not pieces:
        headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    step = -(-len(body) // (pieces or 1))
    for start in range(0, len(body), step):
        if start:
            await asyncio.sleep(pause_ms / 1000)
        piece = body[start : start + step]
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body"})
