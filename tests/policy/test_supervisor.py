from __future__ import annotations

import math

import pytest

from asgi_supervise.policy import vocabulary as v
from asgi_supervise.policy.lifecycle import Service
from tests.host.fake import Script
from tests.policy.stage import Stage, serving


def of(kind: type[v.Act], stage: Stage) -> list[v.Act]:
    return [act for act in stage.acts if isinstance(act, kind)]


def test_start_serve_stop() -> None:
    stage = Stage(workers=3, stall_warn_s=None, worker_timeout_s=None, balance="off")
    stage.until(stage.full)
    assert stage.supervisor.deadline() == math.inf, "an idle master sleeps until something happens"
    took_s = stage.stop()
    assert took_s < 1
    assert stage.supervisor.verdict == 0
    assert of(v.AnnounceServing, stage) == [v.AnnounceServing(3, 3)]
    drains = of(v.DrainWorker, stage)
    assert drains == [v.DrainWorker(n, 29.5, successor=False) for n in (1, 2, 3)]
    assert stage.said_with("debug: template gen=1 pid=100 ready")
    assert stage.said_with("debug: worker slot=0 gen=1 pid=101 forked")
    assert len(stage.said_with("info: worker slot=", "ready")) == 3
    assert stage.said_with("info: stopping (test): workers have 30 s to finish")
    assert len(stage.said_with("info: worker slot=", "exited with status 0")) == 3
    assert stage.said[-1] == "info: stopped"


def test_queues_to_which_nobody_comes_are_ended_before_workers_end_theirs() -> None:
    stage = serving()
    stage.host.hang(stage.host.in_slot(0))
    stage.until(lambda: stage.host.rescued[0] == (0,))
    before = len(stage.acts)
    stage.stop()
    kinds = [type(act) for act in stage.acts[before:]]
    assert kinds.count(v.DrainWorker) == 2
    assert kinds.index(v.CloseListeners) < kinds.index(v.DrainWorker)
    assert kinds.index(v.CloseListeners) < kinds.index(v.Rescue), "they are emptied a last time"


def test_a_dead_worker_is_replaced_in_its_slot() -> None:
    stage = Stage()
    stage.until(stage.full)
    stage.host.clock += 20
    stage.host.crash_worker(stage.host.in_slot(1), -11)
    before = stage.host.now()
    stage.turn()
    stage.until(stage.full)
    assert stage.host.now() - before < 0.2, "one that has grown up is replaced at once"
    assert of(v.SpawnWorker, stage)[-1] == v.SpawnWorker(3, 1, 1, 1)
    assert stage.said_with("slot=1", "crashed in native code (SIGSEGV) after 20.0 s; replacing")
    assert stage.supervisor.deaths.crashes == 1


def test_one_that_dies_young_waits() -> None:
    stage = Stage()
    stage.until(stage.full)
    for expected_s in (0.5, 0.75, 1.125):
        before = stage.host.now()
        stage.host.crash_worker(stage.host.in_slot(0), 1)
        stage.turn()
        stage.until(stage.full)
        assert expected_s <= stage.host.now() - before < expected_s + 0.2
    assert stage.said_with("next try for slot=0 in 1.1 s")


def test_all_that_fail_to_boot_at_first_start_end_it_with_one_traceback() -> None:
    stage = Stage(workers=4)
    stage.script(*[Script.BOOT_FAILS] * 4)
    stage.until(stage.done)
    stage.check_empty()
    assert stage.supervisor.verdict == 3
    assert len(stage.said_with("Traceback")) == 1
    assert len(stage.said_with("(as reported above)")) == 3
    assert len(of(v.SpawnWorker, stage)) == 4, "each slot had one try"


def test_all_that_die_before_they_are_ready_end_it_too() -> None:
    stage = Stage(startup_timeout_s=5)
    stage.script(Script.HANGS, Script.BOOT_FAILS)
    stage.until(stage.done)
    assert stage.supervisor.verdict == 3
    assert stage.said_with("slot=0", "not ready within 5 s")


def test_a_template_that_does_not_fork_is_found_out_long_before_a_slow_start_would_be() -> None:
    stage = Stage(startup_timeout_s=600.0)
    stage.until(stage.full)
    stage.host.clock += 60
    stage.host.templates[1].hung = True
    stage.host.crash_worker(stage.host.in_slot(1), -9)
    began = stage.host.now()
    stage.until(lambda: bool(stage.said_with("does not fork what it is asked for; killing it")))
    assert 10 <= stage.host.now() - began < 11
    stage.until(stage.full)
    assert stage.host.now() - began < 20


def test_the_time_for_starting_begins_with_the_fork() -> None:
    stage = Stage(workers=1, startup_timeout_s=100.0)
    stage.script(Script.HANGS)
    began = stage.host.now()
    stage.until(lambda: bool(stage.said_with("not ready within 100 s")))
    assert 100 <= stage.host.now() - began < 101


