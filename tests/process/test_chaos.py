from __future__ import annotations

import pytest

from tests.process import chaos

pytestmark = [pytest.mark.process, pytest.mark.slow]


def test_ten_seconds_of_chaos_leave_everything_in_order() -> None:
    assert not chaos.run(10, seed=20)


def test_errors_that_nothing_provoked_are_found() -> None:
    log = (
        "2026-01-01 10:00:00.000 [1] INFO worker slot=0 gen=1 pid=2 ready\n"
        "2026-01-01 10:00:00.001 [1] ERROR reload failed, generation 1 serves on: it is broken\n"
        "Traceback (most recent call last):\n"
        "2026-01-01 10:00:00.002 [1] INFO worker slot=1 gen=1 pid=3 ready\n"
        "Exception ignored in: something\n"
        "2026-01-01 10:00:00.003 [1] ERROR [BUG] something\n"
        "2026-01-01 10:00:00.004 [1] WARNING nothing to see\n"
    )
    found = chaos.wrong_in_log(log)
    assert len(found) == 2
    assert found[0].endswith("Exception ignored in: something\n")
    assert "[BUG]" in found[1]
