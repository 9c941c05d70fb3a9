"""What is done when a worker has served is done within the time that it was given."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

import pytest

from asgi_worker.contract import Drain, Exit
from tests.worker.alone import Alone
from tests.worker.serving import LoopKind, in_time
from tests.worker.test_main import wait_until

SITE = """
    import asyncio, atexit, sys

    atexit.register(print, "the last word", file=sys.stderr, flush=True)

    async def app(scope, receive, send):
        assert scope["type"] == "lifespan"
        await receive()
        app.kept = asyncio.create_task(left_behind())
        await asyncio.sleep(0.01)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
"""
STUBBORN = """
    async def endless():
        try:
            yield
        finally:
            await asyncio.sleep(60)

    async def left_behind():
        app.generator = endless()
        await anext(app.generator)
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass
"""
EXITING = """
    async def left_behind():
        try:
            await asyncio.sleep(60)
        finally:
            sys.exit("of a task")
"""
HANGING = """
    import asyncio, sys, time
    import sniffio, trio

    async def hang():
        if sniffio.current_async_library() == "trio":
            await trio.to_thread.run_sync(time.sleep, 60)
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass

    async def app(scope, receive, send):
        await receive()
        print("starts", file=sys.stderr, flush=True)
        await hang()
"""


@pytest.mark.parametrize("budget_s", [0.45, 0.9])
def test_what_refuses_to_end_does_not_cost_the_last_words(
    tmp_path: Path, loop_kind: LoopKind, budget_s: float
) -> None:
    def attempt() -> float:
        with Alone(tmp_path, SITE + STUBBORN, loop_kind) as worker:
            worker.get_ready()
            began = time.monotonic()
            worker.tell(Drain(budget_s, successor=True))
            assert worker.ends() == Exit.OK
            took_s = time.monotonic() - began
            assert "the last word" in worker.said()
            return took_s

    in_time(budget_s, attempt)  # else its master would have killed it


def test_exit_of_a_task_that_is_left_behind_is_nothing_to_the_worker(
    tmp_path: Path, loop_kind: LoopKind
) -> None:
    with Alone(tmp_path, SITE + EXITING, loop_kind) as worker:
        worker.get_ready()
        worker.tell(Drain(5.0, successor=True))
        assert worker.ends() == Exit.OK
        assert worker.said().endswith("the last word\n")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
def test_why_a_start_failed_is_told_in_time_whatever_refuses_to_end(
    tmp_path: Path, loop: LoopKind | Literal["trio"]
) -> None:
    def attempt() -> float:
        with Alone(tmp_path, HANGING, loop, startup_timeout_s=3.0) as worker:
            wait_until(lambda: "starts" in worker.said(), "it starts")
            began = time.monotonic()
            failure = worker.fails()
            took_s = time.monotonic() - began
            assert "await hang()" in failure.traceback
            assert worker.ends() == Exit.BOOT
            return took_s

    in_time(3.0, attempt)  # else its master would have killed it
