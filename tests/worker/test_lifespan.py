"""Lifespan startup: who takes part, who does without, who fails, and what they may send."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest
import uvloop
from starlette.applications import Starlette

from asgi_worker.application import Application, BootError, Receive, Scope, Send
from tests.worker.lives import Mode, fails, lifespan_of, logged, polite


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner


@pytest.fixture(autouse=True)
def _all_that_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.DEBUG, "asgi_worker"):
        yield


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_the_whole_life(
    runner: asyncio.Runner, caplog: pytest.LogCaptureFixture, mode: Mode
) -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        scope["state"]["pool"] = "open"
        await polite(scope, receive, send)
        seen.append("ended")

    async def main() -> None:
        lifespan = lifespan_of(app, mode)
        await lifespan.startup()
        assert lifespan.state == {"pool": "open"}
        assert seen == [
            {
                "type": "lifespan",
                "asgi": {"version": "3.0", "spec_version": "2.0"},
                "state": lifespan.state,
            }
        ]
        await lifespan.shutdown(30)
        assert seen[1:] == ["ended"]
        await lifespan.shutdown(30)

    runner.run(main())
    assert logged(caplog) == []


def test_off_does_not_call_the_application(runner: asyncio.Runner) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError

    async def main() -> None:
        lifespan = lifespan_of(app, "off")
        await lifespan.startup()
        assert lifespan.state == {}
        await lifespan.shutdown(30)

    runner.run(main())


async def asserts_http(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "http", "not http"


async def returns(scope: Scope, receive: Receive, send: Send) -> None:
    return


async def returns_after_receive(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()


async def answers_everything(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def swallows(scope: Scope, receive: Receive, send: Send) -> None:
    with contextlib.suppress(RuntimeError):
        await send({"type": "lifespan.startup"})


async def raises_late(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await connect()


async def connect() -> None:
    raise ValueError("no database")


async def reads_a_request(scope: Scope, receive: Receive, send: Send) -> None:
    body = (await receive())["body"]
    await send({"type": "http.response.body", "body": body})


async def asserts_a_request(scope: Scope, receive: Receive, send: Send) -> None:
    assert (await receive())["type"] == "http.request"


async def answers_a_request(scope: Scope, receive: Receive, send: Send) -> None:
    """It would do so for any scope but that of a lifespan, or so it says here."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def leaves(scope: Scope, receive: Receive, send: Send) -> None:
    raise SystemExit(1)


async def interrupted(scope: Scope, receive: Receive, send: Send) -> None:
    raise KeyboardInterrupt


async def cancels_itself(scope: Scope, receive: Receive, send: Send) -> None:
    raise asyncio.CancelledError


def not_asynchronous(*, nothing: None) -> None:
    """Nonsense: it cannot even be called."""


WITHOUT_LIFESPAN: list[tuple[Any, str]] = [
    (asserts_http, "AssertionError: not http"),
    (returns, "it returned without completing startup"),
    (returns_after_receive, "it returned without completing startup"),
    (answers_everything, "RuntimeError: cannot send 'http.response.start' in lifespan startup: "),
    (swallows, "it returned without completing startup"),
    (raises_late, "ValueError: no database"),
    (reads_a_request, "KeyError: 'body'"),
    (asserts_a_request, "AssertionError"),
    (answers_a_request, "RuntimeError: cannot send 'http.response.start' in lifespan startup: "),
    (leaves, "SystemExit: 1"),
    (interrupted, "KeyboardInterrupt"),
    (cancels_itself, "CancelledError"),
    (not_asynchronous, "TypeError: not_asynchronous() takes 0 positional arguments but 3 "),
]
MISTAKEN = (reads_a_request, asserts_a_request, answers_a_request)


@pytest.mark.parametrize(("app", "said"), WITHOUT_LIFESPAN)
def test_auto_goes_on_without_lifespan(
    runner: asyncio.Runner, caplog: pytest.LogCaptureFixture, app: Application, said: str
) -> None:
    async def main() -> None:
        lifespan = lifespan_of(app)
        await lifespan.startup()
        await lifespan.shutdown(30)

    runner.run(main())
    (message,) = logged(caplog, logging.DEBUG)
    assert said in message
    if app is raises_late:  # it knew what it was asked: probably a mistake, so it is shown
        assert logged(caplog, logging.WARNING) == [message]
        assert "in raises_late" in message
        assert "--lifespan on" in message
        assert "asgi_worker/" not in message
    elif app in MISTAKEN:
        assert message.startswith("The application knows nothing of lifespan and is run without ")
        assert "Traceback" not in message
        assert logged(caplog) == [message]
        assert logged(caplog, logging.WARNING) == []
    else:
        assert message.startswith("The application is run without lifespan: ")
        assert logged(caplog) == []


