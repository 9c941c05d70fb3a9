"""The tick: a promise that is kept, rest without connections, and who tells the time."""

from __future__ import annotations

import asyncio
import functools
import select
import socket
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, cast

import pytest

from asgi_worker.application import Receive, Scope, Send
from asgi_worker.contract import Exit
from asgi_worker.scoreboard import Reading, State
from asgi_worker.server import Connection
from asgi_worker.ticking import REST_S, SWEEP_TICKS, TICK_S, Ticker
from tests.worker.alone import Alone
from tests.worker.conftest import Run
from tests.worker.serving import PATIENCE_S, Arena, LoopKind

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


def test_it_does_not_rest_where_connections_come_and_go(run: Run) -> None:
    async def test() -> None:
        async with Arena(hello) as arena:
            await rest(arena)
            ticker = Ticker(arena.server, arena.board.writer(0))
            rests = []
            for come_and_gone in (0, 0, 1, 1, 0):
                arena.server.young.ended += come_and_gone
                ticker.start()
                ticker.stop()
                rests.append(ticker.resting)
            assert rests == [True, True, False, False, True]

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


@pytest.mark.parametrize("busy", [False, True])
def test_who_waits_though_we_were_not_told_is_found(run: Run, busy: bool) -> None:
    async def test() -> None:
        async with Arena(hello) as arena:
            await rest(arena)
            first = await arena.connect()
            await first.get()
            if not busy:
                first.close()
                await rest(arena)
            (queue,) = arena.server.accepting.queues
            line = cast("Any", arena.server.accepting.line)._epoll
            line.unregister(queue.listener.fileno())
            line.register(queue.listener.fileno(), select.EPOLLEXCLUSIVE)  # to be told of nobody
            async with asyncio.timeout(PATIENCE_S):
                wire = await arena.connect()
                assert (await wire.get())[2] == b"x"
            wire.close()
            first.close()

    run(test())


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


def test_it_tells_how_busy_it_was_lately(run: Run) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/busy":
            end = time.process_time() + 1
            while time.process_time() < end:
                pass
        await respond(send)

    async def test() -> None:
        async with Arena(app) as arena:
            board = arena.board
            await rest(arena)
            assert board.read(0).busy < 500
            wire = await arena.connect()
            began = time.monotonic()
            await wire.get("/busy")
            least = 1000 / (time.monotonic() - began) / 2  # others may use the processor, too
            await arena.eventually(lambda: board.read(0).busy > least, "it was busy")
            assert board.read(0).busy <= 1100
            async with asyncio.timeout(PATIENCE_S):  # it is not any more
                while board.read(0).busy >= least / 2:  # noqa: ASYNC110 – nor by looking often
                    await asyncio.sleep(0.25)
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


async def naps(scope: Scope, receive: Receive, send: Send) -> None:
    """``GET /0.5`` holds the loop for half a second."""
    time.sleep(float(scope["path"][1:]))  # noqa: ASYNC251 – what it should not do
    await respond(send)


def test_while_the_loop_hangs_no_time_passes_for_clients(run: Run) -> None:
    async def test() -> None:
        async with Arena(naps, keep_alive_timeout_s=2.0, head_timeout_s=2.0) as arena:
            idle, half, other = [await arena.connect() for _ in range(3)]
            await idle.get("/0")
            await half.write(b"GET /0 HTTP/1.1\r\nHo")
            await other.get("/0")
            await other.get("/2.5")
            await asyncio.sleep(1.3)  # within which there is a sweep
            assert (await idle.get("/0"))[0] == b"HTTP/1.1 200 OK"
            await half.write(b"st: test\r\n\r\n")
            assert (await half.read_response())[0] == b"HTTP/1.1 200 OK"
            assert await idle.read_to_end() == b"", "it does pass later"

    run(test())


def has_more_than(before: int, connections: set[Connection]) -> bool:
    return len(connections) > before


def test_nobody_is_late_whose_bytes_were_not_read_yet(run: Run) -> None:
    arenas: list[Arena] = []
    halves: list[socket.socket] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/held":  # until after the next tick, by little
            halves[-1].sendall(b"st: t\r\nConnection: close\r\n\r\n")
            left_s = arenas[0].board.read(0).promise_ns / 1e9 - time.monotonic()
            time.sleep(max(0, left_s) + 0.1)  # noqa: ASYNC251 – what it should not do
        await respond(send)

    async def test() -> None:
        loop = asyncio.get_running_loop()
        async with Arena(app, head_timeout_s=0.1) as arena:
            arenas.append(arena)
            wire = await arena.connect()
            await wire.get()
            for _ in range(SWEEP_TICKS + 1):
                await next_tick(arena)
                before = len(arena.server.connections)
                half = socket.create_connection(("127.0.0.1", arena.port))
                half.setblocking(False)
                halves.append(half)
                await loop.sock_sendall(half, b"GET / HTTP/1.1\r\nHo")
                there = functools.partial(has_more_than, before, arena.server.connections)
                await arena.eventually(there, "it came")
                await asyncio.sleep(0.02)
                await wire.get("/held")
                with half:
                    assert (await loop.sock_recv(half, 4096)).startswith(b"HTTP/1.1 200 OK")

    run(test())


SLOW_TO_LEAVE = """
    import asyncio, atexit, time
    atexit.register(time.sleep, 3)
    async def app(scope, receive, send):
        for phase in ("startup", "shutdown"):
            await receive()
            await asyncio.sleep(0 if phase == "startup" else 2)
            await send({"type": f"lifespan.{phase}.complete"})
"""


def test_who_leaves_without_the_master_knowing_is_not_taken_for_stuck(
    tmp_path: Path, loop_kind: LoopKind
) -> None:
    with Alone(tmp_path, SLOW_TO_LEAVE, loop_kind) as worker:
        worker.get_ready()
        worker.process.terminate()
        late_s = 0.0
        states = set()
        while worker.process.poll() is None:
            now_s = time.monotonic()
            reading = worker.reading()
            states.add((reading.state, reading.promise_ns > 0))
            if reading.promise_ns:
                late_s = max(late_s, now_s - reading.promise_ns / 1e9)
            time.sleep(0.01)
        assert worker.process.returncode == Exit.OK
    assert {(State.DRAINING, True), (State.DRAINING, False)} <= states
    assert late_s < 1.5, "as late as a busy machine makes it, and not for three seconds"
