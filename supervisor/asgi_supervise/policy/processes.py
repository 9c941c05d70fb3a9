"""What happens to workers and templates, and what it means: a life's next step, a failed start, a
failed generation, a death that counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, assert_never

from asgi_supervise.policy import sizing
from asgi_supervise.policy import vocabulary as v
from asgi_supervise.policy.deaths import Deaths
from asgi_supervise.policy.fleet import Fleet, Template, Worker
from asgi_supervise.policy.health import Rules
from asgi_supervise.policy.lifecycle import Change, Phase
from asgi_supervise.policy.lives import Lives, Member
from asgi_supervise.policy.reloads import Reloads
from asgi_supervise.policy.watching import Watch
from asgi_supervise.policy.wording import (
    Complaints,
    Journal,
    how_it_died,
    with_traceback,
    without_our_start,
)


class Processes:
    """Observes what is reported of single processes."""

    def __init__(
        self,
        rules: Mapping[int, Rules],
        fleet: Fleet,
        lives: Lives,
        deaths: Deaths,
        reloads: Reloads,
        journal: Journal,
    ) -> None:
        self.watch = Watch(fleet, lives, journal, self._unready)
        self._rules = rules
        self._fleet = fleet
        self._lives = lives
        self._deaths = deaths
        self._reloads = reloads
        self._journal = journal
        self._complaints = Complaints()

    def observe(self, event: v.WorkerEvent | v.TemplateEvent, now: float) -> None:
        """Something happened to a worker or a template."""
        if isinstance(event, v.WorkerEvent):
            worker = self._fleet.workers.get(event.worker)
            if worker is None:
                self._journal.say("error", f"[BUG] {event} for a worker that is gone")
            else:
                self._worker(worker, event, now)
        else:
            template = self._fleet.templates.get(event.generation)
            if template is None:
                self._journal.say("error", f"[BUG] {event} for a template that is gone")
            else:
                self._template(template, event, now)

    def _worker(self, worker: Worker, event: v.WorkerEvent, now: float) -> None:
        match event:
            case v.WorkerForked(pid=pid):
                worker.life.pid = pid
                self._lives.step(worker, Change.FORKED, now)
                self._journal.say("debug", f"{worker} forked")
            case v.WorkerRefused(reason=reason):
                self._refused(worker, reason, now)
            case v.WorkerBecameReady():
                self._became_ready(worker, now)
            case v.WorkerBootFailed(reason=reason, traceback=traceback):
                self._lives.step(worker, Change.BOOT_FAILED, now)
                self._could_not_start(worker, reason, traceback, now)
            case v.WorkerTurnedUnhealthy(reason=reason):
                self._turned_unhealthy(worker, reason, now)
            case v.WorkerTurnedHealthy():
                if worker.unhealthy:
                    self._journal.say("info", f"{worker} is healthy again")
                worker.unhealthy = ""
            case v.WorkerExited():
                self._worker_exited(worker, event, now)
            case _:
                assert_never(event)

    def _became_ready(self, worker: Worker, now: float) -> None:
        was = worker.life.phase
        self._lives.step(worker, Change.BECAME_READY, now)
        if was is Phase.READY or worker.life.phase is not Phase.READY:
            return
        worker.life.ready_at = now
        self._deaths.served = True
        self._deaths.boot_successes.add(worker.slot)
        self._journal.say("info", f"{worker} ready")
        self._reloads.became_ready(worker, now)

    def _turned_unhealthy(self, worker: Worker, reason: str, now: float) -> None:
        if worker.life.phase is not Phase.READY:
            return
        worker.unhealthy = reason
        if self._reloads.on_trial(worker):
            self._reloads.fail(f"{worker} is unhealthy: {reason}", "", now)
        else:
            text = f"{worker} is unhealthy: {reason}; replacing it"
            self._journal.say("warning", text)

    def _worker_exited(self, worker: Worker, event: v.WorkerExited, now: float) -> None:
        stacks = without_our_start(event.stacks)
        was = worker.life.phase
        how = self._buried(worker, event, now)
        if worker.life.exists or worker.life.retired:
            return
        if worker.life.ready_at < math.inf:
            how = f"{how} after {now - worker.life.ready_at:.1f} s"
        else:
            how = f"{how} before it was ready"
        if self._reloads.on_trial(worker):
            self._deaths.crashes += 1
            self._reloads.fail(f"{worker} {how}", stacks, now)
            return
        if worker.life.ready_at < math.inf:
            text = with_traceback(f"{worker} {how}; replacing it", stacks)
            self._journal.say("warning", text)
        elif was is Phase.STARTING:
            self._could_not_start(worker, f"it {how}", stacks, now)
        if worker.life.ready_at == math.inf:
            self._deaths.boot_failures.add(worker.slot)
        self._count_death(worker, now)

    def _template(self, template: Template, event: v.TemplateEvent, now: float) -> None:
        match event:
            case v.TemplateForked(pid=pid):
                template.life.pid = pid
                self._lives.step(template, Change.FORKED, now)
            case v.TemplateRefused(reason=reason):
                self._refused(template, reason, now)
            case v.TemplateBecameReady():
                self._lives.step(template, Change.BECAME_READY, now)
                template.life.ready_at = min(template.life.ready_at, now)
                self._journal.say("debug", f"{template} ready")
            case v.TemplateBootFailed(reason=reason, traceback=traceback):
                self._lives.step(template, Change.BOOT_FAILED, now)
                self._could_not_start(template, reason, traceback, now)
                self._fail_boot()
            case v.TemplateExited():
                self._template_exited(template, event, now)
            case _:
                assert_never(event)

    def _template_exited(self, template: Template, event: v.TemplateExited, now: float) -> None:
        stacks = without_our_start(event.stacks)
        for worker in self._fleet.unreported(event.generation):
            self._lives.step(worker, Change.LOST, now)
            if self._reloads.on_trial(worker) and not worker.life.retired:
                self._reloads.fail(f"{template} died before it had forked {worker}", "", now)
        was = template.life.phase
        how = self._buried(template, event, now)
        if template.life.exists or template.life.retired:
            return
        current = self._reloads.current
        if self._reloads.on_trial(template) and current is not None and current.canary is None:
            self._reloads.fail(f"{template} {how}", stacks, now)
            return
        if was in (Phase.STARTING, Phase.READY):
            text = with_traceback(f"{template} {how}; its workers go on", stacks)
            self._journal.say("warning", text)
        if template.life.ready_at == math.inf and self._reloads.rules.preload:
            self._fail_boot()
        self._count_death(template, now)

    def _buried(self, member: Member, event: v.WorkerExited | v.TemplateExited, now: float) -> str:
        """Bury it; how it died."""
        by_us = member.life.phase is Phase.KILLED
        self._lives.step(member, Change.EXITED, now)
        self.watch.forget(member)
        how = how_it_died(
            event.status,
            killed_by_us=by_us,
            out_of_memory=event.out_of_memory,
            stacks=event.stacks,
        )
        if not member.life.exists and member.life.retired:
            level: Literal["info", "debug"] = "info" if isinstance(member, Worker) else "debug"
            self._journal.say(level, f"{member} {how}")
        return how

    def _refused(self, member: Member, reason: str, now: float) -> None:
        self._lives.step(member, Change.REFUSED, now)
        if self._reloads.on_trial(member):
            self._reloads.fail(f"cannot fork {member}: {reason}", "", now)
        elif not member.life.retired:
            self._journal.say("error", f"cannot fork {member}: {reason}")
            self._deaths.count(member, self._reloads.rules, now)
            if isinstance(member, Worker):
                self._deaths.boot_refusals.add(member.slot)

    def _could_not_start(self, member: Member, reason: str, traceback: str, now: float) -> None:
        if self._reloads.on_trial(member):
            self._reloads.fail(f"{member} cannot start: {reason}", traceback, now)
        elif not member.life.retired:
            text = self._complaints.word(reason, traceback)
            self._journal.say("error", f"{member} cannot start: {text}")

    def _unready(self, member: Member, where: str, stacks: str, now: float) -> None:
        limit_s = self._rules[member.generation].startup_timeout_s
        reason = f"not ready within {limit_s:g} s (startup-timeout); it hangs {where}"
        self._could_not_start(member, reason, stacks, now)
        self._lives.step(member, Change.EXPIRED, now)

    def _fail_boot(self) -> None:
        """What keeps the template from starting keeps every worker from it."""
        self._deaths.boot_failures.update(sizing.slots_wanted(self._reloads.rules))

    def _count_death(self, member: Member, now: float) -> None:
        self._deaths.count(member, self._reloads.rules, now)
        self._reloads.died(member, now)

    def expire(self, now: float) -> None:
        """Deadlines that have passed."""
        for member in self._fleet.members():
            life = member.life
            if life.deadline > now:
                continue
            if isinstance(member, Template) and life.pid is None:
                # It is forked at once or not at all, so we failed to ask.
                self._refused(member, "[BUG] it was not asked for", now)
            elif life.phase is Phase.STARTING:
                self.watch.ask_late_starter(member, now)
            else:
                if life.phase is Phase.LEAVING and life.retired:
                    limit = f"{self._rules[member.generation].graceful_timeout_s:g} s"
                    text = f"{member} did not stop within {limit} (graceful-timeout); killing it"
                    self._journal.say("warning", text)
                self._lives.step(member, Change.EXPIRED, now)
