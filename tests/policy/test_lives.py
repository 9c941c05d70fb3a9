"""Steps of lives: which act each obliges to, and how long the next may take."""

from __future__ import annotations

import math

import pytest

from asgi_supervise.policy import vocabulary as v
from asgi_supervise.policy.fleet import Fleet, Template, Worker
from asgi_supervise.policy.health import Rules
from asgi_supervise.policy.lifecycle import Change, Phase
from asgi_supervise.policy.lives import Lives, Member
from asgi_supervise.policy.supervisor import Supervisor
from asgi_supervise.policy.wording import Journal
from tests.host.fake import Script
from tests.policy.stage import Stage

RULES = {
    1: Rules(workers=2, graceful_timeout_s=10.0),
    2: Rules(workers=2, graceful_timeout_s=4.0),
}
STARTED_BY = 60.0
NOW = 100.0
WAY_TO = {
    Phase.ASKED: (),
    Phase.STARTING: (Change.FORKED,),
    Phase.READY: (Change.FORKED, Change.BECAME_READY),
    Phase.LEAVING: (Change.FORKED, Change.BECAME_READY, Change.RETIRED),
    Phase.KILLED: (Change.FORKED, Change.BECAME_READY, Change.EXPIRED),
}


class Scene:
    """One worker and its template, both of ``generation``, and the lives they live."""

    def __init__(self, generation: int = 2) -> None:
        self.fleet = Fleet()
        self.journal = Journal()
        self.lives = Lives(self.fleet, RULES, self.journal)
        self.template = self.fleet.found(generation, STARTED_BY)
        self.worker = self.fleet.enlist(1, generation, STARTED_BY)

    def bring(self, member: Member, phase: Phase) -> None:
        member.life.pid = None if phase is Phase.ASKED else 41
        for change in WAY_TO[phase]:
            self.lives.step(member, change, NOW - 50)
        assert member.life.phase is phase
        self.journal.take()

    def step(self, member: Member, change: Change) -> list[v.Act]:
        self.lives.step(member, change, NOW)
        return self.journal.take()


@pytest.mark.parametrize(
    ("phase", "change", "worker_act", "template_act"),
    [
        (Phase.ASKED, Change.FORKED, None, None),
        (Phase.ASKED, Change.RETIRED, None, None),
        (Phase.STARTING, Change.BECAME_READY, None, None),
        (Phase.STARTING, Change.BOOT_FAILED, None, None),
        (Phase.STARTING, Change.RETIRED, v.TerminateWorker(1), v.KillTemplate(2)),
        (Phase.STARTING, Change.EXPIRED, v.KillWorker(1), v.KillTemplate(2)),
        (Phase.READY, Change.RETIRED, v.DrainWorker(1, 3.6, successor=True), v.StopTemplate(2)),
        (Phase.READY, Change.CONDEMNED, v.AbortWorker(1), v.KillTemplate(2)),
        (Phase.READY, Change.EXPIRED, v.KillWorker(1), v.KillTemplate(2)),
        (Phase.LEAVING, Change.FORKED, v.TerminateWorker(1), v.KillTemplate(2)),
        (
            *(Phase.LEAVING, Change.BECAME_READY),
            *(v.DrainWorker(1, 3.6, successor=True), v.StopTemplate(2)),
        ),
        (Phase.LEAVING, Change.RETIRED, None, None),
        (Phase.LEAVING, Change.CONDEMNED, None, None),
        (Phase.LEAVING, Change.EXPIRED, v.KillWorker(1), v.KillTemplate(2)),
        (Phase.KILLED, Change.FORKED, v.KillWorker(1), v.KillTemplate(2)),
        (Phase.KILLED, Change.RETIRED, None, None),
        (Phase.KILLED, Change.EXPIRED, v.KillWorker(1), v.KillTemplate(2)),
    ],
)
def test_what_is_done(
    phase: Phase, change: Change, worker_act: v.Act | None, template_act: v.Act | None
) -> None:
    scene = Scene()
    for member, act in ((scene.worker, worker_act), (scene.template, template_act)):
        scene.bring(member, phase)
        assert scene.step(member, change) == ([] if act is None else [act])
        assert member.life.retired is (change is Change.RETIRED or phase is Phase.LEAVING)


@pytest.mark.parametrize(
    ("phase", "change", "worker_s", "template_s"),
    [
        (Phase.ASKED, Change.FORKED, NOW + 60, NOW + 60),
        (Phase.ASKED, Change.RETIRED, NOW + 4, NOW + 6),
        (Phase.STARTING, Change.BECAME_READY, math.inf, math.inf),
        (Phase.STARTING, Change.BOOT_FAILED, NOW + 4, NOW + 6),
        (Phase.STARTING, Change.RETIRED, NOW + 4, NOW + 6),
        (Phase.READY, Change.RETIRED, NOW + 4, NOW + 6),
        (Phase.READY, Change.CONDEMNED, NOW + 2, NOW + 2),
        (Phase.READY, Change.EXPIRED, NOW + 1, NOW + 1),
        (Phase.LEAVING, Change.RETIRED, NOW - 46, NOW - 44),  # it has a deadline already
        (Phase.LEAVING, Change.CONDEMNED, NOW - 46, NOW - 44),
        (Phase.LEAVING, Change.EXPIRED, NOW + 1, NOW + 1),
        (Phase.KILLED, Change.RETIRED, NOW - 49, NOW - 49),
        (Phase.KILLED, Change.EXPIRED, NOW + 1, NOW + 1),
    ],
)
def test_how_long_the_next_may_take(
    phase: Phase, change: Change, worker_s: float, template_s: float
) -> None:
    scene = Scene()
    for member, deadline in ((scene.worker, worker_s), (scene.template, template_s)):
        scene.bring(member, phase)
        scene.step(member, change)
        assert member.life.deadline == deadline


