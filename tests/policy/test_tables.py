"""The tables once more, from the other side: what cannot happen, what means nothing, what moves."""

from __future__ import annotations

import enum
from typing import Any

import pytest

from asgi_supervise.policy import vocabulary as v
from asgi_supervise.policy.lifecycle import (
    LIFE,
    SERVICE,
    Change,
    Duty,
    Phase,
    Service,
    Task,
    Turn,
)
from asgi_supervise.policy.rollout import ROLLOUT, Deed, Mark, Step
from tests.policy.stage import Stage

P, C, S, T, R, M = Phase, Change, Service, Turn, Step, Mark

BUGS: dict[enum.Enum, set[enum.Enum]] = {
    P.ASKED: {C.BECAME_READY, C.BOOT_FAILED, C.CONDEMNED, C.EXITED},
    P.STARTING: {C.FORKED, C.REFUSED, C.CONDEMNED, C.LOST},
    P.READY: {C.FORKED, C.REFUSED, C.BECAME_READY, C.BOOT_FAILED, C.LOST},
    P.LEAVING: set(),
    P.KILLED: set(),
    P.GONE: set(C),
    S.BOOTING: {T.ELAPSED},
    S.SERVING: {T.BOOTED, T.ELAPSED},
    S.WITHDRAWN: {T.BOOTED},
    S.STOPPING: {T.BOOTED, T.ELAPSED, T.GIVE_UP},
    S.KILLING: {T.BOOTED, T.ELAPSED, T.GIVE_UP},
    S.DONE: {T.BOOTED, T.ELAPSED, T.GIVE_UP},
    R.READING: {M.STARTED, M.BAKED, M.SPOILED, M.REPLACED},
    R.TRYING: {M.READ, M.BAKED, M.SPOILED, M.REPLACED},
    R.BAKING: {M.READ, M.STARTED, M.SPOILED, M.REPLACED},
    R.ROLLING: {M.READ, M.FAILED, M.STARTED, M.BAKED},
    R.COMPLETE: set(M),
    R.ABANDONED: set(M),
}
STAYS: dict[enum.Enum, set[enum.Enum]] = {
    P.ASKED: set(),
    P.STARTING: set(),
    P.READY: set(),
    P.LEAVING: {C.FORKED, C.BECAME_READY, C.BOOT_FAILED, C.RETIRED, C.CONDEMNED},
    P.KILLED: {C.FORKED, C.BECAME_READY, C.BOOT_FAILED, C.RETIRED, C.CONDEMNED, C.EXPIRED},
    S.BOOTING: {T.EMPTIED},
    S.SERVING: {T.EMPTIED},
    S.WITHDRAWN: {T.STOP, T.EMPTIED},
    S.STOPPING: {T.STOP},
    S.KILLING: {T.STOP, T.KILL},
    S.DONE: {T.STOP, T.KILL, T.EMPTIED},
}
"""Neither: something may be done, but it stands where it stood."""
TABLES: dict[Any, Any] = {**LIFE, **SERVICE, **ROLLOUT}


@pytest.mark.parametrize("here", list(TABLES), ids=str)
def test_what_cannot_happen_what_stays_and_what_moves(here: enum.Enum) -> None:
    row = TABLES[here]
    bugs = {what for what, (_, duty) in row.items() if duty in (Duty.BUG, Task.BUG, Deed.BUG)}
    stays = {what for what, (after, _) in row.items() if after is here}
    assert bugs == BUGS[here]
    assert stays - bugs == STAYS.get(here, set())


def test_every_way_out_of_service_but_the_last_sees_to_all_processes() -> None:
    for service in (Service.BOOTING, Service.SERVING, Service.WITHDRAWN):
        for turn in (Turn.KILL, Turn.GIVE_UP):
            assert SERVICE[service][turn] == (Service.KILLING, Task.KILL_ALL)
    assert SERVICE[Service.STOPPING][Turn.KILL] == (Service.KILLING, Task.KILL_ALL)


def test_what_cannot_happen_to_the_service_or_a_reload_is_reported_and_changes_nothing() -> None:
    stage = Stage()
    stage.bugs_expected = True
    stage.until(stage.full)
    stage.ask(v.Intent.RELOAD)
    stage.until(lambda: len(stage.host.serving()) == 3)
    supervisor, now = stage.supervisor, stage.host.now()
    assert supervisor.reloads.current is not None
    supervisor._turn(Turn.BOOTED, now, "")
    supervisor.reloads._mark(supervisor.reloads.current, Mark.SPOILED, now)
    stage.until(stage.full)
    assert stage.generations_serving() == {2}
    assert stage.said_with("BUG") == [
        "error: [BUG] service: booted while serving",
        "error: [BUG] rollout: spoiled while watching its first worker",
    ]
