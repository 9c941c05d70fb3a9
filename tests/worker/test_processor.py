"""Time that a process waits for a processor is known, and is not held against its loop."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

from asgi_worker.processor import waited_ns, waited_since_tick_ns
from asgi_worker.scoreboard import Scoreboard, Word
from tests.worker.serving import PATIENCE_S

SPIN = "import os; os.sched_setaffinity(0, {%d})\nwhile True: pass"


def spinning(processor: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", SPIN % processor])


def test_who_shares_a_processor_waits_for_it_half_of_the_time() -> None:
    processor = min(os.sched_getaffinity(0))
    with contextlib.ExitStack() as ends:
        one, _ = (ends.enter_context(spinning(processor)) for _ in range(2))
        for child in (one, _):
            ends.callback(child.send_signal, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE_S
        while waited_ns(one.pid) < 200_000_000:
            assert time.monotonic() < deadline
        board = Scoreboard(1)
        words = board.writer(0)
        words[Word.PID] = one.pid
        assert waited_since_tick_ns(words) >= 200_000_000
        words[Word.WAITED_NS] = 10**18
        assert waited_since_tick_ns(words) == 0


def test_of_who_is_gone_nothing_is_known() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert waited_ns(child.pid) == 0
