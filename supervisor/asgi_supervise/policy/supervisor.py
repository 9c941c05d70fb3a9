"""Composes the policies: what happened goes in, what is to be done comes out.

Wanted and actual are separate. What is wanted is a generation and the slots that shall have a
worker; each decision compares that with the fleet and asks for what is missing. There is no
procedure for start, crash or stop that could be interrupted half-way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, assert_never

from asgi_supervise.policy import sizing
from asgi_supervise.policy import vocabulary as v
from asgi_supervise.policy.fleet import Fleet, Template, Worker
from asgi_supervise.policy.health import Backoff, Intensity, Roll, Rules
from asgi_supervise.policy.lifecycle import SERVICE, Change, Duty, Phase, Service, Task, Turn
from asgi_supervise.policy.wording import Complaints, how_it_died
from asgi_worker.contract import Exit

KILL_AGAIN_S = 1.0
"""A killed process that was not reaped by then is killed again."""
TEMPLATE_EXTRA_S = 2.0
"""A template leaves after its workers, so it has this much longer."""


class Supervisor:
    """Decides what the master does. Knows no clock: every call that needs the time is told it."""

    def __init__(self, rules: Rules, roll: Roll) -> None:
        self.rules = rules
        self.fleet = Fleet()
        self.service = Service.BOOTING
        self.generation = 1
        self.crashes = 0
        """Workers that died unwanted, ever."""
        self.verdict = Exit.OK
        """What the master exits with once it is done."""
        self._roll = roll
        self._intensity = Intensity()
        self._slot_backoff: dict[int, Backoff] = {}
        self._template_backoff = Backoff()
        self._boot_successes: set[int] = set()
        """At first start: slots whose worker was ready once."""
        self._boot_failures: set[int] = set()
        """At first start: slots whose worker died before it was ready."""
        self._served = False
        self._complaints = Complaints()
        self._acts: list[v.Act] = []

    @property
    def done(self) -> bool:
        """Nothing is left to be done; :attr:`verdict` holds."""
        return self.service is Service.DONE

    def observe(self, event: v.Event, now: float) -> None:
        """Take note of what happened. What it obliges to comes with the next decision."""
        match event:
            case v.Asked():
                self._asked(event, now)
            case v.MessageUnreadable(sender=sender, reason=reason):
                self._say("error", f"{sender} sent a message that cannot be used: {reason}")
            case v.TemplateExited(generation=generation, status=status):
                self._template_exited(generation, status, now)
            case v.WorkerForked() | v.WorkerRefused() | v.WorkerBecameReady():
                self._worker(event, now)
            case v.WorkerBootFailed() | v.WorkerExited():
                self._worker(event, now)
            case v.TemplateForked() | v.TemplateRefused():
                self._template(event, now)
            case v.TemplateBecameReady() | v.TemplateBootFailed():
                self._template(event, now)
            case _:
                assert_never(event)

    def decide(self, now: float) -> list[v.Act]:
        """All that is to be done now, in this order."""
        self._expire(now)
        self._judge(now)
        for when, slot in list(self._wishes()):
            if when <= now:
                self._ask_for(slot, now)
        acts, self._acts = self._acts, []
        return acts

    def deadline(self) -> float:
        """When to decide again if nothing happens before; infinite if only events matter."""
        lives = (member.life.deadline for member in self.fleet.members())
        return min((*lives, *(when for when, _ in self._wishes())), default=math.inf)

    # --- what happened -------------------------------------------------------------------------

    def _asked(self, event: v.Asked, now: float) -> None:
        match event.intent:
            case v.Intent.STOP:
                self._turn(Turn.STOP, now, event.by)
            case v.Intent.INTERRUPT:
                again = self.service is Service.STOPPING
                self._turn(Turn.KILL if again else Turn.STOP, now, event.by)
            case v.Intent.QUIT:
                self._turn(Turn.KILL, now, event.by)
            case intent:
                self._say("warning", f"{event.by}: {intent.value} is not available in this version")

    def _worker(
        self,
        event: v.WorkerForked
        | v.WorkerRefused
        | v.WorkerBecameReady
        | v.WorkerBootFailed
        | v.WorkerExited,
        now: float,
    ) -> None:
        worker = self.fleet.workers.get(event.worker)
        if worker is None:
            self._say("error", f"[BUG] {event} for a worker that is gone")
            return
        match event:
            case v.WorkerForked(pid=pid):
                worker.life.pid = pid
                self._change(worker, Change.FORKED, now)
                self._say("debug", f"{worker} forked")
            case v.WorkerRefused(reason=reason):
                self._change(worker, Change.REFUSED, now)
                self._say("error", f"cannot fork {worker}: {reason}")
                self._count_death(worker, now)
            case v.WorkerBecameReady():
                was = worker.life.phase
                self._change(worker, Change.BECAME_READY, now)
                if was is not Phase.READY and worker.life.phase is Phase.READY:
                    worker.life.ready_at = now
                    self._served = True
                    self._boot_successes.add(worker.slot)
                    self._say("info", f"{worker} ready")
            case v.WorkerBootFailed(reason=reason, traceback=traceback):
                self._change(worker, Change.BOOT_FAILED, now)
                self._complain(worker, reason, traceback)
            case v.WorkerExited(status=status):
                self._worker_exited(worker, status, now)
            case _:
                assert_never(event)

    def _worker_exited(self, worker: Worker, status: int, now: float) -> None:
        was = worker.life.phase
        self._change(worker, Change.EXITED, now)
        if worker.life.exists:  # a bug, said already
            return
        if worker.life.retired:
            self._say("info", f"{worker} {how_it_died(status)}")
            return
        if was is Phase.READY:
            lived = f"after {now - worker.life.ready_at:.1f} s"
            self._say("warning", f"{worker} {how_it_died(status)} {lived}; replacing it")
        elif was is Phase.STARTING:
            self._complain(worker, f"it {how_it_died(status)} before it was ready", "")
        if self.service is Service.BOOTING and worker.life.ready_at == math.inf:
            self._boot_failures.add(worker.slot)
        self._count_death(worker, now)

    def _template(
        self,
        event: v.TemplateForked | v.TemplateRefused | v.TemplateBecameReady | v.TemplateBootFailed,
        now: float,
    ) -> None:
        template = self.fleet.templates.get(event.generation)
        if template is None:
            self._say("error", f"[BUG] {event} for a template that is gone")
            return
        match event:
            case v.TemplateForked(pid=pid):
                template.life.pid = pid
                self._change(template, Change.FORKED, now)
            case v.TemplateRefused(reason=reason):
                self._change(template, Change.REFUSED, now)
                self._say("error", f"cannot fork {template}: {reason}")
                self._count_death(template, now)
            case v.TemplateBecameReady():
                self._change(template, Change.BECAME_READY, now)
                template.life.ready_at = min(template.life.ready_at, now)
                self._say("debug", f"{template} ready")
            case v.TemplateBootFailed(reason=reason, traceback=traceback):
                self._change(template, Change.BOOT_FAILED, now)
                self._complain(template, reason, traceback)
                self._fail_boot()
            case _:
                assert_never(event)

    def _template_exited(self, generation: int, status: int, now: float) -> None:
        template = self.fleet.templates.get(generation)
        if template is None:
            self._say("error", f"[BUG] template gen={generation} exited twice")
            return
        for worker in self.fleet.unreported(generation):
            self._change(worker, Change.LOST, now)
        was = template.life.phase
        self._change(template, Change.EXITED, now)
        if template.life.exists:  # a bug, said already
            return
        if template.life.retired:
            self._say("debug", f"{template} {how_it_died(status)}")
            return
        if was in (Phase.STARTING, Phase.READY):
            self._say("warning", f"{template} {how_it_died(status)}; its workers go on")
        if template.life.ready_at == math.inf and self.rules.preload:
            self._fail_boot()
        self._count_death(template, now)

    def _complain(self, member: Worker | Template, reason: str, traceback: str) -> None:
        self._say("error", f"{member} cannot start: {self._complaints.word(reason, traceback)}")

    def _fail_boot(self) -> None:
        """What keeps the template from starting keeps every worker from it."""
        if self.service is Service.BOOTING:
            self._boot_failures.update(sizing.slots_wanted(self.rules))

    def _count_death(self, member: Worker | Template, now: float) -> None:
        if isinstance(member, Worker):
            backoff = self._slot_backoff.setdefault(member.slot, Backoff())
            self.crashes += 1
        else:
            backoff = self._template_backoff
        backoff.died(now, max(0.0, now - member.life.ready_at), self.rules, self._roll)
        self._intensity.died(now, self.rules)
        if self._served and backoff.not_before > now:
            where = f"slot={member.slot}" if isinstance(member, Worker) else "the template"
            self._say("info", f"next try for {where} in {backoff.not_before - now:.1f} s")

    # --- what follows --------------------------------------------------------------------------

    def _change(self, member: Worker | Template, change: Change, now: float) -> None:
        life = member.life
        was = life.phase
        duty = life.step(change)
        if change is Change.RETIRED:
            life.retired = True
        if life.phase is not was or duty is Duty.KILL:
            life.deadline = self._next_deadline(member, now)
        match duty:
            case Duty.NONE:
                pass
            case Duty.DRAIN:
                self._acts.append(self._farewell(member))
            case Duty.TERMINATE:
                self._acts.append(self._dismissal(member))
            case Duty.KILL:
                self._kill(member, now)
            case Duty.BURY:
                self.fleet.bury(member)
            case Duty.BUG:
                self._say("error", f"[BUG] {member}: {change.value} while {was.value}")
            case _:
                assert_never(duty)

    def _next_deadline(self, member: Worker | Template, now: float) -> float:
        match member.life.phase:
            case Phase.ASKED | Phase.STARTING:
                return member.life.deadline  # set when it was asked for
            case Phase.READY | Phase.GONE:
                return math.inf
            case Phase.LEAVING:
                extra = TEMPLATE_EXTRA_S if isinstance(member, Template) else 0.0
                return now + self.rules.graceful_timeout_s + extra
            case Phase.KILLED:
                return now + KILL_AGAIN_S
            case phase:
                assert_never(phase)

    def _farewell(self, member: Worker | Template) -> v.Act:
        if isinstance(member, Template):
            return v.StopTemplate(member.generation)
        return v.DrainWorker(member.number, self.rules.drain_budget_s, successor=False)

    def _dismissal(self, member: Worker | Template) -> v.Act:
        if isinstance(member, Template):  # it imports the application, and has no worker yet
            return v.KillTemplate(member.generation)
        return v.TerminateWorker(member.number)

    def _kill(self, member: Worker | Template, now: float) -> None:
        if isinstance(member, Template):
            self._acts.append(v.KillTemplate(member.generation))
        elif member.life.pid is not None:
            self._acts.append(v.KillWorker(member.number))
        else:  # whoever was to fork it does not answer, so that is the one that hangs
            template = self.fleet.templates.get(member.generation)
            if template is not None and template.life.phase is not Phase.KILLED:
                self._say("error", f"{template} does not fork what it is asked for; killing it")
                self._change(template, Change.EXPIRED, now)

    def _expire(self, now: float) -> None:
        for member in self.fleet.members():
            life = member.life
            if life.deadline > now:
                continue
            if isinstance(member, Template) and life.pid is None:
                # It is forked at once or not at all, so we failed to ask.
                self._say("error", f"[BUG] {member} was not forked")
                self._change(member, Change.LOST, now)
                self._count_death(member, now)
                continue
            if life.phase is Phase.STARTING:
                limit = f"not ready within {self.rules.startup_timeout_s:g} s (startup-timeout)"
                self._complain(member, limit, "")
            elif life.phase is Phase.LEAVING:
                limit = f"{self.rules.graceful_timeout_s:g} s (graceful-timeout)"
                self._say("warning", f"{member} did not stop within {limit}; killing it")
            self._change(member, Change.EXPIRED, now)

    def _judge(self, now: float) -> None:
        if self.service in (Service.BOOTING, Service.SERVING):
            self._judge_hope(now)
        if self.service in (Service.STOPPING, Service.KILLING) and self.fleet.empty():
            self._turn(Turn.EMPTIED, now, "")

    def _judge_hope(self, now: float) -> None:
        ready = self.fleet.ready()
        wanted = set(sizing.slots_wanted(self.rules))
        if self.service is Service.BOOTING and ready:
            if wanted <= self._boot_successes | self._boot_failures:
                self._turn(Turn.BOOTED, now, "")
        elif not self._served and wanted <= self._boot_failures:
            self.verdict = Exit.BOOT
            self._turn(Turn.GIVE_UP, now, "the application cannot start")
        elif not ready and self._intensity.too_high(now, self.rules):
            self.verdict = Exit.INTERNAL
            deaths, window = len(self._intensity.times), self.rules.restart_window_s
            why = f"no worker serves and {deaths} processes died within {window:g} s"
            self._turn(Turn.GIVE_UP, now, why)

    def _turn(self, turn: Turn, now: float, why: str) -> None:
        was = self.service
        self.service, task = SERVICE[was][turn]
        match task:
            case Task.NONE:
                pass
            case Task.ANNOUNCE:
                self._acts.append(v.AnnounceServing(len(self.fleet.ready()), self.rules.workers))
            case Task.RETIRE_ALL:
                limit = self.rules.graceful_timeout_s
                self._say("info", f"stopping ({why}): workers have {limit:g} s to finish")
                for member in self.fleet.members():
                    self._change(member, Change.RETIRED, now)
                self._acts.append(v.CloseListeners())
            case Task.KILL_ALL:
                level: Literal["error", "info"] = "error" if turn is Turn.GIVE_UP else "info"
                self._say(level, f"stopping at once: {why}")
                for member in reversed(list(self.fleet.members())):  # first who could fork more
                    member.life.retired = True
                    self._change(member, Change.EXPIRED, now)
                self._acts.append(v.CloseListeners())
            case Task.FINISH:
                self._say("info", "stopped")
            case Task.BUG:
                self._say("error", f"[BUG] service: {turn.value} while {was.value}")
            case _:
                assert_never(task)

    def _wishes(self) -> Iterator[tuple[float, int | None]]:
        """What is missing, and when it may be asked for: slots, or (None) the template."""
        if self.service not in (Service.BOOTING, Service.SERVING):
            return
        template = self.fleet.templates.get(self.generation)
        if template is None:
            yield self._template_backoff.not_before, None
        elif template.life.phase is Phase.READY:
            held = set() if self._served else self._boot_failures
            for slot in self.fleet.vacant(sizing.slots_wanted(self.rules)):
                if slot not in held:  # at first start each slot has one try until one serves
                    yield self._slot_backoff.get(slot, Backoff()).not_before, slot

    def _ask_for(self, slot: int | None, now: float) -> None:
        deadline = now + self.rules.startup_timeout_s
        if slot is None:
            self.fleet.found(self.generation, deadline)
            self._acts.append(v.StartTemplate(self.generation))
        else:
            worker = self.fleet.enlist(slot, self.generation, deadline)
            self._acts.append(v.SpawnWorker(worker.number, slot, self.generation))

    def _say(self, level: Literal["debug", "info", "warning", "error"], text: str) -> None:
        self._acts.append(v.Say(level, text))
