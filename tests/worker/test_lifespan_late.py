"""Lifespan startup that comes too late or is broken off."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest
import uvloop
from starlette.applications import Starlette

from asgi_worker.application import Application, Receive, Scope, Send
from asgi_worker.lifespan import waits_at
from tests.worker.lives import Mode, fails, lifespan_of, logged, polite


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner


@pytest.fixture(autouse=True)
def _all_that_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.DEBUG, "asgi_worker"):
        yield


class TestTooLate:
    @pytest.mark.parametrize("mode", ["auto", "on"])
    def test_says_where_the_application_waits(self, runner: asyncio.Runner, mode: Mode) -> None:
        ended = []

        async def connect() -> None:
            await asyncio.get_running_loop().create_future()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await receive()
                await connect()
            finally:
                ended.append(True)

        error = runner.run(fails(lifespan_of(app, mode, startup_timeout_s=0.05)))
        assert error.reason == (
            "the application did not complete lifespan startup within 0.05 s "
            "(see --startup-timeout)"
        )
        first, second = error.traceback.split("  File ")[1:]
        assert "await connect()" in first
        assert "create_future()" in second
        assert ended == [True]

    def test_who_takes_events_and_answers_none_is_asked_at_once(
        self, runner: asyncio.Runner, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It may be at it in another task, so it is waited for as ever."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            while (await receive())["type"] != "websocket.disconnect":
                pass

        error = runner.run(fails(lifespan_of(app, startup_timeout_s=0.05)))
        assert "did not complete lifespan startup within 0.05 s" in error.reason
        assert logged(caplog, logging.WARNING) == [
            "The application asks for a second lifespan event and has not answered "
            "lifespan.startup. If it knows nothing of lifespan, say --lifespan off"
        ]

    def test_what_is_left_of_the_time_counts(self, runner: asyncio.Runner) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await asyncio.get_running_loop().create_future()

        error = runner.run(fails(lifespan_of(app), timeout_s=0.0212345))
        assert "within 0.0212 s" in error.reason

    def test_looks_into_generators(self, runner: asyncio.Runner) -> None:
        @contextlib.asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            await asyncio.get_running_loop().create_future()  # the guilty line
            yield

        app = cast("Application", Starlette(lifespan=lifespan))
        error = runner.run(fails(lifespan_of(app, startup_timeout_s=0.05)))
        assert error.traceback.rstrip().endswith("# the guilty line")

    def test_an_application_that_refuses_to_be_cancelled(
        self, runner: asyncio.Runner, caplog: pytest.LogCaptureFixture
    ) -> None:
        released = False

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            while not released:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.get_running_loop().create_future()

        async def main() -> None:
            nonlocal released
            await fails(lifespan_of(app, startup_timeout_s=0.05))
            released = True

        runner.run(main())
        assert logged(caplog) == [
            "The application's lifespan refuses to be cancelled and is abandoned"
        ]


def test_startup_that_is_cancelled_leaves_nothing_behind(
    runner: asyncio.Runner, caplog: pytest.LogCaptureFixture
) -> None:
    ended = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append(True)

    async def main() -> None:
        lifespan = lifespan_of(app)
        startup = asyncio.create_task(lifespan.startup())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        startup.cancel()
        with pytest.raises(asyncio.CancelledError):
            await startup
        await lifespan.shutdown(30)
        assert ended == [True]

    runner.run(main())
    assert logged(caplog) == []


def test_shutdown_without_startup_does_nothing(runner: asyncio.Runner) -> None:
    runner.run(lifespan_of(polite).shutdown(30))


def test_where_a_task_waits_ends_where_nothing_is_known(runner: asyncio.Runner) -> None:
    class Circle:
        """An awaitable that refers to who awaits it: looking must end all the same."""

        def __init__(self) -> None:
            self.waiting: Any = None

        def __await__(self) -> Any:
            return self

        def __iter__(self) -> Any:
            return self

        def __next__(self) -> None:
            return None

    async def wait(circle: Circle) -> None:
        await circle

    async def main() -> None:
        circle = Circle()
        circle.waiting = wait(circle)
        task = asyncio.create_task(circle.waiting)
        await asyncio.sleep(0)
        assert "await circle" in waits_at(task)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert waits_at(task) == ""

    runner.run(main())
