"""From samples to tables, for the terminal and for docs/benchmarks.md.

The figure that is compared is processor time a request: it says what a server costs, also when
the load is the slower side, and it suffers least from whoever else uses the machine. Ratios are
taken within each round, where the two were measured seconds apart, and then their median; so
they may differ a little from the ratio of the two medians shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.benchmarks.cases import BEST_PEER, Case
from tests.benchmarks.load import Sample
from tests.benchmarks.servers import OURS, Server

_BASIS = "uvicorn"


@dataclass
class Results:
    """Per case and server one sample a round, or the reason why there is none."""

    servers: Sequence[Server]
    samples: dict[tuple[str, str], dict[int, Sample]] = field(default_factory=dict)
    failures: dict[tuple[str, str], dict[int, str]] = field(default_factory=dict)

    def of(self, case: Case, name: str) -> dict[int, Sample]:
        return self.samples.get((case.name, name), {})

    def cpu_us(self, case: Case, name: str) -> float:
        return median(sample.cpu_us for sample in self.of(case, name).values())

    def ratio(self, case: Case, name: str, basis: str | None) -> float | None:
        """What ``name`` costs over what ``basis`` costs; None where one was not measured."""
        mine, other = self.of(case, name), self.of(case, basis or "")
        both = mine.keys() & other.keys()
        if not both:
            return None
        return median(mine[number].cpu_us / other[number].cpu_us for number in both)

    def best_peer(self, case: Case) -> str | None:
        peers = [s.name for s in self.servers if s.kind == "peer" and self.of(case, s.name)]
        return min(peers, key=lambda name: self.cpu_us(case, name), default=None)


def case_table(case: Case, results: Results) -> list[str]:
    """Ours first, the peers from cheap to dear, then the floors, then who failed."""
    measured = [server for server in results.servers if results.of(case, server.name)]
    measured.sort(
        key=lambda s: (("ours", "peer", "floor").index(s.kind), results.cpu_us(case, s.name))
    )
    head = ("server", f"CPU µs/{case.unit}", "min–max", f"{case.unit}s/s", "p50 ms", "p99 ms")
    rows = [(*head, f"× {_BASIS}", f"× {BEST_PEER}")]
    best = results.best_peer(case)
    notes = []
    for server in measured:
        samples = list(results.of(case, server.name).values())
        costs = [sample.cpu_us for sample in samples]
        rows.append(
            (
                server.name if server.kind != "floor" else f"*{server.name}*",
                _figure(median(costs)),
                f"{_figure(min(costs))}–{_figure(max(costs))}",
                f"{median(sample.rate for sample in samples):,.0f}",
                f"{median(sample.p50_ms for sample in samples):.2f}",
                f"{median(sample.p99_ms for sample in samples):.2f}",
                _ratio(results.ratio(case, server.name, _BASIS)),
                _ratio(results.ratio(case, server.name, best)),
            )
        )
        if lost := sum(sample.lost for sample in samples):
            notes.append(f"{server.name}: {lost} connections broke under load.")
    for server in results.servers:
        failed = results.failures.get((case.name, server.name), {})
        if failed and not results.of(case, server.name):
            rows.append((server.name, "failed", *("–",) * 6))
        for reason in sorted(set(failed.values())):
            rounds = ", ".join(str(number + 1) for number, why in failed.items() if why == reason)
            notes.append(f"{server.name} failed in round {rounds}: {reason}")
    lines = [f"### {case.name}: {case.title}", "", *table(rows)]
    return [*lines, "", *(f"- {note}" for note in notes), ""] if notes else [*lines, ""]


def aims_table(cases: Iterable[Case], results: Results) -> list[str]:
    """What was aimed at and what came out; empty when ours was not measured."""
    rows = [("case", "against", "aim ≤", "measured", "met")]
    for case in cases:
        for against, limit in case.aims:
            basis = results.best_peer(case) if against == BEST_PEER else against
            ratio = results.ratio(case, OURS, basis)
            if ratio is None:
                continue
            name = f"{BEST_PEER} ({basis})" if against == BEST_PEER else against
            verdict = "yes" if ratio <= limit else "no"
            rows.append((case.name, name, f"{limit:.2f} ×", f"{ratio:.2f} ×", verdict))
    if len(rows) == 1:
        return []
    return ["### Aims: CPU per request, over that of a peer", "", *table(rows), ""]


def losses(cases: Iterable[Case], results: Results) -> list[str]:
    """Where a peer costs less than ours; said as plainly as the rest."""
    lines = []
    for case in cases:
        for server in results.servers:
            ratio = results.ratio(case, server.name, OURS)
            if server.kind == "peer" and ratio is not None and ratio < 1:
                lines.append(f"- {case.name}: {server.name} costs {ratio:.2f} × what we cost.")
    return ["### Where a peer is cheaper than we are", "", *lines, ""] if lines else []


def write(page: Path, lines: Sequence[str], part: str = "figures") -> None:
    """Put ``lines`` between the markers of ``part`` in ``page``; what is around them stays."""
    begin, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
    text = page.read_text()
    figures = "\n".join([begin, "", *lines, end])
    pattern = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{page} has no {begin} … {end} to write between")
    page.write_text(pattern.sub(lambda _: figures, text))


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown that can be read as it is: the first column to the left, figures to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        return f"| {' | '.join(cells)} |"

    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    return [line(rows[0]), f"| {' | '.join(rule)} |", *map(line, rows[1:])]
