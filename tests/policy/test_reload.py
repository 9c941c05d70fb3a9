"""Reload: the canary, the rollout, and every way in which it comes to nothing."""

from __future__ import annotations

from itertools import product
from typing import Any

import msgspec
import pytest

from asgi_supervise.policy import vocabulary as v
from asgi_supervise.policy.lifecycle import Service
from asgi_supervise.policy.rollout import ROLLOUT, Deed, Mark, Step
from tests.host.fake import Script
from tests.policy.stage import Stage

STEPS = list(Step)


@pytest.mark.parametrize(("step", "mark"), list(product(Step, Mark)))
def test_a_rollout_is_total_and_never_goes_back(step: Step, mark: Mark) -> None:
    after, deed = ROLLOUT[step][mark]
    assert STEPS.index(after) >= STEPS.index(step)
    if deed is Deed.BUG:
        assert after is step
    if after is Step.ABANDONED and step is not Step.ABANDONED:
        assert deed in (Deed.ABANDON, Deed.RETURN) or mark is Mark.STOPPED


def serving(**rules: Any) -> Stage:
    stage = Stage(workers=3, **rules)
    stage.until(stage.full)
    stage.host.clock += 60
    return stage


def never_fewer(stage: Stage) -> None:
    """From now on, fewer ready than wanted is an error."""
    check = stage.check

    def checked() -> None:
        check()
        if stage.serving():
            assert len(stage.host.serving()) >= stage.rules.workers

    stage.check = checked  # type: ignore[method-assign]


def test_every_worker_is_replaced_after_its_replacement_is_ready() -> None:
    stage = serving()
    never_fewer(stage)
    before = stage.host.now()
    stage.reload()
    stage.until(stage.full)
    assert stage.host.now() - before < 5 + 3, "bake-time, and three workers one after the other"
    assert stage.generations_serving() == {2}
    assert stage.host.most_workers == 4
    assert stage.host.drained == [(1, True), (2, True), (3, True)]
    assert stage.generations.adopted == [2]
    assert list(stage.host.templates) == [2], "the former template is retired"
    assert stage.said_with("info: reload (SIGHUP): trying generation 2")
    assert stage.said_with("generation 2: its first worker is ready and watched for 5 s (bake")
    assert stage.said_with("generation 2 accepted: replacing all workers")
    assert stage.said_with("reload complete: generation 2 serves on all 3 slots after 5.")
    stage.stop()


def test_the_canary_sits_beside_the_worker_it_replaces() -> None:
    stage = serving()
    stage.ask(v.Intent.RELOAD)
    stage.until(lambda: len(stage.host.serving()) == 4)
    assert stage.host.ready_slots() == [0, 0, 1, 2]
    began = stage.host.now()
    while stage.host.now() < began + 4.5:
        assert stage.host.drained == [], "nobody is touched while it bakes"
        stage.turn()
    stage.until(stage.full)


def test_settings_of_the_new_generation_are_in_force_when_it_is_accepted() -> None:
    stage = serving()
    stage.generations.rules = msgspec.structs.replace(
        stage.rules, graceful_timeout_s=7.0, workers=9
    )
    stage.generations.at_restart = ("workers 3 → 9",)
    stage.ask(v.Intent.RELOAD)
    stage.until(lambda: len(stage.host.serving()) == 4)
    assert stage.supervisor.rules.graceful_timeout_s == 30
    stage.until(stage.full)
    assert stage.supervisor.rules.graceful_timeout_s == 7
    assert stage.supervisor.rules.workers == 3
    said = "warning: these settings change only with a restart: workers 3 → 9"
    assert said in stage.said
    drains = [act.budget_s for act in stage.acts if isinstance(act, v.DrainWorker)]
    assert drains == [29.5] * 3, "who leaves has the time it was promised"


def test_wrong_settings_change_nothing() -> None:
    stage = serving()
    stage.generations.refusal = "workers = x: not a number (in asgi-supervise.toml)"
    acts = len(stage.acts)
    stage.reload()
    assert stage.supervisor.reloads.generation == 1
    assert stage.full()
    assert not [a for a in stage.acts[acts:] if isinstance(a, v.StartTemplate | v.SpawnWorker)]
    assert stage.said_with("error: reload failed, generation 1 serves on: workers = x: not a")
    stage.generations.refusal = ""
    stage.reload()
    stage.until(stage.full)
    assert stage.supervisor.reloads.generation == 3, "a number is never used again"


