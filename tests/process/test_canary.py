"""How many new connections the first worker of a new generation gets while it is watched."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time

import pytest

from tests.process.boards import Board
from tests.process.callers import Address, Caller, Knock, knock
from tests.process.fronts import FAMILIES, Front, serving_on
from tests.process.service import OUTCOME, until

pytestmark = [pytest.mark.process, pytest.mark.slow]

CONNECTIONS = 500
WORKERS = 3
SIGMAS = 6.0
"""Chance leaves these bounds once in ten million runs of all these tests."""


async def in_tens(address: Address, count: int) -> list[Knock]:
    """So many new connections, ten at a time."""
    found: list[Knock] = []
    while len(found) < count:
        found += await asyncio.gather(*(knock(address) for _ in range(10)))
    return found


def got(front: Front, count: int = CONNECTIONS) -> float:
    """The share of the canary."""
    knocks = asyncio.run(in_tens(front.address, count))
    assert not [one for one in knocks if one.error]
    served = sum(one.who is not None and one.who.generation == 2 for one in knocks)
    print(f"the canary got {served} of {count}")
    return served / count


def watched(front: Front) -> Front:
    front.service.hang_up()
    front.service.wait_line("its first worker is ready and watched")
    return front


@pytest.mark.parametrize("weight", [None, 0.1])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_canary_gets_its_share_of_new_connections(family: str, weight: float | None) -> None:
    words = ["--bake-time", "30", *(["--canary-weight", str(weight)] if weight else [])]
    share = weight or 1 / (WORKERS + 1)
    with serving_on(family, *words, workers=WORKERS) as front:
        found = got(watched(front))
    assert abs(found - share) < SIGMAS * math.sqrt(share * (1 - share) / CONNECTIONS)


def test_a_canary_may_get_all() -> None:
    with serving_on("tcp", "--bake-time", "30", "--canary-weight", "1", workers=2) as front:
        assert got(watched(front), 50) == 1


def test_kept_alive_connections_are_not_moved_to_a_canary() -> None:
    with (
        serving_on("tcp", "--bake-time", "30", workers=2) as front,
        contextlib.ExitStack() as stack,
    ):
        callers = [stack.enter_context(Caller(front.address)) for _ in range(40)]
        watched(front)
        end = time.monotonic() + 1
        while time.monotonic() < end:
            assert {caller.ask().generation for caller in callers} == {1}


def test_after_its_trial_it_is_like_all_others() -> None:
    with serving_on("tcp", "--bake-time", "0.3", workers=2) as front:
        assert watched(front).service.wait_line(OUTCOME)["outcome"] == "complete"
        until(lambda: len(front.service.crew()) == 2, "the old ones have left")
        slots = {one.who.slot for one in asyncio.run(in_tens(front.address, 200)) if one.who}
        assert not [one for one in Board(front.service).seats() if one.share]
    assert slots == {0, 1}
