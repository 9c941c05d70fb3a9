"""Loops that hang: who is warned of, who is ended, and who is not judged at all."""

from __future__ import annotations

import pytest

from asgi_supervise.policy import vocabulary as v
from tests.host.fake import STACKS, Script
from tests.policy.stage import Stage, serving

PLACE = "at /srv/app/slow.py:7 in crunch"


def test_a_loop_that_hangs_is_told_once_with_the_line_and_again_when_it_turns() -> None:
    stage = serving()
    stage.host.hang(stage.host.in_slot(1), for_s=3.0)
    stage.pass_time(2.0)
    (warning,) = stage.said_with("warning:", "its loop is stuck for")
    assert warning.startswith("warning: worker slot=1 gen=1 pid=102: its loop is stuck for 0.")
    assert PLACE in warning
    assert warning.endswith(STACKS.rstrip())
    stage.pass_time(3.0)
    (again,) = stage.said_with("its loop turns again; it was stuck for")
    assert again.startswith("info: worker slot=1 gen=1 pid=102: its loop turns again; it was stuck")
    stuck_s = float(again.split()[-2])
    assert 2.5 <= stuck_s <= 3.25
    assert stage.host.ready_slots() == [0, 1]
    stage.stop()


def test_what_is_shorter_than_the_limit_is_not_told() -> None:
    stage = serving(stall_warn_s=2.0)
    stage.host.hang(stage.host.in_slot(0), for_s=1.5)
    stage.pass_time(5.0)
    assert not stage.said_with("loop")
    assert not [act for act in stage.acts if isinstance(act, v.DumpStacks)]


def test_what_hangs_again_and_again_at_one_place_is_told_seldom() -> None:
    stage = serving()
    for _ in range(8):
        stage.host.hang(stage.host.in_slot(0), for_s=1.0)
        stage.pass_time(2.0)
    first, second = stage.said_with("warning:", "stuck for")
    assert "Current thread" in first
    assert "Current thread" not in second
    assert "(4 more like it since the last report) (as reported above)" in second


def test_one_that_hangs_for_good_is_aborted_and_replaced() -> None:
    stage = serving(worker_timeout_s=5.0)
    victim = stage.host.in_slot(1)
    stage.host.hang(victim)
    began = stage.host.now()
    stage.until(lambda: victim not in stage.host.workers)
    assert 5 <= stage.host.now() - began <= 6
    (line,) = stage.said_with("error:", "(worker-timeout)", "aborting it")
    assert line.startswith("error: worker slot=1 gen=1 pid=102: its loop is stuck for 5.")
    assert PLACE in line
    stage.until(stage.full)
    assert stage.said_with("warning:", "slot=1", "was killed by SIGABRT after", "replacing it")
    assert stage.supervisor.deaths.crashes == 1
    kinds = [type(act) for act in stage.acts]
    assert kinds.count(v.AbortWorker) == 1
    assert v.KillWorker not in kinds


def test_one_that_survives_the_abortion_is_killed() -> None:
    stage = Stage(workers=1, worker_timeout_s=5.0)
    stage.script(Script.DEAF)
    stage.until(stage.full)
    stage.host.hang(1)
    stage.script()
    stage.until(lambda: 1 not in stage.host.workers)
    stage.until(stage.full)
    assert stage.said_with("was killed by SIGKILL from the master after")


@pytest.mark.parametrize("late_s", [5.0, 100.0, 10_000.0])
def test_when_the_master_was_late_nobody_is_judged(late_s: float) -> None:
    stage = serving(worker_timeout_s=5.0)
    # All were stopped together: the loops have not turned either, and turn again soon.
    for number in list(stage.host.workers):
        stage.host.hang(number, for_s=late_s + 0.1)
    stage.host.clock += late_s
    stage.pass_time(20.0)
    assert not stage.said_with("loop")
    assert stage.host.ready_slots() == [0, 1]
    assert stage.supervisor.deaths.crashes == 0


def test_a_master_that_is_always_late_still_finds_out() -> None:
    stage = serving(worker_timeout_s=5.0)
    victim = stage.host.in_slot(0)
    stage.host.hang(victim)
    for _ in range(100):
        stage.host.clock += 1.0
        stage.turn()
    assert victim not in stage.host.workers


@pytest.mark.parametrize("warn_s", [None, 0.25])
def test_limits_can_be_off(warn_s: float | None) -> None:
    stage = serving(worker_timeout_s=None, stall_warn_s=warn_s)
    stage.host.hang(stage.host.in_slot(0), for_s=100.0)
    stage.pass_time(120.0)
    assert stage.supervisor.deaths.crashes == 0
    assert bool(stage.said_with("stuck")) is (warn_s is not None)


def test_one_that_leaves_has_its_own_deadline() -> None:
    stage = serving(worker_timeout_s=2.0, graceful_timeout_s=10.0)
    stage.host.hang(stage.host.in_slot(0))
    began = stage.host.now()
    stage.ask(v.Intent.STOP)
    stage.until(stage.done)
    assert 10 <= stage.host.now() - began <= 11
    assert not [act for act in stage.acts if isinstance(act, v.AbortWorker)]


def test_stacks_that_never_come_are_not_waited_for() -> None:
    stage = serving(worker_timeout_s=5.0)
    stage.host.read_stacks = lambda generation, worker: None  # type: ignore[method-assign]
    victim = stage.host.in_slot(0)
    stage.host.hang(victim)
    stage.pass_time(10.0)
    assert victim not in stage.host.workers
    assert stage.said_with("at an unknown place (it wrote no stack)")


def test_a_late_starter_says_where_it_hangs() -> None:
    stage = Stage(workers=2, startup_timeout_s=10.0)
    stage.script(Script.HANGS, Script.OBEDIENT)
    stage.until(lambda: bool(stage.said_with("cannot start")))
    (line,) = stage.said_with("cannot start")
    assert "slot=0" in line
    assert f"not ready within 10 s (startup-timeout); it hangs {PLACE}" in line
    assert line.endswith(STACKS.rstrip())
    stage.script()
    stage.until(stage.full)


def test_what_hangs_in_native_code_is_asked_a_second_time() -> None:
    stage = serving(stall_warn_s=0.5)
    stage.host.in_native_code = True
    stage.host.hang(stage.host.in_slot(0))
    stage.until(lambda: bool(stage.said_with("is stuck", "/srv/app/slow.py:7 in crunch")))
    asked = [act.native for act in stage.acts if isinstance(act, v.DumpStacks)]
    assert asked == [False, True]


@pytest.mark.parametrize("state", ["T", "t", "D", "Z", ""])
def test_who_cannot_answer_is_not_asked_a_second_time(state: str) -> None:
    stage = serving(stall_warn_s=0.5)
    stage.host.state = state
    stage.host.in_native_code = True
    stage.host.hang(stage.host.in_slot(0))
    stage.until(lambda: bool(stage.said_with("is stuck")))
    assert [act.native for act in stage.acts if isinstance(act, v.DumpStacks)] == [False]
