"""`python -m tests.benchmarks.steering`: how evenly connections are spread, by simulation.

What cannot be measured on a small machine: many workers, and the same chance for each kind of
balance. Decisions are made by the very functions that workers and master use; queues, loops and
clients are simulated. A worker does one thing at a time, as its event loop does.

* *exact*: a worker helps out at the queues of its neighbours, passes fresh connections on, and
  gives idle ones to who has too little; the kernel weighs.
* *weights*: the kernel weighs, as with `--balance kernel`; connections stay where they are.
* *hash*: the kernel's choice, as with `--balance off`.
* *shared*: one queue, from which those accept who have time, as with servers that inherit a socket.
"""

from __future__ import annotations

import argparse
import heapq
import importlib
import math
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, Literal, get_args

from asgi_supervise.host.sockets import NEIGHBOURS
from asgi_supervise.policy import steering
from asgi_worker.balance import Cohort, Load, Turnover, Young, emptiest, is_hot, surplus
from asgi_worker.queues import BATCH

Balance = Literal["exact", "weights", "hash", "shared"]
BALANCES: Final[tuple[Balance, ...]] = get_args(Balance)

TICK_S: Final = 0.1
BUSY_TICKS: Final = 10
ACCEPT_S: Final = 0.00005
HAND_S: Final = 0.00005
"""What it takes of a processor to give a connection away, or to take it."""
FAIR: Final = 0.8
"""Converged: everybody has at least so much of the mean."""
KEEN: Final = 10
"""Each tenth of the connections that are kept asks so many times as often as the others."""


@dataclass(frozen=True)
class Traffic:
    """What clients do."""

    title: str
    kept: int
    """Connections a worker that are opened in the first seconds and stay."""
    kept_load: float
    """The part of all processors that their requests use …"""
    short_load: float
    """… and that connections with one request each use."""


SHORT: Final = Traffic("short connections", kept=0, kept_load=0.0, short_load=0.6)
KEPT: Final = Traffic("kept connections", kept=50, kept_load=0.5, short_load=0.0)
MIXED: Final = Traffic("both", kept=25, kept_load=0.3, short_load=0.3)
TRAFFIC: Final = (SHORT, KEPT, MIXED)

OPENING_S: Final = 2.0
"""All connections that stay are opened within that time, and settle within so much more."""


def cost_s(chance: random.Random) -> float:
    """Nine of ten requests are light, the tenth is as heavy as 40."""
    return 0.001 if chance.random() < 0.9 else 0.04


MEAN_COST_S: Final = 0.9 * 0.001 + 0.1 * 0.04


@dataclass(eq=False, slots=True)
class Connection:
    """``think_s``: mean time between its requests; 0: it has one request only."""

    think_s: float
    worker: Worker | None = None
    cohort: Cohort = field(default_factory=Cohort)
    asked_at: float | None = None
    """Since when a request of it is waiting or served."""


@dataclass(eq=False, slots=True)
class Worker:
    """``queue`` belongs to its slot."""

    slot: int
    queue: deque[Connection]
    turnover: Turnover
    connections: dict[Connection, None] = field(default_factory=dict)
    asking: deque[Connection] = field(default_factory=deque)
    served: Connection | None = None
    is_busy: bool = False
    owed_s: float = 0.0
    """Of a processor, for handing over."""
    used_s: float = 0.0
    used: deque[float] = field(default_factory=lambda: deque([0.0], BUSY_TICKS + 1))
    busy: int = 0
    young: Young = field(default_factory=Young)

    def count(self) -> int:
        return len(self.connections)


@dataclass(slots=True)
class Sample:
    """What a tick found: connections of each worker."""

    at: float
    counts: list[int]

    def peak(self) -> float:
        """How many times the mean the fullest worker has."""
        mean = sum(self.counts) / len(self.counts)
        return max(self.counts) / mean if mean else 1.0


