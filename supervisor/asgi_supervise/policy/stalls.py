"""Whose event loop hangs, for how long, and when to ask where.

Each loop promises when it will have turned again; the master looks whether it did. Only time the
master saw itself counts: after it was late – stopped, or on a machine that was suspended – nobody
is judged by what happened meanwhile. A helper thread in the worker was considered and refused: it
would answer while the loop hangs.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from asgi_supervise.policy.health import Rules

LOOK_S = 0.1
"""How often the master compares promises with the time …"""
REST_LOOK_S = 2.0
"""… and while all workers rest: looking would cost more than what they do. Who connects to one that
hangs is served by its neighbours …"""
ALONE_LOOK_S = 1.0
"""… unless each is left to itself."""
LATE_S = 0.05
"""A loop that is late by so much gets no new connections."""
MASTER_LATE_S = 0.25
"""A master that is late by so much judges nobody by what happened meanwhile."""
DUMP_S = 0.2
"""What a process has to write its stacks; it needs milliseconds."""
ANSWER_S = 1.0
"""After that, stacks that were asked for will not be read any more."""
QUIET_S = 10.0
"""A line that hangs again and again is reported so seldom."""

Key = tuple[int, int | None]
"""A process: generation and worker number (``None``: the template)."""


class Purpose(enum.Enum):
    """Why stacks were asked for."""

    WARN = "the loop is stuck"
    CONDEMN = "the loop has been stuck too long"
    UNREADY = "it was not ready in time"


@dataclass(slots=True)
class Stall:
    """A loop that has not turned as it promised."""

    stuck_s: float = 0.0
    """As far as the master saw it."""
    warned: bool = False
    reported: bool = False
    condemned: bool = False
    over: bool = False


@dataclass(slots=True)
class Inquiry:
    """Stacks that were asked for."""

    purpose: Purpose
    read_at: float
    stall: Stall
    native: bool = False
    """Asked for a second time, of one that wrote nothing."""
    given_up_at: float = math.inf


@dataclass(slots=True)
class Stalls:
    """Every loop that hangs now, and every question that is under way."""

    looked_at: float = -math.inf
    next_look: float = math.inf
    gap_s: float = 0.0
    """Between the last two looks."""
    late: bool = False
    """The last look was much later than it should have been."""
    stuck: dict[int, Stall] = field(default_factory=dict)
    inquiries: dict[Key, Inquiry] = field(default_factory=dict)
    _last_reports: dict[str, tuple[float, int]] = field(default_factory=dict)

    def schedule(self, serving: bool, rules: Rules, now: float) -> None:
        """Look as long as somebody serves, and somebody wants to know."""
        limited = rules.stall_warn_s is not None or rules.worker_timeout_s is not None
        if not serving or not (limited or rules.balance != "off"):
            self.next_look = math.inf
            self.stuck.clear()
        elif self.next_look == math.inf:
            self.next_look = self.looked_at = now

    def looks(self, now: float) -> bool:
        """Whether the master is to look now; asked once, it is noted that it does."""
        if self.next_look > now:
            return False
        self.late = now - self.next_look > MASTER_LATE_S
        self.gap_s, self.looked_at = now - self.looked_at, now
        self.next_look = now + LOOK_S
        return True

    def rest(self, rules: Rules) -> None:
        """All workers rest: look seldom, unless one of them hangs."""
        if not self.stuck and self.next_look < math.inf:
            helped = rules.balance == "exact"
            self.next_look = self.looked_at + (REST_LOOK_S if helped else ALONE_LOOK_S)

    def wake(self, now: float) -> None:
        """One of them has something to do: look as usual."""
        if self.next_look < math.inf:
            self.next_look = min(self.next_look, now + LOOK_S)

    def judge(
        self, promises: Mapping[int, float], rules: Rules, now: float
    ) -> Iterator[tuple[int, Stall, Purpose | None]]:
        """Workers of which something is to be said now: why, or (``None``) that they go on."""
        gap_s, late = self.gap_s, self.late
        for worker in [one for one in self.stuck if promises.get(one, now) >= now]:
            stall = self.stuck.pop(worker)
            stall.over = True
            if stall.reported and worker in promises:
                yield worker, stall, None
        for worker, promise in promises.items():
            if promise >= now:
                continue
            if worker in self.stuck:
                stall = self.stuck[worker]
                seen_s = stall.stuck_s + (LOOK_S if late else gap_s)
                stall.stuck_s = max(stall.stuck_s, min(seen_s, now - promise))
            else:
                stall = Stall(0.0 if late else min(now - promise, gap_s))
                self.stuck[worker] = stall
            if not stall.condemned and _exceeds(stall, rules.worker_timeout_s):
                stall.condemned = stall.warned = True
                yield worker, stall, Purpose.CONDEMN
            elif not stall.warned and _exceeds(stall, rules.stall_warn_s):
                stall.warned = True
                yield worker, stall, Purpose.WARN

    def ask(
        self, key: Key, purpose: Purpose, stall: Stall, now: float, *, native: bool = False
    ) -> None:
        """The stacks of ``key`` are being written; the last purpose counts."""
        self.inquiries[key] = Inquiry(purpose, now + DUMP_S, stall, native)

    def to_read(self, now: float) -> list[Key]:
        """Whose stacks are to be read now; each is named once."""
        due = [key for key, inquiry in self.inquiries.items() if inquiry.read_at <= now]
        for key in due:
            self.inquiries[key].read_at = math.inf
            self.inquiries[key].given_up_at = now + ANSWER_S
        return due

    def unanswered(self, now: float) -> list[Key]:
        """Whose stacks should have come by now."""
        return [key for key, inquiry in self.inquiries.items() if inquiry.given_up_at <= now]

    def forget(self, key: Key) -> None:
        """The process is gone."""
        self.inquiries.pop(key, None)
        if key[1] is not None:
            self.stuck.pop(key[1], None)

    def is_news(self, place: str, now: float) -> tuple[bool, int]:
        """Whether ``place`` is to be reported, and how many reports of it were left out before."""
        last, left_out = self._last_reports.get(place, (-math.inf, 0))
        if now - last < QUIET_S:
            self._last_reports[place] = last, left_out + 1
            return False, left_out
        if len(self._last_reports) > 100:  # places that always differ must not fill the memory
            self._last_reports.clear()
        self._last_reports[place] = now, 0
        return True, left_out

    def deadline(self) -> float:
        """When something is due."""
        due = (min(i.read_at, i.given_up_at) for i in self.inquiries.values())
        return min(self.next_look, *due, math.inf)


def _exceeds(stall: Stall, limit_s: float | None) -> bool:
    return limit_s is not None and stall.stuck_s >= limit_s
