"""Applications that never wait by themselves, and applications that do not wait long."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time

import pytest

from asgi_worker.application import Receive, Scope, Send
from asgi_worker.protocols.exchange import ClientDisconnected
from asgi_worker.protocols.http1 import HttpConnection
from tests.worker.conftest import Run
from tests.worker.serving import Arena

MEBIBYTE = 1024 * 1024
ENOUGH_BYTES = 10 * MEBIBYTE
START = {"type": "http.response.start", "status": 200, "headers": []}
PIECE = {"type": "http.response.body", "more_body": True}


def reads_then_resets(port: int, method: str, told: threading.Event) -> None:
    """A client in a thread of its own, which reads as fast as it can."""
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(f"{method} / HTTP/1.1\r\nHost: t\r\n\r\n".encode())
    got = 0
    while not told.is_set() and got < ENOUGH_BYTES and (piece := client.recv(MEBIBYTE)):
        got += len(piece)
        if method == "HEAD":
            break
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@pytest.mark.parametrize(
    ("method", "size"),
    [*(("GET", size) for size in (0, 100, 1000, 20_000, 100_000)), ("HEAD", 1000)],
)
@pytest.mark.parametrize("length", [True, False])
def test_an_application_that_only_sends(run: Run, method: str, size: int, length: bool) -> None:
    """It leaves turns to others, and learns that its client has gone."""
    errors: list[Exception | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"%d" % 10**15)] if length else []
        await send({**START, "headers": headers})
        if size == 0:  # something to read, and then nothing
            await send({**PIECE, "body": bytes(ENOUGH_BYTES)})
        message = {**PIECE, "body": bytes(size)}
        end = time.monotonic() + 10
        try:
            while time.monotonic() < end:  # or for ever, once
                await send(message)
        except ClientDisconnected as error:
            errors.append(error)
            raise
        errors.append(None)

    async def test() -> None:
        told = threading.Event()
        async with Arena(app) as arena:
            args = (arena.port, method, told)
            client = threading.Thread(target=reads_then_resets, args=args)
            client.start()
            await arena.eventually(lambda: errors, "the application was not told")
            told.set()
            await asyncio.to_thread(client.join)

    run(test())
    assert isinstance(errors[0], ClientDisconnected)


def test_waits_that_are_given_up_leave_nothing_behind(run: Run) -> None:
    """``asyncio.wait_for(send(…))`` and ``asyncio.wait_for(receive())``, again and again."""
    gate = asyncio.Event()
    given_up = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal given_up
        await receive()
        await send(START)
        message = {**PIECE, "body": bytes(MEBIBYTE)}
        while given_up < 20:
            for wait in (send(message), receive()):
                task = asyncio.ensure_future(wait)
                await asyncio.sleep(0.001)
                given_up += task.cancel()
        await gate.wait()

    async def test() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await wire.write(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
            await arena.eventually(lambda: given_up >= 20, "it gave up twenty times")
            (connection,) = arena.server.connections
            assert isinstance(connection, HttpConnection)
            output, exchange = connection.output, connection.exchange
            assert exchange is not None
            # The last of them has been cancelled, and learns it when its turn comes.
            await arena.eventually(
                lambda: not (output.waiters or exchange.waiters), "something waits for ever"
            )
            wire.writer.transport.abort()
            gate.set()

    run(test())