def test_durations_are_those_of_its_generation() -> None:
    scene = Scene(generation=1)
    scene.bring(scene.worker, Phase.READY)
    assert scene.step(scene.worker, Change.RETIRED) == [v.DrainWorker(1, 9.5, successor=True)]
    assert scene.worker.life.deadline == NOW + 10


def test_when_the_service_stops_there_is_no_successor() -> None:
    scene = Scene()
    scene.lives.others_serve = False
    scene.bring(scene.worker, Phase.READY)
    assert scene.step(scene.worker, Change.RETIRED) == [v.DrainWorker(1, 3.6, successor=False)]


@pytest.mark.parametrize("change", [Change.EXITED, Change.REFUSED, Change.LOST])
def test_who_is_gone_is_forgotten(change: Change) -> None:
    scene = Scene()
    members: tuple[Worker, Template] = scene.worker, scene.template
    for member in members:
        scene.bring(member, Phase.LEAVING)
        assert scene.step(member, change) == []
        assert member.life.deadline == math.inf
    assert scene.fleet.empty()


def test_what_cannot_happen_is_reported_and_changes_nothing() -> None:
    scene = Scene()
    scene.bring(scene.worker, Phase.READY)
    assert scene.step(scene.worker, Change.FORKED) == [
        v.Say("error", "[BUG] worker slot=1 gen=2 pid=41: forked while ready")
    ]
    assert (scene.worker.life.phase, scene.worker.life.deadline) == (Phase.READY, math.inf)


def test_for_one_that_is_not_forked_its_template_is_killed_once() -> None:
    scene = Scene()
    scene.bring(scene.template, Phase.READY)
    text = "template gen=2 pid=41 does not fork what it is asked for; killing it"
    assert scene.step(scene.worker, Change.EXPIRED) == [
        v.Say("error", text),
        v.KillTemplate(2),
    ]
    assert scene.template.life.phase is Phase.KILLED
    assert scene.step(scene.worker, Change.EXPIRED) == []
    scene.step(scene.template, Change.EXITED)
    assert scene.step(scene.worker, Change.EXPIRED) == []


def test_one_interrupt_is_a_graceful_stop() -> None:
    stage = Stage(graceful_timeout_s=5.0)
    stage.until(stage.full)
    stage.ask(v.Intent.INTERRUPT, "SIGINT")
    stage.until(stage.done)
    assert stage.said_with("info: stopping (SIGINT): workers have 5 s to finish")
    assert stage.host.drained == [(1, False), (2, False)]
    assert not stage.said_with("killed")


def test_one_that_is_ready_when_it_is_to_leave_is_not_served_by() -> None:
    stage = Stage(workers=1)
    stage.until(lambda: any(isinstance(event, v.WorkerForked) for event in stage.events))
    stage.ask(v.Intent.STOP)
    stage.turn()
    stage.host.happens(v.WorkerBecameReady(1))  # its message crossed ours
    stage.until(stage.done)
    assert not stage.said_with("worker slot=0", " ready")
    assert not stage.supervisor.deaths.served
    assert stage.host.drained == [(1, False)], "by the signal alone it thinks that others serve on"


def asked_for() -> Supervisor:
    """A supervisor that has asked for its only worker and heard nothing of it."""
    supervisor = Supervisor(Rules(workers=1), lambda: 0.0)
    supervisor.decide(NOW)
    for event in (v.TemplateForked(1, 41), v.TemplateBecameReady(1)):
        supervisor.observe(event, NOW)
    assert v.SpawnWorker(1, 0, 0, 1) in supervisor.decide(NOW)
    return supervisor


@pytest.mark.parametrize(
    ("intent", "act", "within_s"),
    [(v.Intent.STOP, v.TerminateWorker(1), 30.0), (v.Intent.QUIT, v.KillWorker(1), 1.0)],
)
def test_one_that_turns_up_when_all_were_told_to_leave(
    intent: v.Intent, act: v.Act, within_s: float
) -> None:
    supervisor = asked_for()
    supervisor.observe(v.Asked(intent, "test"), NOW)
    supervisor.decide(NOW)
    supervisor.observe(v.WorkerForked(1, 42), NOW)
    assert act in supervisor.decide(NOW)
    assert supervisor.deadline() == NOW + within_s
    supervisor.observe(v.WorkerExited(1, -15), NOW)
    supervisor.observe(v.TemplateExited(1, 0), NOW)
    supervisor.decide(NOW)
    assert supervisor.done
    assert (supervisor.verdict, supervisor.deaths.crashes) == (0, 0)


def test_why_everything_ends_is_told() -> None:
    stage = Stage(workers=1, shutdown_delay_s=5.0)
    stage.until(stage.full)
    stage.stop()
    assert stage.said_with("stopping")[1:] == [
        "info: stopping (shutdown-delay is over): workers have 30 s to finish"
    ]
    stage = Stage(workers=1)
    stage.script(Script.BOOT_FAILS)
    stage.until(stage.done)
    assert stage.said_with("stopping") == [
        "error: stopping at once: the application cannot start",
    ]


def test_who_says_quit_again_kills_again() -> None:
    stage = Stage(workers=1)
    stage.host.kills_wanted = 2
    stage.until(stage.full)
    began = stage.host.now()
    for _ in range(2):
        stage.ask(v.Intent.QUIT)
    stage.until(stage.done)
    assert stage.host.now() - began < 0.5