@pytest.mark.parametrize(("app", "said"), WITHOUT_LIFESPAN)
def test_on_is_a_boot_failure_without_lifespan(
    runner: asyncio.Runner, caplog: pytest.LogCaptureFixture, app: Application, said: str
) -> None:
    async def main() -> BootError:
        return await fails(lifespan_of(app, "on"))

    error = runner.run(main())
    assert error.reason.startswith(f"the application failed at lifespan startup: {said}")
    if "returned" in said:
        assert error.traceback == ""
    elif not said.startswith("TypeError"):
        assert f"in {app.__name__}" in error.traceback
    assert logged(caplog) == []


class TestFailed:
    """``lifespan.startup.failed`` is a boot failure in both modes."""

    @pytest.mark.parametrize("mode", ["auto", "on"])
    @pytest.mark.parametrize(
        ("fields", "said", "traceback"),
        [
            ({"message": "no database"}, "no database", ""),
            ({"message": ""}, "no message was given", ""),
            ({}, "no message was given", ""),
            ({"message": "one\ntwo"}, "one", "one\ntwo"),
            (
                {"message": "Traceback (most recent call last):\n  File\nOSError: gone\n"},
                "OSError: gone",
                "Traceback (most recent call last):\n  File\nOSError: gone\n",
            ),
        ],
    )
    def test_with_its_message(
        self,
        runner: asyncio.Runner,
        mode: Mode,
        fields: dict[str, str],
        said: str,
        traceback: str,
    ) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "lifespan.startup.failed", **fields})

        error = runner.run(fails(lifespan_of(app, mode)))
        assert error.reason == f"the application failed at lifespan startup: {said}"
        assert error.traceback == traceback

    @pytest.mark.parametrize(
        ("message", "said"), [("no database", "no database"), ("", "OSError: refused")]
    )
    def test_what_it_raises_afterwards_is_its_traceback(
        self, runner: asyncio.Runner, message: str, said: str
    ) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "lifespan.startup.failed", "message": message})
            raise OSError("refused")

        error = runner.run(fails(lifespan_of(app)))
        assert error.reason == f"the application failed at lifespan startup: {said}"
        assert "in app" in error.traceback
        assert error.traceback.endswith("OSError: refused\n")

    def test_it_may_clean_up_before_the_process_ends(self, runner: asyncio.Runner) -> None:
        cleaned = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "lifespan.startup.failed"})
            await asyncio.sleep(0.01)
            cleaned.append(True)

        runner.run(fails(lifespan_of(app)))
        assert cleaned == [True]

    def test_a_framework(self, runner: asyncio.Runner) -> None:
        @contextlib.asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            if not app.routes:
                raise OSError("no database")
            yield

        error = runner.run(fails(lifespan_of(cast("Application", Starlette(lifespan=lifespan)))))
        assert error.reason == "the application failed at lifespan startup: OSError: no database"
        assert 'raise OSError("no database")' in error.traceback


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"type": "http.response.start"}, "cannot send 'http.response.start' in lifespan startup"),
        ({"type": "lifespan.startup"}, "cannot send 'lifespan.startup' in lifespan startup"),
        ({"type": "lifespan.shutdown.complete"}, "cannot send 'lifespan.shutdown.complete' in"),
        ({"type": None}, "cannot send None in lifespan startup"),
        ({}, "cannot send None in lifespan startup"),
        ("lifespan.startup.complete", "cannot send str: a message is a dict"),
        (None, "cannot send NoneType: a message is a dict"),
    ],
)
def test_an_illegal_message_is_an_error_of_the_application(
    runner: asyncio.Runner, message: Any, said: str
) -> None:
    caught: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(RuntimeError) as error:
            await send(message)
        caught.append(str(error.value))
        await polite(scope, receive, send)

    async def main() -> None:
        lifespan = lifespan_of(app)
        await lifespan.startup()
        await lifespan.shutdown(30)

    runner.run(main())
    assert caught[0].startswith(said)


@pytest.mark.parametrize("again", ["complete", "failed"])
def test_startup_is_answered_once(runner: asyncio.Runner, again: str) -> None:
    caught: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "lifespan.startup.complete"})
        for kind in (f"startup.{again}", f"shutdown.{again}"):
            with pytest.raises(RuntimeError) as error:
                await send({"type": f"lifespan.{kind}"})
            caught.append(str(error.value).partition(":")[0])

    async def main() -> None:
        lifespan = lifespan_of(app)
        await lifespan.startup()
        await lifespan.shutdown(30)

    runner.run(main())
    assert caught == [
        f"cannot send 'lifespan.startup.{again}' in lifespan shutdown",
        f"cannot send 'lifespan.shutdown.{again}'",
    ]
