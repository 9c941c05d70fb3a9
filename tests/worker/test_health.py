"""The health check: what is asked, what is good, and what follows from it."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from typing import Any

import fastapi
import pytest
import starlette.middleware.trustedhost
import starlette.responses

from asgi_worker.application import Application, BootError, Receive, Scope, Send
from asgi_worker.contract import Healthy, Unhealthy
from asgi_worker.health import Health
from tests.worker.conftest import Run
from tests.worker.http1_requests import respond
from tests.worker.serving import Arena

Told = list[Healthy | Unhealthy]


def health_of(arena: Arena, told: Told | None = None) -> Health:
    def tell(message: Healthy | Unhealthy) -> bool:
        if told is not None:
            told.append(message)
        return True

    return Health(arena.app, arena.server, tell)


def reason_of(run: Run, app: Application, timeout_s: float = 5.0, **settings: Any) -> str:
    """What a check of ``app`` finds wrong."""
    reasons = []

    async def test() -> None:
        async with Arena(app, **({"health_path": "/healthz"} | settings)) as arena:
            reasons.append((await health_of(arena).check(timeout_s)).reason)
            assert arena.server.requests == 0
            assert not arena.server.tasks

    run(test())
    return reasons[0]


def answering(status: int) -> Application:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"x", status)

    return app


@pytest.mark.parametrize("status", [200, 204, 301, 399])
def test_good_answers(run: Run, status: int) -> None:
    assert reason_of(run, answering(status)) == ""


@pytest.mark.parametrize("status", [199, 404, 500, 503])
def test_bad_answers(run: Run, status: int) -> None:
    assert reason_of(run, answering(status)) == f"GET /healthz was answered {status}"


def test_a_refused_host_is_explained(run: Run) -> None:
    said = "GET /healthz was answered 400 (does the application allow the host localhost?)"
    assert reason_of(run, answering(400)) == said


def test_other_ways_to_fail(run: Run) -> None:
    async def raises(scope: Scope, receive: Receive, send: Send) -> None:
        raise LookupError("no database")

    async def exits(scope: Scope, receive: Receive, send: Send) -> None:
        raise SystemExit(3)

    async def raises_after_500(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"x", 500)
        raise LookupError("no database")

    async def returns(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})

    def no_application(scope: Scope, receive: Receive, send: Send) -> Any:
        raise TypeError("nothing here")

    found = [reason_of(run, app) for app in (raises, exits, raises_after_500, returns)]
    assert found == [
        "GET /healthz raised LookupError: no database",
        "GET /healthz raised SystemExit: 3",
        "GET /healthz was answered 500 (LookupError: no database)",
        "GET /healthz was not answered: the application returned",
    ]
    assert reason_of(run, no_application) == "GET /healthz raised TypeError: nothing here"


def test_what_hangs_is_cancelled_and_seen(run: Run) -> None:
    story = []
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            story.append("cancelled")

    async def test() -> None:
        async with Arena(app, health_path="/healthz") as arena:
            seen.append(await health_of(arena).check(0.05))

    run(test())
    assert story == ["cancelled"]
    ((reason, where),) = seen
    assert reason == "GET /healthz gave no answer within 0.05 s"
    assert "await asyncio.Event().wait()" in where
    assert "asgi_worker" not in where


def test_who_waits_for_the_end_is_told(run: Run) -> None:
    story = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        story.append(await receive())
        waiting = asyncio.ensure_future(receive())
        await respond(send, b"x" * 100_000)
        story.append(await waiting)
        story.append(await receive())

    assert reason_of(run, app) == ""
    assert story == [
        {"type": "http.request", "body": b"", "more_body": False},
        {"type": "http.disconnect"},
        {"type": "http.disconnect"},
    ]


def test_the_scope_is_that_of_a_request(run: Run) -> None:
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        scope["state"]["seen"] = True
        scope["extensions"]["seen"] = {}
        await respond(send, b"x")

    async def test() -> None:
        settings = {"health_path": "/a%20b?deep=1", "root_path": "/api"}
        async with Arena(app, limit_concurrency=0, **settings) as arena:
            health = health_of(arena)
            for _ in range(2):
                assert (await health.check(5.0)).reason == ""
        async with Arena(app, root_path="/api") as arena:
            await (await arena.connect()).get("/a%20b?deep=1")

    run(test())
    check, again, real = scopes
    assert check.keys() == real.keys()
    same = ("type", "asgi", "http_version", "method", "path", "raw_path", "query_string", "scheme")
    assert {key: check[key] for key in same} == {key: real[key] for key in same}
    assert check["headers"][0] == (b"host", b"localhost")
    assert check["headers"][1] == (b"user-agent", b"asgi-supervise health check")
    assert check["client"] == ("127.0.0.1", 0)
    assert check["state"] is not again["state"]
    assert check["extensions"].keys() == real["extensions"].keys()


def test_a_malformed_path_is_refused(run: Run) -> None:
    with pytest.raises(BootError, match="cannot use --health-path /a b"):
        reason_of(run, answering(200), health_path="/a b")


async def slowly(condition: Callable[[], object], arena: Arena) -> None:
    await arena.eventually(condition, "the checks have done it")


def test_only_a_row_of_failures_is_told_and_then_the_recovery(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    statuses = [500, 500, 200, 500, 500, 500, 500, 500, 200, 200, 500]
    asked: list[float] = []
    running = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal running
        running += 1
        assert running == 1, "one after the other"
        asked.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.03)
        await respond(send, b"x", statuses[min(len(asked), len(statuses)) - 1])
        running -= 1

    async def test() -> None:
        told: Told = []
        settings = {"health_interval_s": 0.02, "health_failures": 3}
        async with Arena(app, health_path="/healthz", **settings) as arena:
            health = health_of(arena, told)
            health.watch()
            await slowly(lambda: len(asked) == len(statuses), arena)
            health.stop()
            await asyncio.sleep(0)
        assert told == [Unhealthy("GET /healthz was answered 500"), Healthy()]

    with caplog.at_level(logging.WARNING):
        run(test())
    lines = [line.partition(":")[0] for line in caplog.messages]
    rows = [(1, 2), (1, 2, 3)]
    assert lines[:5] == [f"health check failed ({n} of 3)" for row in rows for n in row]
    gaps = [after - before for before, after in itertools.pairwise(asked)]
    assert max(gaps) - min(gaps) > 0.0005, "intervals differ"


def test_what_could_not_be_told_is_told_later(run: Run) -> None:
    attempts: Told = []

    def tell(message: Healthy | Unhealthy) -> bool:
        attempts.append(message)
        return len(attempts) > 2

    async def test() -> None:
        settings = {"health_interval_s": 0.01, "health_failures": 1}
        async with Arena(answering(500), health_path="/", **settings) as arena:
            health = Health(arena.app, arena.server, tell)
            health.watch()
            await slowly(lambda: len(attempts) == 3, arena)
            await asyncio.sleep(0.1)
            health.stop()
            await asyncio.sleep(0)

    run(test())
    assert attempts == [Unhealthy("GET / was answered 500")] * 3


def test_a_check_that_is_stopped_ends(run: Run) -> None:
    story = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        story.append("asked")
        try:
            await asyncio.Event().wait()
        finally:
            story.append("cancelled")

    async def test() -> None:
        async with Arena(app, health_path="/", health_interval_s=0.01) as arena:
            health = health_of(arena)
            health.watch()
            await slowly(lambda: story, arena)
            health.stop()
            await slowly(lambda: len(story) == 2, arena)

    run(test())


def test_a_start_waits_for_the_first_success(run: Run) -> None:
    statuses = [503, 503, 200]
    asked = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal asked
        asked += 1
        await respond(send, b"x", statuses[asked - 1])

    async def test() -> None:
        async with Arena(app, health_path="/") as arena:
            await health_of(arena).startup(30.0)

    run(test())
    assert asked == 3


def test_a_start_without_success_says_why(run: Run) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise LookupError("no database")

    async def test() -> None:
        async with Arena(app, health_path="/ready") as arena:
            with pytest.raises(BootError) as caught:
                await health_of(arena).startup(0.7)
            assert caught.value.reason == (
                "the application did not get healthy within 0.7 s: "
                "GET /ready raised LookupError: no database (see --health-path)"
            )
            assert "test_health.py" in caught.value.traceback
            assert "asgi_worker" not in caught.value.traceback

    run(test())


def test_frameworks(run: Run) -> None:
    api: Any = fastapi.FastAPI()

    @api.get("/healthz")  # type: ignore[untyped-decorator]
    async def check(request: fastapi.Request) -> dict[str, Any]:
        assert request.client is not None
        return {"client": request.client.host, "url": str(request.url)}

    @api.get("/sync")  # type: ignore[untyped-decorator]
    def sync() -> str:
        return "in a thread"

    @api.get("/broken")  # type: ignore[untyped-decorator]
    async def broken() -> None:
        raise LookupError("no database")

    for path in ("/healthz", "/sync"):
        assert reason_of(run, api, health_path=path) == ""
    assert reason_of(run, api, health_path="/none") == "GET /none was answered 404"
    said = "GET /broken was answered 500 (LookupError: no database)"
    assert reason_of(run, api, health_path="/broken") == said
    guarded: Any = starlette.middleware.trustedhost.TrustedHostMiddleware
    assert reason_of(run, guarded(api, ["example.org", "localhost"])) == ""
    assert "localhost?" in reason_of(run, guarded(api, ["example.org"]))
