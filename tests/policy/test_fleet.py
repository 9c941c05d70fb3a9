from __future__ import annotations

from asgi_supervise.policy.fleet import Fleet, Worker
from asgi_supervise.policy.lifecycle import Change


def forked(fleet: Fleet, slot: int, pid: int, *, ready: bool) -> Worker:
    worker = fleet.enlist(slot, 1, 60.0)
    worker.life.step(Change.FORKED)
    worker.life.pid = pid
    if ready:
        worker.life.step(Change.BECAME_READY)
    return worker


def test_questions() -> None:
    fleet = Fleet()
    assert fleet.empty()
    fleet.found(1, 60.0)
    first = forked(fleet, 0, 41, ready=True)
    second = forked(fleet, 2, 42, ready=False)
    third = fleet.enlist(3, 1, 60.0)
    assert [worker.number for worker in (first, second, third)] == [1, 2, 3]
    assert fleet.ready() == [first]
    assert [worker.seat for worker in (first, second, third)] == [0, 1, 2]
    assert fleet.unreported(1) == [third]
    assert fleet.unreported(2) == []
    assert list(fleet.members()) == [first, second, third, fleet.templates[1]]


def test_numbers_are_never_used_again() -> None:
    fleet = Fleet()
    fleet.bury(fleet.enlist(0, 1, 60.0))
    assert fleet.enlist(0, 1, 60.0).number == 2
    assert len(fleet.workers) == 1


def test_seats_are_used_again_and_never_twice_at_a_time() -> None:
    fleet = Fleet()
    first, second = fleet.enlist(0, 1, 60.0), fleet.enlist(1, 1, 60.0)
    fleet.bury(first)
    third, fourth = fleet.enlist(1, 2, 60.0), fleet.enlist(0, 2, 60.0)
    assert [worker.seat for worker in (second, third, fourth)] == [1, 0, 2]


def test_holders() -> None:
    fleet = Fleet()
    old = forked(fleet, 0, 41, ready=True)
    new = fleet.enlist(0, 2, 60.0)
    other = fleet.enlist(1, 2, 60.0)
    assert fleet.holders(range(3), 2, None) == {0: ([new], [old]), 1: ([other], []), 2: ([], [])}
    assert fleet.holders(range(1), 1, 2) == {0: ([old], [])}, "a canary is neither"
    new.unhealthy = "/healthz answered 500"
    assert fleet.holders([0], 2, None) == {0: ([], [old, new])}
    old.life.retired = True
    assert fleet.holders([0], 2, None) == {0: ([], [new])}, "it was told to leave"


def test_one_log_form() -> None:
    fleet = Fleet()
    assert str(forked(fleet, 0, 41, ready=True)) == "worker slot=0 gen=1 pid=41"
    assert str(fleet.enlist(1, 1, 60.0)) == "worker slot=1 gen=1 pid=-"
    assert str(fleet.found(2, 60.0)) == "template gen=2 pid=-"
