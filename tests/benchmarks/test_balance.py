"""What is drawn, counted and compared in the benchmark of the balance."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.benchmarks import balance, mix, price
from tests.benchmarks.contest import NAMES, ONE_QUEUE, contestants
from tests.benchmarks.mix import (
    KEPT,
    NEW,
    Rounds,
    mix_aims,
    mix_table,
    percentile,
    schedule,
    shares,
)
from tests.benchmarks.open_load import Outcome
from tests.benchmarks.servers import OURS, SOURCES


def test_a_schedule_is_the_same_for_all() -> None:
    assert schedule(3, 2.0, 0.6) == schedule(3, 2.0, 0.6)
    assert schedule(3, 2.0, 0.6) != schedule(4, 2.0, 0.6)


@pytest.mark.parametrize("load", [0.3, 0.6])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_schedule_uses_what_it_says(seed: int, load: float) -> None:
    seconds = 20.0
    arrivals = schedule(seed, seconds, load)
    costs_ms = [float(path.removeprefix("/burn/")) for _, path in arrivals]
    assert sum(costs_ms) / 1000 == pytest.approx(load * mix.WORKERS * seconds, rel=0.01)
    assert costs_ms.count(mix.DEAR_MS) * mix.DEAR_EVERY == len(arrivals)
    assert all(0 <= one <= other <= seconds for (one, _), (other, _) in pairwise(arrivals))


@pytest.mark.parametrize(
    ("count", "share", "expected"), [(100, 0.99, 99), (1000, 0.99, 990), (3, 0.5, 2), (1, 0.99, 1)]
)
def test_percentile(count: int, share: float, expected: float) -> None:
    assert percentile([float(number) for number in range(1, count + 1)], share) == expected


@pytest.mark.parametrize(
    ("workers", "expected"),
    [
        ([1, 2, 1, 2], (1.0, 1.0)),
        ([1, 1, 1, 2], (1.5, 0.5)),
        ([1, 1, 1, 1], (2.0, 0.0)),
        ([1, 2, 0, 0], (1.0, 1.0)),
    ],
    ids=["even", "uneven", "one has nothing", "unanswered"],
)
def test_shares(workers: list[int], expected: tuple[float, float]) -> None:
    assert shares(workers, 2) == expected


def test_ours_is_compared_with_the_shared_queue_and_the_peers() -> None:
    servers = contestants([OURS, ONE_QUEUE, "uvicorn"], 2)
    found = Rounds()
    for server, slowest_ms in zip(servers, (50.0, 40.0, 100.0), strict=True):
        outcome = Outcome([1.0] * 9 + [slowest_ms], [1, 2] * 5, [0.1], cpu_s=0.1, seconds=1.0)
        found.outcomes[NEW, server] = {0: outcome}
    found.failures[NEW, servers[2]] = ["did not start"]
    assert mix_aims([NEW, KEPT], servers, found) == [
        ["mix-new: p99 over that of asgi-supervise, one queue", "1.00", "1.25", "no"],
        ["mix-new: p99 over that of uvicorn", "1.00", "0.50", "yes"],
    ]
    text = mix_table(NEW, servers, found, 0.6)
    rows = [line.split("|")[1].strip() for line in text if line.startswith("| ")][2:]
    assert rows == [ONE_QUEUE, OURS, "uvicorn"]
    assert "- uvicorn failed: did not start" in text


def test_the_price_is_the_median_of_the_ratios_of_rounds() -> None:
    case = price.HOT[0]
    aims = price.price_aims({case: [(10.0, 10.0), (22.0, 20.0), (31.5, 30.0)]})
    assert aims == [[f"{case.name}: CPU over that of off", "1.03", "1.050", "no"]]
    assert price.error_of_median([1.0]) == 0.0
    assert price.error_of_median([1.0, 1.1] * 50) < price.error_of_median([1.0, 1.1])


def test_workers_are_as_many_as_wanted_and_load_the_application() -> None:
    for server in contestants(NAMES, 7):
        words = server.command.format(port=1).split()
        assert "7" in words
        assert words[-1] == "tests.benchmarks.busy:app"
    assert (SOURCES / "inherit.py").exists()


@pytest.mark.parametrize(
    "words", [["--rounds", "0"], ["--load", "1"], ["--write", "--case", "price"], ["--case", "?"]]
)
def test_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        balance.arguments(words)
    assert ended.value.code == 2
    assert "balance: error: " in capsys.readouterr().err
