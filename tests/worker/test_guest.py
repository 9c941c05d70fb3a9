"""Applications on trio: what they may await, and what becomes of messages and of time."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import sniffio
import trio
import trio.lowlevel
import trio.testing

from asgi_worker.application import Message, Receive, Scope, Send
from tests.worker.conftest import Run
from tests.worker.guests import answer, arena_on_trio, guest_run
from tests.worker.serving import PATIENCE_S

TOGETHER = 100
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


async def nothing(*_: object) -> Any:
    raise AssertionError("nobody asks")


def test_applications_are_on_trio_and_nothing_else_is(run: Run) -> None:
    loop: asyncio.AbstractEventLoop

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert sniffio.current_async_library() == "trio"
        assert trio.lowlevel.current_task().name == "GET /here"
        assert asyncio.get_running_loop() is loop
        before = sniffio.current_async_library()
        await answer(send, before.encode())
        assert sniffio.current_async_library() == "trio"

    async def test() -> None:
        nonlocal loop
        loop = asyncio.get_running_loop()
        async with arena_on_trio(app) as arena:
            wire = await arena.connect()
            assert (await wire.get("/here"))[2] == b"trio"
            assert sniffio.current_async_library() == "asyncio"

    run(test())


def test_anyio_runs_on_trio(run: Run) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        order, received = anyio.create_memory_object_stream[bytes](0)
        async with anyio.create_task_group() as tasks, received:
            tasks.start_soon(order.send, b"passed on")
            thread = await anyio.to_thread.run_sync(threading.current_thread)
            assert thread is not threading.main_thread()
            with anyio.move_on_after(0.01) as scope_of_time:
                await anyio.sleep_forever()
            assert scope_of_time.cancelled_caught
            await answer(send, await received.receive())
        order.close()

    async def test() -> None:
        async with arena_on_trio(app) as arena:
            assert (await (await arena.connect()).get())[2] == b"passed on"

    run(test())


def test_all_run_at_once(run: Run) -> None:
    """None is answered before all have been asked, and each has its own of everything."""
    waiting: list[str] = []
    all_are_there = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert variable.get() == "unset"
        variable.set(scope["path"])
        waiting.append(scope["path"])
        if len(waiting) == TOGETHER:
            all_are_there.set()
        await all_are_there.wait()
        assert (await receive())["body"] == b""
        await answer(send, variable.get().encode())

    async def test() -> None:
        async with arena_on_trio(app) as arena:
            wires = [await arena.connect() for _ in range(TOGETHER)]
            answers = await asyncio.gather(
                *(wire.get(f"/{number}") for number, wire in enumerate(wires))
            )
            assert [body for _, _, body in answers] == [
                f"/{number}".encode() for number in range(TOGETHER)
            ]
            assert variable.get() == "unset"

    run(test())


def test_kept_alive_and_pipelined(run: Run) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/1":
            await trio.sleep(0.01)
        await answer(send, scope["path"].encode())

    async def test() -> None:
        async with arena_on_trio(app) as arena:
            wire = await arena.connect()
            for turn in range(3):
                requests = [f"GET /{number} HTTP/1.1\r\nHost: t\r\n\r\n" for number in range(5)]
                await wire.write("".join(requests).encode())
                for number in range(5):
                    _, _, body = await wire.read_response()
                    assert body == f"/{number}".encode(), turn

    run(test())


def test_bodies_flow_both_ways_at_the_speed_of_the_slower(run: Run) -> None:
    """An echo of more than fits between the two: who does not read is waited for."""
    total, piece = 32 * 1024 * 1024, b"x" * 65536
    ahead: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        received = 0
        while True:
            message = await receive()
            received += len(message["body"])
            ahead.append(received)
            await send({"type": "http.response.body", "body": message["body"], "more_body": True})
            if not message["more_body"]:
                break
        await send({"type": "http.response.body", "body": b""})

    async def test() -> None:
        async with arena_on_trio(app) as arena:
            wire = await arena.connect()
            head = f"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: {total}\r\n\r\n"
            await wire.write(head.encode())

            async def write() -> None:
                for _ in range(total // len(piece)):
                    await wire.write(piece)

            writes = asyncio.create_task(write())
            before = -1
            while not writes.done() and before != len(ahead):  # until nothing moves any more
                before = len(ahead)
                await asyncio.sleep(0.2)
            assert ahead[-1] < total
            _, _, body = await wire.read_response()
            assert body == b"x" * total
            await writes

    run(test())


def test_files_are_sent_by_the_kernel(run: Run, tmp_path: Path) -> None:
    content = b"0123456789abcdef" * 1024 * 1024
    (tmp_path / "file").write_bytes(content)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.pathsend", "path": str(tmp_path / "file")})
            nursery.cancel_scope.cancel()

    async def test() -> None:
        async with arena_on_trio(app) as arena:
            wire = await arena.connect()
            for _ in range(2):
                assert (await wire.get())[2] == content

    run(test())


def test_a_message_that_nobody_waits_for_any_more_is_not_lost(run: Run) -> None:
    asked: asyncio.Future[None]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with trio.move_on_after(0.01) as gave_up:
            await receive()
        assert gave_up.cancelled_caught
        asked.set_result(None)
        message = await receive()
        with trio.CancelScope() as cancelled:
            cancelled.cancel()
            await receive()
        assert cancelled.cancelled_caught
        await answer(send, message["body"])

    async def test() -> None:
        nonlocal asked
        asked = asyncio.get_running_loop().create_future()
        async with arena_on_trio(app) as arena:
            wire = await arena.connect()
            await wire.write(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\n")
            await asyncio.wait_for(asked, PATIENCE_S)
            await wire.write(b"late")
            assert (await wire.read_response())[2] == b"late"

    run(test())


def test_receive_and_send_do_nothing_in_a_cancelled_scope(run: Run) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for call in (receive(), send({"type": "http.response.start", "status": 404})):
            with trio.CancelScope() as cancelled:
                cancelled.cancel()
                await call
            assert cancelled.cancelled_caught
        assert (await receive())["type"] == "http.request"
        await answer(send)

    async def test() -> None:
        async with arena_on_trio(app) as arena:
            assert (await (await arena.connect()).get())[0] == b"HTTP/1.1 200 OK"

    run(test())


@pytest.mark.parametrize("message_first", [True, False])
def test_cancelled_in_the_turn_in_which_the_message_comes(run: Run, message_first: bool) -> None:
    """Whoever comes first wins, and a message that was taken is given to the application."""
    taken: list[Message] = []
    waits = asyncio.Event()
    arrived: asyncio.Future[Message]
    give_up: trio.CancelScope

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal give_up
        with trio.CancelScope() as give_up:
            taken.append(await receive())

    async def receive() -> Message:
        waits.set()
        return await asyncio.shield(arrived)

    async def test() -> None:
        nonlocal arrived
        arrived = asyncio.get_running_loop().create_future()
        async with guest_run() as guest:
            call = asyncio.ensure_future(_call(guest.application(app), receive))
            await asyncio.wait_for(waits.wait(), PATIENCE_S)
            if message_first:
                arrived.set_result({"type": "http.request"})
                await asyncio.sleep(0)  # within which it is told, and trio has no turn yet
            give_up.cancel()
            await asyncio.wait_for(call, PATIENCE_S)
            arrived.cancel()
        assert bool(taken) is message_first

    run(test())


async def _call(app: Any, receive: Any = nothing, send: Any = nothing) -> None:
    await app({"type": "http", "method": "GET", "path": "/"}, receive, send)


def test_what_the_loop_does_for_a_cancelled_task_is_waited_for(run: Run) -> None:
    steps: list[str] = []

    async def receive() -> Message:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            steps.append("told")
            await asyncio.sleep(0.01)
            steps.append("cleaned up")
        raise AssertionError

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with trio.move_on_after(0.01) as gave_up:
            await receive()
        assert gave_up.cancelled_caught
        steps.append("gave up")

    async def test() -> None:
        async with guest_run() as guest:
            await _call(guest.application(app), receive)
        assert steps == ["told", "cleaned up", "gave up"]

    run(test())


@pytest.mark.parametrize("asleep_s", [0.03, 0.0001])
def test_time_passes_as_it_should(run: Run, asleep_s: float) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            for part in (1.0, 0.5, 2.0):
                nursery.start_soon(sleep, asleep_s * part)

    async def sleep(seconds: float) -> None:
        before_s, before_trio_s = time.perf_counter(), trio.current_time()
        await trio.sleep(seconds)
        slept.append((seconds, time.perf_counter() - before_s))
        assert trio.current_time() - before_trio_s >= seconds

    async def test() -> None:
        async with guest_run() as guest:
            await asyncio.wait_for(_call(guest.application(app)), PATIENCE_S)
        assert len(slept) == 3
        assert all(took >= wanted for wanted, took in slept)

    slept: list[tuple[float, float]] = []
    run(test())


def test_trio_does_everything_else_itself(run: Run) -> None:
    """Sockets, threads, and the call back from one, processes, waiting until all others wait."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, echo, listeners)
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(b"x" * 100_000)
                await stream.send_eof()
                echoed = b"".join([piece async for piece in stream])
            assert echoed == b"x" * 100_000
            nursery.cancel_scope.cancel()
        assert await trio.to_thread.run_sync(in_thread) == "trio"
        done = await trio.run_process(["echo", "said"], capture_stdout=True)
        assert done.stdout == b"said\n"
        steps: list[str] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(step, steps)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert steps == ["first"]
            nursery.cancel_scope.cancel()

    async def echo(stream: trio.SocketStream) -> None:
        async for piece in stream:
            await stream.send_all(piece)

    def in_thread() -> str:
        return trio.from_thread.run_sync(sniffio.current_async_library)

    async def step(steps: list[str]) -> None:
        await trio.lowlevel.checkpoint()
        steps.append("first")
        await trio.sleep_forever()

    async def test() -> None:
        async with guest_run() as guest:
            await asyncio.wait_for(_call(guest.application(app)), PATIENCE_S)

    run(test())


