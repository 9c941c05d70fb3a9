"""Rollouts that meet with something else: hanging canaries, refused forks, templates that end."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from asgi_supervise.policy import vocabulary as v
from asgi_supervise.policy.rollout import Step
from tests.host.fake import Script
from tests.policy.stage import Stage


def serving(**rules: Any) -> Stage:
    stage = Stage(workers=3, **rules)
    stage.until(stage.full)
    stage.host.clock += 60
    return stage


def pass_time(stage: Stage, seconds: float) -> None:
    end = stage.host.now() + seconds
    stage.host.later(seconds, lambda: None)
    stage.until(lambda: stage.host.now() >= end)


def until_rolling(stage: Stage) -> None:
    stage.ask(v.Intent.RELOAD)
    stage.until(lambda: stage.supervisor.reloads.generation == 2)
    current = stage.supervisor.reloads.current
    assert current is not None
    assert current.step is Step.ROLLING


def test_a_canary_that_hangs_is_not_accepted() -> None:
    stage = serving(bake_s=5.0, worker_timeout_s=30.0)
    stage.host.generation_scripts[2] = Script.STUCK
    stage.reload()
    assert stage.supervisor.reloads.generation == 1
    assert stage.said_with("error: reload failed", "was killed by SIGABRT after 30.")
    assert stage.host.drained == []


def test_a_canary_that_hangs_for_ever_is_given_as_long_as_a_start() -> None:
    stage = serving(bake_s=5.0, worker_timeout_s=None, startup_timeout_s=20.0)
    stage.host.generation_scripts[2] = Script.STUCK
    began = stage.host.now()
    stage.reload()
    assert 20 < stage.host.now() - began < 22
    (line,) = stage.said_with("error: reload failed")
    assert line.endswith("the loop of its first worker is stuck for 20.1 s")
    stage.until(lambda: list(stage.host.templates) == [1])


def test_a_canary_whose_loop_turns_again_is_accepted_then() -> None:
    stage = serving(bake_s=5.0)
    stage.ask(v.Intent.RELOAD)
    stage.until(lambda: len(stage.host.serving()) == 4)
    began = stage.host.now()
    stage.host.later(4.0, lambda: stage.host.hang(stage.supervisor.fleet.asked, for_s=6.0))
    stage.until(lambda: stage.supervisor.reloads.generation == 2)
    assert 10 < stage.host.now() - began < 11
    stage.until(stage.full)


def test_loops_of_the_former_generation_that_hang_do_not_keep_the_new_from_acceptance() -> None:
    stage = serving(bake_s=5.0)
    for number in list(stage.host.workers):
        stage.host.hang(number)
    began = stage.host.now()
    until_rolling(stage)
    assert stage.host.now() - began < 6


def test_forks_refused_while_rolling_are_not_the_generation_s_fault() -> None:
    stage = serving(bake_s=1.0)
    until_rolling(stage)
    stage.host.forks_refused = True
    pass_time(stage, 20.0)
    assert len(stage.said_with("error: cannot fork worker", "gen=2")) > 3
    stage.host.forks_refused = False
    stage.until(stage.full)
    assert stage.generations_serving() == {2}


def test_a_template_that_cannot_start_again_while_rolling_leads_back() -> None:
    stage = serving(bake_s=1.0, preload=True)
    until_rolling(stage)
    stage.host.template_script = Script.BOOT_FAILS
    stage.host.crash_template(2, -9)
    stage.until(lambda: bool(stage.said_with("reload failed")))
    assert stage.said_with("error: reload failed", "3 of its processes died young")
    stage.host.template_script = Script.OBEDIENT
    stage.until(stage.full)
    assert stage.generations_serving() == {1}


def test_deaths_of_the_former_generation_while_rolling_do_not_lead_back() -> None:
    stage = serving(bake_s=1.0)
    until_rolling(stage)
    for number, child in list(stage.host.workers.items()):
        if child.generation == 1:
            stage.host.crash_worker(number, -9)
    stage.host.crash_template(1, -9)
    stage.until(stage.full)
    assert stage.generations_serving() == {2}


def test_deaths_of_grown_up_workers_while_rolling_do_not_lead_back() -> None:
    stage = serving(bake_s=1.0, grown_up_s=0.0)
    until_rolling(stage)
    for _ in range(5):
        for number, child in list(stage.host.workers.items()):
            if child.generation == 2 and child.ready:
                stage.host.crash_worker(number, -9)
        stage.turn()
    stage.until(stage.full)
    assert stage.generations_serving() == {2}


def test_on_the_way_back_a_template_stays_as_long_as_its_workers() -> None:
    stage = serving(bake_s=1.0, graceful_timeout_s=5.0)
    stage.host.generation_scripts[2] = Script.DEAF
    stage.ask(v.Intent.RELOAD)
    stage.until(lambda: [w.generation for w in stage.host.serving()] == [2, 2, 1])
    stage.host.generation_scripts[2] = Script.CRASHES
    stage.until(lambda: stage.supervisor.reloads.generation == 1)
    assert sorted(stage.host.templates) == [1, 2]
    stage.until(stage.full)
    assert list(stage.host.templates) == [1]
    assert len(stage.said_with("worker slot=", "did not stop within 5 s")) == 2
    assert not stage.said_with("template", "did not stop")


def test_figures_of_a_generation_hold_for_its_own_start() -> None:
    stage = serving(startup_timeout_s=50.0, graceful_timeout_s=9.0)
    stage.generations.rules = msgspec.structs.replace(stage.rules, startup_timeout_s=8.0)
    stage.host.generation_scripts[2] = Script.HANGS
    began = stage.host.now()
    stage.reload()
    assert 8 <= stage.host.now() - began < 9
    assert stage.said_with("reload failed", "not ready within 8 s (startup-timeout)")


def test_a_canary_that_dies_before_it_is_ready() -> None:
    stage = serving()
    stage.ask(v.Intent.RELOAD)
    stage.until(lambda: 4 in stage.host.workers)
    stage.host.crash_worker(4, 7, in_s=0.05)
    stage.until(lambda: bool(stage.said_with("reload failed")))
    how = "worker slot=0 gen=2 pid=105 exited with status 7 before it was ready"
    assert stage.said_with("slot=0 gen=2", "exited") == [
        f"error: reload failed, generation 1 serves on: {how}"
    ]


def test_a_canary_whose_template_dies_before_it_has_forked_it() -> None:
    stage = serving(startup_timeout_s=5.0)
    stage.ask(v.Intent.RELOAD)
    stage.until(lambda: 2 in stage.host.templates)
    stage.host.templates[2].ready = stage.host.templates[2].hung = True
    stage.until(lambda: bool(stage.said_with("reload failed")))
    how = "template gen=2 pid=104 died before it had forked worker slot=0 gen=2 pid=-"
    assert stage.said_with("reload failed") == [
        f"error: reload failed, generation 1 serves on: {how}"
    ]
    stage.until(stage.full)
    assert list(stage.host.templates) == [1]
    assert stage.said_with("debug: template gen=2", "was killed by SIGKILL from the master")


def test_a_template_that_ends_while_its_canary_bakes_is_made_again() -> None:
    stage = serving()
    stage.ask(v.Intent.RELOAD)
    stage.until(lambda: len(stage.host.serving()) == 4)
    stage.host.crash_template(2, -9)
    stage.until(stage.full)
    assert stage.generations_serving() == {2}
    assert stage.said_with("warning: template gen=2", "its workers go on")


def test_what_is_wrong_with_a_canary_is_all_that_is_said() -> None:
    stage = serving()
    stage.host.generation_scripts[2] = Script.SICK
    stage.reload()
    (line,) = stage.said_with("reload failed")
    assert line.endswith("is unhealthy: /healthz answered 500")
    assert not stage.said_with("replacing it")
    stage.host.forks_refused = True
    stage.reload()
    _, line = stage.said_with("reload failed")
    assert line.endswith("cannot fork template gen=3 pid=-: fork: no more processes")


def test_a_canary_that_is_being_aborted_is_not_accepted() -> None:
    stage = serving(bake_s=5.0, worker_timeout_s=4.0)
    stage.ask(v.Intent.RELOAD)
    stage.until(lambda: len(stage.host.serving()) == 4)
    canary = stage.supervisor.fleet.asked
    stage.host.workers[canary].script = Script.DEAF  # it needs SIGKILL, two seconds later
    stage.host.hang(canary)
    stage.until(lambda: bool(stage.said_with("reload failed")))
    assert stage.generations.adopted == []
    assert stage.said_with("reload failed", "was killed by SIGKILL from the master after 6.")
    stage.until(stage.full)
    assert stage.generations_serving() == {1}


@pytest.mark.parametrize("turns", range(12))
def test_the_former_template_s_death_is_nothing_to_the_new_generation(turns: int) -> None:
    stage = serving(bake_s=1.0)
    stage.ask(v.Intent.RELOAD)
    for _ in range(turns):
        stage.turn()
    stage.host.crash_template(1, -9)
    stage.until(lambda: bool(stage.said_with("reload complete: generation 2")))
    stage.until(lambda: stage.full() and len(stage.host.templates) == 1)


def test_settings_of_another_generation_are_not_taken_for_those_under_way() -> None:
    stage = serving()
    stage.ask(v.Intent.RELOAD)
    stage.until(lambda: stage.supervisor.reloads.candidate == 2)
    for generation in (1, 3):
        stage.host.happens(v.SettingsRead(generation, stage.rules, ()))
        stage.host.happens(v.SettingsRefused(generation, "workers = x: not a number"))
    stage.until(stage.full)
    assert stage.generations_serving() == {2}
    assert not stage.said_with("error:")


def test_what_is_said_of_a_reload() -> None:
    stage = serving()
    stage.generations.at_restart = ("workers 3 → 9", "bind :80 → :81")
    stage.ask(v.Intent.RELOAD, "SIGHUP")
    for _ in range(2):
        stage.turn()
    stage.ask(v.Intent.RELOAD, "ctl")
    stage.ask(v.Intent.RELOAD, "ctl")
    stage.until(lambda: stage.full() and stage.supervisor.reloads.generation == 3)
    of_reloads = [
        line.split(" after")[0] for line in stage.said if "reload" in line or "restart" in line
    ]
    restart = "warning: these settings change only with a restart: workers 3 → 9, bind :80 → :81"
    assert of_reloads == [
        "info: reload (SIGHUP): trying generation 2",
        restart,
        "info: reload (ctl) asked for while generation 2 is under way: one more follows it",
        "info: reload complete: generation 2 serves on all 3 slots",
        "info: reload (ctl): trying generation 3",
        restart,
        "info: reload complete: generation 3 serves on all 3 slots",
    ]


def test_a_stop_is_why_a_reload_came_to_nothing() -> None:
    stage = serving(shutdown_delay_s=5.0)
    stage.ask(v.Intent.RELOAD)
    stage.until(lambda: len(stage.host.serving()) == 4)
    stage.ask(v.Intent.STOP)
    stage.until(lambda: stage.supervisor.reloads.last is not None)
    last = stage.supervisor.reloads.last
    assert last is not None
    assert (last.reason, last.step) == ("the service stops", Step.ABANDONED)
    stage.until(stage.done)


def turns_unhealthy_as_soon_as_it_is_ready(stage: Stage, number: int) -> None:
    """Both are observed in one turn: the master has had no time to decide in between."""
    stage.until(lambda: number in stage.host.workers)
    stage.host.happens(v.WorkerTurnedUnhealthy(number, "/healthz answered 500"), in_s=0.1)
    stage.until(lambda: bool(stage.supervisor.fleet.workers[number].unhealthy))
    assert stage.supervisor.fleet.workers[number].life.ready_at == stage.host.now()


def test_a_new_worker_that_is_no_good_makes_room_for_another_and_the_old_one_stays() -> None:
    stage = serving(bake_s=1.0)
    until_rolling(stage)
    turns_unhealthy_as_soon_as_it_is_ready(stage, 6)
    stage.turn()
    assert not stage.said_with("reload complete")
    assert [worker.generation for worker in stage.host.serving()] == [2, 2, 1]
    assert stage.host.drained[-1] == (6, True)
    stage.until(lambda: bool(stage.said_with("reload complete")))
    stage.until(stage.full)
    assert stage.generations_serving() == {2}


def test_of_two_that_are_unhealthy_the_first_stays_until_there_is_a_better_one() -> None:
    stage = serving()
    stage.host.change_health(2, "/healthz answered 500")
    turns_unhealthy_as_soon_as_it_is_ready(stage, 4)
    stage.until(lambda: bool(stage.host.drained))
    assert stage.host.drained == [(4, True)]
    stage.until(stage.full)
    assert stage.host.drained == [(4, True), (2, True)]


def test_bake_time_ends_although_nothing_happens() -> None:
    stage = serving(bake_s=7.0, stall_warn_s=None, worker_timeout_s=None)
    began = stage.host.now()
    until_rolling(stage)
    assert 7 < stage.host.now() - began < 8


def test_why_settings_were_refused_is_all_that_is_said() -> None:
    stage = serving()
    stage.generations.refusal = "workers = x: not a number"
    stage.reload()
    (line,) = stage.said_with("reload failed")
    assert line.endswith(": workers = x: not a number")


def test_when_no_slot_has_a_worker_the_canary_takes_the_first() -> None:
    stage = Stage(workers=3, backoff_first_s=1000.0, backoff_longest_s=1000.0, max_restarts=100)
    stage.until(stage.full)
    for number in list(stage.host.workers):
        stage.host.crash_worker(number, 1)
    stage.ask(v.Intent.RELOAD)
    stage.until(lambda: stage.supervisor.reloads.candidate == 2)
    stage.until(lambda: bool(stage.host.serving()))
    assert [(w.slot, w.generation) for w in stage.host.serving()] == [(0, 2)]
    stage.until(stage.full)
    assert stage.host.now() < 1010, "other code may be tried at once"


def test_a_canary_that_starts_is_dismissed_when_the_service_is_to_stop() -> None:
    stage = serving(shutdown_delay_s=10.0)
    stage.host.generation_scripts[2] = Script.HANGS
    stage.ask(v.Intent.RELOAD)
    stage.until(lambda: len(stage.host.workers) == 4)
    stage.ask(v.Intent.STOP)
    stage.until(lambda: len(stage.host.workers) == 3 and list(stage.host.templates) == [1])
    assert len(stage.host.serving()) == 3, "it serves on meanwhile"
    assert stage.said_with("info: generation 2 is not tried any further")
    stage.until(stage.done)
