"""Stalls by themselves, and what is said of them: when it is looked, judged, asked, told."""

from __future__ import annotations

import math
from typing import Literal

import pytest

from asgi_supervise.policy import vocabulary as v
from asgi_supervise.policy.health import Rules
from asgi_supervise.policy.stalls import ANSWER_S, DUMP_S, LOOK_S, QUIET_S, Purpose, Stall, Stalls
from asgi_supervise.policy.wording import guilty_frame
from tests.host.fake import Script
from tests.policy.stage import Stage, serving

RULES = Rules(workers=2, stall_warn_s=0.5, worker_timeout_s=2.0)
OFF = Rules(workers=2, stall_warn_s=None, worker_timeout_s=None, balance="off")


def looking(now: float) -> Stalls:
    """Looks since before ``now``, and was never late."""
    stalls = Stalls()
    stalls.schedule(True, RULES, now - LOOK_S)
    assert stalls.looks(now - LOOK_S)
    assert stalls.looks(now)
    return stalls


def judge(
    stalls: Stalls, promises: dict[int, float], now: float, rules: Rules = RULES
) -> list[tuple[int, float, Purpose | None]]:
    return [(w, stall.stuck_s, why) for w, stall, why in stalls.judge(promises, rules, now)]


def test_it_looks_ten_times_a_second_while_somebody_serves() -> None:
    stalls = Stalls()
    assert stalls.deadline() == math.inf
    stalls.schedule(True, RULES, 100.0)
    assert stalls.deadline() == 100.0
    assert stalls.looks(100.0)
    assert not stalls.looks(100.09)
    stalls.schedule(True, RULES, 100.09)
    assert stalls.deadline() == 100.1
    assert stalls.looks(100.1)
    stalls.schedule(False, RULES, 100.15)
    assert stalls.deadline() == math.inf
    assert not stalls.looks(200.0)


@pytest.mark.parametrize(
    ("warn_s", "timeout_s", "balance", "looks"),
    [
        (None, None, "off", False),
        (None, None, "kernel", True),
        (None, None, "exact", True),
        (1.0, None, "off", True),
        (None, 1.0, "off", True),
        (1.0, 1.0, "exact", True),
    ],
)
def test_it_looks_only_if_somebody_wants_to_know(
    warn_s: float | None,
    timeout_s: float | None,
    balance: Literal["exact", "kernel", "off"],
    looks: bool,
) -> None:
    stalls = Stalls()
    rules = Rules(workers=1, stall_warn_s=warn_s, worker_timeout_s=timeout_s, balance=balance)
    stalls.schedule(True, rules, 100.0)
    assert stalls.looks(100.0) is looks


def test_when_nobody_is_watched_any_more_stalls_are_forgotten() -> None:
    stalls = looking(100.0)
    judge(stalls, {1: 99.9}, 100.0)
    stalls.schedule(True, OFF, 100.1)
    stalls.schedule(True, RULES, 300.0)
    assert stalls.stuck == {}
    assert stalls.looks(300.0)
    assert stalls.gap_s == 0.0, "in between nobody looked"


def test_a_stall_grows_by_what_the_master_saw_and_is_told_of_at_each_limit() -> None:
    stalls = looking(100.0)
    assert judge(stalls, {1: 99.9, 2: 100.0}, 100.0) == []
    assert stalls.stuck[1].stuck_s == pytest.approx(0.1)
    assert list(stalls.stuck) == [1], "the other has kept its promise"
    told = []
    for look in range(1, 25):
        now = 100.0 + look * LOOK_S
        assert stalls.looks(now)
        told += judge(stalls, {1: 99.9, 2: now}, now)
    assert [(worker, why) for worker, _, why in told] == [(1, Purpose.WARN), (1, Purpose.CONDEMN)]
    assert [stuck_s for _, stuck_s, _ in told] == [pytest.approx(0.5), pytest.approx(2.0)]


