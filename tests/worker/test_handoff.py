"""Connections are given and taken while nobody leaves."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import time

import pytest

from asgi_worker.application import Receive, Scope, Send
from asgi_worker.handoff import HOPS_MAX
from asgi_worker.inbox import VERSION, Handed, Kind
from asgi_worker.scoreboard import State, Word
from asgi_worker.server import Server
from tests.worker.conftest import Run
from tests.worker.fleet import Fleet, open_files, served_by, whose
from tests.worker.serving import Wire

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


def counts(fleet: Fleet) -> list[int]:
    return sorted(fleet.reading(seat).connections for seat in fleet.servers)


def test_new_connections_go_to_who_has_fewer(run: Run) -> None:
    async def test() -> None:
        async with Fleet(whose, workers=3, balance="exact") as fleet:
            files = open_files()
            wires = [await fleet.connect() for _ in range(30)]
            servers = [await served_by(wire) for wire in wires]
            assert all(9 <= servers.count(seat) <= 11 for seat in range(3))
            readings = [fleet.reading(seat) for seat in range(3)]
            assert sum(one.connections for one in readings) == 30
            given = sum(one.given_fresh for one in readings)
            assert given == sum(one.taken_fresh for one in readings) >= 18
            assert [one.rescued for one in readings] == [0, 0, 0]
            for wire in wires:
                wire.close()
            await fleet.eventually(lambda: open_files() < files + 5, "who gives keeps none")

    run(test())


def test_connections_are_not_passed_on_for_ever(run: Run) -> None:
    async def test() -> None:
        async with Fleet(whose, workers=1, balance="exact") as fleet:
            for _ in range(3):
                await (await fleet.connect()).write(b"GET /half-a-head")
            fleet.pretend(1)  # and it has fewer, whatever comes
            server = fleet.servers[0]
            assert server.handoff is not None
            await asyncio.sleep(0.1)
            server.handoff.tick()
            last = await fleet.connect()
            await fleet.eventually(lambda: fleet.inboxes.waiting(1), "it gives")
            for hops in range(HOPS_MAX):
                ((handed, sock),) = fleet.take(1)
                assert handed == Handed(Kind.FRESH, hops)
                fleet.inboxes.give(0, handed, sock.fileno())
                sock.close()
                await fleet.eventually(lambda: not fleet.inboxes.waiting(0), "it takes")
            await last.write(b"GET /half-a-head")
            await asyncio.sleep(0.2)
            assert server.count() == 4
            assert fleet.inboxes.waiting(1) == 0

    run(test())


def test_nobody_is_given_what_it_does_not_understand_or_have_time_for(run: Run) -> None:
    async def test() -> None:
        async with Fleet(whose, workers=1, balance="exact") as fleet:
            board = fleet.pretend(1, VERSION + 1)
            late = fleet.pretend(2)
            late[Word.PROMISE_NS] = 1
            for _ in range(5):
                assert await served_by(await fleet.connect()) == 0
            board[Word.TAKES] = VERSION
            board[Word.STATE] = State.DRAINING
            assert await served_by(await fleet.connect()) == 0
            assert fleet.reading(0).given_fresh == 0
            assert fleet.inboxes.waiting(1) == fleet.inboxes.waiting(2) == 0

    run(test())


@pytest.mark.parametrize("balance", ["kernel", "exact"])
def test_on_trial_it_has_what_it_is_given_and_nothing_else(run: Run, balance: str) -> None:
    async def test() -> None:
        async with Fleet(whose, workers=1, balance=balance) as fleet:
            canary = fleet.start(1, on_trial=True)
            fleet.scoreboard.writer(1)[Word.SHARE] = 1000
            queued = await fleet.connect(1)
            await queued.write(GET)
            wires = [await fleet.connect() for _ in range(4)]
            await asyncio.sleep(0.3)  # within which the figures are looked at
            more = [await fleet.connect() for _ in range(5)]
            assert [await served_by(wire) for wire in more] == [1] * 5
            assert {await served_by(wire) for wire in wires} <= {0, 1}
            assert fleet.reading(1).taken_fresh == fleet.reading(0).given_fresh >= 5
            assert fleet.reading(1).given_fresh == fleet.reading(1).given_idle == 0
            assert not queued.reader._buffer  # type: ignore[attr-defined]
            fleet.scoreboard.writer(1)[Word.SHARE] = 0
            canary.promote()
            assert (await queued.read_response())[2] in (b"0", b"1")

    run(test())


def test_a_trial_that_ends_with_the_service_serves_its_queue(run: Run) -> None:
    async def test() -> None:
        async with Fleet(whose, workers=0) as fleet:
            canary = fleet.start(0, on_trial=True)
            wire = await fleet.connect()
            await wire.write(GET)
            await canary.drain(10, successor=False)
            _, fields, body = await wire.read_response()
            assert (body, fields[b"connection"]) == (b"0", b"close")

    run(test())


def test_a_new_worker_has_its_share_soon(run: Run) -> None:
    async def test() -> None:
        async with Fleet(whose, workers=1, balance="exact", keep_alive_timeout_s=60) as fleet:
            wires = [await fleet.connect() for _ in range(16)]
            for wire in wires:
                await served_by(wire)
            fleet.start(1)
            await fleet.eventually(lambda: counts(fleet)[0] >= 7, "they are shared")
            servers = [await served_by(wire) for wire in wires]
            assert 7 <= servers.count(0) <= 9
            await fleet.eventually(
                lambda: fleet.reading(0).given_idle == fleet.reading(1).taken_idle, "all have come"
            )
            assert fleet.reading(1).taken_idle >= 7
            before = fleet.reading(0).given_idle + fleet.reading(1).given_idle
            await asyncio.sleep(1)
            after = fleet.reading(0).given_idle + fleet.reading(1).given_idle
            assert after - before <= 1, "then they stay"

    run(test())


def test_connections_that_are_never_idle_at_a_tick_go_after_a_response(run: Run) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.15)
        await whose(scope, receive, send)

    async def test() -> None:
        async with Fleet(app, workers=1, balance="exact") as fleet:
            stop = asyncio.Event()
            wires = [await fleet.connect() for _ in range(8)]

            async def ask(wire: Wire) -> None:
                while not stop.is_set():
                    await served_by(wire)

            tasks = [asyncio.create_task(ask(wire)) for wire in wires]
            await asyncio.sleep(0.1)
            fleet.start(1)
            began = time.monotonic()
            await fleet.eventually(lambda: counts(fleet)[0] >= 3, "they are shared")
            assert time.monotonic() - began < 8, "that is not by chance"
            stop.set()
            await asyncio.gather(*tasks)

    run(test())


def test_who_left_since_it_was_looked_at_is_given_nothing(run: Run) -> None:
    async def test() -> None:
        gate = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await gate.wait()
            await whose(scope, receive, send)

        async with Fleet(app, workers=1, balance="exact") as fleet:
            wires = [await fleet.connect() for _ in range(12)]
            for wire in wires:
                await wire.write(GET)
            server = fleet.servers[0]
            await fleet.eventually(lambda: len(server.tasks) == 12, "all are busy")
            board = fleet.pretend(1)
            await fleet.eventually(lambda: server.moving, "some shall go after their response")
            board[Word.TAKES] = 0
            gate.set()
            assert [(await wire.read_response())[2] for wire in wires] == [b"0"] * 12
            assert fleet.reading(0).given_idle == 0
            assert [await served_by(wire) for wire in wires] == [0] * 12

    run(test())


def test_a_full_worker_takes_nothing(run: Run) -> None:
    async def test() -> None:
        async with Fleet(whose, limit_concurrency=2) as fleet:
            wires = [await fleet.connect(1) for _ in range(2)]
            for wire in wires:
                await served_by(wire)
            assert fleet.reading(1).takes == 0
            idle = await fleet.connect(0)
            await served_by(idle)
            leaving = asyncio.create_task(fleet.servers[0].drain(20, successor=True))
            await asyncio.sleep(0.2)
            assert await served_by(idle) == 0
            wires.pop().close()
            await leaving
            assert await served_by(idle) == 1

    run(test())


def test_what_is_not_a_message_is_logged_and_the_next_is_taken(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with Fleet(whose) as fleet:
            ours, theirs = socket.socketpair()
            fleet.inboxes._writers[0].send(b"?")
            socket.send_fds(fleet.inboxes._writers[0], [b"?" * 12], [theirs.fileno()])
            fleet.inboxes.give(0, Handed(Kind.FRESH, rescued=True), theirs.fileno())
            theirs.close()
            wire = Wire(*await asyncio.open_connection(sock=ours))
            fleet.wires.append(wire)
            assert await served_by(wire) == 0
            reading = fleet.reading(0)
            assert (reading.taken_fresh, reading.rescued) == (1, 1)

    with caplog.at_level(logging.WARNING):
        run(test())
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert all("cannot take a connection from the inbox" in message for message in messages)


def test_what_is_sent_does_not_wait_for_more_wherever_it_came_from(run: Run) -> None:
    async def test() -> None:
        async with Fleet(whose, balance="exact") as fleet:
            for wire in [await fleet.connect() for _ in range(4)]:
                await served_by(wire)
            assert fleet.reading(1).taken_fresh
            for server in fleet.servers.values():
                for connection in server.connections:
                    transport = connection.transport  # type: ignore[attr-defined]
                    sock = transport.get_extra_info("socket")
                    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    run(test())


def test_figures_are_never_behind(run: Run) -> None:
    async def test() -> None:
        async with Fleet(whose, workers=1) as fleet:
            server = fleet.servers[0]
            for number in range(1, 4):
                wire = await fleet.connect()
                await wire.write(GET)
                await wire.read_response()
                assert fleet.reading(0).connections == server.count() == number
            for wire in fleet.wires:
                wire.close()
            await fleet.eventually(lambda: not server.connections, "they are closed")
            assert fleet.reading(0).connections == 0

    run(test())


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """The path and the body, at once or in pieces with waits in between."""
    body = scope["path"].encode()
    while True:
        message = await receive()
        body += message["body"]
        if not message["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if len(body) % 3 == 0:
        await send({"type": "http.response.body", "body": body[:5], "more_body": True})
        await asyncio.sleep(0.001 * (len(body) % 5))
        body = body[5:]
    await send({"type": "http.response.body", "body": body})


def a_request(chance: random.Random, number: int) -> tuple[bytes, bytes]:
    """A request, and what is to be answered."""
    path = f"/{number}/{'x' * chance.randrange(40)}".encode()
    body = chance.randbytes(chance.choice((0, 0, 1, 100, 70_000)))
    if not body:
        return b"GET %b HTTP/1.1\r\nHost: test\r\n\r\n" % path, path
    head = b"POST %b HTTP/1.1\r\nHost: test\r\n" % path
    if chance.random() < 0.5:
        head += b"Content-Length: %d\r\n\r\n" % len(body)
        return head + body, path + body
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks, path + body


async def talk(wire: Wire, chance: random.Random, stop: asyncio.Event) -> int:
    """Requests in pieces, and several at once; how many were answered, every byte compared."""
    number = 0
    while not stop.is_set():
        requests = [a_request(chance, number + more) for more in range(chance.randrange(1, 5))]
        number += len(requests)
        data = b"".join(request for request, _ in requests)
        expected = [answer for _, answer in requests]
        await asyncio.gather(sent(wire, chance, data), answered(wire, expected))
    return number


async def sent(wire: Wire, chance: random.Random, data: bytes) -> None:
    while data:
        size = chance.choice((1, 10, 1000, len(data)))
        await wire.write(data[:size])
        data = data[size:]
        await asyncio.sleep(chance.choice((0, 0, 0.002)))


async def answered(wire: Wire, expected: list[bytes]) -> None:
    for body in expected:
        line, fields, got = await wire.read_response()
        assert line == b"HTTP/1.1 200 OK"
        assert b"connection" not in fields
        assert got == body


def test_moved_at_random_no_connection_loses_a_byte(run: Run) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)

    async def stir(servers: list[Server], stop: asyncio.Event) -> None:
        while not stop.is_set():
            server = chance.choice(servers)
            assert server.handoff is not None
            if chance.random() < 0.3:
                server.handoff.leaving = server.moving = True  # all, as they become idle
                await asyncio.sleep(chance.random() / 50)
                server.handoff.leaving = server.moving = False
            else:
                server.handoff.evacuate()
            await asyncio.sleep(chance.random() / 100)

    async def test() -> None:
        async with Fleet(echo, workers=3, pipeline_max_requests=2) as fleet:
            stop = asyncio.Event()
            wires = [await fleet.connect(number % 3) for number in range(12)]
            stirring = asyncio.create_task(stir([*fleet.servers.values()], stop))
            talks = [asyncio.create_task(talk(wire, chance, stop)) for wire in wires]
            await asyncio.sleep(3)
            stop.set()
            numbers = await asyncio.gather(*talks)
            await stirring
            moved = sum(fleet.reading(seat).taken_idle for seat in range(3))
            print(f"{sum(numbers)} requests on {len(wires)} connections, moved {moved} times")
            assert moved > len(wires)
            assert min(numbers) > 0
            assert sum(server.requests for server in fleet.servers.values()) == sum(numbers)

    print(f"seed {seed}, process {os.getpid()}")
    run(test())
