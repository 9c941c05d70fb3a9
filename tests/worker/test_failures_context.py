"""What is logged of a request that failed has the context of that request.

Filters put correlation ids into log lines by it, and error trackers tell by it that they have
reported the exception already.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import Iterator

import pytest

from asgi_worker.application import Receive, Scope, Send
from tests.worker.conftest import Run
from tests.worker.frames_by_hand import handshake
from tests.worker.serving import Arena

correlation = contextvars.ContextVar("correlation", default="none")


@contextlib.contextmanager
def correlated() -> Iterator[list[str]]:
    """The correlation of each line that is logged meanwhile."""
    seen: list[str] = []

    def note(record: logging.LogRecord) -> bool:
        seen.append(correlation.get())
        return True

    log = logging.getLogger("asgi_worker")
    log.addFilter(note)
    try:
        yield seen
    finally:
        log.removeFilter(note)


@pytest.mark.parametrize("wait", [False, True], ids=["at once", "after a wait"])
@pytest.mark.parametrize("fails", [False, True], ids=["incomplete", "raises"])
def test_http(run: Run, wait: bool, fails: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        correlation.set(scope["path"])
        if wait:
            await asyncio.sleep(0)
        if fails:
            raise ZeroDivisionError

    async def test() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            assert (await wire.get("/one"))[0].startswith(b"HTTP/1.1 500")
            assert (await wire.get("/two"))[0].startswith(b"HTTP/1.1 500")

    with correlated() as seen:
        run(test())
    assert seen == ["/one", "/two"]


@pytest.mark.parametrize("wait", [False, True], ids=["at once", "after a wait"])
def test_websocket(run: Run, wait: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        correlation.set(scope["path"])
        if wait:
            await asyncio.sleep(0)
        raise ZeroDivisionError

    async def test() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            await wire.write(handshake("/chat"))
            assert (await wire.read_response())[0].startswith(b"HTTP/1.1 500")

    with correlated() as seen:
        run(test())
    assert seen == ["/chat"]


def test_the_next_request_has_a_clean_one(run: Run) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        before = correlation.get()
        correlation.set(f"{before} then {scope['path']}")
        await asyncio.sleep(0)
        raise ZeroDivisionError

    async def test() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            await wire.write(b"GET /a HTTP/1.1\r\nHost: test\r\n\r\n" * 3)
            for _ in range(3):
                await wire.read_response()

    with correlated() as seen:
        run(test())
    assert seen == ["none then /a"] * 3