@pytest.mark.parametrize("preload", [False, True])
@pytest.mark.parametrize(
    "script", [Script.BOOT_FAILS, Script.HANGS, Script.CRASHES, Script.SICK, Script.STUCK]
)
def test_a_broken_generation_is_abandoned_and_nobody_else_is_touched(
    script: Script, preload: bool
) -> None:
    stage = serving(startup_timeout_s=10.0, worker_timeout_s=2.0, preload=preload)
    never_fewer(stage)
    workers = set(stage.host.workers)
    stage.host.generation_scripts[2] = script
    stage.reload()
    stage.until(lambda: stage.full() and list(stage.host.templates) == [1])
    assert set(stage.host.workers) == workers
    assert stage.generations.adopted == []
    last = stage.supervisor.reloads.last
    assert last is not None
    assert (last.generation, last.step) == (2, Step.ABANDONED)
    (line,) = stage.said_with("error: reload failed, generation 1 serves on:")
    expected = {
        Script.BOOT_FAILS: "cannot start: no such module\nTraceback",
        Script.HANGS: "not ready within 10 s (startup-timeout); it hangs at /srv/app/slow.py:7 in",
        Script.CRASHES: "exited with status 7 after 0.0 s",
        Script.SICK: "is unhealthy: /healthz answered 500",
        Script.STUCK: "was killed by SIGABRT after",
    }[script]
    assert expected in line
    assert stage.supervisor.deaths.slot_not_before(0) <= stage.host.now()
    stage.reload()
    stage.until(stage.full)
    assert stage.generations_serving() == {3}
    stage.stop()


@pytest.mark.parametrize("script", [Script.BOOT_FAILS, Script.CRASHES, Script.HANGS])
def test_a_template_that_cannot_start_abandons_the_generation(script: Script) -> None:
    stage = serving(startup_timeout_s=10.0, preload=True)
    never_fewer(stage)
    stage.host.template_script = script
    stage.reload()
    assert stage.supervisor.reloads.generation == 1
    assert stage.said_with("error: reload failed, generation 1 serves on: template gen=2")
    stage.host.template_script = Script.OBEDIENT
    stage.until(stage.full)
    stage.reload()
    stage.until(stage.full)
    assert stage.generations_serving() == {3}


def test_forks_refused_abandon_the_generation() -> None:
    stage = serving()
    stage.host.forks_refused = True
    stage.reload()
    assert stage.said_with("reload failed", "cannot fork template gen=2", "no more processes")
    assert stage.full()


def test_three_young_deaths_while_rolling_lead_back() -> None:
    stage = serving(bake_s=1.0, preload=True)
    stage.ask(v.Intent.RELOAD)
    stage.until(lambda: stage.supervisor.reloads.generation == 2)
    for _ in range(3):
        number = max(
            number
            for number, child in stage.host.workers.items()
            if child.generation == 2 and child.ready
        )
        stage.host.crash_worker(number, -9)
        stage.turn()
        stage.until(
            lambda: (
                stage.supervisor.reloads.generation == 1
                or any(w.generation == 2 for w in stage.host.serving())
            )
        )
    stage.until(stage.full)
    assert stage.generations_serving() == {1}
    assert stage.generations.adopted == [2, 1]
    assert stage.said_with("error: reload failed, generation 1 serves on: 3 of its processes died")
    assert list(stage.host.templates) == [1]


def test_one_death_while_rolling_is_only_a_death() -> None:
    stage = serving(bake_s=1.0)
    stage.ask(v.Intent.RELOAD)
    stage.until(lambda: stage.supervisor.reloads.generation == 2)
    stage.host.crash_worker(stage.host.in_slot(2), -9)
    stage.until(stage.full)
    assert stage.generations_serving() == {2}


