"""Lifespan shutdown: always asked for, limited in time, never an error for the worker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from typing import cast

import pytest
import uvloop
from starlette.applications import Starlette

from asgi_worker.application import Application, Message, Receive, Scope, Send
from asgi_worker.contract import WorkerSettings
from asgi_worker.lifespan import Lifespan


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner


async def live(app: Application, shutdown_timeout_s: float = 30) -> float:
    """Start and stop ``app``; returns how long the stop took."""
    loop = asyncio.get_running_loop()
    lifespan = Lifespan(app, WorkerSettings(app="test:app"))
    await lifespan.startup()
    begin = loop.time()
    await lifespan.shutdown(shutdown_timeout_s)
    return loop.time() - begin


async def begin(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})


async def never() -> None:
    await asyncio.get_running_loop().create_future()


def test_failed_is_logged_with_its_message(
    runner: asyncio.Runner, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await begin(receive, send)
        await receive()
        await send({"type": "lifespan.shutdown.failed", "message": "not flushed"})

    runner.run(live(app))
    assert caplog.messages == ["The application failed at lifespan shutdown: not flushed"]


@pytest.mark.parametrize("error", [OSError("disk"), SystemExit(3), KeyboardInterrupt()])
def test_what_it_raises_is_logged_with_its_traceback(
    runner: asyncio.Runner, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await begin(receive, send)
        await receive()
        raise error

    runner.run(live(app))
    (message,) = caplog.messages
    assert message.startswith(
        "The application raised at lifespan shutdown:\nTraceback (most recent call last):\n"
    )
    assert "in app\n    raise error" in message
    assert "asgi_worker/" not in message


def test_a_framework_that_fails(runner: asyncio.Runner, caplog: pytest.LogCaptureFixture) -> None:
    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        raise OSError("not flushed")

    runner.run(live(cast("Application", Starlette(lifespan=lifespan))))
    assert all("OSError: not flushed" in message for message in caplog.messages)
    assert len(caplog.messages) == 2  # it sends shutdown.failed, and raises


def test_the_end_of_the_application_is_waited_for(
    runner: asyncio.Runner, caplog: pytest.LogCaptureFixture
) -> None:
    ended = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await begin(receive, send)
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        await asyncio.sleep(0.01)
        ended.append(True)

    runner.run(live(app))
    assert ended == [True]
    assert caplog.messages == []


def test_a_loop_that_asks_for_more_is_ended_at_once(
    runner: asyncio.Runner, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})

    assert runner.run(live(app)) < 10
    assert caplog.messages == []


def test_who_hangs_is_cancelled_and_shown(
    runner: asyncio.Runner, caplog: pytest.LogCaptureFixture
) -> None:
    ended = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await begin(receive, send)
        await receive()
        try:
            await never()
        finally:
            ended.append(True)

    assert 0.07 < runner.run(live(app, 0.12003)) < 10
    assert ended == [True]
    (message,) = caplog.messages
    assert message.startswith(
        "The application did not end its lifespan within 0.09 s and is cancelled. It waits here:\n"
    )
    assert "await never()" in message


def test_who_hangs_after_complete_is_cancelled_and_shown(
    runner: asyncio.Runner, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await begin(receive, send)
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        await never()

    assert runner.run(live(app, 0.1)) < 10
    assert "await never()" in caplog.text


def test_who_raises_when_cancelled_is_shown(
    runner: asyncio.Runner, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await begin(receive, send)
        try:
            await receive()
            await never()
        finally:
            raise OSError("while cleaning up")

    runner.run(live(app, 0.1))
    assert len(caplog.messages) == 2
    assert "OSError: while cleaning up" in caplog.messages[1]


@pytest.mark.parametrize("timeout_s", [0.1, 0.0])
def test_who_refuses_to_be_cancelled_is_abandoned(
    runner: asyncio.Runner, caplog: pytest.LogCaptureFixture, timeout_s: float
) -> None:
    released = False

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await begin(receive, send)
        while not released:
            with contextlib.suppress(asyncio.CancelledError):
                await never()

    async def main() -> None:
        nonlocal released
        assert await live(app, timeout_s) < 10
        released = True

    runner.run(main())
    assert caplog.messages[-1] == (
        "The application's lifespan refuses to be cancelled and is abandoned"
    )


def test_who_ends_with_an_error_while_serving_is_shown_and_left_alone(
    runner: asyncio.Runner, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await begin(receive, send)
        raise SystemExit("out of spirits")

    async def main() -> None:
        lifespan = Lifespan(app, WorkerSettings(app="test:app"))
        await lifespan.startup()
        await asyncio.sleep(0)  # callbacks of the ended task run a turn later
        await asyncio.sleep(0)
        (message,) = caplog.messages
        assert message.startswith("The application's lifespan ended with an error; its shutdown ")
        assert 'raise SystemExit("out of spirits")' in message
        assert "asgi_worker/" not in message
        await lifespan.shutdown(30)

    runner.run(main())
    assert len(caplog.messages) == 1


def test_who_returns_after_startup_is_no_news(
    runner: asyncio.Runner, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await begin(receive, send)

    with caplog.at_level(logging.INFO):
        runner.run(live(app))
    assert caplog.messages == []


def test_who_polls_does_not_miss_it(
    runner: asyncio.Runner, caplog: pytest.LogCaptureFixture
) -> None:
    polled = asyncio.Event()
    got = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await begin(receive, send)
        for _ in range(3):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(receive(), 0.001)
        polled.set()
        got.append(await receive())
        await send({"type": "lifespan.shutdown.complete"})

    async def main() -> None:
        lifespan = Lifespan(app, WorkerSettings(app="test:app"))
        await lifespan.startup()
        await polled.wait()
        await lifespan.shutdown(30)

    runner.run(main())
    assert got == [{"type": "lifespan.shutdown"}]
    assert caplog.messages == []


def test_all_who_wait_for_it_are_told(runner: asyncio.Runner) -> None:
    got: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await begin(receive, send)
        got.extend(await asyncio.gather(receive(), receive()))
        await send({"type": "lifespan.shutdown.complete"})

    runner.run(live(app))
    assert got == [{"type": "lifespan.shutdown"}] * 2


def test_shutdown_is_answered_once(runner: asyncio.Runner) -> None:
    caught = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await begin(receive, send)
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        with pytest.raises(RuntimeError, match="was answered already") as error:
            await send({"type": "lifespan.shutdown.failed"})
        caught.append(error)

    runner.run(live(app))
    assert caught
