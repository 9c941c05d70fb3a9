"""Bodies and pipelines: what flows through one connection, and what makes it wait."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from asgi_worker.application import Receive, Scope, Send
from tests.worker.conftest import Run
from tests.worker.http1_requests import GET, MIB, chunked, echo, post, read_body, respond
from tests.worker.serving import Arena, Wire


@pytest.mark.parametrize("size", [0, 1, 1000, 16384, 65536, 65537, 300_000, 3 * MIB])
def test_bodies_arrive_whole_however_they_are_cut(run: Run, size: int) -> None:
    data = os.urandom(size)

    async def test() -> None:
        async with Arena(echo) as arena:
            wire = await arena.connect()
            for request in (post(data), chunked(data[: size // 3], data[size // 3 :])):
                send = asyncio.ensure_future(wire.write(request + GET))
                assert (await wire.read_response())[2] == data
                assert (await wire.read_response())[2] == b""  # the GET behind it
                await send
            for cut in (1, 7, 4096, 100_000):
                request = post(data[:5000])
                for at in range(0, len(request), cut):
                    await wire.write(request[at : at + cut])
                    await asyncio.sleep(0)
                assert (await wire.read_response())[2] == data[:5000]

    run(test())


def test_pipelined_requests_are_answered_in_order(run: Run) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        number = int(scope["path"][1:])
        if number % 3 == 0:
            await asyncio.sleep(0)
        if number % 7 == 0:
            await asyncio.sleep(0.001)
        await respond(send, scope["path"].encode())

    async def test() -> None:
        async with Arena(app, pipeline_max_requests=4) as arena:
            wire = await arena.connect()
            count = 3000
            requests = b"".join(b"GET /%d HTTP/1.1\r\nHost: t\r\n\r\n" % n for n in range(count))
            send = asyncio.ensure_future(wire.write(requests))
            for number in range(count):
                assert (await wire.read_response())[2] == b"/%d" % number
            await send

    run(test())


def test_pipelining_is_bounded(run: Run) -> None:
    gate = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.wait()
        await respond(send, b"x")

    async def test() -> None:
        async with Arena(app, pipeline_max_requests=4) as arena:
            wire = await arena.connect()
            count = 20_000
            send = asyncio.ensure_future(wire.write(GET * count))
            await arena.eventually(lambda: arena.server.tasks, "the first runs")
            for _ in range(20):
                await asyncio.sleep(0.01)
            (connection,) = arena.server.connections
            assert len(connection.waiting) < 1000  # type: ignore[attr-defined]
            assert connection.read_paused  # type: ignore[attr-defined]
            gate.set()
            for _ in range(count):
                await wire.read_response()
            await send

    run(test())


def test_a_slow_application_makes_the_client_wait(run: Run) -> None:
    gate = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.wait()
        size = 0
        while True:
            message = await receive()
            size += len(message["body"])
            if not message["more_body"]:
                break
        await respond(send, b"%d" % size)

    async def test() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            await wire.write(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 67108864\r\n\r\n")
            piece = bytes(MIB)

            async def upload() -> None:
                for _ in range(64):
                    await wire.write(piece)

            send = asyncio.ensure_future(upload())
            for _ in range(30):
                await asyncio.sleep(0.01)
            (connection,) = arena.server.connections
            exchange = connection.exchange  # type: ignore[attr-defined]
            assert exchange.body_bytes < MIB
            assert not send.done()
            gate.set()
            assert (await wire.read_response())[2] == b"67108864"
            await send

    run(test())


def test_a_slow_client_makes_the_application_wait(run: Run) -> None:
    sent = [0]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(64):
            await send({"type": "http.response.body", "body": bytes(MIB), "more_body": True})
            sent[0] += 1
        await send({"type": "http.response.body", "body": b""})

    async def test() -> None:
        async with Arena(app) as arena:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            sock.connect(("127.0.0.1", arena.port))
            sock.setblocking(False)
            wire = Wire(*await asyncio.open_connection(sock=sock, limit=65536))
            arena.wires.append(wire)
            await wire.write(GET)
            for _ in range(30):
                await asyncio.sleep(0.01)
            assert sent[0] < 32
            response = await wire.read_response()
            assert len(response[2]) == 64 * MIB

    run(test())


def test_continue_is_sent_when_the_application_asks(run: Run) -> None:
    gate = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/refuse":
            await respond(send, b"no", 403)
            return
        await gate.wait()
        await respond(send, await read_body(receive))

    async def test() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            await wire.write(post(b"hello", "Expect: 100-continue")[:-5])
            await arena.eventually(lambda: arena.server.tasks, "the application runs")
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(wire.reader.read(1), 0.05)
            gate.set()
            assert await wire.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            await wire.write(b"hello")
            assert (await wire.read_response())[2] == b"hello"
            # A body that was sent without waiting needs no encouragement.
            await wire.write(post(b"hello", "Expect: 100-continue"))
            line, _, data = await wire.read_response()
            assert (line, data) == (b"HTTP/1.1 200 OK", b"hello")
            # Never asked for: no 100, and a close, since nobody knows whether the body comes.
            refused = post(b"hello", "Expect: 100-continue")[:-5].replace(b"/", b"/refuse", 1)
            assert (await arena.exchange(refused)).startswith(b"HTTP/1.1 403")

    run(test())


def test_an_unread_body_is_skipped(run: Run) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, scope["method"].encode())

    async def test() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            for size in (10, 1000, 100_000, 500_000):
                await wire.write(post(bytes(size)) + GET)
                assert (await wire.read_response())[2] == b"POST"
                assert (await wire.read_response())[2] == b"GET"
            await wire.write(chunked(bytes(100_000)) + GET)
            assert (await wire.read_response())[2] == b"POST"
            assert (await wire.read_response())[2] == b"GET"

    run(test())


def test_a_long_unread_body_ends_the_connection_but_not_the_response(run: Run) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"enough")

    async def test() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            head = b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 1000000000\r\n\r\n"
            await wire.write(head + bytes(4 * MIB))
            assert b"enough" in await wire.read_to_end()

    run(test())


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("status", [200, 413])
def test_a_long_unread_body_is_answered_with_a_close_that_is_announced(
    run: Run, status: int, pieces: int
) -> None:
    """RFC 9112 §9.6: else a client that sends it all uses the connection again (or tries to)."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        for more in [True] * (pieces - 1) + [False]:
            await send({"type": "http.response.body", "body": b"ok", "more_body": more})

    async def test() -> None:
        async with Arena(app) as arena:
            for size, closes in ((1000, False), (4 * MIB, status == 413 or pieces == 1)):
                wire = await arena.connect()
                await wire.write(post(bytes(size))[:-1])
                _, fields, body = await wire.read_response()
                assert body == b"ok" * pieces
                assert (fields.get(b"connection") == b"close") is closes

    run(test())


def test_a_long_body_is_echoed_while_it_arrives_and_the_connection_kept(run: Run) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            await send({"type": "http.response.body", "body": message["body"], "more_body": more})

    async def test() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            for _ in range(2):
                writing = asyncio.create_task(wire.write(post(bytes(2 * MIB))))
                assert (await wire.read_response())[2] == bytes(2 * MIB)
                await writing

    run(test())


def test_limits_on_the_body(run: Run) -> None:
    async def test() -> None:
        async with Arena(echo, body_max_bytes=1000) as arena:
            assert (await arena.exchange(post(bytes(1001)))).startswith(b"HTTP/1.1 413 ")
            assert (await arena.exchange(chunked(bytes(600), bytes(600)))).startswith(
                b"HTTP/1.1 413 "
            )
            wire = await arena.connect()
            await wire.write(post(bytes(1000)))
            assert (await wire.read_response())[2] == bytes(1000)

    run(test())
