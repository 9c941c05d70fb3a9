"""The server around the connections: draining within its budget, the scoreboard, its sockets."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from pathlib import Path

import pytest

from asgi_worker.application import Receive, Scope, Send
from asgi_worker.contract import WorkerSettings
from asgi_worker.scoreboard import Scoreboard, State
from asgi_worker.server import Server
from tests.worker.conftest import Run
from tests.worker.serving import Arena, Wire


async def respond(send: Send, data: bytes = b"x") -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": data})


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send)


def test_draining_answers_what_runs_and_announces_the_close(run: Run) -> None:
    gate = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            await gate.wait()
        await respond(send)

    async def test() -> None:
        async with Arena(app) as arena:
            busy, idle, pipelined = [await arena.connect() for _ in range(3)]
            await idle.get()
            slow = b"GET /slow HTTP/1.1\r\nHost: t\r\n\r\n"
            await busy.write(slow)
            await pipelined.write(slow + b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
            await arena.eventually(lambda: len(arena.server.tasks) == 2, "both run")
            draining = asyncio.ensure_future(arena.server.drain(10, successor=False))
            await arena.eventually(lambda: arena.server.draining, "it drains")
            _, fields, _ = await idle.get()  # an idle connection has a moment for a last request
            assert fields[b"connection"] == b"close"
            assert await idle.read_to_end() == b""
            gate.set()
            _, fields, _ = await busy.read_response()
            assert fields[b"connection"] == b"close"
            assert await busy.read_to_end() == b""
            _, fields, _ = await pipelined.read_response()
            assert fields[b"connection"] == b"close"
            await draining
            arena.listener.close()
            with pytest.raises(ConnectionRefusedError):
                await arena.connect()

    run(test())


def test_what_was_queued_when_draining_began_is_served(run: Run) -> None:
    async def test() -> None:
        async with Arena(hello) as arena:
            socks = []
            for _ in range(20):  # connected and asked in one turn of the loop: not accepted yet
                sock = socket.create_connection(("127.0.0.1", arena.port))
                sock.sendall(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
                sock.setblocking(False)
                socks.append(sock)
            draining = asyncio.ensure_future(arena.server.drain(10, successor=False))
            for sock in socks:
                wire = Wire(*await asyncio.open_connection(sock=sock))
                arena.wires.append(wire)
                _, fields, _ = await wire.read_response()
                assert fields[b"connection"] == b"close"
            await draining

    run(test())


def test_what_does_not_end_is_told_then_cancelled(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    story: list[str] = []

    async def polite(receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"event", "more_body": True})
        await receive()
        assert (await receive())["type"] == "http.disconnect"
        story.append("polite was told")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/polite":
            await polite(receive, send)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            story.append(f"{scope['path']} was cancelled")
            raise

    async def test() -> None:
        async with Arena(app) as arena:
            for path in ("/polite", "/deaf"):
                wire = await arena.connect()
                await wire.write(f"GET {path} HTTP/1.1\r\nHost: t\r\n\r\n".encode())
            await arena.eventually(lambda: len(arena.server.tasks) == 2, "both run")
            began = time.monotonic()
            await arena.server.drain(2, successor=False)
            assert 1 < time.monotonic() - began < 15
            assert not arena.server.tasks
            assert not arena.server.connections

    run(test())
    assert story[0] == "polite was told"
    assert sorted(story[1:]) == ["/deaf was cancelled", "/polite was cancelled"]
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 2
    assert "2 requests still run" in warnings[0]
    assert "cancelled" in warnings[1]


def test_an_application_that_goes_on_after_its_response_is_waited_for(run: Run) -> None:
    story: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send)
        await asyncio.sleep(0.3)
        story.append("background work done")

    async def test() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            await wire.get()
            assert (await wire.get())[2] == b"x"  # the next request does not wait for it
            wire.close()
            await arena.server.drain(10, successor=False)

    run(test())
    assert story == ["background work done"] * 2


def test_the_scoreboard_tells_what_the_loop_does(run: Run) -> None:
    gate = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            await gate.wait()
        await respond(send)
        if scope["path"] == "/error":
            raise RuntimeError

    async def test() -> None:
        async with Arena(app) as arena:
            board = arena.board
            assert board.read(0).state is State.READY
            first = board.read(0).stamp_ns
            wire, slow = await arena.connect(), await arena.connect()
            for _ in range(3):
                await wire.get()
            await slow.write(b"GET /slow HTTP/1.1\r\nHost: t\r\n\r\n")
            await arena.eventually(lambda: board.read(0).in_flight == 1, "in flight")
            reading = board.read(0)
            assert reading.stamp_ns > first
            assert reading.requests == 3
            assert reading.connections == 2
            assert reading.errors == 0
            time.sleep(0.6)  # noqa: ASYNC251 – the loop is to hang
            await arena.eventually(lambda: board.read(0).lag_ns > 150_000_000, "the lag shows")
            gate.set()
            await slow.read_response()
            await arena.server.drain(5, successor=False)
            assert board.read(0).state is State.DRAINING

    run(test())


def test_unix_sockets_are_served_and_left_in_place(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await respond(send)

    async def test() -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        settings = WorkerSettings(app="test:app", access_log=False)
        loop = asyncio.get_running_loop()
        server = Server(app, settings, loop=loop, board=Scoreboard(1).writer(0))
        server.listen([listener])
        wire = Wire(*await asyncio.open_unix_connection(str(path)))
        await wire.get("/", "X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https")
        wire.close()
        await server.drain(5, successor=True)
        server.close()
        listener.close()

    run(test())
    (scope,) = scopes
    assert scope["server"] == (str(path), None)
    assert scope["client"][0] == "203.0.113.9", "a peer on a unix socket is a local proxy"
    assert scope["scheme"] == "https"
    assert path.exists(), "it is the master's"


def test_forwarded_fields_of_strangers_are_not_believed(run: Run) -> None:
    clients = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        clients.append((scope["client"][0], scope["scheme"]))
        await respond(send)

    lines = ("X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https")

    async def test() -> None:
        for settings in (
            {"forwarded_allow_ips": ("127.0.0.1",)},
            {"forwarded_allow_ips": ("10.0.0.0/8",)},
            {"proxy_headers": False},
        ):
            async with Arena(app, **settings) as arena:
                await (await arena.connect()).get("/", *lines)

    run(test())
    assert clients == [("203.0.113.9", "https"), ("127.0.0.1", "http"), ("127.0.0.1", "http")]
