"""Every event at every step of start and stop: the fleet must converge, and the stop must end.

Exhaustive, because it can be: on the fake host a run of start, service and stop is ten turns long,
and there are some thirty things that can happen.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from asgi_supervise.policy import vocabulary as v
from tests.host.fake import Script
from tests.policy.stage import Stage

Happening = Callable[[Stage], None]
GRACEFUL_S = 5.0
WORKERS = 2
STOPS = (v.Intent.STOP, v.Intent.INTERRUPT, v.Intent.QUIT)


def asked(intent: v.Intent) -> Happening:
    return lambda stage: stage.ask(intent)


def said(event: v.Event) -> Happening:
    def happen(stage: Stage) -> None:
        stage.bugs_expected = True
        stage.host.happens(event)

    return happen


def worker_dies(slot: int, status: int) -> Happening:
    def happen(stage: Stage) -> None:
        for number, child in stage.host.workers.items():
            if child.slot == slot and child.pid is not None:
                stage.host.crash_worker(number, status)

    return happen


def template_dies(stage: Stage) -> None:
    for generation in stage.host.templates:
        stage.host.crash_template(generation, -9)


def template_hangs(stage: Stage) -> None:
    for template in stage.host.templates.values():
        template.hung = True


def forks_are_refused(stage: Stage) -> None:
    stage.host.forks_refused = True

    def again() -> None:
        stage.host.forks_refused = False

    stage.host.later(2.0, again)


def next_are(script: Script) -> Happening:
    def happen(stage: Stage) -> None:
        stage.script(*[script] * WORKERS)
        stage.host.later(2.0, stage.script)

    return happen


def everything_dies(stage: Stage) -> None:
    template_dies(stage)
    for slot in range(WORKERS):
        worker_dies(slot, -9)(stage)


def loops_hang(stage: Stage) -> None:
    for number, child in stage.host.workers.items():
        if child.ready:
            stage.host.hang(number, 3.0)


def health_fails(stage: Stage) -> None:
    for number, child in stage.host.workers.items():
        if child.ready:
            stage.host.change_health(number, "/healthz answered 500")
            return


def settings_are_wrong(stage: Stage) -> None:
    stage.generations.refusal = "workers = x: not a number"

    def mended() -> None:
        stage.generations.refusal = ""

    stage.host.later(2.0, mended)


def reload_storm(stage: Stage) -> None:
    for _ in range(100):
        stage.ask(v.Intent.RELOAD)


HAPPENINGS: dict[str, Happening] = {
    **{f"asked {intent.name}": asked(intent) for intent in v.Intent},
    **{
        f"slot {slot} dies of {status}": worker_dies(slot, status)
        for slot in range(WORKERS)
        for status in (0, 3, -9)
    },
    **{f"next are {script.name}": next_are(script) for script in Script},
    "template dies": template_dies,
    "template hangs": template_hangs,
    "forks are refused": forks_are_refused,
    "everything dies": everything_dies,
    "loops hang": loops_hang,
    "health fails": health_fails,
    "settings are wrong": settings_are_wrong,
    "reload storm": reload_storm,
    "garbage": said(v.MessageUnreadable("worker slot=0", "garbage")),
    **{
        f"said {type(event).__name__} of {which}": said(event)
        for which, worker, generation in (("one that is", 1, 1), ("one that is not", 99, 99))
        for event in (
            v.WorkerBecameReady(worker),
            v.WorkerBootFailed(worker, "no", "Traceback"),
            v.TemplateBecameReady(generation),
        )
    },
    "said WorkerExited of nobody": said(v.WorkerExited(99, 0)),
    "said TemplateExited of nobody": said(v.TemplateExited(99, 0)),
}


def run(happening: Happening | None, at: int, reloads: int = 0) -> int:
    """Start, serve, reload, stop; ``happening`` in turn ``at``. How many turns it took."""
    stage = Stage(
        workers=WORKERS, graceful_timeout_s=GRACEFUL_S, startup_timeout_s=10.0, bake_s=0.3
    )
    turns = 0
    told_at: float | None = None
    while not stage.done():
        if turns == at and happening is not None:
            happening(stage)
        if told_at is None and (stage.full() or turns > 300):
            if reloads and turns <= 300:
                stage.ask(v.Intent.RELOAD)
                reloads -= 1
            else:
                stage.ask(v.Intent.STOP)
                told_at = stage.host.now()
        stage.turn()
        turns += 1
        assert turns < 600, f"no end: {stage.said[-5:]}"
    stage.check_empty()
    assert stage.supervisor.verdict in (0, 3)
    if told_at is not None:
        assert stage.host.now() - told_at < GRACEFUL_S + 5
    return turns


def test_undisturbed() -> None:
    assert run(None, 0) >= 9  # the steps at which everything else is tried


@pytest.mark.parametrize("name", HAPPENINGS)
def test_at_every_step(name: str) -> None:
    for at in range(run(None, 0) + 1):
        run(HAPPENINGS[name], at)


@pytest.mark.parametrize("name", HAPPENINGS)
def test_at_every_step_of_a_reload(name: str) -> None:
    for at in range(8, run(None, 0, reloads=1) + 1):
        run(HAPPENINGS[name], at, reloads=1)


@pytest.mark.parametrize("name", HAPPENINGS)
def test_the_fleet_recovers_from_anything_but_being_told_to_stop(name: str) -> None:
    if name in {f"asked {intent.name}" for intent in STOPS}:
        return
    stage = Stage(workers=WORKERS, startup_timeout_s=10.0, max_restarts=100)
    stage.until(stage.full)
    HAPPENINGS[name](stage)
    for _ in range(3):
        stage.turn()
    stage.until(lambda: stage.full() and not stage.host.busy)
    stage.stop()
