from __future__ import annotations

from itertools import product

import pytest

from asgi_supervise.policy.lifecycle import (
    LIFE,
    SERVICE,
    Change,
    Duty,
    Life,
    Phase,
    Service,
    Task,
    Turn,
)

ORDER = list(Phase)
SERVICES = list(Service)


@pytest.mark.parametrize(("phase", "change"), list(product(Phase, Change)))
def test_life_is_total_and_never_goes_back(phase: Phase, change: Change) -> None:
    after, duty = LIFE[phase][change]
    assert ORDER.index(after) >= ORDER.index(phase)
    if duty is Duty.BUG:
        assert after is phase, "what cannot happen changes nothing"
    if after is Phase.GONE and phase is not Phase.GONE:
        assert duty is Duty.BURY
    if after is Phase.KILLED:
        assert duty in (Duty.KILL, Duty.NONE)


@pytest.mark.parametrize("phase", ORDER[:-1])
def test_time_alone_leads_to_killed_and_death_alone_to_gone(phase: Phase) -> None:
    assert LIFE[phase][Change.EXPIRED] == (Phase.KILLED, Duty.KILL)
    deaths = {change for change, (after, _) in LIFE[phase].items() if after is Phase.GONE}
    unborn = {Change.REFUSED, Change.LOST}
    assert (
        deaths
        == {
            Phase.ASKED: unborn,
            Phase.STARTING: {Change.EXITED},
            Phase.READY: {Change.EXITED},
            Phase.LEAVING: unborn | {Change.EXITED},
            Phase.KILLED: unborn | {Change.EXITED},
        }[phase]
    )


def test_the_usual_life() -> None:
    life = Life(deadline=60.0)
    duties = [
        life.step(change)
        for change in (Change.FORKED, Change.BECAME_READY, Change.RETIRED, Change.EXITED)
    ]
    assert duties == [Duty.NONE, Duty.NONE, Duty.DRAIN, Duty.BURY]
    assert not life.exists


@pytest.mark.parametrize(("service", "turn"), list(product(Service, Turn)))
def test_service_is_total_and_never_goes_back(service: Service, turn: Turn) -> None:
    after, task = SERVICE[service][turn]
    assert SERVICES.index(after) >= SERVICES.index(service)
    if task is Task.BUG:
        assert after is service


@pytest.mark.parametrize("service", SERVICES[:-1])
def test_every_way_of_stopping_ends(service: Service) -> None:
    for turn in (Turn.STOP, Turn.KILL):
        after, _ = SERVICE[service][turn]
        if after is Service.WITHDRAWN:
            after, _ = SERVICE[after][Turn.ELAPSED]
        assert SERVICE[after][Turn.EMPTIED] == (Service.DONE, Task.FINISH)
