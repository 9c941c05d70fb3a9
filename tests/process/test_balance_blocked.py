"""A worker that is blocked for three seconds delays nobody who comes new, whatever blocks it.

Those who are already there wait, and so does what was in its hands; a new connection goes to
somebody else at once: its neighbours take it from its queue, or the master does. On a machine that
is busy with other things everybody may be late once, so the best of ten attempts counts; but a
connection that fails is always one too many.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.process.boards import Board
from tests.process.callers import Address, Caller, Knock, get, knock, knocking
from tests.process.fronts import Front, serving_on
from tests.process.loaded import stopped
from tests.process.service import state, until

pytestmark = [pytest.mark.process, pytest.mark.slow]

BLOCKED_S = 3.0
WORST_S = 0.5
ATTEMPTS = 10
WORKERS = 4
BURST = 60


@contextlib.contextmanager
def blocked(front: Front, how: str) -> Iterator[int]:
    """One of the workers, which does nothing else meanwhile."""
    service = front.service
    with Caller(front.address) as caller:
        if how == "stop":
            pid = caller.ask().pid
            with stopped(pid):
                until(lambda: state(pid) == "T", "it is stopped")
                yield pid
            return
        caller.send(get(f"/block/{how}"))
        pid = int(service.wait_line(r"\b(\d+) blocks$")[1])  # maybe behind a prompt
        if how == "debugger":
            service.wait_line(r"block_in_debugger\(\)")
        yield pid
        if service.process.stdin is not None:
            service.process.stdin.write(b"continue\n")
            service.process.stdin.flush()
        assert caller.answer().pid == pid


def attempt(front: Front, how: str) -> float:
    """The longest that a new connection waited; it and its only request are never lost."""
    with blocked(front, how) as pid:
        took_s = worst_of(asyncio.run(knocking(front.address, BLOCKED_S)), how)
    until_serves(front.address, pid)
    return took_s


def worst_of(knocks: list[Knock], title: str) -> float:
    """The longest; it is printed who served, by slot."""
    assert not [one for one in knocks if one.error], Counter(one.error for one in knocks)
    worst = max(one.took_s for one in knocks)
    served = Counter(one.who.slot for one in knocks if one.who is not None)
    print(f"{title}: worst of {len(knocks)} took {1000 * worst:.1f} ms, by slot {dict(served)}")
    return worst


def until_serves(address: Address, pid: int) -> None:
    """New connections go to the worker again."""

    def serves() -> bool:
        knocks: list[Knock] = asyncio.run(knocking(address, 0.2))
        return any(one.who is not None and one.who.pid == pid for one in knocks)

    until(serves, f"{pid} serves new connections again", within_s=10)


def judge(front: Front, how: str, taken: Callable[[], int] = lambda: 1) -> None:
    """``taken``: how many others have taken from the queue of the blocked worker. Whether anybody
    comes to it at all, before it is known to be blocked and gets nothing new, is chance.
    """
    before = front.service.workers()
    best_of(lambda: attempt(front, how))
    for _ in range(ATTEMPTS):
        if taken():
            break
        attempt(front, how)
    assert taken()
    assert front.service.workers() == before


def best_of(attempt: Callable[[], float]) -> None:
    took_s: list[float] = []
    while len(took_s) < ATTEMPTS and min(took_s, default=BLOCKED_S) > WORST_S:
        took_s.append(attempt())
    assert min(took_s) <= WORST_S, took_s


@pytest.mark.parametrize("how", ["sleep", "regex", "c", "gc", "stop"])
def test_a_worker_that_is_blocked_delays_nobody_who_comes_new(how: str) -> None:
    with serving_on("tcp", workers=WORKERS) as front:
        judge(front, how, lambda: Board(front.service).total("helped"))  # to its neighbours


def test_a_worker_in_the_debugger_delays_nobody_who_comes_new() -> None:
    with serving_on("tcp", workers=WORKERS, stdin=subprocess.PIPE) as front:
        judge(front, "debugger")


@pytest.mark.parametrize("how", ["sleep", "stop"])
@pytest.mark.parametrize(
    ("family", "words"),
    [("tcp", ["--loop", "asyncio"]), ("unix", []), ("inherited", ["--loop", "asyncio"])],
    ids=["asyncio", "unix", "inherited"],
)
def test_nor_on_other_loops_and_sockets(family: str, words: list[str], how: str) -> None:
    with serving_on(family, *words, workers=WORKERS) as front:
        judge(front, how)


@pytest.mark.parametrize("how", ["sleep", "stop"])
def test_nor_where_only_the_master_helps(how: str) -> None:
    with serving_on("tcp", "--balance", "kernel", workers=WORKERS) as front:
        board = Board(front.service)
        judge(front, how, lambda: board.total("rescued"))  # by the master
        assert board.total("helped") == 0


@contextlib.contextmanager
def all_but_one_stopped(front: Front) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for pid in sorted(front.service.workers().values())[1:]:
            stack.enter_context(stopped(pid))
            until(partial(is_stopped, pid), "it is stopped")
        yield


def is_stopped(pid: int) -> bool:
    return state(pid) == "T"


def test_nor_where_one_worker_is_left() -> None:
    def attempt() -> float:
        with all_but_one_stopped(front):
            return worst_of(asyncio.run(knocking(front.address, BLOCKED_S)), "one is left")

    with serving_on("tcp", workers=WORKERS) as front:
        best_of(attempt)


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_nor_where_those_who_were_stopped_had_nothing_to_do(family: str) -> None:
    """They need not turn for a second, so that nobody can tell it by the clock."""

    def attempt() -> float:
        until(board.rests, "all rest")
        with all_but_one_stopped(front):
            knocks = asyncio.run(many(front.address, BURST))
        until(lambda: not [one for one in board.seats() if one.connections], "all have left")
        return worst_of(knocks, f"a burst of {BURST} on {family}")

    with serving_on(family, workers=WORKERS) as front:
        board = Board(front.service)
        best_of(attempt)


async def many(address: Address, count: int) -> list[Knock]:
    return list(await asyncio.gather(*(knock(address) for _ in range(count))))
