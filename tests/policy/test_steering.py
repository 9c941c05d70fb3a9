"""Which slots new connections are sent to."""

from __future__ import annotations

from asgi_supervise.policy import vocabulary as v
from asgi_supervise.policy.fleet import Fleet
from asgi_supervise.policy.lifecycle import Change
from asgi_supervise.policy.steering import weights
from tests.host.fake import Script
from tests.policy.stage import Stage


def fleet_of(*ready: bool) -> Fleet:
    fleet = Fleet()
    for slot, is_ready in enumerate(ready):
        life = fleet.enlist(slot, 1, 60.0).life
        life.step(Change.FORKED)
        if is_ready:
            life.step(Change.BECAME_READY)
    return fleet


def test_slots_weigh_if_somebody_accepts_in_them() -> None:
    fleet = fleet_of(True, False, True)
    assert weights(fleet, range(4), lambda worker: False) == (1, 0, 1, 0)
    assert weights(fleet, range(4), lambda worker: worker.slot == 0) == (0, 0, 1, 0)
    successor = fleet.enlist(0, 2, 60.0)
    successor.life.step(Change.FORKED)
    successor.life.step(Change.BECAME_READY)
    stuck = fleet.workers[1]
    assert weights(fleet, range(4), lambda worker: worker is stuck) == (1, 0, 1, 0)


def test_if_nobody_accepts_all_are_alike() -> None:
    fleet = fleet_of(False, True)
    assert weights(fleet, range(2), lambda worker: True) == (1, 1)
    assert weights(Fleet(), range(3), lambda worker: False) == (1, 1, 1)


def steered(stage: Stage) -> list[tuple[int, ...]]:
    return [act.weights for act in stage.acts if isinstance(act, v.Steer)]


def test_while_all_serve_the_kernel_is_left_alone() -> None:
    stage = Stage(workers=1)
    stage.until(stage.full)
    stage.reload()
    stage.until(stage.full)
    stage.stop()
    assert steered(stage) == []


def test_a_slot_that_pauses_after_a_crash_gets_no_new_connections() -> None:
    stage = Stage(workers=3)
    stage.until(stage.full)
    stage.host.crash_worker(stage.host.in_slot(1), 1)
    stage.until(lambda: stage.host.weights == (1, 0, 1))
    stage.until(stage.full)
    stage.turn()
    assert stage.host.weights == (1, 1, 1)


def test_a_stuck_worker_gets_no_new_connections_until_it_goes_on() -> None:
    stage = Stage(workers=2)
    stage.until(stage.full)
    stage.host.clock += 60
    stage.turn()
    began = stage.host.now()
    stage.host.hang(stage.host.in_slot(0), for_s=5.0)
    stage.until(lambda: stage.host.weights == (0, 1))
    assert stage.host.now() - began <= 1.0
    stage.until(lambda: stage.host.weights == (1, 1))
    assert 5.0 <= stage.host.now() - began <= 6.0


def test_the_slot_of_the_canary_still_weighs_as_its_worker_serves() -> None:
    stage = Stage(workers=2)
    stage.until(stage.full)
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
    assert stage.host.weights == (1, 0)
