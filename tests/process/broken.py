"""Applications that cannot start, or do not live long."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from tests.process import apps


async def at_startup(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database today"})


async def raises_at_startup(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": str(1 / 0)})


def dies() -> Any:
    """A factory that takes the process with it."""
    os.abort()


async def dies_later(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Starts well, and ends its process soon after."""
    if scope["type"] == "lifespan":
        asyncio.get_running_loop().call_later(0.2, os._exit, 9)
    await apps.app(scope, receive, send)


async def dies_in_slot_0(scope: dict[str, Any], receive: Any, send: Any) -> None:
    here = os.environ["ASGI_SUPERVISE_SLOT"] == "0"
    await (dies_later if here else apps.app)(scope, receive, send)


def __getattr__(name: str) -> Any:
    if name == "at_import":
        raise RuntimeError("this application is broken")
    raise AttributeError(name)
