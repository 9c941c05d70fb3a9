"""What every :class:`Host` promises: scenarios that run against the fake and the real one alike.

As a program it runs one scenario against the real host, in a process of its own: that one becomes a
subreaper, takes over the signals and forks, which a test runner with threads must not.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

from asgi_supervise.host import sockets
from asgi_supervise.host.posix import PosixHost
from asgi_supervise.host.system import Host
from asgi_supervise.host.template import Blueprint
from asgi_supervise.policy import vocabulary as v
from asgi_worker.contract import WorkerSettings
from asgi_worker.inbox import Inboxes
from asgi_worker.scoreboard import Scoreboard, State, Word
from tests.host import standin
from tests.host.fake import TICK_S, FakeHost, Script

SLOTS = 9
SEATS = SLOTS + 1
PATIENCE_S = 20.0
QUIET_S = 0.3
Events = list[v.Event]


@dataclass
class Stage:
    """A host, and what a scenario does behind its back."""

    host: Host
    set_scripts: Callable[[list[Script]], None]
    hang_template: Callable[[int], None]
    """Of this pid: it does nothing any more."""
    break_template: Callable[[], None]
    """The next one cannot start."""
    blueprint: Blueprint

    def close(self) -> None:
        """At the end of a process."""
        self.host.close()
        self.blueprint.inboxes.close()

    def until(self, enough: Callable[[Events], bool]) -> Events:
        """Everything that happens up to ``enough``."""
        happened: Events = []
        deadline = self.host.now() + PATIENCE_S
        while not enough(happened):
            assert self.host.now() < deadline, f"in vain; only {happened}"
            happened += self.host.wait(deadline)
        return happened

    def until_exits(self, *workers: int) -> Events:
        return self.until(
            lambda events: (
                set(workers)
                <= {event.worker for event in events if isinstance(event, v.WorkerExited)}
            )
        )

    def until_template_exits(self) -> Events:
        return self.until(lambda events: any(isinstance(e, v.TemplateExited) for e in events))

    def with_template(self, generation: int = 1) -> int:
        """A ready template of ``generation``; its pid."""
        self.host.start_template(generation, self.blueprint)
        events = self.until(lambda events: v.TemplateBecameReady(generation) in events)
        forked, _ = events
        assert isinstance(forked, v.TemplateForked)
        return forked.pid

    def with_worker(self, worker: int, slot: int, generation: int) -> int:
        """It is ready; its pid."""
        self.host.spawn_worker(worker, slot, worker - 1, generation)
        events = self.until(lambda events: v.WorkerBecameReady(worker) in events)
        return next(event.pid for event in events if isinstance(event, v.WorkerForked))

    def with_workers(self, *slots: int) -> list[int]:
        """Ready workers 1, 2, … in ``slots``, with the seats 0, 1, …; their pids."""
        for worker, slot in enumerate(slots, 1):
            self.host.spawn_worker(worker, slot, worker - 1, 1)
        expected = {v.WorkerBecameReady(worker) for worker in range(1, len(slots) + 1)}
        events = self.until(lambda events: expected <= set(events))
        forked = {e.worker: e.pid for e in events if isinstance(e, v.WorkerForked)}
        return [forked[worker] for worker in sorted(forked)]

    def until_stuck(self, worker: int) -> None:
        """Its loop does not keep its promise."""
        deadline = self.host.now() + PATIENCE_S
        while self.promises()[worker] >= self.host.now():
            assert self.host.now() < deadline
            assert self.host.wait(self.host.now() + TICK_S) == []

    def promises(self) -> dict[int, float]:
        self.host.look_at_figures()
        (seen,) = self.host.wait(self.host.now())
        assert isinstance(seen, v.FiguresSeen)
        return {worker: figures.promise for worker, figures in seen.figures.items()}

    def stacks(self, generation: int, worker: int | None) -> v.StacksRead:
        """Asked for, waited for and read."""
        self.host.dump_stacks(generation, worker)
        self.nothing_happens()
        return self.read_stacks(generation, worker)

    def read_stacks(self, generation: int, worker: int | None) -> v.StacksRead:
        self.host.read_stacks(generation, worker)
        (read,) = self.host.wait(self.host.now())
        assert isinstance(read, v.StacksRead)
        return read

    def nothing_happens(self) -> None:
        """Not for a while, and the wait ends at its deadline, not before."""
        deadline = self.host.now() + QUIET_S
        assert self.host.wait(deadline) == []
        assert self.host.now() >= deadline - 0.002


def a_template_is_forked_and_becomes_ready(stage: Stage) -> None:
    assert stage.with_template() > 0
    stage.nothing_happens()


def a_template_says_why_it_cannot_start_and_exits(stage: Stage) -> None:
    stage.break_template()
    stage.host.start_template(1, stage.blueprint)
    events = stage.until_template_exits()
    assert [type(e) for e in events] == [
        v.TemplateForked,
        v.TemplateBootFailed,
        v.TemplateExited,
    ]
    assert events[-1] == v.TemplateExited(1, 3)


def a_worker_is_forked_and_becomes_ready_in_this_order(stage: Stage) -> None:
    stage.with_template()
    stage.host.spawn_worker(1, 0, 0, 1)
    events = stage.until(lambda events: v.WorkerBecameReady(1) in events)
    assert [type(e) for e in events] == [v.WorkerForked, v.WorkerBecameReady]


def a_drained_worker_exits_with_0(stage: Stage) -> None:
    stage.with_template()
    stage.with_workers(0)
    stage.host.drain_worker(1, 5.0, successor=False)
    assert stage.until_exits(1) == [v.WorkerExited(1, 0)]
    stage.nothing_happens()


def a_killed_worker_is_reported_once_with_its_signal(stage: Stage) -> None:
    stage.with_template()
    stage.with_workers(0, 1)
    stage.host.kill_worker(2)
    stage.host.kill_worker(2)
    assert stage.until_exits(2) == [v.WorkerExited(2, -9)]
    stage.host.kill_worker(2)
    stage.nothing_happens()


def a_starting_worker_is_ended_by_termination(stage: Stage) -> None:
    stage.set_scripts([Script.HANGS])
    stage.with_template()
    stage.host.spawn_worker(1, 0, 0, 1)
    stage.until(lambda events: any(isinstance(e, v.WorkerForked) for e in events))
    stage.host.terminate_worker(1)
    assert stage.until_exits(1) == [v.WorkerExited(1, -15)]


def a_boot_failure_is_heard_before_the_exit(stage: Stage) -> None:
    stage.set_scripts([Script.BOOT_FAILS])
    stage.with_template()
    stage.host.spawn_worker(1, 0, 0, 1)
    events = stage.until_exits(1)
    assert [type(e) for e in events] == [v.WorkerForked, v.WorkerBootFailed, v.WorkerExited]
    assert events[-1] == v.WorkerExited(1, 3)


def a_crash_is_reported_after_what_was_said(stage: Stage) -> None:
    stage.set_scripts([Script.CRASHES])
    stage.with_template()
    stage.host.spawn_worker(1, 0, 0, 1)
    events = stage.until_exits(1)
    assert [type(e) for e in events] == [v.WorkerForked, v.WorkerBecameReady, v.WorkerExited]
    assert events[-1] == v.WorkerExited(1, 7)


def what_is_no_message_is_reported_and_survived(stage: Stage) -> None:
    stage.set_scripts([Script.BABBLES])
    stage.with_template()
    stage.host.spawn_worker(1, 0, 0, 1)
    events = stage.until(
        lambda events: sum(isinstance(e, v.MessageUnreadable) for e in events) == 3
    )
    forked = events[0]
    assert isinstance(forked, v.WorkerForked)
    said = [event for event in events if isinstance(event, v.MessageUnreadable)]
    assert {event.sender for event in said} == {f"worker slot=0 gen=1 pid={forked.pid}"}
    assert said[-1].reason == "unexpected Spawn"
    stage.host.drain_worker(1, 5.0, successor=False)
    assert stage.until_exits(1) == [v.WorkerExited(1, 0)]


def a_deaf_worker_dies_only_of_a_kill(stage: Stage) -> None:
    stage.set_scripts([Script.DEAF])
    stage.with_template()
    stage.with_workers(0)
    stage.host.drain_worker(1, 5.0, successor=False)
    stage.host.terminate_worker(1)
    stage.nothing_happens()
    stage.host.kill_worker(1)
    assert stage.until_exits(1) == [v.WorkerExited(1, -9)]


def a_stopped_template_touches_nobody_and_leaves_after_its_workers(stage: Stage) -> None:
    stage.with_template()
    stage.with_workers(0, 1)
    stage.host.stop_template(1)
    stage.nothing_happens()
    stage.host.drain_worker(1, 5.0, successor=True)
    assert stage.until_exits(1) == [v.WorkerExited(1, 0)]
    stage.nothing_happens()
    stage.host.drain_worker(2, 5.0, successor=True)
    assert stage.until_template_exits() == [v.WorkerExited(2, 0), v.TemplateExited(1, 0)]


def a_stopped_template_forks_what_it_was_asked_before(stage: Stage) -> None:
    stage.with_template()
    stage.host.spawn_worker(1, 0, 0, 1)
    stage.host.stop_template(1)
    events = stage.until(lambda events: v.WorkerBecameReady(1) in events)
    assert [type(e) for e in events] == [v.WorkerForked, v.WorkerBecameReady]
    stage.host.spawn_worker(2, 1, 1, 1)
    events = stage.until(bool)
    assert [type(e) for e in events] == [v.WorkerRefused]
    stage.host.drain_worker(1, 5.0, successor=False)
    assert stage.until_template_exits() == [v.WorkerExited(1, 0), v.TemplateExited(1, 0)]


def generations_live_side_by_side(stage: Stage) -> None:
    stage.with_template(1)
    stage.with_worker(1, 0, 1)
    stage.with_template(2)
    stage.with_worker(2, 0, 2)
    stage.with_worker(3, 1, 1)
    stage.host.stop_template(1)
    stage.host.drain_worker(1, 5.0, successor=True)
    stage.host.drain_worker(3, 5.0, successor=True)
    events = stage.until_template_exits()
    assert set(events) == {v.WorkerExited(1, 0), v.WorkerExited(3, 0), v.TemplateExited(1, 0)}
    stage.nothing_happens()
    stage.with_worker(4, 1, 2)
    stage.host.kill_template(2)
    assert stage.until_template_exits() == [v.TemplateExited(2, -9)]


def a_template_that_is_killed_leaves_those_of_other_generations(stage: Stage) -> None:
    stage.with_template(1)
    stage.with_template(2)
    stage.host.kill_template(2)
    assert stage.until_template_exits() == [v.TemplateExited(2, -9)]
    stage.with_worker(1, 0, 1)


def two_workers_share_a_slot_and_no_seat(stage: Stage) -> None:
    stage.with_template()
    first, second = stage.with_workers(2, 2)
    assert first != second
    stage.host.drain_worker(1, 5.0, successor=True)
    assert stage.until_exits(1) == [v.WorkerExited(1, 0)]
    assert set(stage.promises()) == {2}


def a_hanging_worker_ends_by_abortion(stage: Stage) -> None:
    stage.set_scripts([Script.STUCK])
    stage.with_template()
    stage.with_workers(0)
    stage.until_stuck(1)
    stage.host.drain_worker(1, 5.0, successor=True)
    stage.host.terminate_worker(1)
    stage.nothing_happens()
    stage.host.abort_worker(1)
    (exited,) = stage.until_exits(1)
    assert isinstance(exited, v.WorkerExited)
    assert exited.status == -6


def promises_are_kept_by_who_does_not_hang(stage: Stage) -> None:
    stage.set_scripts([Script.OBEDIENT, Script.STUCK, Script.HANGS])
    stage.with_template()
    stage.with_workers(0, 1)
    stage.host.spawn_worker(3, 2, 2, 1)
    stage.until(bool)
    assert set(stage.promises()) == {1, 2}, "the third is not ready"
    stage.until_stuck(2)
    now = stage.host.now()
    promises = stage.promises()
    assert promises[2] < now <= promises[1] <= now + TICK_S + 0.05


def stacks_are_written_when_asked_for(stage: Stage) -> None:
    stage.with_template()
    stage.with_workers(0)
    for worker in (1, None):
        assert stage.read_stacks(1, worker).text == ""
        for _ in range(2):  # what was there before is forgotten
            read = stage.stacks(1, worker)
            assert read.text.count("most recent call first") == 1
            assert (read.generation, read.worker) == (1, worker)
            assert read.state in ("S", "R")
    stage.host.drain_worker(1, 5.0, successor=True)
    assert stage.until_exits(1) == [v.WorkerExited(1, 0)]


def who_is_gone_has_no_stacks(stage: Stage) -> None:
    stage.with_template()
    stage.with_workers(0)
    stage.host.kill_worker(1)
    stage.until_exits(1)
    assert stage.stacks(1, 1) == v.StacksRead(1, 1, "", "")
    assert stage.stacks(7, None) == v.StacksRead(7, None, "", "")


def a_worker_says_that_it_is_unhealthy(stage: Stage) -> None:
    stage.set_scripts([Script.SICK])
    stage.with_template()
    stage.with_workers(0)
    (event,) = stage.until(bool)
    assert event == v.WorkerTurnedUnhealthy(1, "/healthz answered 500")


def a_withdrawn_worker_goes_on(stage: Stage) -> None:
    stage.with_template()
    stage.with_workers(0)
    stage.host.withdraw_worker(1)
    stage.nothing_happens()
    if not isinstance(stage.host, FakeHost):
        assert stage.blueprint.scoreboard.writer(0)[standin.WITHDRAWN] == 1
    stage.host.drain_worker(1, 5.0, successor=False)
    assert stage.until_exits(1) == [v.WorkerExited(1, 0)]


def trial(stage: Stage, worker: int) -> float | None:
    """The share of a worker on trial, once it is as all others have been told."""
    if isinstance(stage.host, FakeHost):
        return stage.host.workers[worker].share
    words = stage.blueprint.scoreboard.writer(worker - 1)
    stage.nothing_happens()  # but that it is told
    assert bool(words[standin.ON_TRIAL]) is (words[Word.SHARE] > 0)
    return words[Word.SHARE] / 1000 or None


def a_worker_is_on_trial_until_it_is_promoted(stage: Stage) -> None:
    stage.with_template()
    stage.with_workers(0)
    stage.host.spawn_worker(2, 1, 1, 1, share=0.25)
    events = stage.until(lambda events: v.WorkerBecameReady(2) in events)
    assert [type(e) for e in events] == [v.WorkerForked, v.WorkerBecameReady]
    assert (trial(stage, 1), trial(stage, 2)) == (None, 0.25)
    stage.host.promote_worker(1)
    assert (trial(stage, 1), trial(stage, 2)) == (None, 0.25)
    stage.host.promote_worker(2)
    assert (trial(stage, 1), trial(stage, 2)) == (None, None)
    stage.host.promote_worker(2)
    stage.host.drain_worker(2, 5.0, successor=True)
    assert stage.until_exits(2) == [v.WorkerExited(2, 0)]


def one_that_follows_who_died_on_trial_is_not_on_trial(stage: Stage) -> None:
    stage.with_template()
    stage.with_workers(0)
    stage.host.spawn_worker(2, 1, 1, 1, share=0.25)
    stage.until(lambda events: v.WorkerBecameReady(2) in events)
    stage.host.kill_worker(2)
    stage.until_exits(2)
    stage.host.spawn_worker(3, 1, 1, 1)
    stage.until(lambda events: v.WorkerBecameReady(3) in events)
    if isinstance(stage.host, FakeHost):
        assert trial(stage, 3) is None
    else:
        assert trial(stage, 2) is None, "who has that seat now"


def rescue_says_nothing_and_disturbs_nothing(stage: Stage) -> None:
    stage.with_template()
    stage.with_workers(0, 1)
    stage.host.rescue((1, 2), (1, 2), (1,))
    stage.nothing_happens()
    stage.host.kill_worker(1)  # who was to take
    assert stage.until_exits(1) == [v.WorkerExited(1, -9)]
    stage.nothing_happens()
    stage.host.rescue((0, 2), (0, 2), (2, 9))
    stage.host.close_listeners()
    stage.nothing_happens()
    stage.host.rescue((0,), (0,), (2,))
    stage.host.rescue((), (), ())
    stage.nothing_happens()


def workers_outlive_a_killed_template_and_get_siblings_from_the_next(stage: Stage) -> None:
    stage.with_template()
    stage.with_workers(0)
    stage.host.kill_template(1)
    assert stage.until_template_exits() == [v.TemplateExited(1, -9)]
    stage.nothing_happens()
    stage.with_template()
    stage.host.spawn_worker(2, 1, 1, 1)
    stage.until(lambda events: v.WorkerBecameReady(2) in events)
    stage.host.drain_worker(1, 5.0, successor=False)
    stage.host.drain_worker(2, 5.0, successor=False)
    stage.until_exits(1, 2)


def a_worker_asked_of_a_template_that_dies_is_lost_without_a_word(stage: Stage) -> None:
    pid = stage.with_template()
    stage.hang_template(pid)
    stage.host.spawn_worker(1, 0, 0, 1)
    stage.nothing_happens()
    stage.host.kill_worker(1)  # nothing to kill yet
    stage.host.kill_template(1)
    assert stage.until_template_exits() == [v.TemplateExited(1, -9)]
    stage.nothing_happens()
    stage.with_template()
    stage.host.spawn_worker(2, 0, 1, 1)
    stage.until(lambda events: v.WorkerBecameReady(2) in events)


def without_a_template_a_worker_is_refused(stage: Stage) -> None:
    stage.host.spawn_worker(1, 0, 0, 1)
    events = stage.until(bool)
    assert [type(e) for e in events] == [v.WorkerRefused]


def verbs_to_what_is_not_there_do_nothing(stage: Stage) -> None:
    stage.host.drain_worker(9, 1.0, successor=True)
    stage.host.promote_worker(9)
    stage.host.rescue((0,), (0,), (9,))
    stage.host.withdraw_worker(9)
    stage.host.terminate_worker(9)
    stage.host.abort_worker(9)
    stage.host.dump_stacks(9, 9)
    stage.host.dump_stacks(9, None)
    stage.host.pass_on({2: 2})
    stage.host.kill_worker(9)
    stage.host.stop_template(9)
    stage.host.kill_template(9)
    stage.host.close_listeners()
    stage.host.close_listeners()
    stage.nothing_happens()


def a_seat_of_the_scoreboard_is_empty_after_its_worker(stage: Stage) -> None:
    if isinstance(stage.host, FakeHost):
        return  # has no scoreboard
    stage.with_template()
    (pid,) = stage.with_workers(2)
    reading = stage.blueprint.scoreboard.read(0)
    assert (reading.state, reading.pid, reading.slot) == (State.READY, pid, 2)
    stage.host.kill_worker(1)
    stage.until_exits(1)
    assert set(stage.blueprint.scoreboard.read(0)) == {State.EMPTY, 0}


SCENARIOS: dict[str, Callable[[Stage], None]] = {
    scenario.__name__: scenario
    for scenario in (
        a_template_is_forked_and_becomes_ready,
        a_template_says_why_it_cannot_start_and_exits,
        a_worker_is_forked_and_becomes_ready_in_this_order,
        a_drained_worker_exits_with_0,
        a_killed_worker_is_reported_once_with_its_signal,
        a_starting_worker_is_ended_by_termination,
        a_boot_failure_is_heard_before_the_exit,
        a_crash_is_reported_after_what_was_said,
        what_is_no_message_is_reported_and_survived,
        a_deaf_worker_dies_only_of_a_kill,
        a_stopped_template_touches_nobody_and_leaves_after_its_workers,
        a_stopped_template_forks_what_it_was_asked_before,
        generations_live_side_by_side,
        a_template_that_is_killed_leaves_those_of_other_generations,
        two_workers_share_a_slot_and_no_seat,
        a_hanging_worker_ends_by_abortion,
        promises_are_kept_by_who_does_not_hang,
        stacks_are_written_when_asked_for,
        who_is_gone_has_no_stacks,
        a_worker_says_that_it_is_unhealthy,
        a_withdrawn_worker_goes_on,
        a_worker_is_on_trial_until_it_is_promoted,
        one_that_follows_who_died_on_trial_is_not_on_trial,
        rescue_says_nothing_and_disturbs_nothing,
        workers_outlive_a_killed_template_and_get_siblings_from_the_next,
        a_worker_asked_of_a_template_that_dies_is_lost_without_a_word,
        without_a_template_a_worker_is_refused,
        verbs_to_what_is_not_there_do_nothing,
        a_seat_of_the_scoreboard_is_empty_after_its_worker,
    )
}


def on_fake_host() -> Stage:
    host = FakeHost()

    def set_scripts(scripts: list[Script]) -> None:
        host.scripts = lambda slot: scripts[slot]

    def hang(pid: int) -> None:
        next(t for t in host.templates.values() if t.pid == pid).hung = True

    def break_template() -> None:
        host.template_script = Script.BOOT_FAILS

    made_of = blueprint(sockets.Listeners([]), Inboxes(0))
    return Stage(host, set_scripts, hang, break_template, made_of)


def on_posix_host() -> Stage:
    set_scripts([Script.OBEDIENT] * SLOTS)
    listeners = sockets.listen(["127.0.0.1:0"], slots=SLOTS, backlog=8, uds_mode=0o600, owner=None)
    made_of = blueprint(listeners, Inboxes(SEATS))
    host = PosixHost(made_of.scoreboard, made_of.listeners, made_of.inboxes)

    def hang(pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)

    def break_template() -> None:
        del standin.run  # what the template looks for

    return Stage(host, set_scripts, hang, break_template, made_of)


def blueprint(listeners: sockets.Listeners, inboxes: Inboxes) -> Blueprint:
    return Blueprint(
        settings=WorkerSettings(app="none:needed", graceful_timeout_s=5.0),
        listeners=listeners,
        scoreboard=Scoreboard(SEATS),
        inboxes=inboxes,
        run_worker="tests.host.standin:run",
    )


def set_scripts(scripts: list[Script]) -> None:
    """For workers of templates that are not forked yet."""
    os.environ[standin.SCRIPTS] = ",".join(script.name for script in scripts)


if __name__ == "__main__":
    stage = on_posix_host()
    try:
        SCENARIOS[sys.argv[1]](stage)
    finally:
        stage.close()
