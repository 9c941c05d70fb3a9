"""Who gets a connection: never one that cannot take it, and never so that it gets worse."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import sqrt
from typing import Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asgi_worker.balance import (
    CHEAP_S,
    FEW,
    FREQUENT,
    GAP,
    HOT,
    LATE_NS,
    MOST,
    OCCUPIED,
    WIDE_GAP,
    Load,
    Siblings,
    Turnover,
    Young,
    by_share,
    emptiest,
    surplus,
)
from asgi_worker.inbox import VERSION, Handed, Inboxes, Kind
from asgi_worker.processor import waited_ns
from asgi_worker.scoreboard import Scoreboard, State, Word

HOUR_NS = 3_600_000_000_000
MINE = 0

counts = st.lists(st.integers(0, 300), min_size=2, max_size=64)
seeds = st.integers(0, 2**32)


class Place:
    """Some workers' figures and inboxes, as the worker with seat 0 finds them."""

    def __init__(self, seats: int) -> None:
        self.scoreboard = Scoreboard(seats)
        self.inboxes = Inboxes(seats)
        self.seats = range(seats)
        for seat in self.seats:
            self.set(seat, Word.STATE, State.READY)
            self.set(seat, Word.TAKES, VERSION)
            self.set(seat, Word.PROMISE_NS, time.monotonic_ns() + HOUR_NS)

    def set(self, seat: int, word: Word, figure: int) -> None:
        self.scoreboard.writer(seat)[word] = figure

    def siblings(self, seat: int = MINE, *, exact: bool = True, seed: int = 0) -> Siblings:
        roll = random.Random(seed).random
        return Siblings(self.scoreboard, self.inboxes, seat, exact=exact, roll=roll)

    def wait_for(self, seat: int, connections: int) -> None:
        """Let ``connections`` wait in the inbox of ``seat``."""
        reader, writer = os.pipe()
        for _ in range(connections):
            assert self.inboxes.give(seat, Handed(Kind.FRESH), reader)
        os.close(reader)
        os.close(writer)


@contextmanager
def place(*connections: int) -> Iterator[Place]:
    made = Place(len(connections))
    for seat, count in enumerate(connections):
        made.set(seat, Word.CONNECTIONS, count)
    try:
        yield made
    finally:
        made.inboxes.close()


# Fresh connections.


@pytest.mark.parametrize(
    ("others", "ours_with_it", "expected"),
    [
        ((5, 5, 5), 6, None),  # fewer by one only
        ((5, 4, 5), 6, 2),
        ((4, 3, 2), 6, 3),
        ((0, 0, 0), 2, 1),
        ((9, 9, 9), 1, None),
        ((0,), 1, None),
    ],
)
def test_whoever_has_fewer_by_more_than_one(
    others: tuple[int, ...], ours_with_it: int, expected: int | None
) -> None:
    with place(0, *others) as there:
        assert there.siblings().for_fresh(ours_with_it) == expected


def test_of_two_equals_each_worker_finds_another() -> None:
    with place(0, 0, 0, 0) as there:
        found = [there.siblings(seat).for_fresh(10) for seat in there.seats]
    assert found == [1, 2, 3, 0]


def test_what_waits_in_an_inbox_counts() -> None:
    with place(9, 1, 3) as there:
        siblings = there.siblings()
        assert siblings.for_fresh(10) == 1
        there.wait_for(1, 3)
        assert siblings.for_fresh(10) == 2
        there.wait_for(2, 7)
        assert siblings.for_fresh(10) == 1
        assert siblings.for_fresh(5) is None


SPOILED = [
    (Word.STATE, State.STARTING),
    (Word.STATE, State.DRAINING),
    (Word.STATE, State.EMPTY),
    (Word.TAKES, 0),
    (Word.TAKES, VERSION + 1),
    (Word.PROMISE_NS, 0),
    (Word.PROMISE_NS, 1),
]


