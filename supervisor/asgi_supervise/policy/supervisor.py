"""Composes the policies: what happened goes in, what is to be done comes out.

Wanted and actual are separate. What is wanted is a generation and the slots that shall have a
worker of it; each decision compares that with the fleet and asks for what is missing. There is no
procedure for start, crash, reload or stop that could be interrupted half-way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple, assert_never

from asgi_supervise.policy import sizing
from asgi_supervise.policy import vocabulary as v
from asgi_supervise.policy.deaths import Deaths
from asgi_supervise.policy.fleet import Fleet, Holders
from asgi_supervise.policy.health import Roll, Rules
from asgi_supervise.policy.lifecycle import SERVICE, Change, Phase, Service, Task, Turn
from asgi_supervise.policy.lives import FORK_S, Lives
from asgi_supervise.policy.processes import Processes
from asgi_supervise.policy.reloads import Reloads
from asgi_supervise.policy.rollout import Step
from asgi_supervise.policy.steering import Steering
from asgi_supervise.policy.wording import Journal
from asgi_worker.contract import Exit


class Wish(NamedTuple):
    """A process that is missing."""

    when: float
    """The time before which it is not asked for."""
    generation: int
    slot: int | None
    """``None``: the template."""


class Supervisor:
    """Decides what the master does. Knows no clock: every call that needs the time is told it."""

    def __init__(self, rules: Rules, roll: Roll) -> None:
        self.fleet = Fleet()
        self.service = Service.BOOTING
        self.verdict = Exit.OK
        """What the master exits with once it is done."""
        rules_of = {1: rules}
        self._journal = Journal()
        self._lives = Lives(self.fleet, rules_of, self._journal)
        self.deaths = Deaths(roll, self._journal)
        self.reloads = Reloads(rules_of, self.fleet, self._lives, self.deaths, self._journal)
        self._rules_of = rules_of
        self._processes = Processes(
            rules_of, self.fleet, self._lives, self.deaths, self.reloads, self._journal
        )
        self._watch = self._processes.watch
        self._stop_at = math.inf
        self._has_news = True
        self._settled_until = -math.inf
        """Without news a decision comes to the same before this time, but for who is watched."""
        self._steering = Steering(
            self.fleet, self._watch, self._journal, sizing.slots_to_make(rules)
        )

    @property
    def rules(self) -> Rules:
        """The figures in force."""
        return self.reloads.rules

    @property
    def done(self) -> bool:
        """Nothing is left to be done; :attr:`verdict` holds."""
        return self.service is Service.DONE

    def observe(self, event: v.Event, now: float) -> None:
        """Take note of what happened. What it obliges to comes with the next decision."""
        if isinstance(event, v.FiguresSeen):
            self._seen(event, now)
            return
        if isinstance(event, v.WorkerAwoke):
            self._watch.woke(now)
            return
        self._has_news = True
        match event:
            case v.Asked():
                self._asked(event, now)
            case v.SettingsRead():
                self.reloads.read(event, now)
            case v.SettingsRefused(generation=generation, reason=reason):
                if self.reloads.current and self.reloads.current.generation == generation:
                    self.reloads.fail(reason, "", now)
            case v.StacksRead():
                self._watch.read(event, now)
            case v.MessageUnreadable(sender=sender, reason=reason):
                self._journal.say("error", f"{sender} sent a message that cannot be used: {reason}")
            case _:
                self._processes.observe(event, now)
                if isinstance(event, v.WorkerBecameReady) and self.service is Service.WITHDRAWN:
                    self._journal.add(v.WithdrawWorker(event.worker))

    def decide(self, now: float) -> list[v.Act]:
        """All that is to be done now, in this order."""
        if self._has_news or now >= self._settled_until or not self._watch.is_calm():
            self._decide(now)
        else:  # many times a second while there are connections
            self._watch.decide(self.rules, now)
        return self._journal.take()

    def deadline(self) -> float:
        """When to decide again if nothing happens before; infinite if only events matter."""
        if self._has_news:  # of what was done since the decision
            return -math.inf
        return min(self._settled_until, self._watch.deadline())

    def _decide(self, now: float) -> None:
        self._processes.expire(now)
        self.reloads.advance(self._watch.stuck_s, now)
        self._turn_over(now)
        self._judge(now)
        self._watch.decide(self.rules, now)
        self._steer()
        wishes = list(self._wishes())
        while due := [wish for wish in wishes if wish.when <= now]:
            self._ask_for(due[0], now)
            wishes = list(self._wishes())
        self._has_news = False
        lives = (member.life.deadline for member in self.fleet.members())
        later = (wish.when for wish in wishes)
        self._settled_until = min((*lives, *later, self.reloads.deadline(), self._stop_at))

    # --- what happened -------------------------------------------------------------------------

    def _seen(self, event: v.FiguresSeen, now: float) -> None:
        """Most looks show what the last one did: that all turn, and have about as much to do."""
        was_calm = self._watch.is_calm()
        self._watch.seen(event, self.rules, now)
        is_other = self._steering.seen(event)
        self._has_news |= is_other or not (was_calm and self._watch.is_calm())

    def _asked(self, event: v.Asked, now: float) -> None:
        match event.intent:
            case v.Intent.STOP:
                self._turn(Turn.STOP, now, event.by)
            case v.Intent.INTERRUPT:
                again = self.service in (Service.WITHDRAWN, Service.STOPPING)
                self._turn(Turn.KILL if again else Turn.STOP, now, event.by)
            case v.Intent.QUIT:
                self._turn(Turn.KILL, now, event.by)
            case v.Intent.RELOAD:
                if self.service in (Service.BOOTING, Service.SERVING):
                    self.reloads.ask(event.by)
                else:
                    self._journal.say("warning", f"no reload ({event.by}): the service stops")
            case v.Intent.REOPEN_LOGS:
                self._journal.add(v.ReopenLogs())
            case v.Intent.UPGRADE | v.Intent.MORE | v.Intent.FEWER as intent:
                text = f"{event.by}: {intent.value} is not available in this version"
                self._journal.say("warning", text)
            case intent:
                assert_never(intent)

    # --- what follows --------------------------------------------------------------------------

    def _turn_over(self, now: float) -> None:
        """Retire those whose replacement is ready, and replacements that are not needed or no good.

        A slot of which none is fresh keeps one, or there would be no room for a fresh one.
        """
        if self.service is not Service.SERVING:
            return
        for fresh, stale in self._holders().values():
            ready = [worker for worker in fresh if worker.life.phase is Phase.READY]
            if not fresh:
                ready = [worker for worker in stale if worker.life.phase is Phase.READY]
            if ready:
                for worker in (*stale, *fresh):
                    if worker is not ready[0]:
                        self._lives.step(worker, Change.RETIRED, now)

    def _steer(self) -> None:
        if self.service in (Service.BOOTING, Service.SERVING, Service.WITHDRAWN):
            self._steering.decide(self.rules, self.reloads.candidate)
        else:
            self._steering.stop()

    def _judge(self, now: float) -> None:
        if self.service in (Service.BOOTING, Service.SERVING, Service.WITHDRAWN):
            self._judge_hope(now)
        if self._stop_at <= now:
            self._turn(Turn.ELAPSED, now, "shutdown-delay is over")
        if self.service in (Service.STOPPING, Service.KILLING) and self.fleet.empty():
            self._turn(Turn.EMPTIED, now, "")
        if self.service is Service.SERVING:
            self.reloads.finish(now)
            self.reloads.begin(now)

    def _judge_hope(self, now: float) -> None:
        ready = self.fleet.ready()
        wanted = set(sizing.slots_wanted(self.rules))
        deaths = self.deaths
        if self.service is Service.BOOTING and ready:
            if wanted <= deaths.boot_successes | deaths.boot_failures | deaths.boot_refusals:
                self._turn(Turn.BOOTED, now, "")
        elif not deaths.served and wanted <= deaths.boot_failures:
            self.verdict = Exit.BOOT
            self._turn(Turn.GIVE_UP, now, "the application cannot start")
        elif not ready and self.reloads.candidate is None:
            why = deaths.hopeless(self.rules, now)
            if why:
                self.verdict = Exit.INTERNAL
                self._turn(Turn.GIVE_UP, now, why)

    def _turn(self, turn: Turn, now: float, why: str) -> None:
        was = self.service
        self.service, task = SERVICE[was][turn]
        match task:
            case Task.NONE:
                pass
            case Task.ANNOUNCE:
                self._journal.add(v.AnnounceServing(len(self.fleet.ready()), self.rules.workers))
            case Task.WITHDRAW:
                self._withdraw(now, why)
            case Task.RETIRE_ALL:
                self._stop_at = math.inf
                limit = self.rules.graceful_timeout_s
                self._journal.say("info", f"stopping ({why}): workers have {limit:g} s to finish")
                self._lives.others_serve = False
                self._journal.add(v.CloseListeners())  # queues of others before workers end theirs
                self.reloads.stop(now)
                for member in self.fleet.members():
                    self._lives.step(member, Change.RETIRED, now)
            case Task.KILL_ALL:
                self._stop_at = math.inf
                level: Literal["error", "info"] = "error" if turn is Turn.GIVE_UP else "info"
                self._journal.say(level, f"stopping at once: {why}")
                self.reloads.stop(now)
                for member in reversed(list(self.fleet.members())):  # first who could fork more
                    member.life.retired = True
                    self._lives.step(member, Change.EXPIRED, now)
                self._journal.add(v.CloseListeners())
            case Task.FINISH:
                self._journal.say("info", "stopped")
            case Task.BUG:
                self._journal.say("error", f"[BUG] service: {turn.value} while {was.value}")
            case _:
                assert_never(task)

    def _withdraw(self, now: float, why: str) -> None:
        """Say that we are not ready any more, and serve on while load balancers turn away."""
        delay_s = self.rules.shutdown_delay_s
        if delay_s == 0:
            self._turn(Turn.ELAPSED, now, why)
            return
        self._stop_at = now + delay_s
        text = f"stopping in {delay_s:g} s ({why}; shutdown-delay): serving on, but not ready"
        self._journal.say("info", text)
        self.reloads.stop(now)
        for worker in self.fleet.ready():
            self._journal.add(v.WithdrawWorker(worker.number))

    def _holders(self) -> Holders:
        slots = sizing.slots_wanted(self.rules)
        return self.fleet.holders(slots, self.reloads.generation, self.reloads.candidate)

    def _wishes(self) -> Iterator[Wish]:
        """What is missing and there is room for, the most urgent first."""
        if self.service not in (Service.BOOTING, Service.SERVING, Service.WITHDRAWN):
            return
        yield from self._wished_templates()
        if len(self.fleet.workers) >= sizing.most_workers(self.rules):
            return
        generation = self.reloads.generation
        holders = self._holders()
        if self._can_fork(generation):
            held = set() if self.deaths.served else self.deaths.boot_failures
            for slot, (fresh, stale) in holders.items():
                if not fresh and not stale and slot not in held:  # at first start: one try each
                    yield Wish(self.deaths.slot_not_before(slot), generation, slot)
        if self.service is not Service.SERVING:
            return
        current = self.reloads.current
        if current is not None and current.step is Step.TRYING and current.canary is None:
            if self._can_fork(current.generation):
                serving = [slot for slot, both in holders.items() if any(both)]
                yield Wish(-math.inf, current.generation, min(serving, default=0))
        elif self._can_fork(generation):
            for slot, (fresh, stale) in holders.items():
                if stale and not fresh:
                    yield Wish(self.deaths.slot_not_before(slot), generation, slot)

    def _wished_templates(self) -> Iterator[Wish]:
        generation, current = self.reloads.generation, self.reloads.current
        if generation not in self.fleet.templates:
            yield Wish(self.deaths.template_not_before(), generation, None)
        if current is not None and current.step is Step.TRYING and not current.template_asked:
            yield Wish(-math.inf, current.generation, None)

    def _can_fork(self, generation: int) -> bool:
        template = self.fleet.templates.get(generation)
        return template is not None and template.life.phase is Phase.READY

    def _ask_for(self, wish: Wish, now: float) -> None:
        startup_s = self._rules_of[wish.generation].startup_timeout_s
        current = self.reloads.current
        trying = current is not None and wish.generation == current.candidate
        if wish.slot is None:
            self.fleet.found(wish.generation, now + startup_s)
            self._journal.add(v.StartTemplate(wish.generation))
            if current is not None and trying:
                current.template_asked = True
            return
        worker = self.fleet.enlist(wish.slot, wish.generation, now + min(startup_s, FORK_S))
        if current is not None and trying:
            current.canary = worker.number
        share = self._rules_of[wish.generation].canary_share if trying else None
        if self.rules.balance == "off":  # nobody would give it any
            share = None
        self._journal.add(
            v.SpawnWorker(worker.number, wish.slot, worker.seat, worker.generation, share)
        )