def test_limits_count_when_they_are_reached() -> None:
    stalls = looking(100.0)
    rules = Rules(workers=1, stall_warn_s=0.125, worker_timeout_s=0.25)
    assert stalls.looks(100.125)
    assert judge(stalls, {1: 100.0}, 100.125, rules) == [(1, 0.125, Purpose.WARN)]
    assert stalls.looks(100.25)
    assert judge(stalls, {1: 100.0}, 100.25, rules) == [(1, 0.25, Purpose.CONDEMN)]


def test_who_is_condemned_at_once_is_not_warned_of_later() -> None:
    stalls = looking(100.0)
    rules = Rules(workers=1, stall_warn_s=0.09, worker_timeout_s=0.05)
    assert [why for _, _, why in judge(stalls, {1: 99.8}, 100.0, rules)] == [Purpose.CONDEMN]
    assert stalls.looks(100.1)
    assert judge(stalls, {1: 99.8}, 100.1, rules) == []


@pytest.mark.parametrize(("gap_s", "first_s", "then_s"), [(0.34, 0.34, 0.34), (0.36, 0.0, LOOK_S)])
def test_a_late_master_counts_no_more_than_one_look(
    gap_s: float, first_s: float, then_s: float
) -> None:
    stalls = looking(100.0)
    now = 100.0 + gap_s
    assert stalls.looks(now)
    judge(stalls, {1: 50.0}, now)
    assert stalls.stuck[1].stuck_s == pytest.approx(first_s)
    now += gap_s
    assert stalls.looks(now)
    judge(stalls, {1: 50.0}, now)
    assert stalls.stuck[1].stuck_s == pytest.approx(first_s + then_s)


@pytest.mark.parametrize("reported", [False, True])
def test_that_it_turns_again_is_told_if_it_was_told_that_it_hangs(reported: bool) -> None:
    stalls = looking(100.0)
    judge(stalls, {1: 99.8}, 100.0)
    stall = stalls.stuck[1]
    stall.reported = reported
    told = list(stalls.judge({1: 100.5}, RULES, 100.25))
    assert told == ([(1, stall, None)] if reported else [])
    assert stall.over
    assert stalls.stuck == {}


def test_of_one_that_is_not_watched_any_more_nothing_is_told() -> None:
    stalls = looking(100.0)
    judge(stalls, {1: 99.8, 2: 99.8}, 100.0)
    stalls.stuck[1].reported = stalls.stuck[2].reported = True
    assert [worker for worker, _, _ in judge(stalls, {2: 101.0}, 100.25)] == [2]
    assert stalls.stuck == {}


def test_stacks_are_read_once_they_had_time_to_be_written_and_waited_for_no_longer() -> None:
    stalls, stall = Stalls(), Stall()
    stalls.ask((1, 7), Purpose.WARN, stall, 100.0)
    stalls.ask((1, None), Purpose.UNREADY, stall, 100.1)
    assert stalls.deadline() == 100.0 + DUMP_S
    assert stalls.to_read(100.0) == []
    assert stalls.to_read(100.0 + DUMP_S) == [(1, 7)]
    assert stalls.to_read(100.0 + DUMP_S) == []
    assert stalls.deadline() == 100.1 + DUMP_S
    stalls.forget((1, None))
    assert stalls.deadline() == 100.0 + DUMP_S + ANSWER_S
    assert stalls.unanswered(101.0) == []
    assert stalls.unanswered(100.0 + DUMP_S + ANSWER_S) == [(1, 7)]
    stalls.stuck[7] = stall
    stalls.forget((1, 7))
    assert (stalls.inquiries, stalls.stuck, stalls.deadline()) == ({}, {}, math.inf)


def test_a_place_is_news_again_after_a_while() -> None:
    stalls = Stalls()
    assert stalls.is_news("here", 100.0) == (True, 0)
    assert stalls.is_news("there", 100.0) == (True, 0)
    for left_out in range(3):
        assert stalls.is_news("here", 109.9) == (False, left_out)
    assert stalls.is_news("here", 100.0 + QUIET_S) == (True, 3)
    assert stalls.is_news("here", 121.0) == (True, 0)


