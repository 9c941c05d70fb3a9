"""The figures by which the fleet is judged, and how soon a slot whose worker died gets another.

Three counters, because three questions are asked: does the application start at all (boot failures,
counted by the supervisor at first start, by the rollout later), does one slot die young
(:class:`Backoff`), does the service as a whole have no hope (:class:`Intensity`). One counter for
all three, as older managers have it, either restarts too slowly after one crash or hides a crash
loop.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import msgspec

Roll = Callable[[], float]
"""A random number from 0 to 1; injected, so that a decision can be repeated."""


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """The figures by which the fleet is judged; durations in seconds."""

    workers: int
    startup_timeout_s: float = 60.0
    graceful_timeout_s: float = 30.0
    preload: bool = False
    stall_warn_s: float | None = 0.25
    worker_timeout_s: float | None = 30.0
    balance: Literal["exact", "kernel", "off"] = "exact"
    bake_s: float = 5.0
    """How long the first worker of a generation is watched before the others follow."""
    canary_weight: float | None = None
    """The part of new connections that it gets meanwhile; ``None``: as any other."""
    shutdown_delay_s: float = 0.0
    max_restarts: int = 5
    """Deaths per wanted worker within the window, after which a service that serves nobody ends."""
    restart_window_s: float = 60.0
    backoff_first_s: float = 0.5
    backoff_factor: float = 1.5
    backoff_longest_s: float = 30.0
    grown_up_s: float = 10.0
    """A worker that was ready this long is replaced at once."""
    healthy_s: float = 30.0
    """After this long ready, the earlier deaths of its slot are forgotten."""

    @property
    def canary_share(self) -> float | None:
        """The part of new connections that the others give to the first worker of a generation.

        ``None``: it accepts like them, because nothing is handed over.
        """
        if self.balance == "off":
            return None
        return 1 / (self.workers + 1) if self.canary_weight is None else self.canary_weight

    @property
    def drain_budget_s(self) -> float:
        """What a draining worker is told: a little less than it has, or it would race SIGKILL."""
        return self.graceful_timeout_s - min(0.5, self.graceful_timeout_s / 10)


@dataclass(slots=True)
class Backoff:
    """The waiting time of one slot (or template) after young deaths, with full jitter."""

    deaths: int = 0
    not_before: float = -math.inf

    def died(self, now: float, ready_s: float, rules: Rules, roll: Roll) -> None:
        """Note a death after ``ready_s`` seconds of readiness (0: it never was ready)."""
        if ready_s >= rules.healthy_s:
            self.deaths = 0
        if ready_s >= rules.grown_up_s:
            self.not_before = now
            return
        exponent = min(self.deaths, 64)  # beyond it the longest wait is long reached
        longest = min(
            rules.backoff_longest_s, rules.backoff_first_s * rules.backoff_factor**exponent
        )
        self.deaths += 1
        self.not_before = now + longest * roll()


@dataclass(slots=True)
class Intensity:
    """How many processes died within the window; planned ends are not counted."""

    times: deque[float] = field(default_factory=deque)

    def died(self, now: float, rules: Rules) -> None:
        """Note a death, and forget those that have left the window."""
        self.times.append(now)
        while self.times[0] <= now - rules.restart_window_s:
            self.times.popleft()

    def within_window(self, now: float, rules: Rules) -> int:
        """How many died within the window that ends now."""
        return sum(1 for time in self.times if time > now - rules.restart_window_s)
