"""Both loops for every test of the data plane."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.worker.serving import LoopKind, run_on

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["uvloop", "asyncio"])
def loop_kind(request: pytest.FixtureRequest) -> LoopKind:
    kind: LoopKind = request.param
    return kind


@pytest.fixture
def run(loop_kind: LoopKind) -> Run:
    """Run a coroutine on the loop of this test, and check that it leaves nothing behind."""
    return lambda coroutine: run_on(loop_kind, coroutine)
