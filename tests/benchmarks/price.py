"""What the balance costs where it has nothing to do: the hot path with and without it.

Both servers run on the same core, with two workers each, and are under load at the same time, so
that whatever else happens to the machine happens to both; what a request costs is seen from the
processor time of each. They are measured when they have been under load for a while, by which a
worker has seen that connections soon end. Two processes of the same program differ by some per
cent through their layout in memory alone, so that each round starts new ones and the figure is the
median of the ratios of all rounds, shown with the error that is left of it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median, stdev

from tests.benchmarks.cases import CASES, Case
from tests.benchmarks.contest import OFF, say, standing_by
from tests.benchmarks.load import measure_http, verify
from tests.benchmarks.report import table
from tests.benchmarks.servers import APP, OURS, CannotServe, Server

HOT = tuple(case for case in CASES if case.name in ("hello", "close", "post"))
AIM = 1.03
WARM_UP_S = 2
_COMMAND = "asgi-supervise -w 2 --loop uvloop --no-access-log --bind 127.0.0.1:{port}"
SERVERS = tuple(
    Server(name=name, kind="ours", command=f"{_COMMAND} --balance {word} {APP}", versions=())
    for name, word in ((OURS, "exact"), (OFF, "off"))
)

Costs = dict[Case, list[tuple[float, float]]]
"""CPU µs a request in each round: with, without."""


def measure_price(rounds: int, seconds: int, core: int, directory: Path) -> Costs:
    """The load is where this process is bound to. Raises CannotServe, Failed."""
    costs: Costs = {case: [] for case in HOT}
    pool = ThreadPoolExecutor(len(SERVERS))  # of threads that wait
    for number in range(rounds):
        order = SERVERS if number % 2 == 0 else SERVERS[::-1]
        place = directory / f"price-{number}"
        with standing_by(order, {core}, place, busy=False) as ready:
            if len(ready) < len(SERVERS):
                raise CannotServe("did not start twice on one core")
            for case in HOT:
                for server in SERVERS:
                    verify(case, ready[server].port)
                both = [ready[server] for server in SERVERS]
                list(pool.map(functools.partial(measure_http, case, seconds=WARM_UP_S), both))
                samples = pool.map(functools.partial(measure_http, case, seconds=seconds), both)
                ours, plain = (sample.cpu_us for sample in samples)
                costs[case].append((ours, plain))
                say("price", SERVERS[0], f"{case.name:6} {_ratio(costs[case][-1]):.3f}")
    return costs


def _ratio(pair: tuple[float, float]) -> float:
    return pair[0] / pair[1]


def error_of_median(values: Sequence[float]) -> float:
    """Its standard error, as if the values were normal; 0 where one value says nothing of it."""
    return 1.2533 * stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


def price_table(costs: Costs) -> list[str]:
    rows = [("case", "exact, µs", "off, µs", "× off", "±", "min–max")]
    for case, pairs in costs.items():
        ratios = sorted(map(_ratio, pairs))
        rows.append(
            (
                case.name,
                f"{median(pair[0] for pair in pairs):.1f}",
                f"{median(pair[1] for pair in pairs):.1f}",
                f"{median(ratios):.3f}",
                f"{error_of_median(ratios):.3f}",
                f"{ratios[0]:.3f}–{ratios[-1]:.3f}",
            )
        )
    rounds = max(map(len, costs.values()))
    title = f"### price: CPU a request with --balance exact and off, 2 workers, {rounds} rounds"
    return [title, "", *table(rows), ""]


def price_aims(costs: Costs) -> list[list[str]]:
    rows = []
    for case, pairs in costs.items():
        ratio = median(map(_ratio, pairs))
        verdict = "yes" if ratio <= AIM else "no"
        rows.append([f"{case.name}: CPU over that of off", f"{AIM:.2f}", f"{ratio:.3f}", verdict])
    return rows
