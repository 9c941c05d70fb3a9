"""An application for trio, served by the process tests."""

from __future__ import annotations

from typing import Any

import trio


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            while (kind := (await receive())["type"]) != "lifespan.shutdown":
                await send({"type": f"{kind}.complete"})
            nursery.cancel_scope.cancel()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/crash":
        trio.lowlevel.spawn_system_task(crash)
        await trio.sleep_forever()
    await trio.to_thread.run_sync(bool)
    body = trio.lowlevel.current_task().name.encode()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def crash() -> None:
    raise LookupError("of a system task")
