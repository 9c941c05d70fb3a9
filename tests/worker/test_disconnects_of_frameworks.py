"""What frameworks raise because the client has gone is no failure of the application."""

from __future__ import annotations

from typing import Any, cast

import pytest
from starlette.requests import Request
from starlette.websockets import WebSocket

from asgi_worker.application import Receive, Scope, Send
from tests.worker.conftest import Run
from tests.worker.frames_by_hand import close, open_websocket
from tests.worker.serving import Arena


@pytest.mark.parametrize("cleans_up", [True, False])
def test_a_websocket_that_is_closed_while_the_application_receives(
    run: Run, caplog: pytest.LogCaptureFixture, cleans_up: bool
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        websocket = WebSocket(scope, receive, cast("Any", send))
        await websocket.accept()
        try:
            while True:
                await websocket.receive_text()
        finally:
            if not cleans_up:
                raise ZeroDivisionError("in what cleans up")

    async def test() -> None:
        async with Arena(app) as arena:
            client = await open_websocket(arena)
            await client.send(close(1001))
            assert await client.closed() == (1001, "")

    run(test())
    logged: list[Any] = [record.exc_info and record.exc_info[0] for record in caplog.records]
    assert logged == ([] if cleans_up else [ZeroDivisionError])


def test_an_upload_that_breaks_off(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    reading = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async for piece in Request(scope, receive).stream():
            reading.append(piece)

    async def test() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            await wire.write(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\npart")
            await arena.eventually(lambda: reading, "it is read")
            wire.close()
            await arena.eventually(lambda: not arena.server.tasks, "the application ends")

    run(test())
    assert caplog.records == []


def test_the_name_alone_means_nothing(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    class WebSocketDisconnect(Exception):
        """Raised though the client is there."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise WebSocketDisconnect

    async def test() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            assert (await wire.get())[0] == b"HTTP/1.1 500 Internal Server Error"

    run(test())
    assert len(caplog.records) == 1
