"""An application that reads and writes more than fits in memory."""

from __future__ import annotations

import asyncio
from typing import Any

PIECE = bytes(64 * 1024)


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        raise RuntimeError("no lifespan here")
    size = 0
    if scope["method"] == "POST":
        count = 0
        more = True
        while more:
            message = await receive()
            size += len(message["body"])
            more = message["more_body"]
            count += 1
            if count % 100 == 0:
                await asyncio.sleep(0.002)  # slower than the client
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["method"] == "GET":
        for _ in range(int(scope["path"][1:])):
            await send({"type": "http.response.body", "body": PIECE, "more_body": True})
    await send({"type": "http.response.body", "body": str(size).encode()})
