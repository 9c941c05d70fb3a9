from __future__ import annotations

import os
import secrets

import pytest

from tests.process import fuzz

pytestmark = [pytest.mark.process, pytest.mark.slow]

SECONDS = float(os.environ.get("FUZZ_SECONDS", "6"))


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_connections_that_move_at_random_lose_and_mix_up_nothing(loop: str) -> None:
    assert not fuzz.run(SECONDS, secrets.randbelow(1_000_000), "--loop", loop)