@pytest.mark.parametrize(("word", "figure"), SPOILED)
@pytest.mark.parametrize("noticed", [False, True], ids=["just now", "since the last tick"])
def test_nothing_for_who_cannot_take_it(word: Word, figure: int, noticed: bool) -> None:
    with place(100, 0, 50, 50) as there:
        siblings = there.siblings()
        assert siblings.for_fresh(100) == siblings.for_idle() == 1
        there.set(1, word, figure)
        if noticed:
            siblings.refresh()
        assert siblings.for_fresh(100) == siblings.for_idle() == 2
        siblings.refresh()
        assert 1 not in siblings.to_shed(100, 0)


def test_a_promise_may_be_a_little_late() -> None:
    with place(100, 0) as there:
        siblings = there.siblings()
        there.set(1, Word.PROMISE_NS, time.monotonic_ns() - LATE_NS // 2)
        assert siblings.for_fresh(100) == 1
        there.set(1, Word.PROMISE_NS, time.monotonic_ns() - LATE_NS)
        assert siblings.for_fresh(100) is None


def test_who_had_to_wait_for_a_processor_is_not_late() -> None:
    with place(100, 0) as there:
        siblings = there.siblings()
        there.set(1, Word.PID, os.getpid())
        waited = waited_ns(os.getpid())
        assert waited > 0
        there.set(1, Word.PROMISE_NS, time.monotonic_ns() - LATE_NS)
        if waited > 10**7:  # else it is late again before it is asked
            assert siblings.for_fresh(100) == 1
        there.set(1, Word.PROMISE_NS, time.monotonic_ns() - LATE_NS - 10 * waited - 10**10)
        assert siblings.for_fresh(100) is None
        there.set(1, Word.PROMISE_NS, time.monotonic_ns() - LATE_NS)
        there.set(1, Word.WAITED_NS, 10**18)
        assert siblings.for_fresh(100) is None


def test_who_turns_again_is_seen_at_once() -> None:
    with place(100, 0) as there:
        there.set(1, Word.PROMISE_NS, 1)
        siblings = there.siblings()
        assert siblings.for_fresh(100) is None
        there.set(1, Word.PROMISE_NS, time.monotonic_ns())
        assert siblings.for_fresh(100) == 1


def test_who_comes_is_seen_with_the_next_tick() -> None:
    with place(100, 0) as there:
        there.set(1, Word.TAKES, 0)
        siblings = there.siblings()
        there.set(1, Word.TAKES, VERSION)
        assert siblings.for_idle() is None
        siblings.refresh()
        assert siblings.for_idle() == 1


def test_nothing_fresh_for_who_is_much_busier_than_the_mean() -> None:
    with place(100, 0, 10) as there:
        for seat, busy in enumerate((100, 100 + HOT * 3 // 2 + 10, 100)):
            there.set(seat, Word.BUSY, busy)
        assert there.siblings().for_fresh(100) == 2
        there.set(1, Word.BUSY, 100 + HOT * 3 // 2 - 10)
        assert there.siblings().for_fresh(100) == 1


def test_whose_balance_is_not_exact_gives_only_when_it_leaves() -> None:
    with place(100, 0, 0) as there:
        siblings = there.siblings(exact=False)
        assert siblings.for_fresh(100) is None
        assert siblings.to_shed(100, 0) == []
        assert siblings.for_idle() == 1
        there.set(2, Word.SHARE, 1000)
        siblings.refresh()
        assert siblings.for_fresh(100) == 2


@settings(deadline=None)
@given(counts, seeds)
def test_a_burst_is_balanced_whoever_accepts_it(before: list[int], seed: int) -> None:
    now = before.copy()
    chance = random.Random(seed)
    for _ in range(200):
        accepting = chance.randrange(len(now))
        others = [seat for seat in range(len(now)) if seat != accepting]
        below = now[accepting] + 1 - GAP + 1
        taker = emptiest(others, below, now.__getitem__, lambda seat: 0)
        now[accepting if taker is None else taker] += 1
        if taker is not None:
            assert now[taker] <= now[accepting] + 1, "who was given one has not more than we"
    assert sum(now) == sum(before) + 200
    assert max(now) - min(now) <= max(max(before) - min(before), 1)


# Connections that soon end.


class Traffic:
    """So many connections a second come, and end soon or stay."""

    def __init__(self) -> None:
        self.young = Young()
        self.turnover = Turnover(0.0)
        self.ticks = 0

    def passes(self, *, ending: float, staying: float, busy: int, ticks: int = 20) -> Self:
        for _ in range(ticks):
            self.ticks += 1
            self._come(int(self.ticks * ending / 10) - int((self.ticks - 1) * ending / 10), True)
            self._come(int(self.ticks * staying / 10) - int((self.ticks - 1) * staying / 10), False)
            self.young.age()
            self.turnover.seen(self.ticks / 10, self.young, busy)
        return self

    def _come(self, connections: int, end: bool) -> None:
        for _ in range(connections):
            cohort = self.young.came()
            if end:
                self.young.lost(cohort)


@pytest.mark.parametrize(
    ("ending", "staying", "busy", "expected"),
    [
        (0, 1000, 1000, GAP),
        (400, 600, 1000, GAP),
        (600, 400, 1000, WIDE_GAP),
        (20, 10, OCCUPIED, WIDE_GAP),
        (20, 10, OCCUPIED - 1, GAP),  # who takes one has time for it
        (1.5 * FREQUENT, 0, 0, WIDE_GAP),
        (0, 0, 1000, GAP),
    ],
)
def test_it_need_not_be_exact_for_what_soon_ends(
    ending: float, staying: float, busy: int, expected: int
) -> None:
    traffic = Traffic().passes(ending=ending, staying=staying, busy=busy)
    assert traffic.turnover.gap == expected


@pytest.mark.parametrize(
    ("ending", "busy", "expected"),
    [
        (1000, int(CHEAP_S * 1e6), True),
        (1000, int(CHEAP_S * 1e6) - 40, False),
        (FREQUENT - 10, 1, True),
        (0, 0, True),
    ],
)
def test_each_is_worth_a_turn_if_it_is_dear_or_rare(
    ending: float, busy: int, expected: bool
) -> None:
    traffic = Traffic().passes(ending=ending, staying=0, busy=busy, ticks=40)
    assert traffic.turnover.patient == expected


@pytest.mark.parametrize(
    ("ending", "staying", "busy", "expected"),
    [
        (120, 0, 600, True),
        (50, 0, OCCUPIED, True),
        (50, 0, OCCUPIED - 1, False),  # whoever comes is served at once
        (60, 50, 600, True),
        (50, 60, 600, False),
        (1000, 0, 900, False),
        (0, 0, 1000, False),  # it is not they who use the processor
    ],
)
def test_they_are_dear_if_it_is_they_who_use_much_of_the_processor(
    ending: float, staying: float, busy: int, expected: bool
) -> None:
    traffic = Traffic().passes(ending=ending, staying=staying, busy=busy, ticks=40)
    assert traffic.turnover.dear is expected


def test_that_they_are_dear_is_soon_known() -> None:
    assert Traffic().passes(ending=50, staying=0, busy=OCCUPIED, ticks=2).turnover.dear


def test_a_burst_of_what_stays_is_soon_told_from_what_ends() -> None:
    traffic = Traffic().passes(ending=500, staying=0, busy=500)
    assert traffic.turnover.gap == WIDE_GAP
    traffic.passes(ending=0, staying=10_000, busy=1000, ticks=1)
    assert traffic.turnover.gap == GAP


def test_that_many_end_at_once_does_not_mean_that_most_end_soon() -> None:
    young, turnover = Young(), Turnover(0.0)
    those = [young.came() for _ in range(1000)]
    for tick in range(1, 30):
        if tick == 4:
            for one in those[:450]:
                young.lost(one)
        if tick == 20:
            for one in those[450:]:
                young.lost(one)
        young.age()
        turnover.seen(tick / 10, young, 1000)
        assert turnover.gap == GAP
    assert young.ended == 450


def test_siblings_see_what_soon_ends() -> None:
    with place(0, 2) as there:
        there.set(MINE, Word.BUSY, OCCUPIED)
        siblings = there.siblings()
        assert siblings.for_fresh(6) == 1
        assert siblings.patient
        siblings.see(Traffic().passes(ending=1000, staying=0, busy=OCCUPIED).young)
        assert siblings.for_fresh(2 + WIDE_GAP - 1) is None
        assert siblings.for_fresh(2 + WIDE_GAP) == 1
        assert not siblings.patient


def test_of_what_soon_ends_few_are_handed_over_in_a_tick() -> None:
    with place(0, 2) as there:
        siblings = there.siblings()
        traffic = Traffic().passes(ending=1000, staying=0, busy=OCCUPIED)
        assert [siblings.for_fresh(9) for _ in range(2 * FEW)] == [1] * 2 * FEW
        for _ in range(2):
            siblings.see(traffic.young)
            given = [siblings.for_fresh(2 + WIDE_GAP) for _ in range(2 * FEW)]
            assert given == [1] * FEW + [None] * FEW


def test_there_is_no_need_for_patience_without_others() -> None:
    with place(0, 2) as there:
        assert there.siblings().patient
        assert not there.siblings(exact=False).patient
        there.set(1, Word.TAKES, 0)
        assert not there.siblings().patient


@pytest.mark.parametrize(
    ("takes", "exact", "busy", "expected"),
    [
        (VERSION, True, OCCUPIED, True),
        (VERSION, True, OCCUPIED - 1, False),
        (VERSION, False, OCCUPIED, False),
        (0, True, OCCUPIED, False),
    ],
)
def test_dear_connections_are_gathered_where_others_take_them(
    takes: int, exact: bool, busy: int, expected: bool
) -> None:
    with place(0, 2) as there:
        there.set(MINE, Word.BUSY, busy)
        there.set(1, Word.TAKES, takes)
        siblings = there.siblings(exact=exact)
        siblings.see(Traffic().passes(ending=10, staying=0, busy=busy).young)
        assert siblings.gathers is expected


# Idle connections of a worker that leaves.


def test_all_that_leaves_goes_where_there_is_least() -> None:
    with place(100, 7, 3, 5) as there:
        siblings = there.siblings()
        for _ in range(6):
            seat = siblings.for_idle()
            assert seat is not None
            there.wait_for(seat, 1)
        assert [there.inboxes.waiting(seat) for seat in there.seats] == [0, 0, 4, 2]


def test_who_is_on_trial_gets_what_leaves_only_if_nobody_else_does() -> None:
    with place(100, 7, 0) as there:
        there.set(2, Word.SHARE, 200)
        siblings = there.siblings()
        assert siblings.for_idle() == 1
        there.set(1, Word.TAKES, 0)
        assert siblings.for_idle() == 2
        there.set(2, Word.TAKES, 0)
        assert siblings.for_idle() is None


# The share of a worker on trial.


@settings(deadline=None)
@given(st.integers(1, 1000), seeds)
def test_a_share_is_met(share: int, seed: int) -> None:
    tries = 2000
    chance = random.Random(seed)
    given = sum(by_share(chance.random(), {3: share}) == 3 for _ in range(tries))
    expected = share / 1000
    assert abs(given / tries - expected) <= 6 * sqrt(expected * (1 - expected) / tries)


def test_several_shares_add_up() -> None:
    shares = {1: 200, 2: 300}
    found = [by_share(number / 10, shares) for number in range(10)]
    assert found == [1, 1, 2, 2, 2, None, None, None, None, None]


def test_a_share_is_given_however_much_the_worker_on_trial_has() -> None:
    with place(5, 1000, 5) as there:
        there.set(1, Word.SHARE, 250)
        siblings = there.siblings(seed=1)
        found = [siblings.for_fresh(6) for _ in range(4000)]
        assert found.count(1) == pytest.approx(1000, abs=130)
        assert set(found) == {1, None}


def test_a_share_is_of_what_is_accepted_not_of_what_is_given() -> None:
    with place(100, 0, 0) as there:
        there.set(1, Word.SHARE, 1000)
        siblings = there.siblings()
        assert siblings.for_fresh(100) == 1
        assert siblings.for_fresh(100, first=False) == 2


def test_a_share_waits_until_the_worker_on_trial_turns_again() -> None:
    with place(5, 0, 5) as there:
        there.set(1, Word.SHARE, 1000)
        siblings = there.siblings()
        there.set(1, Word.PROMISE_NS, 1)
        assert siblings.for_fresh(6) is None


def test_who_is_on_trial_gives_nothing_and_is_left_out_of_all_else() -> None:
    with place(100, 0) as there:
        there.set(1, Word.SHARE, 1)
        siblings = there.siblings()
        assert siblings.to_shed(100, 1000) == []
        there.set(1, Word.SHARE, 0)
        there.set(MINE, Word.SHARE, 500)
        siblings.refresh()
        assert siblings.to_shed(100, 1000) == []
        assert siblings.for_fresh(100) is None
        there.set(MINE, Word.SHARE, 0)  # promoted
        siblings.refresh()
        assert set(siblings.to_shed(100, 1000)) == {1}
        assert siblings.for_fresh(100) == 1


# What moves though nobody leaves.


def loads(connections: list[int], busy: list[int] | None = None) -> dict[int, Load]:
    busy = busy or [0] * len(connections)
    return {s: Load(c, b) for s, (c, b) in enumerate(zip(connections, busy, strict=True))}


def shed(everyone: dict[int, Load], seat: int, chance: random.Random) -> list[int]:
    others = {other: load for other, load in everyone.items() if other != seat}
    return surplus(everyone[seat], others, chance.random)


def tick(connections: list[int], busy: list[int] | None, chance: random.Random) -> int:
    """All workers look at the same figures, and then all give; how many moved."""
    everyone = loads(connections, busy)
    moved = 0
    for seat in everyone:
        for taker in shed(everyone, seat, chance):
            connections[seat] -= 1
            connections[taker] += 1
            moved += 1
    return moved


@settings(deadline=None)
@given(counts, seeds)
def test_one_giver_never_makes_it_worse(before: list[int], seed: int) -> None:
    chance = random.Random(seed)
    seat = chance.randrange(len(before))
    after = before.copy()
    for taker in shed(loads(before), seat, chance):
        after[seat] -= 1
        after[taker] += 1
        assert after[taker] <= after[seat], "who is given one has not more than we"
        assert taker != seat
    assert sum(after) == sum(before)
    assert max(after) <= max(before)
    assert min(after) >= min(before)
    assert before[seat] - after[seat] <= MOST


@settings(deadline=None)
@given(counts, seeds)
def test_many_givers_converge_within_five_seconds(connections: list[int], seed: int) -> None:
    chance = random.Random(seed)
    total, spread = sum(connections), max(connections) - min(connections)
    for _ in range(50):
        tick(connections, None, chance)
        assert max(connections) - min(connections) <= spread + 3, "chance, at most"
    assert sum(connections) == total
    assert max(connections) - min(connections) <= 3


@settings(deadline=None)
@given(st.integers(2, 64), st.integers(0, 200), seeds)
def test_between_equals_nothing_moves(workers: int, connections: int, seed: int) -> None:
    chance = random.Random(seed)
    those = [connections + chance.randrange(2) for _ in range(workers)]
    busy = [chance.randrange(60) for _ in range(workers)]
    assert tick(those, busy, chance) == 0


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 16), st.integers(20, 200), seeds)
def test_a_busy_worker_sheds_a_part_and_keeps_the_rest(
    workers: int, connections: int, seed: int
) -> None:
    """One uses a whole processor, whatever it has; the others hardly anything."""
    chance = random.Random(seed)
    those = [connections] * workers
    busy = [1000] + [100] * (workers - 1)
    for _ in range(100):
        tick(those, busy, chance)
    assert connections * 0.1 <= those[0] <= connections * 0.95
    calm = those.copy()
    for _ in range(50):
        tick(calm, busy, chance)
    assert abs(calm[0] - those[0]) <= 3, "and there it stays"


def test_what_is_given_at_once_is_bounded() -> None:
    chance = random.Random(0)
    assert len(shed(loads([100_000, 0]), 0, chance)) == MOST


def test_siblings_shed_by_all_figures() -> None:
    with place(41, 1, 20, 18) as there:
        siblings = there.siblings()
        assert len(siblings.to_shed(41, 0)) in (5, 6)
        there.wait_for(1, 60)
        assert set(siblings.to_shed(41, 0)) <= {2, 3}
        there.set(2, Word.CONNECTIONS, 40)
        there.set(3, Word.CONNECTIONS, 40)
        assert siblings.to_shed(41, 0) == []
        assert len(siblings.to_shed(41, 1000)) in (4, 5)
        assert siblings.to_shed(1, 1000) == []