def test_crash_replacements_are_of_the_generation_that_is_wanted() -> None:
    stage = serving()
    stage.ask(v.Intent.RELOAD)
    stage.until(lambda: len(stage.host.serving()) == 4)
    stage.host.crash_worker(stage.host.in_slot(1), -9)
    stage.turn()
    stage.until(lambda: stage.host.ready_slots() == [0, 0, 1, 2])
    by_slot = sorted((w.slot, w.generation) for w in stage.host.serving())
    assert by_slot == [(0, 1), (0, 2), (1, 1), (2, 1)]
    stage.until(stage.full)
    assert stage.generations_serving() == {2}


def test_requests_during_a_reload_are_merged_into_one_that_follows() -> None:
    stage = serving()
    for _ in range(2):
        for _ in range(50):
            stage.ask(v.Intent.RELOAD, "SIGHUP")
        stage.turn()
    stage.until(lambda: stage.full() and stage.supervisor.reloads.generation == 3)
    for _ in range(100):
        stage.turn()
    assert stage.supervisor.reloads.generation == 3
    assert len(stage.said_with("one more follows it")) == 1
    assert stage.host.most_workers == 4


def test_a_reload_asked_for_during_start_follows_it() -> None:
    stage = Stage(workers=2)
    stage.ask(v.Intent.RELOAD)
    stage.until(stage.full)
    assert stage.supervisor.reloads.generation == 2


def test_a_service_that_serves_nobody_is_reloaded_into_one_that_does() -> None:
    stage = serving(max_restarts=1000)
    stage.host.generation_scripts[1] = Script.CRASHES
    for number in list(stage.host.workers):
        stage.host.crash_worker(number, 1)
    for _ in range(20):
        stage.turn()
    stage.reload()
    stage.until(stage.full)
    assert stage.generations_serving() == {2}


def test_a_service_without_hope_does_not_give_up_while_a_generation_is_tried() -> None:
    stage = serving(max_restarts=2, restart_window_s=1000.0)
    stage.host.generation_scripts[1] = Script.BOOT_FAILS
    stage.ask(v.Intent.RELOAD)
    stage.until(lambda: stage.supervisor.reloads.candidate == 2)
    for number, child in list(stage.host.workers.items()):
        if child.generation == 1:
            stage.host.crash_worker(number, 1)
    stage.until(stage.full)
    assert stage.generations_serving() == {2}


@pytest.mark.parametrize("intent", [v.Intent.STOP, v.Intent.QUIT])
@pytest.mark.parametrize("turns", range(0, 40, 3))
def test_stop_during_a_reload_wins_at_once(intent: v.Intent, turns: int) -> None:
    stage = serving(bake_s=0.5)
    stage.ask(v.Intent.RELOAD)
    for _ in range(turns):
        stage.turn()
    began = stage.host.now()
    stage.ask(intent)
    stage.turn()
    spawned = stage.supervisor.fleet.asked
    stage.until(stage.done)
    assert stage.host.now() - began < 1
    assert stage.supervisor.fleet.asked == spawned, "nothing is started any more"
    stage.check_empty()
    assert stage.supervisor.verdict == 0


def test_no_reload_of_a_service_that_stops() -> None:
    stage = serving(shutdown_delay_s=10.0)
    stage.ask(v.Intent.STOP)
    stage.ask(v.Intent.RELOAD, "SIGHUP")
    stage.until(stage.done)
    assert "warning: no reload (SIGHUP): the service stops" in stage.said
    assert stage.supervisor.fleet.asked == 3


@pytest.mark.parametrize("turns", range(60))
def test_a_template_killed_during_a_reload(turns: int) -> None:
    stage = serving(bake_s=1.0)
    stage.ask(v.Intent.RELOAD)
    for _ in range(turns):
        stage.turn()
    for generation in list(stage.host.templates):
        stage.host.crash_template(generation, -9)
    stage.until(lambda: stage.full() and len(stage.host.templates) == 1)
    assert stage.supervisor.service is Service.SERVING


def test_one_that_will_not_leave_delays_only_the_next() -> None:
    stage = serving(graceful_timeout_s=5.0)
    never_fewer(stage)
    for child in stage.host.workers.values():
        child.script = Script.DEAF
    before = stage.host.now()
    stage.reload()
    stage.until(stage.full)
    assert 3 * 5 <= stage.host.now() - before < 3 * 5 + 5 + 3
    assert stage.host.most_workers == 4
    assert len(stage.said_with("did not stop within 5 s (graceful-timeout); killing it")) == 3
