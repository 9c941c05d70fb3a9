"""Reloads: which generation is wanted, which is on trial, and what follows from how it fares."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import assert_never

import msgspec

from asgi_supervise.policy import sizing
from asgi_supervise.policy import vocabulary as v
from asgi_supervise.policy.deaths import Deaths
from asgi_supervise.policy.fleet import Fleet, Worker
from asgi_supervise.policy.health import Rules
from asgi_supervise.policy.lifecycle import Change, Phase
from asgi_supervise.policy.lives import Lives, Member
from asgi_supervise.policy.rollout import MOST_YOUNG_DEATHS, Deed, Mark, Rollout, Step
from asgi_supervise.policy.stalls import LOOK_S
from asgi_supervise.policy.wording import Journal, with_traceback


class Reloads:
    """One rollout at a time; requests that come meanwhile are merged into one that follows it."""

    def __init__(
        self,
        rules: dict[int, Rules],
        fleet: Fleet,
        lives: Lives,
        deaths: Deaths,
        journal: Journal,
    ) -> None:
        self.generation = max(rules)
        """The one that is wanted: accepted, and missing workers are made from it."""
        self.current: Rollout | None = None
        self.last: Rollout | None = None
        """The latest that has ended."""
        self._asked_by = ""
        self._newest = self.generation
        self._rules = rules
        self._fleet = fleet
        self._lives = lives
        self._deaths = deaths
        self._journal = journal

    @property
    def rules(self) -> Rules:
        """Those of the wanted generation."""
        return self._rules[self.generation]

    @property
    def candidate(self) -> int | None:
        """The generation on trial."""
        return None if self.current is None else self.current.candidate

    def on_trial(self, member: Member) -> bool:
        """Whether it belongs to the generation on trial: its failure is the generation's."""
        return member.generation == self.candidate

    def ask(self, by: str) -> None:
        """Reload as soon as possible."""
        if self.current is not None and not self._asked_by:
            self._journal.say(
                "info",
                f"reload ({by}) asked for while generation {self.current.generation} is under way: "
                "one more follows it",
            )
        self._asked_by = by

    def begin(self, now: float) -> None:
        """Begin what was asked for, if nothing is under way."""
        if not self._asked_by or self.current is not None:
            return
        self._newest += 1
        self.current = Rollout(self._newest, self.generation, self._asked_by, now)
        self._asked_by = ""
        self._journal.say(
            "info", f"reload ({self.current.by}): trying generation {self.current.generation}"
        )
        self._journal.add(v.ReadSettings(self.current.generation))

    def read(self, event: v.SettingsRead, now: float) -> None:
        """The settings of the new generation are good."""
        current = self.current
        if current is None or event.generation != current.generation:
            return  # the service stops meanwhile
        existing = {member.generation for member in self._fleet.members()}
        for generation in set(self._rules) - existing - {self.generation}:
            del self._rules[generation]
        self._rules[event.generation] = msgspec.structs.replace(
            event.rules, workers=self.rules.workers
        )
        if event.at_restart:
            changes = ", ".join(event.at_restart)
            self._journal.say("warning", f"these settings change only with a restart: {changes}")
        self._mark(current, Mark.READ, now)

    def fail(self, reason: str, traceback: str, now: float) -> None:
        """The generation under way cannot be used."""
        if self.current is not None:
            self.current.reason, self.current.traceback = reason, traceback
            self._mark(self.current, Mark.FAILED, now)

    def became_ready(self, worker: Worker, now: float) -> None:
        """A worker is ready; it may be the canary."""
        if self.current is not None and worker.number == self.current.canary:
            self._mark(self.current, Mark.STARTED, now)

    def died(self, member: Member, now: float) -> None:
        """A worker or template died unwanted that was not on trial."""
        current = self.current
        if current is None or current.step is not Step.ROLLING:
            return
        if member.generation != current.generation:
            return
        if now - member.life.ready_at < self.rules.grown_up_s:  # -inf if it never was ready
            current.young_deaths += 1
        if current.young_deaths >= MOST_YOUNG_DEATHS:
            current.reason = f"{current.young_deaths} of its processes died young"
            self._mark(current, Mark.SPOILED, now)

    def stop(self, now: float) -> None:
        """The service stops: nothing is reloaded any more."""
        self._asked_by = ""
        if self.current is not None:
            self.current.reason = "the service stops"
            self._mark(self.current, Mark.STOPPED, now)

    def advance(self, stuck_s: Callable[[int], float | None], now: float) -> None:
        """What time alone brings about. ``stuck_s``: how long the loop of a worker hangs, if so."""
        current = self.current
        if current is None or current.baked_at > now:
            return
        canary = self._fleet.workers.get(current.canary or 0)
        if canary is None or canary.life.phase is not Phase.READY:
            current.baked_at = math.inf  # it leaves or is aborted, and its end will tell
            return
        hangs_s = stuck_s(canary.number)
        if hangs_s is None:
            self._mark(current, Mark.BAKED, now)
        elif hangs_s < self._rules[current.generation].startup_timeout_s:
            current.baked_at = now + LOOK_S  # one that hangs does not serve: all others might, too
        else:
            self.fail(f"the loop of its first worker is stuck for {hangs_s:.1f} s", "", now)

    def finish(self, now: float) -> None:
        """See whether all are replaced, and dismiss templates from which nothing is forked now."""
        self._finish(now)
        kept = {self.generation}
        if self.current is not None:
            kept |= {self.current.generation, self.current.former}
        kept |= {w.generation for w in self._fleet.workers.values() if not w.life.retired}
        for generation, template in list(self._fleet.templates.items()):
            if generation not in kept:
                self._lives.step(template, Change.RETIRED, now)

    def _finish(self, now: float) -> None:
        current = self.current
        if current is None or current.step is not Step.ROLLING:
            return
        workers = [w for w in self._fleet.workers.values() if not w.life.retired]
        fresh = {
            w.slot
            for w in workers
            if w.generation == self.generation and w.life.phase is Phase.READY
        }
        stale = any(worker.generation != self.generation for worker in workers)
        if not stale and fresh >= set(sizing.slots_wanted(self.rules)):
            self._mark(current, Mark.REPLACED, now)

    def deadline(self) -> float:
        """When time alone brings something about."""
        return math.inf if self.current is None else self.current.baked_at

    def _mark(self, current: Rollout, mark: Mark, now: float) -> None:
        was = current.step
        deed = current.mark(mark)
        if current.step is not Step.BAKING:
            current.baked_at = math.inf
        if current.step in (Step.COMPLETE, Step.ABANDONED):
            self.last, self.current = current, None
        match deed:
            case Deed.NONE:
                pass
            case Deed.BAKE:
                bake_s = self._rules[current.generation].bake_s
                current.baked_at = now + bake_s
                self._journal.say(
                    "info",
                    f"generation {current.generation}: its first worker is ready and watched for "
                    f"{bake_s:g} s (bake-time)",
                )
            case Deed.ADOPT:
                self._want(current.generation)
                if current.canary is not None:
                    self._journal.add(v.PromoteWorker(current.canary))
                self._journal.say(
                    "info", f"generation {current.generation} accepted: replacing all workers"
                )
            case Deed.ABANDON:
                self._abandon(current, mark, now)
            case Deed.RETURN:
                self._want(current.former)
                self._journal.say("error", _failure(current))
            case Deed.FINISH:
                took_s = now - current.began
                self._journal.say(
                    "info",
                    f"reload complete: generation {current.generation} serves on all "
                    f"{self.rules.workers} slots after {took_s:.1f} s",
                )
            case Deed.BUG:
                self._journal.say("error", f"[BUG] rollout: {mark.value} while {was.value}")
            case _:
                assert_never(deed)

    def _want(self, generation: int) -> None:
        self.generation = generation
        self._deaths.forgive()
        self._journal.add(v.AdoptSettings(generation))

    def _abandon(self, rollout: Rollout, mark: Mark, now: float) -> None:
        for member in self._fleet.members():
            if member.generation == rollout.generation:
                self._lives.step(member, Change.RETIRED, now)
        if mark is Mark.STOPPED:
            self._journal.say("info", f"generation {rollout.generation} is not tried any further")
        else:
            self._journal.say("error", _failure(rollout))


def _failure(rollout: Rollout) -> str:
    """Why, and that nothing is lost."""
    head = f"reload failed, generation {rollout.former} serves on: {rollout.reason}"
    return with_traceback(head, rollout.traceback)
