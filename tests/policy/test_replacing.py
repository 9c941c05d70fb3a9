"""Unhealthy workers, and the delay before a stop."""

from __future__ import annotations

from typing import Any

import pytest

from asgi_supervise.policy import vocabulary as v
from asgi_supervise.policy.lifecycle import Service
from tests.host.fake import Script
from tests.policy.stage import Stage


def serving(**rules: Any) -> Stage:
    stage = Stage(workers=3, **rules)
    stage.until(stage.full)
    stage.host.clock += 60
    return stage


def turn_unhealthy(stage: Stage, slot: int) -> int:
    number = stage.host.in_slot(slot)
    stage.host.change_health(number, "/healthz answered 500")
    stage.turn()
    return number


def test_an_unhealthy_worker_leaves_when_its_replacement_is_ready() -> None:
    stage = serving()
    victim = turn_unhealthy(stage, 1)
    while victim in stage.host.workers:
        assert len(stage.host.serving()) >= 3
        stage.turn()
    assert stage.full()
    assert stage.host.drained == [(victim, True)]
    assert stage.said_with("warning: worker slot=1", "is unhealthy: /healthz answered 500; repl")


def test_all_unhealthy_are_replaced_one_by_one() -> None:
    stage = serving()
    for slot in range(3):
        turn_unhealthy(stage, slot)
    while stage.supervisor.fleet.asked < 6 or not stage.full():
        assert len(stage.host.serving()) >= 3
        stage.turn()
    assert stage.host.most_workers == 4


def test_unhealthy_workers_stay_while_replacements_cannot_start() -> None:
    stage = serving(startup_timeout_s=5.0, max_restarts=1)
    victim = turn_unhealthy(stage, 0)
    stage.script(Script.BOOT_FAILS)
    for _ in range(400):
        stage.turn()
    assert victim in stage.host.workers
    assert stage.host.drained == []
    assert len(stage.host.serving()) == 3
    assert stage.serving()
    assert stage.supervisor.deaths.slot_not_before(0) > stage.host.now() - 60, "with pauses"
    stage.script()
    stage.until(lambda: victim not in stage.host.workers)
    stage.until(stage.full)


def test_one_that_recovers_stays() -> None:
    stage = serving()
    stage.script(Script.HANGS)
    victim = turn_unhealthy(stage, 0)
    stage.host.change_health(victim, "")
    stage.turn()
    stage.turn()
    stage.script()
    assert "info: worker slot=0 gen=1 pid=101 is healthy again" in stage.said
    stage.until(lambda: len(stage.host.workers) == 3)
    assert victim in stage.host.workers


def test_an_unhealthy_worker_that_dies_is_just_replaced() -> None:
    stage = serving()
    victim = turn_unhealthy(stage, 2)
    stage.host.crash_worker(victim, -9)
    stage.until(stage.full)
    assert stage.host.ready_slots() == [0, 1, 2]


def test_before_a_stop_it_serves_on_but_says_not_ready() -> None:
    stage = serving(shutdown_delay_s=10.0)
    began = stage.host.now()
    stage.ask(v.Intent.STOP, "SIGTERM")
    stage.turn()
    stage.turn()
    assert stage.supervisor.service is Service.WITHDRAWN
    assert all(worker.withdrawn for worker in stage.host.workers.values())
    assert stage.said_with("info: stopping in 10 s (SIGTERM; shutdown-delay): serving on, but not")
    stage.host.crash_worker(1, -9)
    stage.until(lambda: len(stage.host.serving()) == 2)
    stage.until(lambda: len(stage.host.serving()) == 3)
    stage.turn()
    assert all(worker.withdrawn for worker in stage.host.workers.values()), "replacements too"
    assert stage.host.listening
    stage.until(stage.done)
    assert 10 <= stage.host.now() - began < 11
    assert stage.supervisor.verdict == 0
    assert all(not successor for _, successor in stage.host.drained)


@pytest.mark.parametrize(
    ("intents", "within_s"),
    [
        ([v.Intent.STOP, v.Intent.STOP], 11.0),
        ([v.Intent.STOP, v.Intent.QUIT], 1.0),
        ([v.Intent.INTERRUPT, v.Intent.INTERRUPT], 1.0),
    ],
)
def test_who_asks_again_during_the_delay(intents: list[v.Intent], within_s: float) -> None:
    stage = serving(shutdown_delay_s=10.0)
    began = stage.host.now()
    for intent in intents:
        stage.ask(intent)
    stage.until(stage.done)
    assert within_s - 1 <= stage.host.now() - began < within_s
    stage.check_empty()


def test_the_delay_does_not_keep_a_service_that_never_served() -> None:
    stage = Stage(workers=2, shutdown_delay_s=100.0)
    stage.turn()
    began = stage.host.now()
    stage.ask(v.Intent.STOP)
    stage.until(stage.done)
    assert stage.host.now() - began < 1


def test_a_reload_under_way_ends_when_the_delay_begins() -> None:
    stage = serving(shutdown_delay_s=10.0)
    stage.ask(v.Intent.RELOAD)
    stage.until(lambda: len(stage.host.serving()) == 4)
    stage.ask(v.Intent.STOP)
    stage.until(lambda: len(stage.host.workers) == 3)
    assert stage.generations_serving() == {1}
    assert stage.said_with("info: generation 2 is not tried any further")
    stage.until(stage.done)


def test_log_files_are_opened_anew_everywhere() -> None:
    stage = serving()
    stage.ask(v.Intent.REOPEN_LOGS, "SIGUSR1")
    stage.turn()
    stage.turn()
    assert stage.output.reopened == 1
    assert stage.host.passed_on == [{2: 2}]
