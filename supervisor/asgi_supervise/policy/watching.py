"""What is done about processes that hang: ask for their stacks, say where, end them."""

from __future__ import annotations

from collections.abc import Callable

from asgi_supervise.policy import vocabulary as v
from asgi_supervise.policy.fleet import Fleet, Template, Worker
from asgi_supervise.policy.health import Rules
from asgi_supervise.policy.lifecycle import Change, Phase
from asgi_supervise.policy.lives import Lives, Member
from asgi_supervise.policy.stalls import ANSWER_S, DUMP_S, LATE_S, Key, Purpose, Stall, Stalls
from asgi_supervise.policy.wording import (
    Complaints,
    Journal,
    where_it_hangs,
    with_traceback,
    without_our_start,
)

RUNS = ("R", "S")
"""States in which a process answers, unless native code keeps it from doing so."""
Unready = Callable[[Member, str, str, float], None]
"""Is told of a member that was not ready in time: where it hangs, its stacks, the time."""


class Watch:
    """Watches the loops of ready workers, and asks where late starters hang."""

    def __init__(self, fleet: Fleet, lives: Lives, journal: Journal, unready: Unready) -> None:
        self._fleet = fleet
        self._lives = lives
        self._journal = journal
        self._unready = unready
        self._stalls = Stalls()
        self._complaints = Complaints()

    def decide(self, rules: Rules, now: float) -> None:
        """Look, and read what was asked for."""
        self._stalls.schedule(bool(self._fleet.ready()), rules, now)
        if self._stalls.looks(now):
            self._journal.add(v.LookAtFigures())
        for generation, worker in self._stalls.to_read(now):
            self._journal.add(v.ReadStacks(generation, worker))
        for generation, worker in self._stalls.unanswered(now):
            self.read(v.StacksRead(generation, worker, "", ""), now)

    def deadline(self) -> float:
        """When to decide again."""
        return self._stalls.deadline()

    def is_calm(self) -> bool:
        """Whether nobody hangs, and nobody is asked where."""
        return not (self._stalls.stuck or self._stalls.inquiries)

    def seen(self, event: v.FiguresSeen, rules: Rules, now: float) -> None:
        """Judge what was promised."""
        ready = {worker.number for worker in self._fleet.ready()}
        promises = {
            number: figures.promise for number, figures in event.figures.items() if number in ready
        }
        for number, stall, purpose in self._stalls.judge(promises, rules, now):
            worker = self._fleet.workers[number]
            if purpose is None:
                text = f"{worker}: its loop turns again; it was stuck for {stall.stuck_s:.1f} s"
                self._journal.say("info", text)
            else:
                self._ask(worker, purpose, stall, now)
        if event.resting:
            self._stalls.rest(rules)

    def woke(self, now: float) -> None:
        """A worker has something to do after all had nothing."""
        self._stalls.wake(now)

    def stuck_s(self, worker: int) -> float | None:
        """How long the loop of ``worker`` hangs by now; ``None`` if it turns."""
        stall = self._stalls.stuck.get(worker)
        return None if stall is None else stall.stuck_s

    def is_late(self, worker: Worker) -> bool:
        """Whether its loop hangs, if only for so short that nobody is warned of it."""
        stall = self._stalls.stuck.get(worker.number)
        return stall is not None and stall.stuck_s >= LATE_S

    def ask_late_starter(self, member: Member, now: float) -> None:
        """Ask for its stacks; ``unready`` is told when they are there, or will not come."""
        if _key(member) not in self._stalls.inquiries:
            self._ask(member, Purpose.UNREADY, Stall(), now)
        member.life.deadline = now + DUMP_S + 2 * ANSWER_S

    def read(self, event: v.StacksRead, now: float) -> None:
        """Stacks have come."""
        key = event.generation, event.worker
        inquiry = self._stalls.inquiries.pop(key, None)
        member = self._member(key)
        if inquiry is None or member is None:
            return  # it came too late, or the process is gone
        if not (event.text or inquiry.native) and event.state in RUNS:
            self._ask(member, inquiry.purpose, inquiry.stall, now, native=True)
            return
        where = where_it_hangs(event.text, event.state)
        stacks = without_our_start(event.text)
        match inquiry.purpose:
            case Purpose.WARN:
                self._warn(member, where, stacks, inquiry.stall, now)
            case Purpose.CONDEMN if inquiry.stall.over or member.life.phase is not Phase.READY:
                pass  # it turns again, or leaves and has a deadline for that
            case Purpose.CONDEMN:
                stuck = f"its loop is stuck for {inquiry.stall.stuck_s:.1f} s (worker-timeout)"
                text = with_traceback(f"{member}: {stuck} {where}; aborting it", stacks)
                self._journal.say("error", text)
                self._lives.step(member, Change.CONDEMNED, now)
            case Purpose.UNREADY:
                if member.life.phase is Phase.STARTING:
                    self._unready(member, where, stacks, now)

    def forget(self, member: Member) -> None:
        """It is gone."""
        self._stalls.forget(_key(member))

    def _warn(self, member: Member, where: str, stacks: str, stall: Stall, now: float) -> None:
        is_news, left_out = self._stalls.is_news(where, now)
        if not is_news:
            return
        stall.reported = True
        stuck = "was stuck" if stall.over else "is stuck"
        more = f" ({left_out} more like it since the last report)" if left_out else ""
        text = f"{member}: its loop {stuck} for {stall.stuck_s:.1f} s {where}{more}"
        self._journal.say("warning", self._complaints.word(text, stacks, key=where))

    def _ask(
        self, member: Member, purpose: Purpose, stall: Stall, now: float, *, native: bool = False
    ) -> None:
        self._stalls.ask(_key(member), purpose, stall, now, native=native)
        self._journal.add(v.DumpStacks(*_key(member), native))

    def _member(self, key: Key) -> Member | None:
        generation, worker = key
        if worker is None:
            return self._fleet.templates.get(generation)
        return self._fleet.workers.get(worker)


def _key(member: Worker | Template) -> Key:
    return member.generation, member.number if isinstance(member, Worker) else None