def test_one_killed_before_it_was_ready_failed_to_boot() -> None:
    stage = Stage(workers=1)
    stage.script(Script.HANGS)
    stage.until(lambda: any(isinstance(event, v.WorkerForked) for event in stage.events))
    stage.host.crash_worker(1, -11)
    stage.until(stage.done)
    assert stage.supervisor.verdict == 3
    assert stage.said_with(
        "slot=0", "cannot start: it crashed in native code (SIGSEGV) before it was ready"
    )


def test_one_that_boots_is_enough_to_serve() -> None:
    stage = Stage(workers=3)
    stage.script(Script.BOOT_FAILS, Script.OBEDIENT, Script.BOOT_FAILS)
    stage.until(stage.serving)
    assert of(v.AnnounceServing, stage) == [v.AnnounceServing(1, 3)]
    stage.script()
    stage.until(stage.full)
    assert len(of(v.AnnounceServing, stage)) == 1
    stage.stop()


def test_what_keeps_the_template_from_starting_ends_it() -> None:
    for preload in (True, False):
        stage = Stage(preload=preload)
        stage.host.template_script = Script.BOOT_FAILS
        stage.until(stage.done)
        assert stage.supervisor.verdict == 3
        assert len(stage.said_with("Traceback")) == 1


def test_a_template_that_takes_itself_down_while_preloading() -> None:
    stage = Stage(preload=True)
    stage.host.template_script = Script.CRASHES
    stage.until(stage.done)
    assert stage.supervisor.verdict == 3


def test_a_template_that_dies_without_a_word_is_tried_again() -> None:
    stage = Stage()
    stage.host.template_script = Script.CRASHES
    stage.until(lambda: len(stage.said_with("template", "exited with status 7")) == 3)
    stage.host.template_script = Script.OBEDIENT
    stage.until(stage.full)
    stage.stop()


def test_a_template_that_fails_later_is_tried_again_and_nobody_stops() -> None:
    stage = Stage(preload=True, max_restarts=1)
    stage.until(stage.full)
    stage.host.template_script = Script.BOOT_FAILS
    stage.host.crash_template(1, -9)
    stage.until(lambda: len(stage.said_with("template", "cannot start")) == 4)
    assert stage.full()
    assert len(stage.said_with("its workers go on")) == 1
    assert stage.said_with("next try for the template in 0.8 s")
    stage.host.template_script = Script.OBEDIENT
    stage.until(lambda: bool(stage.host.templates) and stage.host.templates[1].ready)
    stage.stop()


def test_a_template_that_hangs_while_preloading() -> None:
    stage = Stage(preload=True, startup_timeout_s=5)
    stage.host.template_script = Script.HANGS
    stage.until(stage.done)
    assert stage.supervisor.verdict == 3
    assert stage.said_with("template", "not ready within 5 s")


def test_a_crash_loop_ends_when_nobody_serves() -> None:
    stage = Stage(workers=1)
    stage.script(Script.CRASHES)
    stage.until(stage.done)
    assert stage.supervisor.verdict == 70
    assert stage.supervisor.deaths.crashes == 5
    assert stage.said_with("no worker serves and 5 processes died within 60 s")


def test_a_crash_loop_does_not_end_while_one_serves() -> None:
    stage = Stage(workers=2, stall_warn_s=None, worker_timeout_s=None, balance="off")
    stage.script(Script.CRASHES, Script.OBEDIENT)
    stage.until(lambda: stage.supervisor.deaths.crashes > 50, most_turns=10_000)
    assert stage.serving()
    stage.stop()


def test_forks_that_are_refused_are_tried_again() -> None:
    stage = Stage(max_restarts=100)
    stage.host.forks_refused = True
    stage.until(lambda: len(stage.said_with("cannot fork template")) == 3)
    stage.host.forks_refused = False
    stage.until(lambda: bool(stage.host.templates))
    stage.host.forks_refused = True
    stage.until(lambda: len(stage.said_with("cannot fork worker", "no more processes")) == 4)
    stage.host.forks_refused = False
    stage.until(stage.full)
    stage.stop()


@pytest.mark.parametrize("with_template", [False, True])
def test_forks_refused_for_ever_end_it_with_70(with_template: bool) -> None:
    stage = Stage()
    if with_template:
        stage.until(lambda: bool(stage.host.templates))
    stage.host.forks_refused = True
    stage.until(stage.done)
    assert stage.supervisor.verdict == 70
    assert bool(stage.said_with("cannot fork worker")) == with_template


def test_a_dead_template_is_replaced_and_its_workers_go_on() -> None:
    stage = Stage()
    stage.until(stage.full)
    stage.host.crash_template(1, -9)
    stage.turn()
    assert stage.full()
    stage.until(lambda: stage.host.templates.get(1) is not None)
    stage.until(lambda: stage.host.templates[1].ready)
    assert stage.said_with("template gen=1", "was killed by SIGKILL; its workers go on")
    stage.host.crash_worker(stage.host.in_slot(0), -9)
    stage.turn()
    stage.until(stage.full)
    stage.stop()


def test_a_worker_lost_with_its_template_counts_as_no_death_of_its_slot() -> None:
    stage = Stage()
    stage.until(stage.full)
    stage.host.crash_worker(stage.host.in_slot(0), -9)
    stage.host.templates[1].hung = True
    stage.until(lambda: any(w.pid is None for w in stage.host.workers.values()))
    stage.host.crash_template(1, -9)
    stage.turn()
    stage.until(stage.full)
    assert stage.supervisor.deaths.crashes == 1
    stage.stop()


