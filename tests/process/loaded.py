"""A service with a crowd before it and a directory of releases behind it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.process.crowd import Crowd
from tests.process.releases import Releases
from tests.process.service import Service
from tests.process.tally import Plan

QUIET = Plan(host="", port=0, rate=280, kept=20, fresh=4, slow=4, uploaders=2, websockets=4)
"""A tenth of the crowd, where something else than load is tested."""
FULL = Plan(host="", port=0)
CALM = ("--stall-warn", "20")
"""A worker that gets no turn for a moment, because the machine is busy with other tests, is not
asked for its stacks: some versions of Python crash while they write them in the midst of something.
Who hangs is found out, and passed over, all the same."""


class Loaded(NamedTuple):
    """What a test under load has to do with."""

    service: Service
    crowd: Crowd
    releases: Releases


@contextlib.contextmanager
def under_load(
    title: str,
    *words: str,
    plan: Plan = QUIET,
    workers: int = 2,
    errors_expected: bool = False,
    may_close: Sequence[int] = (1012,),
    stops: bool = False,
    log_file: Path | None = None,
) -> Iterator[Loaded]:
    """A service with ``workers`` and the crowd of ``plan``, which the test has to stop itself.

    ``stops``: the test stops the service, so users who are refused do not come again.
    """
    with Releases() as releases:
        words = ("-w", str(workers), *releases.words, *CALM, *words)
        with Service(
            *words,
            app=releases.app,
            errors_expected=errors_expected,
            log_file=log_file,
            environment={"PYTHONDEVMODE": ""},  # its checks would be most of what is measured
        ) as service:
            host, port = service.serving()
            plan = plan.at(host, port, may_close=tuple(may_close), stops=stops)
            with Crowd(plan, title) as crowd:
                yield Loaded(service, crowd, releases)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """``pid`` gets no turn on the CPU meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def kill(pid: int) -> dict[int, float]:
    """SIGKILL; the death and its moment, for ``Result.beyond``."""
    moment = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    return {pid: moment}


def spend(seconds: float) -> None:
    """Let the crowd work: how long something goes well is what is tested."""
    time.sleep(seconds)


def complaints(log: str) -> list[str]:
    """Warnings and errors, but for those of a busy machine: that a loop got no turn for a while."""
    found = [line for line in log.splitlines() if re.search(r" (WARNING|ERROR|CRITICAL) ", line)]
    return [line for line in found if not re.search(r"its loop (is|was) stuck", line)]
