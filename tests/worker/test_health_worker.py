"""What the health check means for the worker: getting ready, being replaced, withdrawing."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from asgi_worker.contract import Drain, Exit, Healthy, Unhealthy, Withdraw
from asgi_worker.main import MASTERS_WORD_S
from tests.worker.alone import Alone, read_all
from tests.worker.serving import LoopKind
from tests.worker.test_main import wait_until

SWITCHED = """
    import os, sys
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            while True:
                kind = (await receive())["type"]
                await send({"type": kind + ".complete"})
                if kind == "lifespan.shutdown":
                    print("shut down", file=sys.stderr, flush=True)
                    return
        if scope["path"] == "/healthz" and not os.path.exists("%s"):
            if scope["client"][1] == 0:
                print("asked", file=sys.stderr, flush=True)
            raise LookupError("no database")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})
"""
DJANGO = """
    import django
    from django.conf import settings
    from django.core.asgi import get_asgi_application
    from django.http import HttpResponse
    from django.urls import path

    settings.configure(
        ALLOWED_HOSTS=["%s"],
        ROOT_URLCONF=__name__,
        MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
        LOGGING_CONFIG=None,
    )
    urlpatterns = [path("healthz", lambda request: HttpResponse(request.META["REMOTE_ADDR"]))]
    app = get_asgi_application()
"""


def test_ready_comes_after_the_first_good_answer(tmp_path: Path, loop_kind: LoopKind) -> None:
    switch = tmp_path / "well"
    with Alone(tmp_path, SWITCHED % switch, loop_kind, health_path="/healthz") as worker:
        wait_until(lambda: worker.said().count("asked") >= 2, "it is asked again")
        assert worker.says_nothing(0.0)
        assert worker.said().count("not ready yet: GET /healthz raised LookupError") == 1
        switch.touch()
        worker.get_ready()
        assert worker.get("/").endswith(b"/")
        assert worker.reading().requests in (0, 1)


def test_an_unhealthy_start_fails_with_the_traceback(tmp_path: Path, loop_kind: LoopKind) -> None:
    text = SWITCHED % (tmp_path / "well")
    settings: dict[str, Any] = {"health_path": "/healthz", "startup_timeout_s": 3.0}
    with Alone(tmp_path, text, loop_kind, **settings) as worker:
        failure = worker.fails()
        assert "GET /healthz raised LookupError: no database" in failure.reason
        assert "served.py" in failure.traceback
        assert "asgi_worker" not in failure.traceback
        assert worker.ends() == Exit.BOOT
        assert worker.said().endswith("shut down\n")


@pytest.mark.parametrize("how", ["Drain", "TERM"])
def test_a_worker_stops_while_it_is_not_healthy_yet(
    tmp_path: Path, loop_kind: LoopKind, how: str
) -> None:
    text = SWITCHED % (tmp_path / "well")
    with Alone(tmp_path, text, loop_kind, health_path="/healthz") as worker:
        wait_until(lambda: "asked" in worker.said(), "it is asked")
        if how == "Drain":
            worker.tell(Drain(5.0, successor=False))
        else:
            worker.process.send_signal(signal.SIGTERM)
        assert worker.ends() == Exit.OK
        assert worker.said().endswith("shut down\n")


def test_health_is_told_when_it_changes(tmp_path: Path, loop_kind: LoopKind) -> None:
    switch = tmp_path / "well"
    switch.touch()
    settings: dict[str, Any] = {
        "health_path": "/healthz",
        "health_interval_s": 0.05,
        "health_failures": 2,
    }
    with Alone(tmp_path, SWITCHED % switch, loop_kind, **settings) as worker:
        worker.get_ready()
        for _ in range(2):
            switch.unlink()
            assert worker.hear() == Unhealthy("GET /healthz raised LookupError: no database")
            assert worker.get("/").endswith(b"/"), "it serves on"
            switch.touch()
            assert worker.hear() == Healthy()
        assert worker.reading().errors == 0
        worker.tell(Drain(5.0, successor=False))
        assert worker.ends() == Exit.OK


@pytest.mark.parametrize("when", ["starting", "ready"])
def test_a_withdrawn_worker_serves_all_but_health_checks_from_outside(
    tmp_path: Path, loop_kind: LoopKind, when: str
) -> None:
    switch = tmp_path / "well"
    settings: dict[str, Any] = {
        "health_path": "/healthz",
        "health_interval_s": 0.05,
        "health_failures": 1,
    }
    with Alone(tmp_path, SWITCHED % switch, loop_kind, **settings) as worker:
        if when == "starting":
            wait_until(lambda: "asked" in worker.said(), "it is asked")
            worker.tell(Withdraw())
            switch.touch()
            worker.get_ready()
        else:
            switch.touch()
            worker.get_ready()
            assert worker.get("/healthz").endswith(b"/healthz")
            worker.tell(Withdraw())
            worker.tell(Withdraw())
        with worker.connect() as client:
            wait_until(lambda: b" 503 " in worker.get("/healthz?deep=1"), "it withdraws")
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n")
            answer = read_all(client)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"\r\nconnection: close\r\n" in answer
            assert answer.endswith(b"\r\n\r\nThis service is about to stop.\n")
        assert b" 503 " in worker.get("/healthz", method="HEAD")
        for path in ("/", "/healthz/", "/health", "/other"):
            assert worker.get(path).startswith(b"HTTP/1.1 200 ")
        assert worker.says_nothing(0.2), "its own checks still reach the application"


def test_withdrawing_without_a_health_path_changes_nothing(
    tmp_path: Path, loop_kind: LoopKind
) -> None:
    with Alone(tmp_path, SWITCHED % "/", loop_kind) as worker:
        worker.get_ready()
        worker.tell(Withdraw())
        assert worker.get("/healthz").startswith(b"HTTP/1.1 200 ")


def test_django(tmp_path: Path, loop_kind: LoopKind) -> None:
    with Alone(tmp_path, DJANGO % "localhost", loop_kind, health_path="/healthz") as worker:
        worker.get_ready()
    with Alone(tmp_path, DJANGO % "www.example.org", loop_kind, health_path="/healthz") as worker:
        said = "answered 400 (does the application allow the host localhost?)"
        wait_until(lambda: said in worker.said(), "it says what to look at")


def test_who_is_terminated_together_with_the_master_serves_until_it_is_told_to_stop(
    tmp_path: Path, loop_kind: LoopKind
) -> None:
    with Alone(tmp_path, SWITCHED % "/", loop_kind) as worker:
        worker.get_ready()
        worker.process.send_signal(signal.SIGTERM)
        worker.tell(Withdraw())
        assert worker.says_nothing(2 * MASTERS_WORD_S)
        assert worker.get("/").startswith(b"HTTP/1.1 200 ")
        worker.tell(Drain(5.0, successor=False))
        assert worker.ends() == Exit.OK


def test_the_word_of_a_master_that_is_busy_comes_in_time(
    tmp_path: Path, loop_kind: LoopKind
) -> None:
    with Alone(tmp_path, SWITCHED % "/", loop_kind) as worker:
        worker.get_ready()
        worker.process.send_signal(signal.SIGTERM)
        assert worker.says_nothing(0.5), "it does not give up, and would leave its queue to others"
        worker.tell(Drain(5.0, successor=False))
        assert worker.ends() == Exit.OK
        with pytest.raises(ConnectionRefusedError):
            worker.connect()