def test_a_template_that_does_not_fork_is_killed() -> None:
    stage = Stage(startup_timeout_s=5)
    stage.until(stage.full)
    stage.host.templates[1].hung = True
    stage.host.crash_worker(stage.host.in_slot(0), -9)
    stage.turn()
    stage.until(stage.full)
    assert stage.said_with("template gen=1", "does not fork what it is asked for")
    stage.stop()


def test_a_stop_kills_what_does_not_leave() -> None:
    stage = Stage(graceful_timeout_s=5)
    stage.script(Script.DEAF, Script.OBEDIENT)
    stage.until(stage.full)
    assert 5 <= stage.stop() < 8
    assert stage.supervisor.verdict == 0
    assert stage.said_with("slot=0", "did not stop within 5 s")


def test_a_stop_kills_a_template_that_does_not_leave() -> None:
    stage = Stage(graceful_timeout_s=5)
    stage.until(stage.full)
    stage.host.templates[1].hung = True
    assert 7 <= stage.stop() < 8, "it has a little longer than its workers"
    assert stage.said_with("template gen=1", "did not stop within 5 s")


def test_what_does_not_die_is_killed_again_and_again() -> None:
    stage = Stage(workers=1, graceful_timeout_s=5)
    stage.host.kills_wanted = 10
    stage.script(Script.DEAF)
    stage.until(stage.full)
    assert 14 <= stage.stop() < 16
    assert len(of(v.KillWorker, stage)) == 10
    assert len(stage.said_with("did not stop")) == 2, "the worker, the template: each said once"


@pytest.mark.parametrize("script", [Script.OBEDIENT, Script.HANGS])
@pytest.mark.parametrize("turns", range(5))
def test_a_stop_during_the_start(turns: int, script: Script) -> None:
    stage = Stage(graceful_timeout_s=5)
    stage.script(script, script)
    for _ in range(turns):
        stage.turn()
    assert stage.stop() < 1
    assert stage.supervisor.verdict == 0


def test_a_stop_while_the_template_preloads() -> None:
    stage = Stage(preload=True)
    stage.host.template_script = Script.HANGS
    stage.until(lambda: bool(stage.events))
    assert stage.stop() < 1


def test_interrupt_twice_and_quit() -> None:
    for intents in ([v.Intent.INTERRUPT, v.Intent.INTERRUPT], [v.Intent.QUIT]):
        stage = Stage()
        stage.script(Script.DEAF, Script.DEAF)
        stage.until(stage.full)
        began = stage.host.now()
        for intent in intents:
            stage.ask(intent)
        stage.until(stage.done)
        stage.check_empty()
        assert stage.host.now() - began < 0.1
        assert stage.supervisor.verdict == 0
        assert stage.said_with("info: stopping at once: test")
        assert len(stage.said_with("info: worker", "was killed by SIGKILL")) == 2
        assert stage.said_with("warning") == []


def test_terminated_twice_stays_graceful() -> None:
    stage = Stage(graceful_timeout_s=5)
    stage.script(Script.DEAF)
    stage.until(stage.full)
    stage.ask(v.Intent.STOP)
    assert stage.stop() >= 5


@pytest.mark.parametrize(
    "intent",
    [v.Intent.UPGRADE, v.Intent.MORE, v.Intent.FEWER],
)
def test_what_this_version_cannot_do_is_said(intent: v.Intent) -> None:
    stage = Stage()
    stage.until(stage.full)
    stage.ask(intent, by="SIGX")
    stage.turn()
    stage.stop()
    assert stage.said_with("warning: SIGX:", intent.value, "not available in this version")


def test_words_from_nobody_are_bugs_that_are_survived() -> None:
    stage = Stage()
    stage.bugs_expected = True
    stage.until(stage.full)
    strange: list[v.Event] = [
        v.WorkerForked(99, 1),
        v.WorkerBecameReady(1),
        v.WorkerBootFailed(1, "no", ""),
        v.TemplateForked(7, 1),
        v.TemplateExited(7, 0),
        v.TemplateBecameReady(1),
        v.MessageUnreadable("worker slot=0", "not MessagePack"),
    ]
    for event in strange:
        stage.host.happens(event)
    stage.host.clock += 20
    stage.turn()
    assert stage.full()
    stage.host.crash_worker(1, 1)
    stage.until(lambda: len(stage.said_with("slot=0", "replacing it")) == 1)
    assert stage.said_with("slot=0", "after 20.0 s")  # not: since it said Ready again
    stage.stop()
    assert len(stage.said_with("[BUG]")) == len(strange) - 1
    assert stage.said_with("worker slot=0 sent a message that cannot be used: not MessagePack")


def test_service_phases() -> None:
    stage = Stage()
    seen = [stage.supervisor.service]
    stage.until(stage.full)
    seen.append(stage.supervisor.service)
    stage.stop()
    seen.append(stage.supervisor.service)
    assert seen == [Service.BOOTING, Service.SERVING, Service.DONE]