@dataclass(slots=True)
class Result:
    """What came of a run."""

    samples: list[Sample]
    waits_s: list[float]
    moved: int
    """Idle connections that were handed over …"""
    passed: int
    """… and fresh ones."""
    grown_at: float

    def wait_s(self, part: float) -> float:
        """``part`` of all requests waited no longer."""
        ordered = sorted(self.waits_s)
        return ordered[min(int(part * len(ordered)), len(ordered) - 1)] if ordered else 0.0

    def peak(self, since: float, until: float) -> float:
        """The mean of max/mean in that time."""
        peaks = [sample.peak() for sample in self.samples if since <= sample.at < until]
        return sum(peaks) / len(peaks)

    def converged_s(self) -> float | None:
        """How long after growing it took until nobody had too little any more; never: ``None``."""
        grown = [sample for sample in self.samples if sample.at > self.grown_at]
        late = [s.at for s in grown if min(s.counts) * len(s.counts) < FAIR * sum(s.counts)]
        if not late:
            return 0.0
        return None if late[-1] >= self.samples[-1].at - 1 else late[-1] + TICK_S - self.grown_at


class Simulation:
    """One service: ``workers``, and at ``grow_at`` a quarter more (one at least)."""

    def __init__(
        self,
        balance: Balance,
        traffic: Traffic,
        *,
        workers: int,
        seconds: float = 20.0,
        grow_at: float = 10.0,
        seed: int = 0,
    ) -> None:
        self.balance = balance
        self.traffic = traffic
        self.seconds = seconds
        self.grow_at = grow_at
        self.chance = random.Random(seed)
        self.requests = random.Random(seed + 1)
        """The same for each kind of balance, as long as nothing is served in another order."""
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[..., None], Any]] = []
        self.number = 0
        self.shared: deque[Connection] = deque()
        self.workers: list[Worker] = []
        self.weights: tuple[int, ...] = ()
        self.sums: list[int] = []
        self.result = Result([], [], 0, 0, grow_at)
        self._grow(workers)

    def run(self) -> Result:
        """Let time pass."""
        traffic, workers = self.traffic, len(self.workers)
        kept = traffic.kept * workers
        for number in range(kept):
            at = OPENING_S * number / kept
            often = KEEN if number % 10 == 0 else 1
            think_s = (KEEN + 9) / 10 * kept * MEAN_COST_S / (traffic.kept_load * workers) / often
            self._plan(at, self._arrives, Connection(think_s))
        if traffic.short_load:
            self._plan(0.0, self._next_short, traffic.short_load * workers / MEAN_COST_S)
        self._plan(TICK_S, self._tick, None)
        self._plan(self.grow_at, self._grow, max(1, workers // 4))
        while self.events and self.events[0][0] <= self.seconds:
            self.now, _, act, what = heapq.heappop(self.events)
            act(what)
        return self.result

    def _plan(self, at: float, act: Callable[..., None], what: object) -> None:
        self.number += 1
        heapq.heappush(self.events, (at, self.number, act, what))

    def _grow(self, more: int) -> None:
        for _ in range(more):
            queue: deque[Connection] = self.shared if self.balance == "shared" else deque()
            self.workers.append(Worker(len(self.workers), queue, Turnover(self.now)))
        self._weigh(tuple(steering.WHOLE for _ in self.workers))

    # Clients.

    def _next_short(self, per_s: float) -> None:
        self._arrives(Connection(0.0))
        self._plan(self.now + self.requests.expovariate(per_s), self._next_short, per_s)

    def _arrives(self, connection: Connection) -> None:
        """The kernel has a new connection; its first request comes at once."""
        connection.asked_at = self.now
        if self.balance == "shared":
            self.shared.append(connection)
            waiting = [worker for worker in self.workers if not worker.is_busy]
            if waiting:
                self._turn(self.chance.choice(waiting))
            return
        drawn = self.chance.randrange(self.sums[-1])
        slot = next(slot for slot, below in enumerate(self.sums) if drawn < below)
        self.workers[slot].queue.append(connection)
        steps = NEIGHBOURS + 1 if self.balance == "exact" else 1
        for step in range(min(steps, len(self.workers))):  # in line, the owner first
            worker = self.workers[slot - step]
            if not worker.is_busy:
                self._turn(worker)
                break

    def _asks(self, connection: Connection) -> None:
        """The next request on a connection that was kept."""
        connection.asked_at = self.now
        worker = connection.worker
        assert worker is not None
        worker.asking.append(connection)
        if not worker.is_busy:
            self._turn(worker)

    # Workers.

    def _turn(self, worker: Worker) -> None:
        """A turn of its loop: what is in the queues, and one request."""
        spent_s, worker.owed_s = worker.owed_s, 0.0
        for connection in self._accepted(worker):
            spent_s += ACCEPT_S + self._keep_or_pass_on(worker, connection)
        if worker.asking:
            connection = worker.served = worker.asking.popleft()
            assert connection.asked_at is not None
            self.result.waits_s.append(self.now + spent_s - connection.asked_at)
            spent_s += cost_s(self.requests)
        worker.is_busy = spent_s > 0
        if worker.is_busy:
            worker.used_s += spent_s
            self._plan(self.now + spent_s, self._done, worker)

    def _accepted(self, worker: Worker) -> list[Connection]:
        """What it takes from the queues in this turn."""
        queues = [worker.queue]
        most = BATCH
        if self.balance == "exact":
            size, around = len(self.workers), min(NEIGHBOURS + 1, len(self.workers))
            queues = [self.workers[(worker.slot + step) % size].queue for step in range(around)]
        if self.balance == "shared" or (self.balance == "exact" and worker.turnover.patient):
            most = 0 if worker.asking else 1
        taken: list[Connection] = []
        for number, queue in enumerate(queues):
            while queue and len(taken) < (min(most, 1) if number else most):
                taken.append(queue.popleft())
        return taken

    def _keep_or_pass_on(self, worker: Worker, connection: Connection) -> float:
        """What it takes to hand it over, if it is."""
        taker = worker
        if self.balance == "exact":
            others = [*self.workers[worker.slot + 1 :], *self.workers[: worker.slot]]
            mean = sum(one.busy for one in self.workers) / len(self.workers)
            found = emptiest(
                (one.slot for one in others if not is_hot(one.busy, mean)),
                worker.count() + 2 - worker.turnover.gap,
                lambda slot: self.workers[slot].count(),
                lambda slot: 0,
            )
            taker = worker if found is None else self.workers[found]
        taker.connections[connection] = None
        taker.asking.append(connection)
        connection.worker = taker
        connection.cohort = taker.young.came()
        if taker is worker:
            return 0.0
        self.result.passed += 1
        taker.owed_s += HAND_S
        if not taker.is_busy:
            self._plan(self.now, self._wake, taker)
        return HAND_S

    def _wake(self, worker: Worker) -> None:
        if not worker.is_busy:
            self._turn(worker)

    def _done(self, worker: Worker) -> None:
        """It has served what it served in this turn."""
        connection, worker.served = worker.served, None
        if connection is not None:
            connection.asked_at = None
            if connection.think_s:
                thinks_s = self.requests.expovariate(1 / connection.think_s)
                self._plan(self.now + thinks_s, self._asks, connection)
            else:
                del worker.connections[connection]
                worker.young.lost(connection.cohort)
        self._turn(worker)

    # What is done by the clock.

    def _tick(self, _: None) -> None:
        for worker in self.workers:
            worker.used.append(worker.used_s)
            passed_s = TICK_S * (len(worker.used) - 1)
            worker.busy = min(1000, int(1000 * (worker.used[-1] - worker.used[0]) / passed_s))
            worker.young.age()
            worker.turnover.seen(self.now, worker.young, worker.busy)
        if self.balance == "exact":
            self._rebalance()
        if self.balance in ("exact", "weights"):
            loads = [
                steering.Load(one.count(), one.busy / 1000, gathers=self._gathers(one))
                for one in self.workers
            ]
            wanted = steering.weights(loads)
            if steering.clearly_differ(self.weights, wanted):
                self._weigh(wanted)
        self.result.samples.append(Sample(self.now, [one.count() for one in self.workers]))
        self._plan(self.now + TICK_S, self._tick, None)

    def _gathers(self, worker: Worker) -> bool:
        takes_from_all = self.balance == "exact" and 1 < len(self.workers) <= NEIGHBOURS + 1
        return worker.turnover.dear and takes_from_all

    def _rebalance(self) -> None:
        """All act upon the same figures."""
        seen = {worker.slot: Load(worker.count(), worker.busy) for worker in self.workers}
        for worker in self.workers:
            others = {slot: load for slot, load in seen.items() if slot != worker.slot}
            chosen = surplus(seen[worker.slot], others, self.chance.random)
            idle = [one for one in worker.connections if one.asked_at is None]
            for connection, slot in zip(idle, chosen, strict=False):
                taker = self.workers[slot]
                del worker.connections[connection]
                worker.young.lost(connection.cohort)
                taker.connections[connection] = None
                connection.cohort = taker.young.came()
                connection.worker = taker
                worker.owed_s += HAND_S
                taker.owed_s += HAND_S
                self.result.moved += 1

    def _weigh(self, weights: tuple[int, ...]) -> None:
        self.weights = weights
        self.sums = list(accumulate(weights))


def simulate(
    balance: Balance, traffic: Traffic, *, workers: int, seed: int = 0, **times: float
) -> Result:
    """What comes of ``traffic`` with that kind of balance."""
    return Simulation(balance, traffic, workers=workers, seed=seed, **times).run()


# What is shown.

COLUMNS: Final = "{:>7}  {:<17}  {:<8}{:>9}{:>9}{:>11}{:>10}{:>10}{:>8}{:>8}"
SETTLED_S: Final = 2 * OPENING_S


def table(sizes: Sequence[int], seed: int) -> None:
    """All kinds of balance, for all kinds of traffic."""
    heads = ("max/mean", "at end", "converged", "p50", "p99", "passed", "moved")
    print(COLUMNS.format("workers", "traffic", "balance", *heads))
    for workers in sizes:
        for traffic in TRAFFIC:
            for balance in BALANCES:
                print(row(workers, traffic, balance, seed), flush=True)


def row(workers: int, traffic: Traffic, balance: Balance, seed: int) -> str:
    """max/mean counts only where connections stay: else it is chance who serves just now."""
    result = simulate(balance, traffic, workers=workers, seed=seed)
    before = after = took = "–"
    if traffic.kept:
        end = result.samples[-1].at
        before = f"{result.peak(SETTLED_S, result.grown_at):.2f}"
        after = f"{result.peak(end - 3, end):.2f}"
        took_s = result.converged_s()
        took = "never" if took_s is None else f"{took_s:.1f} s"
    waits = [f"{1000 * result.wait_s(part):.1f} ms" for part in (0.5, 0.99)]
    grown = f"{workers}→{workers + max(1, workers // 4)}"
    figures = (before, after, took, *waits, result.passed, result.moved)
    return COLUMNS.format(grown, traffic.title, balance, *figures)


def over_time(workers: int, seed: int) -> None:
    """max/mean of connections in each second."""
    print(f"\n{KEPT.title}, max/mean in each second, {workers} workers, more of them after 10 s:")
    for balance in BALANCES:
        result = simulate(balance, KEPT, workers=workers, seed=seed)
        peaks = [result.peak(second, second + 1) for second in range(1, 20)]
        print(f"{balance:<8}", *(f"{peak:.2f}" for peak in peaks))


COLOURS: Final = {"exact": "#0b6e4f", "weights": "#3066be", "hash": "#c8553d", "shared": "#8a6fb0"}
NAMES: Final = {
    "exact": "--balance exact",
    "weights": "--balance kernel",
    "hash": "--balance off (hash)",
    "shared": "a shared queue",
}


def plot(path: Path, workers: int, seed: int) -> None:
    """Draw connections over time, and waiting times. Raises ``ImportError`` without matplotlib."""
    pyplot = importlib.import_module("matplotlib.pyplot")
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12.5, 5), dpi=110, facecolor="white")
    _draw_connections(left, workers, seed)
    _draw_waits(right, workers, seed)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#eeeeee", linewidth=0.8)
        axes.set_axisbelow(True)
    more = workers + max(1, workers // 4)
    figure.suptitle(
        f"Simulated: {workers} workers ({more} after 10 s); "
        "90 % of requests cost 1 ms of a processor, 10 % cost 40 ms",
        fontsize=11,
    )
    figure.tight_layout()
    figure.savefig(path)


def _draw_connections(axes: Any, workers: int, seed: int) -> None:
    ends = {}
    for balance in BALANCES:
        result = simulate(balance, KEPT, workers=workers, seed=seed)
        samples = [sample for sample in result.samples if sample.at >= OPENING_S]
        peaks = [sample.peak() for sample in samples]
        axes.plot([s.at for s in samples], peaks, color=COLOURS[balance], linewidth=1.8)
        ends[balance] = peaks[-1]
    _label(axes, {balance: (20.0, end) for balance, end in ends.items()}, NAMES, apart=0.03)
    axes.axvline(10, color="#999999", linewidth=0.8, linestyle=":")
    axes.text(10.2, 1.33, "more workers", color="#666666", fontsize=9)
    axes.set(
        title=f"{KEPT.kept} kept connections a worker, 50 % load",
        xlabel="time (s)",
        ylabel="connections of the fullest worker / mean",
        xlim=(OPENING_S, 27),
        xticks=range(2, 21, 2),
    )


def _draw_waits(axes: Any, workers: int, seed: int) -> None:
    ends, names = {}, {}
    for balance in BALANCES:
        waits = sorted(simulate(balance, SHORT, workers=workers, seed=seed).waits_s)
        parts = [number / 2000 for number in range(4, 1000)]
        values = [1000 * waits[int((1 - part) * len(waits))] for part in parts]
        axes.plot(values, parts, color=COLOURS[balance], linewidth=1.8)
        p99_ms = 1000 * waits[int(0.99 * len(waits))]
        ends[balance] = (p99_ms, 0.01)
        names[balance] = f"{NAMES[balance]}: {p99_ms:.0f} ms"
    axes.axhline(0.01, color="#999999", linewidth=0.8, linestyle=":")
    for number, balance in enumerate(sorted(ends, key=ends.__getitem__)):
        axes.plot(*ends[balance], "o", color=COLOURS[balance], markersize=4)
        where = {"xytext": (0.5, 0.93 - 0.06 * number), "textcoords": "axes fraction"}
        axes.annotate(f"p99, {names[balance]}", ends[balance], color=COLOURS[balance], **where)
    axes.set(
        title="Short connections, 60 % load",
        xlabel="waiting time (ms)",
        ylabel="part of all requests that wait longer",
        yscale="log",
        ylim=(0.002, 0.6),
    )
    axes.set_yticks((0.5, 0.1, 0.01), ("50 %", "10 %", "1 %"))
    axes.minorticks_off()


def _label(
    axes: Any, ends: dict[Balance, tuple[float, float]], names: dict[str, str], apart: float
) -> None:
    """Write at the end of each line what it is, and nothing over anything else."""
    at = -math.inf
    for balance in sorted(ends, key=lambda one: ends[one][1]):
        x, y = ends[balance]
        at = max(y, at + apart)
        axes.text(x + 0.2, at, names[balance], color=COLOURS[balance], va="center", fontsize=10)


def main() -> int:
    """Print the table, or draw."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.steering",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--workers", type=int, action="append", help="so many workers (repeatable)")
    add("--seed", type=int, default=0, help="of all chance (default: 0)")
    add("--plot", type=Path, metavar="FILE", help="draw instead, and keep it in FILE")
    chosen = parser.parse_args()
    began = time.monotonic()
    if chosen.plot is None:
        table(chosen.workers or (2, 4, 8, 16, 64), chosen.seed)
        over_time((chosen.workers or (8,))[0], chosen.seed)
        print(f"simulated in {time.monotonic() - began:.0f} s")
        return 0
    try:
        plot(chosen.plot, (chosen.workers or (8,))[0], chosen.seed)
    except ImportError as error:
        print(f"cannot draw: {error}; pip install matplotlib", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
