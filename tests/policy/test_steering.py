"""Where new connections go: weights for the kernel, rescue, the share of a canary."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_supervise.policy import vocabulary as v
from asgi_supervise.policy.fleet import Fleet
from asgi_supervise.policy.health import Rules
from asgi_supervise.policy.lifecycle import Change
from asgi_supervise.policy.lives import Lives
from asgi_supervise.policy.stalls import LOOK_S
from asgi_supervise.policy.steering import (
    CLEARLY,
    MOST,
    WHOLE,
    Load,
    Steering,
    clearly_differ,
    weights,
)
from asgi_supervise.policy.watching import Watch
from asgi_supervise.policy.wording import Journal
from tests.host.fake import Script
from tests.policy.stage import Stage, serving

SOON_S = 0.3
figures = st.integers(0, 20_000), st.floats(0, 16), st.floats(0, 60)
loads = st.lists(st.none() | st.builds(Load, *figures, st.just(False)), min_size=1, max_size=64)


# --- weights -------------------------------------------------------------------------------------


def test_those_with_the_same_load_weigh_the_same() -> None:
    assert weights([Load(7, 0.5)] * 3) == (WHOLE,) * 3
    assert weights([Load(0, 0.0)]) == (WHOLE,)


def test_a_slot_in_which_nobody_accepts_gets_nothing() -> None:
    assert weights([Load(7, 0.5), None, Load(7, 0.5)]) == (WHOLE, 0, WHOLE)


def test_if_nobody_accepts_all_are_alike() -> None:
    assert weights([None, None]) == (WHOLE, WHOLE)


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        ([Load(100, 0.0), Load(0, 0.0)], (9, 64)),
        ([Load(4000, 0.0), Load(4000, 0.0), Load(0, 0.0)], (11, 11, MOST)),
        ([Load(0, 1.0), Load(0, 0.0)], (10, 48)),
        ([Load(2, 0.1), Load(0, 0.0)], (12, 22)),
        ([Load(0, 0.0, 2.0), Load(0, 0.0, 0.0)], (10, 48)),
        ([Load(0, 0.0, 0.1), Load(0, 0.0, 0.0)], (15, 18)),
        ([Load(10**9, 16.0), *[Load(0, 0.0)] * 63], (1, *[MOST] * 63)),
    ],
)
def test_who_is_loaded_more_gets_less(load: list[Load], expected: tuple[int, ...]) -> None:
    assert weights(load) == expected


@given(loads)
def test_somebody_gets_it_and_those_who_accept_get_some(load: Sequence[Load | None]) -> None:
    found = weights(load)
    assert len(found) == len(load)
    assert all(0 <= weight <= MOST for weight in found)
    if any(load):
        assert [weight > 0 for weight in found] == [one is not None for one in load]
    known = [(one, weight) for one, weight in zip(load, found, strict=True) if one is not None]
    for (one, weight), (other, others) in itertools.pairwise(known):
        if all(mine >= theirs for mine, theirs in zip(one, other, strict=True)):
            assert weight <= others


@given(st.lists(st.none() | st.builds(Load, *figures, st.just(True)), min_size=1, max_size=64))
def test_if_all_gather_the_first_gets_it_all(load: Sequence[Load | None]) -> None:
    known = [one for one in load if one is not None]
    if len(known) > 1:
        first = load.index(known[0])
        assert weights(load) == tuple(WHOLE if n == first else 0 for n in range(len(load)))
    with_another = weights([*load, Load(0, 0.0)])
    assert [weight > 0 for weight in with_another] == [one is not None for one in [*load, 1]]


@pytest.mark.parametrize(
    ("one", "other", "differ"),
    [
        ((16, 16), (16, 16), False),
        ((16, 16), (23, 16), False),
        ((16, 16), (24, 16), True),
        ((24, 16), (16, 16), True),
        ((1, 16), (0, 16), True),
        ((0, 16), (1, 16), True),
        ((0, 16), (0, 16), False),
    ],
)
def test_what_is_clearly_different(
    one: tuple[int, ...], other: tuple[int, ...], differ: bool
) -> None:
    assert clearly_differ(one, other) is differ


# --- in the fleet --------------------------------------------------------------------------------


def steered(stage: Stage) -> list[tuple[int, ...]]:
    return [act.weights for act in stage.acts if isinstance(act, v.Steer)]


def burden(
    stage: Stage, slot: int, connections: int, busy: float = 0.0, lag_s: float = 0.0
) -> None:
    """What the worker in ``slot`` says of itself from now on."""
    child = stage.host.workers[stage.host.in_slot(slot)]
    child.figures = msgspec.structs.replace(
        child.figures, connections=connections, busy=busy, lag_s=lag_s
    )


def seats(stage: Stage) -> set[int]:
    return {child.seat for child in stage.host.workers.values()}


def test_while_all_serve_the_kernel_is_left_alone() -> None:
    stage = Stage(workers=1)
    stage.until(stage.full)
    stage.reload()
    stage.until(stage.full)
    stage.stop()
    assert steered(stage) == []


def test_a_load_that_is_constant_but_for_chance_moves_no_weight() -> None:
    stage = serving()
    chance = itertools.cycle([(0, 3), (3, 0), (2, 2), (4, 1), (0, 2)])
    for _ in range(100):
        for slot, connections in enumerate(next(chance)):
            burden(stage, slot, connections, busy=0.6 - connections / 50, lag_s=connections / 40)
        stage.turn()
    assert steered(stage) == []


def test_the_kernel_is_told_at_most_once_a_look() -> None:
    stage = serving()
    before = len(stage.host.steered_at)
    for turn in range(60):
        looks = len([act for act in stage.acts if isinstance(act, v.LookAtFigures)])
        burden(stage, looks % 2, 0)
        burden(stage, (looks + 1) % 2, 1000)
        if turn % 3:
            stage.ask(v.Intent.REOPEN_LOGS)  # so that it decides more often than it looks
        stage.turn()
    told = stage.host.steered_at[before:]
    assert len(told) > 5
    assert all(second - first >= LOOK_S / 2 for first, second in itertools.pairwise(told))


def test_a_new_worker_among_loaded_ones_gets_more() -> None:
    stage = serving()
    burden(stage, 0, 200, busy=0.8)
    burden(stage, 1, 0)
    stage.until(lambda: stage.host.weights != ())
    few, many = stage.host.weights
    assert many >= CLEARLY * few


def test_requests_in_flight_and_a_loop_that_is_late_count() -> None:
    for figures in (v.Figures(0.0, 200, in_flight=200), v.Figures(0.0, 200, lag_s=2.0)):
        stage = serving()
        burden(stage, 1, 200)
        stage.host.workers[stage.host.in_slot(0)].figures = figures
        stage.until(lambda stage=stage: bool(steered(stage)))  # type: ignore[misc]
        few, many = stage.host.weights
        assert many >= CLEARLY * few


def gathering(stage: Stage, slot: int, gathers: bool = True) -> None:
    """Whether the worker in ``slot`` says that one queue would do."""
    child = stage.host.workers[stage.host.in_slot(slot)]
    child.figures = msgspec.structs.replace(child.figures, gathers=gathers)


def test_where_all_gather_there_is_one_queue() -> None:
    stage = Stage(workers=3)
    stage.until(stage.full)
    for slot in (0, 1):
        gathering(stage, slot)
    began = stage.host.now()
    stage.until(lambda: stage.host.now() > began + 3)
    assert steered(stage) == []
    gathering(stage, 2)
    stage.until(lambda: stage.host.weights == (WHOLE, 0, 0))
    assert stage.host.rescued[0] == ()
    stage.host.hang(stage.host.in_slot(0), for_s=5.0)
    stage.until(lambda: stage.host.weights == (0, WHOLE, 0))
    stage.until(lambda: stage.host.weights == (WHOLE, 0, 0))
    gathering(stage, 1, gathers=False)
    stage.until(lambda: stage.host.weights == (WHOLE,) * 3)


def test_one_that_is_left_alone_need_not_gather() -> None:
    stage = serving()
    for slot in (0, 1):
        gathering(stage, slot)
    stage.until(lambda: stage.host.weights == (WHOLE, 0))
    stage.host.hang(stage.host.in_slot(1), for_s=5.0)
    began = stage.host.now()
    stage.until(lambda: stage.host.now() > began + 3)
    assert stage.host.weights == (WHOLE, 0)


def test_a_slot_that_pauses_after_a_crash_gets_no_new_connections() -> None:
    stage = Stage(workers=3)
    stage.until(stage.full)
    stage.host.crash_worker(stage.host.in_slot(1), 1)
    stage.until(lambda: stage.host.weights == (WHOLE, 0, WHOLE))
    stage.until(stage.full)
    stage.turn()
    assert stage.host.weights == (WHOLE,) * 3


def test_a_stuck_worker_gets_no_new_connections_until_it_goes_on() -> None:
    stage = serving()
    began = stage.host.now()
    stage.host.hang(stage.host.in_slot(0), for_s=5.0)
    stage.until(lambda: stage.host.weights == (0, WHOLE))
    assert stage.host.now() - began <= SOON_S
    slots, among, takers = stage.host.rescued
    assert slots == (0,)
    assert stage.host.workers[stage.host.in_slot(0)].seat in among
    assert takers == (stage.host.in_slot(1),)
    stage.until(lambda: stage.host.weights == (WHOLE, WHOLE))
    assert 5.0 <= stage.host.now() - began <= 5.0 + SOON_S
    assert stage.host.rescued[0] == ()


@pytest.mark.parametrize("limit_s", [None, 60.0])
def test_stuck_workers_are_steered_around_whether_they_are_warned_of_or_not(
    limit_s: float | None,
) -> None:
    stage = serving(stall_warn_s=limit_s, worker_timeout_s=None)
    stage.host.hang(stage.host.in_slot(0), for_s=2.0)
    stage.until(lambda: stage.host.weights == (0, WHOLE))
    stage.until(lambda: stage.host.weights == (WHOLE, WHOLE))
    assert stage.said_with("stuck") == []


def test_a_worker_that_drains_by_itself_gets_no_new_connections() -> None:
    stage = serving()
    child = stage.host.workers[stage.host.in_slot(1)]
    child.figures = msgspec.structs.replace(child.figures, accepts=False)
    stage.until(lambda: stage.host.weights == (WHOLE, 0))
    assert stage.host.rescued[0] == (1,)


def test_what_waits_for_a_dead_worker_is_given_to_the_others_at_once() -> None:
    stage = serving()
    dead = stage.host.in_slot(1)
    seat = stage.host.workers[dead].seat
    stage.host.scripts = lambda slot: Script.HANGS
    stage.host.crash_worker(dead, -11)
    stage.until(lambda: dead in stage.host.reaped)
    stage.turn()
    slots, among, takers = stage.host.rescued
    assert slots == (1,)
    assert seat in among
    assert takers == (stage.host.in_slot(0),)


def test_when_all_hang_nothing_is_taken_that_nobody_could_be_given() -> None:
    stage = serving()
    for slot in (0, 1):
        stage.host.hang(stage.host.in_slot(slot), for_s=3.0)
    stage.pass_time(1.0)
    assert stage.host.rescued == ((), (), ())
    assert steered(stage)[-1:] in ([], [(WHOLE, WHOLE)]), "who comes first is not known"


def test_what_waits_for_one_that_leaves_is_given_to_the_others_for_it_may_hang() -> None:
    stage = serving()
    stage.script(Script.DEAF, Script.DEAF)
    old = stage.host.in_slot(0)
    seat = stage.host.workers[old].seat
    stage.host.hang(old, for_s=math.inf)
    stage.ask(v.Intent.RELOAD)
    stage.until(lambda: any(isinstance(a, v.DrainWorker) and a.worker == old for a in stage.acts))
    assert old in stage.host.workers
    slots, among, takers = stage.host.rescued
    assert slots == ()
    assert seat in among
    assert old not in takers


def test_when_the_service_stops_nothing_is_rescued() -> None:
    stage = serving()
    stage.host.hang(stage.host.in_slot(0), for_s=2.0)
    stage.until(lambda: stage.host.rescued[0] == (0,))
    stage.ask(v.Intent.STOP)
    stage.until(stage.done)
    assert stage.host.rescued == ((), (), ())


def test_with_balance_off_the_kernel_is_left_alone_and_queues_are_not_rescued() -> None:
    stage = serving(balance="off")
    stage.host.hang(stage.host.in_slot(0), for_s=3.0)
    stage.host.crash_worker(stage.host.in_slot(1), 1)
    for _ in range(60):
        stage.turn()
    assert steered(stage) == []
    assert stage.host.rescued[0] == ()


def test_with_balance_off_nobody_looks_if_nobody_wants_to_know() -> None:
    stage = serving(balance="off", stall_warn_s=None, worker_timeout_s=None)
    before = len(stage.acts)
    stage.pass_time(60.0)
    assert not any(isinstance(act, v.LookAtFigures) for act in stage.acts[before:])


def test_a_reload_that_turns_balance_off_ends_steering() -> None:
    stage = serving()
    stage.generations.rules = Rules(workers=2, balance="off")
    burden(stage, 0, 1000)
    stage.until(lambda: bool(steered(stage)))
    stage.reload()
    stage.until(stage.full)
    assert stage.host.weights == (WHOLE, WHOLE)
    assert stage.host.rescued[0] == ()


def test_what_waits_for_a_worker_that_hangs_is_rescued_also_when_balance_is_turned_off() -> None:
    stage = serving()
    old, other = stage.host.in_slot(0), stage.host.in_slot(1)
    seat = stage.host.workers[old].seat
    stage.script(Script.DEAF, Script.DEAF)
    stage.generations.rules = Rules(workers=2, balance="off")
    stage.host.hang(old)
    stage.ask(v.Intent.RELOAD)
    stage.until(lambda: any(isinstance(a, v.DrainWorker) and a.worker == old for a in stage.acts))
    slots, among, takers = stage.host.rescued
    assert slots == ()
    assert seat in among
    assert other in takers


def test_only_what_is_other_than_before_is_news() -> None:
    journal, fleet, rules = Journal(), Fleet(), Rules(workers=2)
    watch = Watch(fleet, Lives(fleet, {1: rules}, journal), journal, lambda *_: None)
    steering = Steering(fleet, watch, journal, 2)
    figures = v.Figures(7.0, 3, in_flight=1, lag_s=0.2, busy=0.5)
    others = (
        v.Figures(7.0, 4, in_flight=1, lag_s=0.2, busy=0.5),
        v.Figures(7.0, 3, in_flight=2, lag_s=0.2, busy=0.5),
        v.Figures(7.0, 3, in_flight=1, lag_s=0.3, busy=0.5),
        v.Figures(7.0, 3, in_flight=1, lag_s=0.2, busy=0.6),
        v.Figures(7.0, 3, in_flight=1, lag_s=0.2, busy=0.5, accepts=False),
    )
    assert steering.seen(v.FiguresSeen({1: figures}, resting=False))
    for other in others:
        assert steering.seen(v.FiguresSeen({1: other}, resting=False))
        assert steering.seen(v.FiguresSeen({1: figures}, resting=False))
    about_the_same = v.Figures(8.0, 3, in_flight=1, lag_s=0.2001, busy=0.5001)
    assert not steering.seen(v.FiguresSeen({1: about_the_same}, resting=False))
    assert steering.seen(v.FiguresSeen({1: figures, 2: figures}, resting=False))


def test_other_settings_are_news_though_the_fleet_is_as_it_was() -> None:
    """As on the way back from a generation of which no worker but the first got ready."""
    journal, fleet, rules = Journal(), Fleet(), Rules(workers=2)
    lives = Lives(fleet, {1: rules}, journal)
    watch = Watch(fleet, lives, journal, lambda *_: None)
    steering = Steering(fleet, watch, journal, 2)
    for slot in range(2):
        worker = fleet.enlist(slot, 1, 60.0)
        lives.step(worker, Change.FORKED, 0.0)
        lives.step(worker, Change.BECAME_READY, 0.0)
    loads = {1: v.Figures(7.0, 1000), 2: v.Figures(7.0, 0)}
    steering.seen(v.FiguresSeen(loads, resting=False))
    told = []
    for balance in ("off", "exact", "off"):
        steering.decide(msgspec.structs.replace(rules, balance=balance), None)
        told.append([act.weights for act in journal.take() if isinstance(act, v.Steer)])
    assert told == [[], [(8, MOST)], [(WHOLE, WHOLE)]]


# --- canaries ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weight", "balance", "share"),
    [
        (None, "exact", 1 / 3),
        (0.1, "exact", 0.1),
        (1.0, "kernel", 1.0),
        (None, "kernel", 1 / 3),
        (None, "off", None),
    ],
)
def test_a_canary_gets_its_share_until_its_generation_is_accepted(
    weight: float | None, balance: str, share: float | None
) -> None:
    stage = serving()
    stage.generations.rules = msgspec.convert(
        {"workers": 2, "canary_weight": weight, "balance": balance}, Rules
    )
    stage.ask(v.Intent.RELOAD)
    stage.until(lambda: 2 in stage.generations_serving())
    assert [child.share for child in stage.host.serving() if child.generation == 2] == [share]
    stage.until(stage.full)
    assert [child.share for child in stage.host.serving()] == [None, None]
    spawned = [act for act in stage.acts if isinstance(act, v.SpawnWorker)]
    assert [act.share for act in spawned if act.generation == 2] == [share, None]


@pytest.mark.parametrize("balance", ["exact", "kernel"])
def test_a_canary_beside_workers_that_give_nothing_accepts_like_them(balance: str) -> None:
    stage = serving(balance="off")
    stage.generations.rules = msgspec.convert({"workers": 2, "balance": balance}, Rules)
    stage.ask(v.Intent.RELOAD)
    stage.until(lambda: 2 in stage.generations_serving())
    assert [child.share for child in stage.host.serving()] == [None] * 3
    stage.until(stage.full)


def test_it_is_promoted_before_the_one_beside_it_leaves() -> None:
    stage = serving()
    stage.reload()
    stage.until(stage.full)
    kinds = [type(act) for act in stage.acts]
    assert kinds.index(v.PromoteWorker) < kinds.index(v.DrainWorker)


def test_a_canary_on_trial_does_not_make_its_slot_accept() -> None:
    stage = serving()
    stage.generations.rules = Rules(workers=2, bake_s=30.0)
    stage.ask(v.Intent.RELOAD)
    stage.until(lambda: 2 in stage.generations_serving())
    canary = next(w for w in stage.supervisor.fleet.workers.values() if w.generation == 2)
    stage.host.hang(stage.host.in_slot(canary.slot), for_s=2.0)  # the one beside it
    stage.until(lambda: stage.host.weights[canary.slot : canary.slot + 1] == (0,))
    slots, among, takers = stage.host.rescued
    assert slots == (canary.slot,)
    assert canary.number in takers
    assert canary.seat not in among


def test_the_slot_of_the_canary_still_weighs_as_its_worker_serves() -> None:
    stage = serving()
    before = steered(stage)
    stage.host.generation_scripts[2] = Script.HANGS
    stage.ask(v.Intent.RELOAD)
    for _ in range(40):
        stage.turn()
    assert steered(stage) == before


def test_a_slot_that_could_not_start_gets_none() -> None:
    stage = Stage(workers=2, max_restarts=1000)
    stage.script(Script.OBEDIENT, Script.BOOT_FAILS)
    stage.until(stage.serving)
    stage.turn()
    assert stage.host.weights == (WHOLE, 0)


def test_no_seat_of_one_who_takes_is_emptied_by_the_master() -> None:
    stage = serving()
    for _ in range(3):
        stage.reload()
        stage.until(stage.full)
    assert not set(stage.host.rescued[1]) & seats(stage)
