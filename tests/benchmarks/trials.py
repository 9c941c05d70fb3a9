"""What is measured of a fleet, with our aims, and the tables that come of it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from tests.benchmarks.load import Failed
from tests.benchmarks.report import table
from tests.benchmarks.servers import CannotServe, Server

BASIS = "gunicorn"
"""What the others are compared with."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Less is better."""

    name: str
    title: str
    columns: tuple[str, ...]
    """Of the figures of a sample. The first is the one that is compared and has the aim."""
    digits: int
    unit: str
    aim: float
    relative: bool = False
    """The aim is one for the ratio to the basis, not for the figure."""


MEMORY = Trial(
    name="memory",
    title="8 workers, each after 50 requests",
    columns=("PSS MiB", "of it anonymous", "of it in workers", "processes"),
    digits=0,
    unit=f" × {BASIS}",
    aim=0.5,
    relative=True,
)
IDLE = Trial(
    name="idle",
    title="8 workers without a connection, for 20 s",
    columns=("% of a core",),
    digits=3,
    unit=" % of a core",
    aim=0.2,
)
CRASH = Trial(
    name="crash",
    title="one of 8 workers is killed with SIGKILL",
    columns=("ms until the next one is started", "until it answers"),
    digits=0,
    unit=" ms",
    aim=50.0,
)
TRIALS = (MEMORY, IDLE, CRASH)

Sample = tuple[float, ...]


@dataclass
class Findings:
    """Per trial and fleet all samples, or the reasons why there are none."""

    samples: dict[tuple[Trial, Server], list[Sample]] = field(default_factory=dict)
    failures: dict[tuple[Trial, Server], list[str]] = field(default_factory=dict)

    def add(self, trial: Trial, server: Server, sample: Sample) -> None:
        self.samples.setdefault((trial, server), []).append(sample)
        _say(trial, server, "  ".join(f"{value:10,.{trial.digits}f}" for value in sample))

    @contextlib.contextmanager
    def noting(self, trial: Trial, server: Server) -> Iterator[None]:
        """Keep the reason why a fleet could not be measured, and go on."""
        try:
            yield
        except (Failed, CannotServe) as reason:
            self.failures.setdefault((trial, server), []).append(str(reason))
            _say(trial, server, f"failed: {reason}")

    def middle(self, trial: Trial, server: Server) -> Sample | None:
        """The median of each figure; None where there is no sample."""
        samples = self.samples.get((trial, server))
        return None if samples is None else tuple(map(median, zip(*samples, strict=True)))


def trial_table(trial: Trial, servers: Sequence[Server], findings: Findings) -> list[str]:
    """Ours first, the peers from small to big, then who failed."""
    middles = {server: findings.middle(trial, server) for server in servers}
    found = {server: middle for server, middle in middles.items() if middle is not None}
    basis = next((middle[0] for server, middle in found.items() if server.name == BASIS), None)
    first, *more = trial.columns
    rows = [("server", first, "min–max", *more, f"× {BASIS}")]
    for server, middle in sorted(found.items(), key=lambda one: (one[0].kind != "ours", one[1])):
        all_of_it = [sample[0] for sample in findings.samples[trial, server]]
        figures = [f"{value:,.{trial.digits}f}" for value in middle]
        spread = f"{min(all_of_it):,.{trial.digits}f}–{max(all_of_it):,.{trial.digits}f}"
        ratio = f"{middle[0] / basis:.2f}" if basis else "–"
        rows.append((server.name, figures[0], spread, *figures[1:], ratio))
    notes = [
        f"- {server.name} failed: {reason}"
        for server in servers
        for reason in findings.failures.get((trial, server), ())
    ]
    lines = [f"### {trial.name}: {trial.title}", "", *table(rows), ""]
    return [*lines, *notes, ""] if notes else lines


def trial_aims(trials: Sequence[Trial], servers: Sequence[Server], findings: Findings) -> list[str]:
    """What was aimed at with --preload and what came out; empty when ours was not measured."""
    ours = next((server for server in servers if server.kind == "ours"), None)
    basis = next((server for server in servers if server.name == BASIS), None)
    rows = [("case", "aim ≤", "measured", "met")]
    for trial in trials:
        mine = findings.middle(trial, ours) if ours else None
        other = findings.middle(trial, basis) if basis else None
        if mine is None or (trial.relative and other is None):
            continue
        figure = mine[0] / other[0] if trial.relative and other else mine[0]
        verdict = "yes" if figure <= trial.aim else "no"
        rows.append(
            (trial.name, f"{trial.aim:g}{trial.unit}", f"{figure:,.2f}{trial.unit}", verdict)
        )
    if len(rows) == 1:
        return []
    return ["### Aims: a fleet with --preload", "", *table(rows), ""]


def _say(trial: Trial, server: Server, words: str) -> None:
    print(f"fleet    {trial.name:14} {server.name:24}  {words}", file=sys.stderr, flush=True)
