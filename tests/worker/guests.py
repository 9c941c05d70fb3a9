"""Applications on trio under test: one run of trio on the loop of the test."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from asgi_worker.application import Application, Send
from asgi_worker.guest import Guest
from tests.worker.serving import PATIENCE_S, Arena

REFUSED_S = 0.5
"""How long tasks are waited for that are meant to refuse to end."""


@contextlib.asynccontextmanager
async def guest_run() -> AsyncIterator[Guest]:
    """A run of trio that ends as it should."""
    crashes: list[None] = []
    guest = Guest(asyncio.get_running_loop(), lambda: crashes.append(None))
    guest.start()
    try:
        yield guest
    finally:
        await guest.stop(PATIENCE_S)
    assert guest.is_over
    assert not guest.has_crashed
    assert not crashes
    assert not guest.calls


@contextlib.asynccontextmanager
async def arena_on_trio(app: Application, **settings: Any) -> AsyncIterator[Arena]:
    """A server whose application is on trio."""
    async with guest_run() as guest, Arena(guest.application(app), **settings) as arena:
        yield arena


async def answer(send: Send, body: bytes = b"", *, status: int = 200) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
