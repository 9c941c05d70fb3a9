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
from asgi_supervise.host.system import Host, PosixHost
from asgi_supervise.host.template import Blueprint
from asgi_supervise.policy import vocabulary as v
from asgi_worker.contract import WorkerSettings
from asgi_worker.scoreboard import Scoreboard, State
from tests.host import standin
from tests.host.fake import FakeHost, Script

SLOTS = 4
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
    scoreboard: Scoreboard

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

    def with_template(self) -> int:
        """A ready template of generation 1; its pid."""
        self.host.start_template(1)
        events = self.until(lambda events: v.TemplateBecameReady(1) in events)
        forked, _ = events
        assert isinstance(forked, v.TemplateForked)
        return forked.pid

    def with_workers(self, *slots: int) -> list[int]:
        """Ready workers 1, 2, … in ``slots``; their pids."""
        for worker, slot in enumerate(slots, 1):
            self.host.spawn_worker(worker, slot, 1)
        expected = {v.WorkerBecameReady(worker) for worker in range(1, len(slots) + 1)}
        events = self.until(lambda events: expected <= set(events))
        forked = {e.worker: e.pid for e in events if isinstance(e, v.WorkerForked)}
        return [forked[worker] for worker in sorted(forked)]

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
    stage.host.start_template(1)
    events = stage.until_template_exits()
    assert [type(e) for e in events] == [
        v.TemplateForked,
        v.TemplateBootFailed,
        v.TemplateExited,
    ]
    assert events[-1] == v.TemplateExited(1, 3)


def a_worker_is_forked_and_becomes_ready_in_this_order(stage: Stage) -> None:
    stage.with_template()
    stage.host.spawn_worker(1, 0, 1)
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
    stage.host.spawn_worker(1, 0, 1)
    stage.until(lambda events: any(isinstance(e, v.WorkerForked) for e in events))
    stage.host.terminate_worker(1)
    assert stage.until_exits(1) == [v.WorkerExited(1, -15)]


def a_boot_failure_is_heard_before_the_exit(stage: Stage) -> None:
    stage.set_scripts([Script.BOOT_FAILS])
    stage.with_template()
    stage.host.spawn_worker(1, 0, 1)
    events = stage.until_exits(1)
    assert [type(e) for e in events] == [v.WorkerForked, v.WorkerBootFailed, v.WorkerExited]
    assert events[-1] == v.WorkerExited(1, 3)


def a_crash_is_reported_after_what_was_said(stage: Stage) -> None:
    stage.set_scripts([Script.CRASHES])
    stage.with_template()
    stage.host.spawn_worker(1, 0, 1)
    events = stage.until_exits(1)
    assert [type(e) for e in events] == [v.WorkerForked, v.WorkerBecameReady, v.WorkerExited]
    assert events[-1] == v.WorkerExited(1, 7)


def what_is_no_message_is_reported_and_survived(stage: Stage) -> None:
    stage.set_scripts([Script.BABBLES])
    stage.with_template()
    stage.host.spawn_worker(1, 0, 1)
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


def a_stopped_template_sees_its_workers_out(stage: Stage) -> None:
    stage.with_template()
    stage.with_workers(0, 1)
    stage.host.stop_template(1)
    events = stage.until_template_exits()
    assert set(events) == {v.WorkerExited(1, 0), v.WorkerExited(2, 0), v.TemplateExited(1, 0)}


def a_stopped_template_forks_what_it_was_asked_before(stage: Stage) -> None:
    stage.with_template()
    stage.host.spawn_worker(1, 0, 1)
    stage.host.stop_template(1)
    events = stage.until_template_exits()
    assert [e for e in events if isinstance(e, v.WorkerForked)]
    assert [e for e in events if isinstance(e, v.WorkerExited)]


def workers_outlive_a_killed_template_and_get_siblings_from_the_next(stage: Stage) -> None:
    stage.with_template()
    stage.with_workers(0)
    stage.host.kill_template(1)
    assert stage.until_template_exits() == [v.TemplateExited(1, -9)]
    stage.nothing_happens()
    stage.with_template()
    stage.host.spawn_worker(2, 1, 1)
    stage.until(lambda events: v.WorkerBecameReady(2) in events)
    stage.host.drain_worker(1, 5.0, successor=False)
    stage.host.drain_worker(2, 5.0, successor=False)
    stage.until_exits(1, 2)


def a_worker_asked_of_a_template_that_dies_is_lost_without_a_word(stage: Stage) -> None:
    pid = stage.with_template()
    stage.hang_template(pid)
    stage.host.spawn_worker(1, 0, 1)
    stage.nothing_happens()
    stage.host.kill_worker(1)  # nothing to kill yet
    stage.host.kill_template(1)
    assert stage.until_template_exits() == [v.TemplateExited(1, -9)]
    stage.nothing_happens()
    stage.with_template()
    stage.host.spawn_worker(2, 0, 1)
    stage.until(lambda events: v.WorkerBecameReady(2) in events)


def without_a_template_a_worker_is_refused(stage: Stage) -> None:
    stage.host.spawn_worker(1, 0, 1)
    events = stage.until(bool)
    assert [type(e) for e in events] == [v.WorkerRefused]


def verbs_to_what_is_not_there_do_nothing(stage: Stage) -> None:
    stage.host.drain_worker(9, 1.0, successor=True)
    stage.host.terminate_worker(9)
    stage.host.kill_worker(9)
    stage.host.stop_template(9)
    stage.host.kill_template(9)
    stage.host.close_listeners()
    stage.host.close_listeners()
    stage.nothing_happens()


def a_slot_of_the_scoreboard_is_empty_after_its_worker(stage: Stage) -> None:
    if isinstance(stage.host, FakeHost):
        return  # has no scoreboard
    stage.with_template()
    (pid,) = stage.with_workers(2)
    assert (stage.scoreboard.read(2).state, stage.scoreboard.read(2).pid) == (State.READY, pid)
    stage.host.kill_worker(1)
    stage.until_exits(1)
    assert (stage.scoreboard.read(2).state, stage.scoreboard.read(2).pid) == (State.EMPTY, 0)


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
        a_stopped_template_sees_its_workers_out,
        a_stopped_template_forks_what_it_was_asked_before,
        workers_outlive_a_killed_template_and_get_siblings_from_the_next,
        a_worker_asked_of_a_template_that_dies_is_lost_without_a_word,
        without_a_template_a_worker_is_refused,
        verbs_to_what_is_not_there_do_nothing,
        a_slot_of_the_scoreboard_is_empty_after_its_worker,
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

    return Stage(host, set_scripts, hang, break_template, Scoreboard(SLOTS))


def on_posix_host() -> Stage:
    set_scripts([Script.OBEDIENT] * SLOTS)
    blueprint = Blueprint(
        settings=WorkerSettings(app="none:needed", graceful_timeout_s=5.0),
        listeners=sockets.listen(
            ["127.0.0.1:0"], slots=SLOTS, backlog=8, uds_mode=0o600, owner=None
        ),
        scoreboard=Scoreboard(SLOTS),
        run_worker="tests.host.standin:run",
    )
    host = PosixHost(blueprint)

    def hang(pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)

    def break_template() -> None:
        del standin.run  # what the template looks for

    return Stage(host, set_scripts, hang, break_template, blueprint.scoreboard)


def set_scripts(scripts: list[Script]) -> None:
    """For workers of templates that are not forked yet."""
    os.environ[standin.SCRIPTS] = ",".join(script.name for script in scripts)


if __name__ == "__main__":
    stage = on_posix_host()
    try:
        SCENARIOS[sys.argv[1]](stage)
    finally:
        stage.host.close()
