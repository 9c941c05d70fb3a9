"""A worker process whose application is on trio: how it starts, and how it ends in time."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from asgi_worker.application import BootError
from asgi_worker.contract import Drain, Exit, Unhealthy, WorkerSettings
from asgi_worker.loops import new_loop
from tests.worker.alone import Alone, read_all
from tests.worker.test_main import wait_until

SITE = """
    import sys
    import trio

    def say(what):
        print(what, file=sys.stderr, flush=True)

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await live(receive, send)
            return
        if scope["path"] == "/slow":
            say("slow begins")
            await trio.sleep(0.5)
        if scope["path"] == "/endless":
            say("endless begins")
            try:
                await trio.sleep_forever()
            finally:
                say("endless was cancelled")
        body = b"served"
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
"""
POLITE = """
    async def live(receive, send):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(background)
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            nursery.cancel_scope.cancel()
        await send({"type": "lifespan.shutdown.complete"})

    async def background():
        try:
            await trio.sleep_forever()
        finally:
            say("background ended")
"""
STUBBORN = """
    async def live(receive, send):
        trio.lowlevel.spawn_system_task(refuse, name="stubborn")
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def refuse():
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()
"""
NEVER_READY = """
    async def live(receive, send):
        await receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect)

    async def connect():
        say("connects")
        await trio.sleep_forever()
"""
CRASHING = """
    async def live(receive, send):
        await receive()
        trio.lowlevel.spawn_system_task(crash)
        await trio.sleep_forever()

    async def crash():
        raise LookupError("of a system task")
"""
ASGI_2 = """
    import signal, sys
    import trio

    class app:
        def __init__(self, scope):
            self.scope = scope

        async def __call__(self, receive, send):
            if self.scope["type"] == "lifespan":
                if "leave_it_to_the_master" in repr(signal.getsignal(signal.SIGINT)):
                    print("SIGINT is as it was", file=sys.stderr, flush=True)
                while (kind := (await receive())["type"]) != "lifespan.shutdown":
                    await send({"type": kind + ".complete"})
                await send({"type": "lifespan.shutdown.complete"})
                return
            body = trio.lowlevel.current_task().name.encode()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": body})
"""


def site(live: str) -> str:
    return SITE + live


def test_what_runs_is_finished_and_what_never_ends_is_cancelled(tmp_path: Path) -> None:
    with Alone(tmp_path, site(POLITE), "trio") as worker:
        worker.get_ready()
        with worker.connect() as slow, worker.connect() as endless:
            slow.sendall(b"GET /slow HTTP/1.1\r\nHost: t\r\n\r\n")
            endless.sendall(b"GET /endless HTTP/1.1\r\nHost: t\r\n\r\n")
            wait_until(lambda: worker.said().count("begins") == 2, "both run")
            worker.tell(Drain(4.0, successor=False))
            assert read_all(slow).endswith(b"served")
            assert read_all(endless) == b""
        assert worker.ends() == Exit.OK
        said = [line for line in worker.said().splitlines() if line.endswith(("led", "ended"))]
        assert said == ["endless was cancelled", "background ended"]
        assert "Traceback" not in worker.said()


def test_what_refuses_to_end_does_not_keep_the_worker(tmp_path: Path) -> None:
    with Alone(tmp_path, site(STUBBORN), "trio") as worker:
        worker.get_ready()
        assert worker.get("/").endswith(b"served")
        began = time.monotonic()
        worker.tell(Drain(3.0, successor=False))
        assert worker.ends() == Exit.OK
        assert time.monotonic() - began < 3.0
        (line,) = (line for line in worker.said().splitlines() if "refuse" in line)
        assert line.endswith("refuse to be cancelled and are abandoned: stubborn")
        assert "Warning" not in worker.said()


def test_a_start_that_takes_too_long_says_where_it_waits(tmp_path: Path) -> None:
    with Alone(tmp_path, site(NEVER_READY), "trio", startup_timeout_s=3.0) as worker:
        failure = worker.fails()
        assert "did not complete lifespan startup within" in failure.reason
        assert "served.py" in failure.traceback
        assert "async with trio.open_nursery() as nursery" in failure.traceback
        assert "asgi_worker" not in failure.traceback
        assert worker.ends() == Exit.BOOT


def test_a_crash_at_startup_is_a_failed_start(tmp_path: Path) -> None:
    with Alone(tmp_path, site(CRASHING), "trio") as worker:
        assert worker.hear() == Unhealthy("trio has crashed")
        failure = worker.fails()
        assert failure.reason == "trio has crashed at startup: LookupError: of a system task"
        assert "served.py" in failure.traceback
        assert worker.ends() == Exit.BOOT


def test_a_health_check_that_hangs_says_where(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"health_path": "/endless", "health_timeout_s": 0.5}
    with Alone(tmp_path, site(POLITE), "trio", startup_timeout_s=4.0, **settings) as worker:
        failure = worker.fails()
        # The last of several may have had less time: what was left.
        assert "GET /endless gave no answer within 0." in failure.reason
        assert "await trio.sleep_forever()" in failure.traceback
        assert "asgi_worker" not in failure.traceback
        assert worker.ends() == Exit.BOOT
        assert "background ended" in worker.said()


def test_applications_of_asgi_2(tmp_path: Path) -> None:
    with Alone(tmp_path, ASGI_2, "trio") as worker:
        worker.get_ready()
        assert worker.get("/").endswith(b"GET /")
        worker.tell(Drain(4.0, successor=False))
        assert worker.ends() == Exit.OK
        assert "SIGINT is as it was" in worker.said()


def test_without_trio_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trio", None)
    monkeypatch.delitem(sys.modules, "asgi_worker.guest", raising=False)
    with pytest.raises(BootError) as caught:
        new_loop(WorkerSettings(app="test:app", loop="trio"))
    assert caught.value.reason.startswith("cannot use --loop trio: ")
    assert caught.value.reason.endswith("try pip install 'asgi-supervise[trio]'")
