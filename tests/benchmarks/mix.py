"""Requests that cost little and requests that cost much, on two workers that are not full.

90 % of the requests take 1 ms of processor time, 10 % take 40 ms. Whoever comes after a dear one on
the same worker waits, also while the other worker has nothing to do; how often that happens is what
the way of sharing connections decides. The arrivals are drawn beforehand – Poisson's, with exactly
so many of each kind – and are the same for all servers of a round.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.benchmarks.contest import ONE_QUEUE, ask, say, standing_by
from tests.benchmarks.load import Failed
from tests.benchmarks.open_load import Job, Outcome
from tests.benchmarks.report import table
from tests.benchmarks.servers import OURS, CannotServe, Server

WORKERS = 2
USERS = 32
CHEAP_MS, DEAR_MS = 1, 40
DEAR_EVERY = 10
PARTS = 2
"""In which a round is measured, one server after the other in each."""
MEAN_MS = (CHEAP_MS * (DEAR_EVERY - 1) + DEAR_MS) / DEAR_EVERY
AGAINST = (ONE_QUEUE, "uvicorn", "granian")
"""Whose p99 is to be no better than ours."""


@dataclass(frozen=True)
class Mix:
    name: str
    title: str
    users: int = 0
    guests: float = 0.0
    """The part of the requests that has a connection of its own, beside those of the users."""


NEW = Mix("mix-new", "a new connection for each request")
KEPT = Mix("mix-kept", f"{USERS} users, each with a connection that it keeps", USERS)
BOTH = Mix("mix-both", f"one half by {USERS} users as before, the other anew", USERS, 0.5)
MIXES = (NEW, KEPT, BOTH)


@dataclass
class Rounds:
    """Per mix and server an outcome for each part of each round, and why some are missing."""

    outcomes: dict[tuple[Mix, Server], dict[int, Outcome]] = field(default_factory=dict)
    failures: dict[tuple[Mix, Server], list[str]] = field(default_factory=dict)

    def latencies_ms(self, mix: Mix, server: Server) -> list[float]:
        """Of all rounds together, sorted; empty if there are none."""
        outcomes = self.outcomes.get((mix, server), {}).values()
        return sorted(one for outcome in outcomes for one in outcome.latencies_ms)

    def p99s(self, mix: Mix, server: Server) -> dict[int, float]:
        outcomes = self.outcomes.get((mix, server), {})
        return {
            number: percentile(sorted(one.latencies_ms), 0.99) for number, one in outcomes.items()
        }


def schedule(seed: int, seconds: float, load: float) -> list[tuple[float, str]]:
    """Arrivals that use ``load`` of all workers, drawn with ``seed``."""
    draw = random.Random(seed)
    dears = max(1, round(load * WORKERS * seconds * 1000 / (MEAN_MS * DEAR_EVERY)))
    costs = [DEAR_MS] * dears + [CHEAP_MS] * (dears * (DEAR_EVERY - 1))
    draw.shuffle(costs)
    moments = sorted(draw.uniform(0, seconds) for _ in costs)
    return [(at, f"/burn/{cost}") for at, cost in zip(moments, costs, strict=True)]


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of them do not exceed."""
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def shares(workers: Sequence[int], count: int) -> tuple[float, float]:
    """Of ``count`` workers, requests of the one that had most, and of the one that had least, over
    the mean.
    """
    answered = [worker for worker in workers if worker]
    counts = sorted((answered.count(worker) for worker in set(answered)), reverse=True)
    mean = len(answered) / count
    return counts[0] / mean, (counts[-1] if len(counts) >= count else 0) / mean


