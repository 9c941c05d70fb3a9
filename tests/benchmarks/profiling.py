"""Where a worker's time goes under the load of one case, by Python function and by line.

py-spy looks from outside a few hundred times a second. What a function calls in C (the parser, the
event loop, the kernel) counts as time of that function; `perf` tells those apart.
"""

from __future__ import annotations

import collections
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests.benchmarks.cases import Case
from tests.benchmarks.environment import BIN
from tests.benchmarks.load import measure
from tests.benchmarks.machine import CannotMeasure
from tests.benchmarks.servers import Running, Server

_RATE = 400
_SHOWN = 30


def profile(case: Case, server: Server, core: int, directory: Path, seconds: int) -> list[str]:
    """Lines to print. Raises CannotMeasure, CannotServe, Failed."""
    stacks = directory / "stacks"
    with Running(server, access_log=case.access_log, cores={core}, directory=directory) as running:
        running.wait_until_listening()
        measure(case, running, 1)  # so that the worker is known by what it has used
        # On the server's core it interrupts the server anywhere; on the other one it would get its
        # turn when wrk waits, which is always at the same point.
        command = [
            "taskset",
            "-c",
            str(core),
            str(BIN / "py-spy"),
            "record",
            "--format",
            "raw",
            "--output",
            str(stacks),
        ]
        command += ["--pid", str(running.worker()), "--rate", str(_RATE)]
        command += ["--duration", str(seconds)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as spy:
            sample = measure(case, running, seconds + 1)
            said, _ = spy.communicate()
    if spy.returncode or not stacks.exists():
        raise CannotMeasure(f"cannot look into the worker: {said.strip()}")
    counted = [line.rpartition(" ") for line in stacks.read_text().splitlines()]
    leaves = [(stack.rpartition(";")[2], int(times)) for stack, _, times in counted]
    functions = [(frame.rpartition(":")[0] + ")", times) for frame, times in leaves]
    return [
        f"{server.name}, {case.name}: {sample.cpu_us:.1f} µs CPU a {case.unit} while looked at",
        "",
        *_ranking("function", functions, sample.cpu_us),
        "",
        *_ranking("line", leaves, sample.cpu_us),
    ]


def _ranking(title: str, counts: Iterable[tuple[str, int]], cpu_us: float) -> list[str]:
    totals: collections.Counter[str] = collections.Counter()
    for name, times in counts:
        totals[name] += times
    whole = totals.total() or 1
    lines = [f"{'share':>7} {'µs':>7}  {title}"]
    for name, times in totals.most_common(_SHOWN):
        lines.append(f"{times / whole:7.1%} {cpu_us * times / whole:7.2f}  {name}")
    return lines
