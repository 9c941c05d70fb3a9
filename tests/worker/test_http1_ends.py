"""How a connection ends: never before its client has what was sent, never later than it must."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from asgi_worker.application import Receive, Scope, Send
from tests.worker.conftest import Run
from tests.worker.http1_requests import GET, MIB, echo, post, respond
from tests.worker.serving import Arena, Wire

SIZE = 24 * MIB


async def slow_reader(arena: Arena) -> Wire:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    sock.connect(("127.0.0.1", arena.port))
    sock.setblocking(False)
    wire = Wire(*await asyncio.open_connection(sock=sock, limit=65536))
    arena.wires.append(wire)
    return wire


async def read_slowly(wire: Wire, expected: int, seconds: float) -> int:
    """Read, but take ``seconds`` for the first half."""
    await wire.read_until(b"\r\n\r\n")
    size = 0
    while size < expected:
        piece = await asyncio.wait_for(wire.reader.read(MIB // 4), 60)
        if not piece:
            break
        size += len(piece)
        if size < expected // 2:
            await asyncio.sleep(seconds * len(piece) / (expected / 2))
    return size


@pytest.mark.parametrize("end", ["idle", "draining"])
def test_a_slow_reader_gets_the_whole_response(run: Run, end: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, bytes(SIZE))

    async def test() -> None:
        async with Arena(app, keep_alive_timeout_s=1.0) as arena:
            wire = await slow_reader(arena)
            await wire.write(GET)
            if end == "draining":
                await arena.eventually(lambda: arena.server.requests, "the response is written")
                drain = asyncio.ensure_future(arena.server.drain(30, successor=False))
                assert await read_slowly(wire, SIZE, 5) == SIZE
                await drain
            else:
                assert await read_slowly(wire, SIZE, 5) == SIZE

    run(test())


@pytest.mark.parametrize("line", ["Expect: 100-continue", "Connection: close"])
def test_an_early_answer_does_not_keep_the_connection(run: Run, line: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"no", 403)

    async def test() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            await wire.write(post(bytes(1000), line)[:-1000])
            _, fields, body = await wire.read_response()
            assert (body, fields[b"connection"]) == (b"no", b"close")
            await arena.eventually(lambda: not arena.server.connections, "it is closed")

    run(test())


def test_nothing_behind_a_refused_request_is_served(run: Run) -> None:
    gate = asyncio.Event()
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["path"])
        if scope["path"] == "/slow":
            await gate.wait()
        await respond(send, scope["path"].encode())

    async def test() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            for _ in range(3):
                await wire.get("/warm")
            head = b"GET /%b HTTP/1.1\r\nHost: test\r\n\r\n"
            await wire.write(head % b"slow")
            await arena.eventually(lambda: arena.server.tasks, "the first runs")
            await wire.write(b"G@T / HTTP/1.1\r\n\r\n")
            await asyncio.sleep(0.05)
            await wire.write(head % b"behind")
            await asyncio.sleep(0.05)
            gate.set()
            answers = await wire.read_to_end()
            assert answers.index(b"/slow") < answers.index(b"HTTP/1.1 400")

    run(test())
    assert seen == ["/warm"] * 3 + ["/slow"]


def test_an_answered_request_is_not_answered_again(run: Run) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"early")

    async def test() -> None:
        async with Arena(app, body_max_bytes=1000, body_timeout_s=0.5) as arena:
            chunk = b"3e8\r\n" + bytes(1000) + b"\r\n"
            head = b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
            too_long, stalled = await arena.connect(), await arena.connect()
            for wire in (too_long, stalled):
                await wire.write(head)
                assert (await wire.read_response())[2] == b"early"
            await too_long.write(chunk * 2)
            assert await too_long.read_to_end() == b""
            assert await stalled.read_to_end() == b""

    run(test())


def test_files_have_no_trailers(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello file")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "trailers": True}
        await send(start)
        await send({"type": "http.response.pathsend", "path": str(tmp_path / "file")})
        await send({"type": "http.response.trailers", "headers": [(b"a", b"b")]})

    async def test() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            for _ in range(2):
                assert (await wire.get("/", "TE: trailers"))[2] == b"hello file"

    run(test())


def test_a_scope_that_was_changed_changes_no_framing(run: Run) -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        scope["method"] = "GET"
        scope["raw_path"] = None
        await respond(send, b"hello")

    async def test() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            for _ in range(4):
                await wire.write(GET.replace(b"GET", b"HEAD"))
                assert b"content-length: 5" in await wire.read_until(b"\r\n\r\n")
            await wire.write(GET)
            assert (await wire.read_response())[2] == b"hello"

    run(test())


def test_a_body_that_would_be_too_long_leaves_the_framing_alone(run: Run) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200}
        await send({**start, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"ab", "more_body": True})
        with pytest.raises(RuntimeError, match="longer"):
            await send({"type": "http.response.body", "body": b"cde", "more_body": True})
        await send({"type": "http.response.body", "body": b"cd"})

    async def test() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            for _ in range(2):
                assert (await wire.get())[2] == b"abcd"

    run(test())


def test_a_client_that_hangs_up_while_waiting_frees_its_place(run: Run) -> None:
    async def test() -> None:
        async with Arena(echo) as arena:
            wire = await arena.connect()
            await wire.write(post(b"hello")[:-2])
            await arena.eventually(lambda: arena.server.tasks, "it waits for the body")
            wire.writer.transport.abort()
            await arena.eventually(lambda: not arena.server.tasks, "the application ended")

    run(test())