def test_places_that_always_differ_do_not_fill_the_memory() -> None:
    stalls = Stalls()
    for number in range(1000):
        stalls.is_news(f"place {number}", 100.0)
    assert len(stalls._last_reports) <= 101


# --- what the master makes of it ----------------------------------------------------------------


def answer_after(stage: Stage, seconds: float, text: str = "", state: str = "S") -> None:
    """Stacks come late from now on."""

    def read(generation: int, worker: int | None) -> None:
        stage.host.happens(v.StacksRead(generation, worker, text, state), seconds)

    stage.host.read_stacks = read  # type: ignore[method-assign]


def dumps(stage: Stage) -> int:
    return sum(isinstance(act, v.DumpStacks) for act in stage.acts)


def test_one_that_turns_again_before_it_is_aborted_lives_on() -> None:
    stage = serving(worker_timeout_s=5.0)
    answer_after(stage, 0.5)
    stage.host.hang(1, for_s=5.4)
    stage.until(lambda: dumps(stage) == 2)
    stage.pass_time(5.0)
    assert not stage.said_with("aborting it")
    assert stage.said_with("info: worker slot=0", "its loop turns again")
    assert stage.host.ready_slots() == [0, 1]
    assert stage.supervisor.deaths.crashes == 0


def test_one_that_is_told_to_leave_before_it_is_aborted_has_its_time() -> None:
    stage = serving(worker_timeout_s=5.0, graceful_timeout_s=10.0)
    stage.host.hang(1)
    stage.until(lambda: dumps(stage) == 2)
    assert 10 <= stage.stop() < 11
    assert not stage.said_with("aborting it")


def test_a_short_stall_is_told_of_as_past() -> None:
    stage = serving()
    answer_after(stage, 0.5)
    stage.host.hang(1, for_s=0.7)
    stage.pass_time(5.0)
    (line,) = stage.said_with("warning: worker slot=0 gen=1 pid=101: its loop")
    assert line.split(": its loop ")[1].startswith("was stuck for 0.")
    assert not stage.said_with("more like it")
    assert not stage.said_with("turns again")


def test_the_kernel_s_word_is_told_when_no_stack_was_written() -> None:
    stage = serving()
    answer_after(stage, 0.0, state="D")
    stage.host.hang(1, for_s=2.0)
    stage.pass_time(5.0)
    (line,) = stage.said_with("warning: worker slot=0", "stuck")
    assert line.endswith("in the kernel (uninterruptible wait)")


def test_places_are_told_of_each_by_itself() -> None:
    stage = serving()
    for state in "TD":
        answer_after(stage, 0.0, state=state)
        stage.host.hang(1, for_s=1.0)
        stage.pass_time(3.0)
    assert len(stage.said_with("warning: worker slot=0", "is stuck")) == 2


def test_stacks_nobody_waits_for_are_ignored() -> None:
    stage = serving()
    lines = len(stage.said)
    stage.host.happens(v.StacksRead(1, 1, "", "S"))
    stage.host.happens(v.StacksRead(1, 99, "", "S"))
    stage.host.happens(v.StacksRead(99, None, "", "S"))
    stage.pass_time(1.0)
    assert len(stage.said) == lines


def test_one_that_dies_while_its_stacks_are_read_is_not_waited_for() -> None:
    stage = serving()
    stage.host.hang(1)
    stage.until(lambda: dumps(stage) == 1)
    stage.host.crash_worker(1, -9)
    stage.pass_time(1.0)
    assert not stage.said_with("stuck")


