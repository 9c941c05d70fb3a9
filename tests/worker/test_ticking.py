"""The tick: a promise that is kept, rest without connections, and who tells the time."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from asgi_worker.application import Receive, Scope, Send
from asgi_worker.scoreboard import Reading
from asgi_worker.ticking import REST_S, TICK_S
from tests.worker.conftest import Run
from tests.worker.serving import Arena

SLACK_NS = 60_000_000
"""How late a timer may be on a busy machine, for a test that fails if it is."""


async def respond(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x"})


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send)


def promised_s(reading: Reading) -> float:
    return (reading.promise_ns - reading.stamp_ns) / 1e9


async def next_tick(arena: Arena) -> Reading:
    last_ns = arena.board.read(0).stamp_ns
    await arena.eventually(lambda: arena.board.read(0).stamp_ns != last_ns, "a tick")
    return arena.board.read(0)


async def rest(arena: Arena) -> None:
    await arena.eventually(lambda: promised_s(arena.board.read(0)) == REST_S, "it rests")


def test_it_rests_without_connections_and_not_with_one(run: Run) -> None:
    async def test() -> None:
        async with Arena(hello) as arena:
            await rest(arena)
            wire = await arena.connect()
            await wire.get()
            for _ in range(3):
                reading = await next_tick(arena)
                assert promised_s(reading) == TICK_S
                assert reading.connections == 1
            wire.close()
            await rest(arena)
            reading = arena.board.read(0)
            assert (reading.connections, reading.requests) == (0, 1), "the last figures are there"

    run(test())


def test_work_that_nobody_waits_for_keeps_it_from_resting(run: Run) -> None:
    gate = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send)
        await gate.wait()

    async def test() -> None:
        async with Arena(app) as arena:
            await arena.exchange(b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
            await arena.eventually(lambda: not arena.server.connections, "the client is gone")
            reading = await next_tick(arena)
            assert promised_s(reading) == TICK_S
            assert reading.in_flight == 1
            gate.set()
            await rest(arena)

    run(test())


def test_what_hangs_in_the_first_request_is_missed_soon(run: Run) -> None:
    promises: list[tuple[int, int]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        promises.append((time.monotonic_ns(), arenas[0].board.read(0).promise_ns))
        await respond(send)

    arenas: list[Arena] = []

    async def test() -> None:
        async with Arena(app) as arena:
            arenas.append(arena)
            await rest(arena)
            await (await arena.connect()).get()

    run(test())
    ((called_ns, promise_ns),) = promises
    assert promise_ns - called_ns <= TICK_S * 1e9


def test_promises_are_kept(run: Run) -> None:
    async def test() -> None:
        async with Arena(hello) as arena:
            wire = await arena.connect()
            for _ in range(8):
                before = arena.board.read(0)
                after = await next_tick(arena)
                assert after.stamp_ns <= before.promise_ns + SLACK_NS + after.lag_ns
                assert after.lag_ns >= after.stamp_ns - before.promise_ns
            wire.close()

    run(test())


def test_dates_are_right_after_a_rest(run: Run) -> None:
    async def test() -> None:
        async with Arena(hello) as arena:
            for _ in range(3):
                await rest(arena)
                await asyncio.sleep(0.6)  # the rest reaches into another second, now and then
                before = datetime.now(UTC).replace(microsecond=0)
                wire = await arena.connect()
                _, fields, _ = await wire.get()
                date = parsedate_to_datetime(fields[b"date"].decode())
                assert before <= date <= datetime.now(UTC)
                wire.close()

    run(test())


def test_a_closed_server_promises_nothing(run: Run) -> None:
    async def test() -> None:
        async with Arena(hello) as arena:
            assert arena.board.read(0).promise_ns
            await arena.server.drain(1.0, successor=False)
            arena.server.close()
            assert arena.board.read(0).promise_ns == 0

    run(test())
