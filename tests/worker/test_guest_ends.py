"""Applications on trio: how they end, and what their ends do to others."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import sys
import time
import weakref
from typing import Any

import pytest
import trio

from asgi_worker.application import BootError, Message, Receive, Scope, Send
from asgi_worker.guest import Guest
from asgi_worker.lifespan import waits_at
from tests.worker.conftest import Run
from tests.worker.guests import REFUSED_S, arena_on_trio, guest_run
from tests.worker.serving import PATIENCE_S

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
SCOPE = {"type": "http", "method": "GET", "path": "/"}


async def nothing(*_: object) -> Any:
    raise AssertionError("nobody asks")


def call(guest: Guest, app: Any, receive: Any = nothing) -> asyncio.Task[None]:
    async def outer() -> None:
        await guest.application(app)(dict(SCOPE), receive, nothing)

    return asyncio.get_running_loop().create_task(outer())


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Errors, each with its traceback."""
    form = logging.Formatter("%(message)s")
    records = [one for one in caplog.records if one.name.startswith("asgi_worker")]
    return [form.format(one) for one in records if one.levelno >= logging.WARNING]


# What an application raises.


def test_an_exception_is_logged_once_and_is_the_applications_alone(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    def look(_: object) -> bool:
        seen.append(variable.get())
        return True

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        variable.set(scope["path"])
        await trio.sleep(0.001)
        raise LookupError("no such thing")

    async def test() -> None:
        async with arena_on_trio(app) as arena:
            status, _, _ = await (await arena.connect()).get("/lost")
            assert status == b"HTTP/1.1 500 Internal Server Error"

    caplog.handler.addFilter(look)
    run(test())
    (entry,) = logged(caplog)
    first, second, third, *_ = entry.splitlines()
    assert first == "GET '/lost': exception in the application"
    assert second == "Traceback (most recent call last):"
    assert third.startswith(f'  File "{__file__}"')
    assert entry.endswith("LookupError: no such thing")
    assert "asgi_worker" not in entry
    assert "The above exception" not in entry
    assert seen == ["/lost"], "filters of the log look at context variables of the request"


def test_what_several_tasks_raise_is_a_group(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            nursery.start_soon(fail)
            await trio.sleep_forever()

    async def fail() -> None:
        try:
            await trio.sleep(0.001)
        finally:
            raise LookupError("no such thing")

    async def test() -> None:
        async with arena_on_trio(app) as arena:
            assert b"500" in (await (await arena.connect()).get())[0]

    run(test())
    (entry,) = logged(caplog)
    assert entry.count("LookupError: no such thing") == 2
    assert "ExceptionGroup" in entry
    assert "guest.py" not in entry


def test_who_writes_to_a_client_that_has_gone_is_not_at_fault(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream, send)
                nursery.start_soon(stream, send)
        except* OSError:
            ended.append("OSError")
            raise

    async def stream(send: Send) -> None:
        while True:
            await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
            await trio.sleep(0.001)

    async def test() -> None:
        async with arena_on_trio(app) as arena:
            wire = await arena.connect()
            await wire.write(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
            await wire.read_until(b"x")
            wire.close()
            await arena.eventually(lambda: ended, "it is told")

    run(test())
    assert logged(caplog) == []


def test_a_client_that_goes_is_told_of(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    told: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            told.append(await receive())
            nursery.cancel_scope.cancel()

    async def test() -> None:
        async with arena_on_trio(app) as arena:
            wire = await arena.connect()
            await wire.write(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
            await arena.eventually(lambda: arena.server.tasks, "it runs")
            wire.close()
            await arena.eventually(lambda: told, "it is told")

    run(test())
    assert told == [{"type": "http.disconnect"}]
    assert logged(caplog) == []


@pytest.mark.parametrize("returns", [None, 3])
def test_what_is_no_application_fails_only_when_asked(
    run: Run, caplog: pytest.LogCaptureFixture, returns: object
) -> None:
    def app(scope: Scope, receive: Receive, send: Send) -> Any:
        return returns

    async def test() -> None:
        async with arena_on_trio(app) as arena:
            wire = await arena.connect()
            assert b"500" in (await wire.get())[0]
            assert b"500" in (await wire.get())[0]

    run(test())
    assert len(logged(caplog)) == 2
    assert all("TypeError" in entry for entry in logged(caplog))


def test_exit_of_the_application_is_no_crash_of_trio(run: Run) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        sys.exit("no more")

    async def test() -> None:
        async with guest_run() as guest:
            with pytest.raises(SystemExit, match="no more"):
                await guest.application(app)(dict(SCOPE), nothing, nothing)
            assert not guest.is_over

    run(test())


@pytest.mark.parametrize("how", ["raises", "is cancelled"])
def test_nothing_is_left_to_the_collector(run: Run, how: str) -> None:
    """Errors hold all that a request had; at the rate of requests that would be much."""

    class Held:
        pass

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        held = Held()
        left.append(weakref.ref(held))
        if how == "is cancelled":
            await trio.sleep_forever()
        raise LookupError("no such thing")

    async def test() -> None:
        async with guest_run() as guest:
            task = call(guest, app)
            await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.wait((task,))
            assert task.cancelled() or isinstance(task.exception(), LookupError)
            del task
            await asyncio.sleep(0.01)
            assert left[0]() is None

    left: list[weakref.ref[Held]] = []
    gc.disable()
    try:
        run(test())
    finally:
        gc.enable()


# How an application is ended.


def test_cancelling_the_task_cancels_the_application_and_waits_for_it(run: Run) -> None:
    steps: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait, receive)
                await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                steps.append("cancelled")
                await trio.sleep(0.01)
            steps.append("cleaned up")

    async def wait(receive: Receive) -> None:
        waits.set()
        await receive()

    async def receive() -> Message:
        never: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        return await never

    async def test() -> None:
        async with guest_run() as guest:
            task = call(guest, app, receive)
            await waits.wait()
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()  # again: it changes nothing
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, PATIENCE_S)
        assert steps == ["cancelled", "cleaned up"]

    waits = asyncio.Event()
    run(test())


@pytest.mark.parametrize("ends", ["returns", "raises"])
def test_an_application_that_is_cancelled_may_end_otherwise(run: Run, ends: str) -> None:
    started = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            started.set()
            await trio.sleep_forever()
        finally:
            if ends == "raises":
                raise LookupError("in cleaning up")

    async def test() -> None:
        async with guest_run() as guest:
            task = call(guest, app)
            await started.wait()
            task.cancel()
            with pytest.raises(LookupError if ends == "raises" else asyncio.CancelledError):
                await asyncio.wait_for(task, PATIENCE_S)

    run(test())


def test_cancelled_before_it_has_begun(run: Run) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep_forever()

    async def test() -> None:
        async with guest_run() as guest:
            task = call(guest, app)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, PATIENCE_S)

    run(test())


def test_the_server_cancels_what_outlives_its_budget(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            ended.append("cancelled")
            raise

    async def test() -> None:
        async with arena_on_trio(app) as arena:
            wire = await arena.connect()
            await wire.write(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
            await arena.eventually(lambda: arena.server.tasks, "it runs")
            await arena.server.drain(0.2, successor=False)
            assert ended == ["cancelled"]

    run(test())
    assert logged(caplog)[-1] == "1 request cancelled at the end of the budget"


def test_waits_at_shows_the_trio_task(run: Run) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await deeper()

    async def deeper() -> None:
        started.set()
        await trio.sleep_forever()  # here

    async def test() -> None:
        async with guest_run() as guest:
            task = call(guest, app)
            await started.wait()
            await asyncio.sleep(0)
            where = waits_at(task)
            assert where.count("asgi_worker") == 0
            assert "await deeper()" in where
            assert "await trio.sleep_forever()  # here" in where
            task.cancel()
            await asyncio.wait((task,))

    started = asyncio.Event()
    run(test())


# How trio ends.


def test_what_is_left_is_cancelled_at_the_end(run: Run) -> None:
    steps: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        trio.lowlevel.spawn_system_task(background)
        try:
            await trio.sleep_forever()
        finally:
            steps.append("call")

    async def background() -> None:
        try:
            await trio.sleep_forever()
        finally:
            steps.append("background")

    async def test() -> None:
        async with guest_run() as guest:
            task = call(guest, app)
            await asyncio.sleep(0.01)
        assert sorted(steps) == ["background", "call"]
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(RuntimeError, match="trio has ended"):
            await call(guest, app)

    run(test())


def test_what_refuses_to_end_is_abandoned_and_named(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    released: trio.Event

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with trio.CancelScope(shield=True):
            await released.wait()

    async def test() -> None:
        nonlocal released
        released = trio.Event()
        guest = Guest(asyncio.get_running_loop(), nothing)
        guest.start()
        task = call(guest, app)
        await asyncio.sleep(0.01)
        began = time.monotonic()
        await guest.stop(REFUSED_S)
        assert REFUSED_S * 0.9 <= time.monotonic() - began < PATIENCE_S
        assert guest.calls
        assert logged(caplog) == [
            "The application's trio tasks refuse to be cancelled and are abandoned: GET /"
        ]
        released.set()  # for the test's own sake
        await guest.stop(PATIENCE_S)
        assert not guest.calls
        await asyncio.wait((task,))

    run(test())


def test_a_crash_of_trio_ends_all_calls_and_says_why(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/crash":
            trio.lowlevel.spawn_system_task(crash)
        await trio.sleep_forever()

    async def crash() -> None:
        raise LookupError("of a system task")

    async def test() -> None:
        crashes: list[float] = []
        guest = Guest(asyncio.get_running_loop(), lambda: crashes.append(time.monotonic()))
        guest.start()
        first = call(guest, app)
        await asyncio.sleep(0.01)
        SCOPE["path"] = "/crash"
        second = call(guest, app)
        await asyncio.wait((first, second), timeout=PATIENCE_S)
        for task in (first, second):
            with pytest.raises(asyncio.CancelledError):
                await task
        await guest.stop(PATIENCE_S)
        assert len(crashes) == 1
        assert guest.is_over
        with pytest.raises(BootError, match="crashed at startup: LookupError: of a sys") as caught:
            guest.report_crash(at_startup=True)
        assert caught.value.traceback.count("Traceback") == 1
        guest.report_crash(at_startup=False)

    try:
        run(test())
    finally:
        SCOPE["path"] = "/"
    (entry,) = logged(caplog)
    first, *lines, last = entry.splitlines()
    assert first == "trio has crashed, and this worker ends: LookupError: of a system task"
    assert last == "LookupError: of a system task"
    assert [line for line in lines if 'File "' in line] == [
        line for line in lines if __file__ in line
    ]


def test_a_crash_is_told_of_before_the_last_task_has_ended(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    released: trio.Event

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        trio.lowlevel.spawn_system_task(crash)
        with trio.CancelScope(shield=True):
            await released.wait()

    async def crash() -> None:
        raise LookupError("of a system task")

    async def test() -> None:
        nonlocal released
        released = trio.Event()
        crashed = asyncio.Event()
        guest = Guest(asyncio.get_running_loop(), crashed.set)
        guest.start()
        task = call(guest, app)
        await asyncio.wait_for(crashed.wait(), PATIENCE_S)
        assert guest.calls
        guest.report_crash(at_startup=False)
        guest.turns.wake()
        released.set()
        await guest.stop(PATIENCE_S)
        assert not guest.calls
        await asyncio.wait((task,))

    run(test())
    assert logged(caplog)[0].startswith(
        "trio has crashed, and this worker ends: its tasks do not end"
    )


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of its tasks
def test_a_crash_while_somebody_waits_for_the_loop(run: Run) -> None:
    """What comes then finds no trio to tell it to."""
    arrives: asyncio.Future[Message]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

    async def receive() -> Message:
        return await asyncio.shield(arrives)

    async def test() -> None:
        nonlocal arrives
        arrives = asyncio.get_running_loop().create_future()
        guest = Guest(asyncio.get_running_loop(), lambda: None)
        guest.start()
        task = call(guest, app, receive)
        await asyncio.sleep(0.01)
        runner: Any = trio._core._run.GLOBAL_RUN_CONTEXT.runner
        runner.deadlines = None  # which trio itself cannot stand
        guest.turns.wake()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, PATIENCE_S)
        assert guest.is_over
        arrives.set_result({"type": "http.request"})
        await asyncio.sleep(0.01)

    run(test())
    gc.collect()