def test_the_loop_may_tell_trio_something(run: Run) -> None:
    """As trio's guest mode allows: what is not awaited may be called from either side."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        event = trio.Event()
        loop.call_later(0.01, event.set)
        await event.wait()
        with trio.CancelScope() as scope_of_time:
            loop.call_later(0.01, setattr, scope_of_time, "deadline", trio.current_time())
            await trio.sleep_forever()
        assert scope_of_time.cancelled_caught

    async def test() -> None:
        async with guest_run() as guest:
            await asyncio.wait_for(_call(guest.application(app)), PATIENCE_S)

    run(test())


def test_trio_needs_no_thread_and_rests(run: Run) -> None:
    """Fails when trio's insides change; then guest.py has to be told the new ones."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep(0.01)

    async def test() -> None:
        before = threading.active_count()
        async with guest_run() as guest:
            for _ in range(3):
                await _call(guest.application(app))
                assert threading.active_count() == before
            await asyncio.sleep(0.05)
            assert guest.turns._asleep is not None
            used_s = time.thread_time()
            await asyncio.sleep(0.3)
            assert time.thread_time() - used_s < 0.05
            assert guest.turns._asleep is not None

    run(test())


def test_with_a_thread_where_trio_is_unlike_the_one_we_know(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is as ever, as ``start_guest_run`` is all that is needed."""
    run_module: Any = trio._core._run
    monkeypatch.setattr(run_module, "TheIOManager", _unlike(run_module.TheIOManager))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with trio.move_on_after(0.01):
            await receive()
        a, b = trio.socket.socketpair()
        await a.send(b"through")
        body = await b.recv(10)
        a.close()
        b.close()
        threads.append(threading.active_count())
        await answer(send, body)

    async def test() -> None:
        async with arena_on_trio(app) as arena:
            wires = [await arena.connect() for _ in range(3)]
            for _ in range(3):
                bodies = [body for _, _, body in await asyncio.gather(*(w.get() for w in wires))]
                assert bodies == [b"through"] * 3

    threads: list[int] = []
    run(test())
    assert max(threads) > 1


def _unlike(known: Any) -> Any:
    """Another class for the same, whose descriptor is called otherwise."""

    class Other:
        def __init__(self) -> None:
            self.known = known()

        def __getattr__(self, name: str) -> Any:
            if name == "_epoll":
                raise AttributeError(name)
            return getattr(self.known, name)

    return Other
