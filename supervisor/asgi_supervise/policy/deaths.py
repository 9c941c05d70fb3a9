"""What deaths have taught: the three counters, and what the first start has shown."""

from __future__ import annotations

from asgi_supervise.policy.fleet import Worker
from asgi_supervise.policy.health import Backoff, Intensity, Roll, Rules
from asgi_supervise.policy.lives import Member
from asgi_supervise.policy.wording import Journal


class Deaths:
    """Counts deaths that were not wanted."""

    def __init__(self, roll: Roll, journal: Journal) -> None:
        self.crashes = 0
        """Workers that died unwanted, ever."""
        self.served = False
        """Some worker was ready once."""
        self.boot_successes: set[int] = set()
        """At first start: slots whose worker was ready once."""
        self.boot_failures: set[int] = set()
        """At first start: slots whose worker died before it was ready."""
        self.boot_refusals: set[int] = set()
        """At first start: slots whose worker the system would not fork; they are tried again."""
        self._roll = roll
        self._journal = journal
        self._intensity = Intensity()
        self._slots: dict[int, Backoff] = {}
        self._template = Backoff()

    def count(self, member: Member, rules: Rules, now: float) -> None:
        """Note that ``member`` died."""
        if isinstance(member, Worker):
            backoff = self._slots.setdefault(member.slot, Backoff())
            self.crashes += 1
        else:
            backoff = self._template
        backoff.died(now, max(0.0, now - member.life.ready_at), rules, self._roll)
        self._intensity.died(now, rules)
        if self.served and backoff.not_before > now:
            where = f"slot={member.slot}" if isinstance(member, Worker) else "the template"
            wait_s = backoff.not_before - now
            self._journal.say("info", f"next try for {where} in {wait_s:.1f} s")

    def slot_not_before(self, slot: int) -> float:
        """When ``slot`` may get its next worker."""
        return self._slots.get(slot, Backoff()).not_before

    def template_not_before(self) -> float:
        """When the next template may be forked."""
        return self._template.not_before

    def forgive(self) -> None:
        """Other code runs from now on: what the former did is no omen."""
        self._slots.clear()
        self._template = Backoff()

    def hopeless(self, rules: Rules, now: float) -> str:
        """Why there is no hope, if none is left for a service that serves nobody."""
        deaths = self._intensity.within_window(now, rules)
        if deaths < rules.max_restarts * rules.workers:
            return ""
        return f"no worker serves and {deaths} processes died within {rules.restart_window_s:g} s"
