"""Many workers that decide at the same time keep a balance, and soon find it again."""

from __future__ import annotations

import pytest

from tests.benchmarks.steering import KEPT, MIXED, SETTLED_S, SHORT, simulate


@pytest.mark.parametrize("workers", [2, 6])
def test_kept_connections_are_balanced_also_after_scale_up(workers: int) -> None:
    result = simulate("exact", KEPT, workers=workers, seconds=16, grow_at=8)
    assert result.peak(SETTLED_S, 8) <= 1.1
    assert result.peak(13, 16) <= 1.1
    took_s = result.converged_s()
    assert took_s is not None
    assert took_s <= 5
    assert sum(result.samples[-1].counts) == KEPT.kept * workers


def test_nothing_goes_to_and_fro() -> None:
    """What moves is little more than what is lacking: two new workers' share."""
    result = simulate("exact", KEPT, workers=8, seconds=20, grow_at=5)
    assert 80 <= result.moved <= 240


def test_short_connections_wait_hardly_longer_than_in_a_queue_that_all_share() -> None:
    times = {
        balance: simulate(balance, SHORT, workers=4, seconds=8, grow_at=9).wait_s(0.99)
        for balance in ("exact", "hash", "shared")
    }
    assert times["exact"] <= 2 * times["shared"]
    assert times["exact"] <= times["hash"] / 2


def test_short_connections_do_not_disturb_the_balance_of_those_that_stay() -> None:
    result = simulate("exact", MIXED, workers=4, seconds=16, grow_at=8)
    assert result.peak(SETTLED_S, 8) <= 1.15
    assert result.peak(13, 16) <= 1.15