def measure_mixes(
    mixes: Sequence[Mix],
    servers: Sequence[Server],
    rounds: int,
    seconds: float,
    load: float,
    cores: Collection[int],
    directory: Path,
) -> Rounds:
    """Each round has new processes, begins with another server, and has another schedule, in parts:
    who else uses the machine changes within seconds.
    """
    found = Rounds()
    for number in range(rounds):
        start = number * len(servers) // rounds
        order = [*servers[start:], *servers[:start]]
        with standing_by(order, cores, directory / f"mix-{number}") as ready:
            for mix, part in itertools.product(mixes, range(PARTS)):
                seed = number * PARTS + part
                arrivals = schedule(seed, seconds / PARTS, load)
                for server, running in ready.items():
                    try:
                        outcome = ask(
                            running, Job(running.port, arrivals, mix.users, mix.guests, drawn=True)
                        )
                    except (Failed, CannotServe) as reason:
                        found.failures.setdefault((mix, server), []).append(str(reason))
                        say(mix.name, server, f"failed: {reason}")
                        continue
                    found.outcomes.setdefault((mix, server), {})[seed] = outcome
                    ordered = sorted(outcome.latencies_ms)
                    p50, p99 = percentile(ordered, 0.5), percentile(ordered, 0.99)
                    say(mix.name, server, f"p50 {p50:7.2f} ms  p99 {p99:7.1f} ms")
    return found


def mix_table(mix: Mix, servers: Sequence[Server], found: Rounds, load: float) -> list[str]:
    """In the order of their p99, with what has to be known of the load itself below."""
    measured = [server for server in servers if found.latencies_ms(mix, server)]
    measured.sort(key=lambda server: percentile(found.latencies_ms(mix, server), 0.99))
    basis = next((server for server in measured if server.name == ONE_QUEUE), None)
    rows = [
        ("server", "p50 ms", "p90 ms", "p99 ms", "of parts", "max ms", "max/mean", "× one queue")
    ]
    for server in measured:
        ordered = found.latencies_ms(mix, server)
        p50, p90, p99 = (percentile(ordered, share) for share in (0.5, 0.9, 0.99))
        p99s = found.p99s(mix, server).values()
        outcomes = found.outcomes[mix, server].values()
        uneven = median(shares(outcome.workers, WORKERS)[0] for outcome in outcomes)
        ratio = p99 / percentile(found.latencies_ms(mix, basis), 0.99) if basis else None
        rows.append(
            (
                server.name,
                f"{p50:.2f}",
                f"{p90:.1f}",
                f"{p99:.1f}",
                f"{min(p99s):.0f}–{max(p99s):.0f}",
                f"{ordered[-1]:.0f}",
                f"{uneven:.2f}",
                f"{ratio:.2f}" if ratio else "–",
            )
        )
    title = f"### {mix.name}: 90 % 1 ms, 10 % 40 ms, {load:.0%} of {WORKERS} workers; {mix.title}"
    lines = [title, "", *table(rows), "", *_remarks(mix, servers, found)]
    return [*lines, ""]


def _remarks(mix: Mix, servers: Sequence[Server], found: Rounds) -> list[str]:
    outcomes = [
        (server, outcome)
        for server in servers
        for outcome in found.outcomes.get((mix, server), {}).values()
    ]
    if not outcomes:
        return ["- nothing was measured."]
    cpu = max(outcome.cpu_s / outcome.seconds for _, outcome in outcomes)
    late = median(percentile(sorted(one.late_ms), 0.99) for _, one in outcomes)
    urgent = all(outcome.urgent for _, outcome in outcomes)
    lines = [
        f"- The load shares the processors: it used {cpu:.1%} of one at most, and was late by"
        f" {late:.2f} ms (p99){', though scheduled first' if urgent else ''}."
    ]
    for server in servers:
        mine = [outcome for one, outcome in outcomes if one is server]
        if broken := sum(outcome.broken for outcome in mine):
            lines.append(f"- {server.name}: {broken} connections broke.")
        lines += [f"- {server.name} failed: {why}" for why in found.failures.get((mix, server), ())]
    return lines


def mix_aims(mixes: Sequence[Mix], servers: Sequence[Server], found: Rounds) -> list[list[str]]:
    """Rows: our p99 over that of those it is to be no worse than."""
    by_name = {server.name: server for server in servers}
    rows = []
    for mix in mixes:
        mine = found.latencies_ms(mix, by_name[OURS]) if OURS in by_name else []
        for name in AGAINST:
            other = found.latencies_ms(mix, by_name[name]) if name in by_name else []
            if mine and other:
                ratio = percentile(mine, 0.99) / percentile(other, 0.99)
                words = f"{mix.name}: p99 over that of {name}"
                rows.append([words, "1.00", f"{ratio:.2f}", "yes" if ratio <= 1 else "no"])
    return rows
