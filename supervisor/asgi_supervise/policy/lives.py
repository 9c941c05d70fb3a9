"""Steps of lives, and the acts they oblige to: the only place where duties become acts.

What a duty means depends on who has it: a worker is told to drain, a template that no worker will
be asked of it any more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import assert_never

from asgi_supervise.policy import vocabulary as v
from asgi_supervise.policy.fleet import Fleet, Template, Worker
from asgi_supervise.policy.health import Rules
from asgi_supervise.policy.lifecycle import Change, Duty, Phase
from asgi_supervise.policy.wording import Journal

KILL_AGAIN_S = 1.0
"""A killed process that was not reaped by then is killed again."""
ABORT_S = 2.0
"""After SIGABRT: for a core to be written."""
FORK_S = 10.0
"""What a template has to fork a worker it was asked for; it needs milliseconds."""
TEMPLATE_EXTRA_S = 2.0
"""A template leaves after its workers, so it has this much longer."""

Member = Worker | Template


class Lives:
    """Steps the lives of ``fleet``. Durations are those of each member's generation."""

    def __init__(self, fleet: Fleet, rules: Mapping[int, Rules], journal: Journal) -> None:
        self.others_serve = True
        """Who leaves has successors: no stop of the service is under way."""
        self._fleet = fleet
        self._rules = rules
        self._journal = journal

    def step(self, member: Member, change: Change, now: float) -> None:
        """Let ``change`` happen to ``member``."""
        life = member.life
        was = life.phase
        duty = life.step(change)
        if change is Change.RETIRED:
            life.retired = True
        if life.phase is not was or duty is Duty.KILL:
            life.deadline = self._next_deadline(member, change, now)
        match duty:
            case Duty.NONE:
                pass
            case Duty.DRAIN:
                self._journal.add(self._farewell(member))
            case Duty.TERMINATE:
                self._journal.add(self._dismissal(member))
            case Duty.ABORT:
                self._journal.add(self._abortion(member))
            case Duty.KILL:
                self._kill(member, now)
            case Duty.BURY:
                self._fleet.bury(member)
            case Duty.BUG:
                self._journal.say("error", f"[BUG] {member}: {change.value} while {was.value}")
            case _:
                assert_never(duty)

    def _next_deadline(self, member: Member, change: Change, now: float) -> float:
        match member.life.phase:
            case Phase.ASKED:
                return member.life.deadline  # set when it was asked for
            case Phase.STARTING:
                return now + self._rules[member.generation].startup_timeout_s
            case Phase.READY | Phase.GONE:
                return math.inf
            case Phase.LEAVING:
                if change is Change.CONDEMNED:
                    return now + ABORT_S
                extra = TEMPLATE_EXTRA_S if isinstance(member, Template) else 0.0
                return now + self._rules[member.generation].graceful_timeout_s + extra
            case Phase.KILLED:
                return now + KILL_AGAIN_S
            case phase:
                assert_never(phase)

    def _farewell(self, member: Member) -> v.Act:
        if isinstance(member, Template):
            return v.StopTemplate(member.generation)
        budget_s = self._rules[member.generation].drain_budget_s
        return v.DrainWorker(member.number, budget_s, self.others_serve)

    def _dismissal(self, member: Member) -> v.Act:
        if isinstance(member, Template):  # it imports the application, and has no worker yet
            return v.KillTemplate(member.generation)
        return v.TerminateWorker(member.number)

    def _abortion(self, member: Member) -> v.Act:
        if isinstance(member, Template):  # it has no loop, so nobody condemns it
            return v.KillTemplate(member.generation)
        return v.AbortWorker(member.number)

    def _kill(self, member: Member, now: float) -> None:
        if isinstance(member, Template):
            self._journal.add(v.KillTemplate(member.generation))
        elif member.life.pid is not None:
            self._journal.add(v.KillWorker(member.number))
        else:  # whoever was to fork it does not answer, so that is the one that hangs
            template = self._fleet.templates.get(member.generation)
            if template is not None and template.life.phase is not Phase.KILLED:
                self._journal.say(
                    "error", f"{template} does not fork what it is asked for; killing it"
                )
                self.step(template, Change.EXPIRED, now)
