"""What counts as a death, what it is called, and what follows from it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from asgi_supervise.policy import vocabulary as v
from asgi_supervise.policy.deaths import Deaths
from asgi_supervise.policy.fleet import Fleet
from asgi_supervise.policy.health import Rules
from asgi_supervise.policy.supervisor import Supervisor
from asgi_supervise.policy.wording import Journal, how_it_died
from tests.host.fake import FakeTemplate, Script
from tests.policy.stage import Stage


def serving(**rules: Any) -> Stage:
    stage = Stage(workers=3, **rules)
    stage.until(stage.full)
    stage.host.clock += 60
    return stage


def refuse_forks_into(stage: Stage, slot: int) -> None:
    """From now on the system refuses every worker of ``slot``, and no other."""
    fork = stage.host._fork

    def forked(worker: int, template: FakeTemplate) -> v.Event | None:
        stage.host.forks_refused = stage.host.workers[worker].slot == slot
        event = fork(worker, template)
        stage.host.forks_refused = False
        return event

    stage.host._fork = forked  # type: ignore[method-assign]


def test_a_slot_whose_forks_are_refused_does_not_keep_the_others_from_serving() -> None:
    stage = Stage(workers=3)
    refuse_forks_into(stage, 2)
    stage.until(stage.serving)
    stage.until(lambda: stage.host.now() > 1030)
    announced = [act for act in stage.acts if isinstance(act, v.AnnounceServing)]
    assert [act.wanted for act in announced] == [3]
    assert len(stage.said_with("error: cannot fork worker slot=2")) > 5, "it is tried again"
    assert stage.host.ready_slots() == [0, 1]
    stage.stop()


def test_one_that_is_not_wanted_any_more_and_refused_is_no_death() -> None:
    stage = serving()
    victim = stage.host.in_slot(0)
    stage.host.templates[1].hung = True
    stage.host.change_health(victim, "/healthz answered 500")
    for _ in range(2):
        stage.turn()
    replacement = stage.supervisor.fleet.asked
    assert replacement == 4
    stage.host.change_health(victim, "")
    for _ in range(2):
        stage.turn()
    del stage.host.workers[replacement]
    stage.host.happens(v.WorkerRefused(replacement, "no more processes"))
    for _ in range(2):
        stage.turn()
    assert list(stage.supervisor.fleet.workers) == [1, 2, 3]
    assert stage.supervisor.deaths.crashes == 0
    assert not stage.said_with("cannot fork")


def test_deaths_are_counted_each_once() -> None:
    stage = serving(max_restarts=100)
    for number in (1, 2):
        stage.host.crash_worker(number, -9)
    stage.turn()
    stage.until(stage.full)
    stage.host.generation_scripts[2] = Script.CRASHES
    stage.reload()
    assert stage.supervisor.deaths.crashes == 3, "a canary's, too"


def test_only_deaths_within_the_window_are_told_of() -> None:
    rules = Rules(workers=1, max_restarts=2, restart_window_s=10.0)
    fleet, deaths = Fleet(), Deaths(lambda: 0.0, Journal())
    for now in (100.0, 105.0, 106.0):
        deaths.count(fleet.enlist(0, 1, 60.0), rules, now)
    assert deaths.hopeless(rules, 111.0) == "no worker serves and 2 processes died within 10 s"
    assert deaths.hopeless(rules, 115.5) == ""


@pytest.mark.parametrize("served", [False, True])
@pytest.mark.parametrize("roll", [0.0, 1.0])
def test_a_wait_is_told_when_there_is_one_and_somebody_served(served: bool, roll: float) -> None:
    journal = Journal()
    deaths = Deaths(lambda: roll, journal)
    deaths.served = served
    fleet = Fleet()
    deaths.count(fleet.enlist(1, 1, 60.0), Rules(workers=2), 100.0)
    deaths.count(fleet.found(1, 60.0), Rules(workers=2), 100.0)
    told = [v.Say("info", f"next try for {who} in 0.5 s") for who in ("slot=1", "the template")]
    assert journal.take() == (told if served and roll else [])


@pytest.mark.parametrize(("ready_s", "waits_s"), [(9.5, 0.5), (10.0, 0.0)])
def test_how_long_it_was_ready_decides_the_wait(ready_s: float, waits_s: float) -> None:
    deaths = Deaths(lambda: 1.0, Journal())
    worker = Fleet().enlist(0, 1, 60.0)
    worker.life.ready_at = 100.0
    deaths.count(worker, Rules(workers=1), 100.0 + ready_s)
    assert deaths.slot_not_before(0) == 100.0 + ready_s + waits_s
    assert deaths.slot_not_before(1) == deaths.template_not_before() == -math.inf


def test_one_never_ready_counts_as_ready_for_no_time() -> None:
    rules = Rules(workers=1, grown_up_s=0.5, healthy_s=0.5)
    deaths = Deaths(lambda: 1.0, Journal())
    deaths.count(Fleet().enlist(0, 1, 60.0), rules, 100.0)
    assert deaths.slot_not_before(0) == 100.5


def test_what_dies_of_something_else_before_our_kill_arrives_is_called_so() -> None:
    assert how_it_died(-11, killed_by_us=True) == "crashed in native code (SIGSEGV)"
    assert how_it_died(-15, killed_by_us=True) == "was killed by SIGTERM"
    assert how_it_died(0, killed_by_us=True) == "exited with status 0"


def test_an_end_that_was_wanted_is_no_death() -> None:
    stage = serving()
    stage.reload()
    stage.until(stage.full)
    stage.host.generation_scripts[3] = Script.BOOT_FAILS
    stage.reload()
    stage.until(lambda: list(stage.host.templates) == [2])
    deaths = stage.supervisor.deaths
    assert (deaths.crashes, deaths.template_not_before()) == (0, -math.inf)
    assert deaths.hopeless(Rules(workers=1, max_restarts=1), stage.host.now()) == ""
    assert not stage.said_with("warning:")


def test_why_a_template_cannot_start_is_told() -> None:
    stage = Stage(preload=True)
    stage.host.template_script = Script.BOOT_FAILS
    stage.until(stage.done)
    line = "error: template gen=1 pid=100 cannot start: no such module\nTraceback: template"
    assert stage.said_with("error: template") == [line]


CRASH = """\
Fatal Python error: Segmentation fault