def test_a_late_starter_is_worded_also_when_the_master_is_late() -> None:
    stage = Stage(workers=2, startup_timeout_s=10.0)
    stage.script(Script.HANGS, Script.OBEDIENT)
    stage.until(lambda: dumps(stage) == 1)
    stage.host.clock += 10
    stage.script()
    stage.until(stage.full)
    assert stage.said_with("slot=0", "cannot start: not ready within 10 s (startup-timeout); it h")


def test_a_late_starter_whose_stacks_do_not_come_is_killed_all_the_same() -> None:
    stage = Stage(workers=1, startup_timeout_s=10.0)
    stage.script(Script.HANGS)
    stage.host.read_stacks = lambda generation, worker: None  # type: ignore[method-assign]
    stage.until(stage.done)
    assert stage.said_with("it hangs at an unknown place (it wrote no stack)")
    assert dumps(stage) == 1
    killed_after_s = stage.host.now() - 1000.0
    assert 10.0 + DUMP_S + ANSWER_S <= killed_after_s < 11.5


def test_one_that_gets_ready_while_its_stacks_are_read_lives_on() -> None:
    stage = Stage(workers=1, startup_timeout_s=10.0)
    stage.script(Script.HANGS)
    stage.until(lambda: dumps(stage) == 1)
    stage.host.happens(v.WorkerBecameReady(1))
    stage.host.workers[1].ready = True
    stage.until(stage.full)
    stage.pass_time(5.0)
    assert not stage.said_with("cannot start")
    assert list(stage.host.workers) == [1]


def test_the_loop_s_thread_is_guilty_wherever_it_stands() -> None:
    loop = 'Current thread 0x02 (most recent call first):\n  File "/srv/a.py", line 1 in f\n'
    other = 'Thread 0x01 (most recent call first):\n  File "/srv/b.py", line 2 in g\n'
    for dump in (loop + "\n" + other, other + "\n" + loop):
        assert guilty_frame(dump) == "/srv/a.py:1 in f"
    assert guilty_frame(other) == "/srv/b.py:2 in g"


@pytest.mark.parametrize(("balance", "pause_s"), [("exact", 2.0), ("kernel", 1.0), ("off", 1.0)])
def test_while_all_rest_it_looks_seldom_until_one_wakes(
    balance: Literal["exact", "kernel", "off"], pause_s: float
) -> None:
    rules = Rules(workers=2, balance=balance)
    stalls = Stalls()
    stalls.rest(rules)
    stalls.wake(99.0)
    assert stalls.deadline() == math.inf, "nobody is watched"
    stalls.schedule(True, rules, 100.0 - pause_s)
    assert stalls.looks(100.0 - pause_s)
    stalls.rest(rules)
    assert stalls.deadline() == 100.0
    assert stalls.looks(100.0)
    assert not stalls.late
    stalls.rest(rules)
    stalls.wake(100.1)
    assert stalls.deadline() == pytest.approx(100.2)
    stalls.wake(100.9)
    assert stalls.deadline() == pytest.approx(100.2), "it is as soon as it was"


def test_one_that_hangs_is_looked_at_often_though_the_others_rest() -> None:
    stalls = looking(100.0)
    judge(stalls, {1: 99.9}, 100.0)
    stalls.rest(RULES)
    assert stalls.deadline() == 100.1


def test_a_resting_fleet_costs_few_looks_and_hangs_are_still_told() -> None:
    stage = Stage(workers=2)
    stage.until(stage.full)
    stage.host.resting = True
    stage.turn()
    before = len([act for act in stage.acts if isinstance(act, v.LookAtFigures)])
    end = stage.host.now() + 10
    stage.until(lambda: stage.host.now() >= end)
    looks = len([act for act in stage.acts if isinstance(act, v.LookAtFigures)]) - before
    assert 5 <= looks <= 7
    stage.host.hang(stage.host.in_slot(0))
    stage.host.happens(v.WorkerAwoke(1))
    stage.host.resting = False
    began = stage.host.now()
    stage.until(lambda: bool(stage.said_with("is stuck")))
    assert stage.host.now() - began < 1.0
