from __future__ import annotations

import math

import pytest

from asgi_supervise.policy.health import Backoff, Intensity, Rules

RULES = Rules(workers=2)


def longest() -> float:
    return 1.0


def test_young_deaths_wait_longer_and_longer_up_to_the_cap() -> None:
    backoff, waits = Backoff(), []
    for _ in range(15):
        backoff.died(100.0, 0.0, RULES, longest)
        waits.append(backoff.not_before - 100.0)
    assert waits[:3] == [0.5, 0.75, 1.125]
    assert waits == sorted(waits)
    assert waits[-1] == 30.0


def test_jitter_is_full() -> None:
    backoff = Backoff()
    backoff.died(100.0, 0.0, RULES, lambda: 0.0)
    assert backoff.not_before == 100.0
    backoff.died(100.0, 0.0, RULES, lambda: 0.5)
    assert backoff.not_before == 100.375


def test_one_that_has_grown_up_is_replaced_at_once() -> None:
    backoff = Backoff()
    for _ in range(4):
        backoff.died(100.0, 0.0, RULES, longest)
    backoff.died(120.0, RULES.grown_up_s, RULES, longest)
    assert (backoff.not_before, backoff.deaths) == (120.0, 4)


def test_health_makes_forget() -> None:
    backoff = Backoff()
    for _ in range(4):
        backoff.died(100.0, 0.0, RULES, longest)
    backoff.died(140.0, RULES.healthy_s, RULES, longest)
    backoff.died(141.0, 0.5, RULES, longest)
    assert backoff.not_before == 141.5


def test_a_thousand_deaths_do_not_overflow() -> None:
    backoff = Backoff()
    for _ in range(5000):
        backoff.died(0.0, 0.0, RULES, longest)
    assert backoff.not_before == 30.0


def test_intensity_counts_within_the_window_only() -> None:
    intensity = Intensity()
    for second in range(10):
        intensity.died(float(second), RULES)
    assert intensity.within_window(9.0, RULES) == 10
    assert intensity.within_window(59.9, RULES) == 10
    assert intensity.within_window(60.0, RULES) == 9  # the first one has left the window
    intensity.died(69.0, RULES)
    assert list(intensity.times) == [69.0]


@pytest.mark.parametrize(("graceful_s", "told_s"), [(30.0, 29.5), (2.0, 1.8), (0.1, 0.09)])
def test_a_draining_worker_is_told_less_than_it_has(graceful_s: float, told_s: float) -> None:
    assert math.isclose(Rules(workers=1, graceful_timeout_s=graceful_s).drain_budget_s, told_s)
