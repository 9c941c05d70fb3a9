"""How evenly kept connections are shared, who waits for one that hangs, what a reload cuts."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.contest import ask, begin, finish, say, standing_by
from tests.benchmarks.load import Failed
from tests.benchmarks.mix import percentile, shares
from tests.benchmarks.open_load import Job
from tests.benchmarks.report import table
from tests.benchmarks.servers import CannotServe, Running, Server

SPREAD_WORKERS = 4
SPREAD_USERS = 64
SPREAD_REQUESTS = 12_000
SPREAD_RATE = 2000
"""A second. Asked without pause, workers that have to share processors get what the kernel gives
them, whoever has how many connections."""
BLOCKED_S = 3
RELOADS = 6
RELOAD_USERS = 200
RELOAD_EVERY_S = 3.6
RELOAD_RATE = 100
"""Requests a second to each server; all reload in the same seconds, one after the other."""
RELOAD_WORKERS = 2

Row = tuple[str, ...]


@dataclass(frozen=True)
class Move:
    name: str
    title: str
    columns: Row


SPREAD = Move(
    "spread",
    f"requests of {SPREAD_USERS} kept connections over {SPREAD_WORKERS} workers, {SPREAD_RATE} a"
    " second",
    ("max/mean", "min/mean"),
)
BLOCKED = Move(
    "blocked",
    f"one of {SPREAD_WORKERS} workers hangs for {BLOCKED_S} s; 100 new connections a second",
    ("worst ms", "p99 ms", "broken"),
)
RELOAD = Move(
    "reload",
    f"{RELOADS} reloads, one every {RELOAD_EVERY_S} s, {RELOAD_USERS} users on kept connections",
    ("connections opened", "broken", "workers seen", "worst ms"),
)
MOVES = (SPREAD, BLOCKED, RELOAD)


def spread(running: Running) -> Row:
    arrivals = [(number / SPREAD_RATE, "/burn/0.05") for number in range(SPREAD_REQUESTS)]
    outcome = ask(running, Job(running.port, arrivals, SPREAD_USERS, drawn=True))
    return tuple(f"{share:.2f}" for share in shares(outcome.workers, SPREAD_WORKERS))


def blocked(running: Running) -> Row:
    """The request that blocks comes between the others and does not count."""
    arrivals = [(number / 100, "/burn/0") for number in range(100 * (BLOCKED_S + 1))]
    arrivals.insert(50, (0.4951, f"/block/{BLOCKED_S}"))
    outcome = ask(running, Job(running.port, arrivals))
    del outcome.latencies_ms[50]
    ordered = sorted(outcome.latencies_ms)
    return f"{ordered[-1]:.0f}", f"{percentile(ordered, 0.99):.1f}", str(outcome.broken)


def reload_all(ready: dict[Server, Running]) -> Iterator[tuple[Server, Row | str]]:
    """All servers at the same time, each signalled in its turn; a reason instead of a row where
    there is none.
    """
    seconds = (RELOADS + 1) * RELOAD_EVERY_S
    loads = {}
    with contextlib.ExitStack() as stack:
        for server, running in ready.items():
            draw = random.Random(server.name)
            count = int(seconds * RELOAD_RATE)
            moments = sorted(draw.uniform(0, seconds) for _ in range(count))
            job = Job(running.port, [(at, "/burn/0.1") for at in moments], RELOAD_USERS)
            loads[server] = job, stack.enter_context(begin(job))
        began_at = time.monotonic()
        for number in range(RELOADS):
            for index, running in enumerate(ready.values()):
                at = (number + 0.5 + index / len(ready)) * RELOAD_EVERY_S
                time.sleep(max(0.0, began_at + at - time.monotonic()))
                with contextlib.suppress(ProcessLookupError):
                    running.process.send_signal(signal.SIGHUP)
        for server, (job, load) in loads.items():
            try:
                outcome = finish(ready[server], load, job)
            except (Failed, CannotServe) as reason:
                yield server, str(reason)
            else:
                worst = max(outcome.latencies_ms)
                seen = len(set(outcome.workers))
                yield server, (str(outcome.opened), str(outcome.broken), str(seen), f"{worst:.0f}")


def measure_moves(
    moves: Sequence[Move],
    servers: Sequence[Server],
    reloading: Sequence[Server],
    cores: Collection[int],
    directory: Path,
) -> list[str]:
    """The tables of ``moves``; ``reloading`` are the servers for the reloads."""
    lines = []
    still = [(move, one) for move, one in ((SPREAD, spread), (BLOCKED, blocked)) if move in moves]
    if still:
        with standing_by(servers, cores, directory / "moves") as ready:
            for move, measure in still:
                rows: list[tuple[Server, Row | str]] = []
                for server, running in ready.items():
                    try:
                        rows.append((server, measure(running)))
                    except (Failed, CannotServe) as reason:
                        rows.append((server, str(reason)))
                    say(move.name, server, " ".join(rows[-1][1]))
                lines += _table(move, rows)
    if RELOAD in moves:
        with standing_by(reloading, cores, directory / "reload") as ready:
            lines += _table(RELOAD, list(reload_all(ready)))
    return lines


def _table(move: Move, found: Sequence[tuple[Server, Row | str]]) -> list[str]:
    rows = [("server", *move.columns)]
    notes = []
    for server, row in found:
        if isinstance(row, str):
            rows.append((server.name, "failed", *("–",) * (len(move.columns) - 1)))
            notes.append(f"- {server.name} failed: {row}")
        else:
            rows.append((server.name, *row))
    return [
        f"### {move.name}: {move.title}",
        "",
        *table(rows),
        "",
        *notes,
        *([""] if notes else []),
    ]