Current thread 0x00007f02 (most recent call first):
  File "/srv/app/views.py", line 41 in report
  File "/opt/workers/asgi_worker/server.py", line 50 in _task
"""
OUR_START = '  File "/opt/workers/asgi_worker/main.py", line 117 in run\n'


def happens_to_all(stage: Stage, of_worker: v.WorkerExited, of_template: v.TemplateExited) -> None:
    """Worker 1 and template 1 end as told."""
    del stage.host.workers[of_worker.worker], stage.host.templates[of_template.generation]
    stage.host.happens(of_worker)
    stage.host.happens(of_template)
    for _ in range(2):
        stage.turn()


def test_a_crash_in_native_code_is_told_with_its_line_and_stack() -> None:
    stage = serving()
    stacks = CRASH + OUR_START
    happens_to_all(
        stage,
        v.WorkerExited(1, -11, stacks=stacks),
        v.TemplateExited(1, -11, stacks=stacks),
    )
    how = "crashed in native code (SIGSEGV) at /srv/app/views.py:41 in report"
    assert stage.said_with("warning:") == [
        f"warning: worker slot=0 gen=1 pid=101 {how} after 60.0 s; replacing it\n{CRASH.rstrip()}",
        f"warning: template gen=1 pid=100 {how}; its workers go on\n{CRASH.rstrip()}",
    ]
    stage.until(stage.full)


def test_that_memory_ran_out_is_told() -> None:
    stage = serving()
    happens_to_all(
        stage,
        v.WorkerExited(1, -9, out_of_memory=True),
        v.TemplateExited(1, -9, out_of_memory=True),
    )
    how = "was killed by the kernel, because memory ran out (SIGKILL)"
    assert stage.said_with("warning:") == [
        f"warning: worker slot=0 gen=1 pid=101 {how} after 60.0 s; replacing it",
        f"warning: template gen=1 pid=100 {how}; its workers go on",
    ]
    stage.until(stage.full)


def test_a_crash_before_it_was_ready_is_told_with_its_stack() -> None:
    stage = serving()
    stage.host.generation_scripts[2] = stage.host.generation_scripts[1] = Script.HANGS
    stage.ask(v.Intent.RELOAD)
    stage.until(lambda: 4 in stage.host.workers)
    del stage.host.workers[4]
    stage.host.happens(v.WorkerExited(4, -11, stacks=CRASH + OUR_START))
    stage.until(lambda: bool(stage.said_with("reload failed")))
    (line,) = stage.said_with("reload failed")
    how = "crashed in native code (SIGSEGV) at /srv/app/views.py:41 in report before it was ready"
    assert line.endswith(f"worker slot=0 gen=2 pid=105 {how}\n{CRASH.rstrip()}")


def test_a_template_of_which_nothing_is_heard_is_given_up_and_asked_for_again() -> None:
    supervisor = Supervisor(Rules(workers=1, startup_timeout_s=10.0), lambda: 1.0)
    assert supervisor.decide(100.0) == [v.StartTemplate(1)]
    assert supervisor.deadline() == 110.0
    assert supervisor.decide(110.0) == [
        v.Say("error", "cannot fork template gen=1 pid=-: [BUG] it was not asked for")
    ]
    assert supervisor.deadline() == 110.5
    assert supervisor.decide(110.5) == [v.StartTemplate(1)]


def test_one_of_which_nothing_is_heard_does_not_keep_the_service_from_its_end() -> None:
    supervisor = Supervisor(Rules(workers=1, graceful_timeout_s=5.0), lambda: 1.0)
    supervisor.decide(100.0)
    supervisor.observe(v.Asked(v.Intent.STOP, "test"), 101.0)
    supervisor.decide(101.0)
    assert supervisor.deadline() == 108.0
    supervisor.decide(108.0)
    assert supervisor.done


@pytest.mark.parametrize("shutdown_delay_s", [0.0, 100.0])
def test_a_service_that_served_gives_up_when_all_die_again_and_again(
    shutdown_delay_s: float,
) -> None:
    stage = serving(shutdown_delay_s=shutdown_delay_s)
    if shutdown_delay_s:
        stage.ask(v.Intent.STOP)
        stage.turn()
    stage.host.generation_scripts[1] = Script.CRASHES
    for number in list(stage.host.workers):
        stage.host.crash_worker(number, 1)
    began = stage.host.now()
    stage.until(stage.done)
    stage.check_empty()
    assert stage.supervisor.verdict == 70
    assert stage.host.now() - began < 60
    assert stage.said_with("error: stopping at once: no worker serves and 15 processes died with")


def test_at_first_start_each_slot_has_one_try_although_others_take_their_time() -> None:
    stage = Stage(workers=2, startup_timeout_s=20.0)
    stage.script(Script.BOOT_FAILS, Script.HANGS)
    stage.until(stage.done)
    assert stage.supervisor.verdict == 3
    assert [act.slot for act in stage.acts if isinstance(act, v.SpawnWorker)] == [0, 1]
