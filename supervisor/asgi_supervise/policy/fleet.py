"""The workers and templates there are, and the questions asked about them.

A worker that is gone is forgotten at once: every worker here runs or may run.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from asgi_supervise.policy.lifecycle import Life, Phase


@dataclass(slots=True)
class Worker:
    """One worker, from the moment it is wanted until it is reaped."""

    number: int
    slot: int
    seat: int
    generation: int
    life: Life
    unhealthy: str = ""
    """Why it shall be replaced: what its health check said."""

    def __str__(self) -> str:
        return f"worker slot={self.slot} gen={self.generation} pid={self.life.pid or '-'}"


@dataclass(slots=True)
class Template:
    """The process from which the workers of one generation are forked."""

    generation: int
    life: Life

    def __str__(self) -> str:
        return f"template gen={self.generation} pid={self.life.pid or '-'}"


Holders = dict[int, tuple[list[Worker], list[Worker]]]
"""Of each slot, who is to stay and who is to be replaced."""


@dataclass(slots=True)
class Fleet:
    """Workers by number, templates by generation."""

    workers: dict[int, Worker] = field(default_factory=dict)
    templates: dict[int, Template] = field(default_factory=dict)
    asked: int = 0
    """Workers ever asked for; the number of the latest one."""

    def enlist(self, slot: int, generation: int, deadline: float) -> Worker:
        """A new worker, not yet known to exist."""
        self.asked += 1
        taken = {worker.seat for worker in self.workers.values()}
        seat = next(seat for seat in itertools.count() if seat not in taken)
        worker = Worker(self.asked, slot, seat, generation, Life(deadline))
        self.workers[worker.number] = worker
        return worker

    def found(self, generation: int, deadline: float) -> Template:
        """A new template, not yet known to exist."""
        template = self.templates[generation] = Template(generation, Life(deadline))
        return template

    def bury(self, member: Worker | Template) -> None:
        """Forget what is gone."""
        if isinstance(member, Worker):
            del self.workers[member.number]
        else:
            del self.templates[member.generation]

    def members(self) -> Iterator[Worker | Template]:
        """Every process there is or may be, workers first."""
        yield from list(self.workers.values())
        yield from list(self.templates.values())

    def empty(self) -> bool:
        """No process of ours is left."""
        return not self.workers and not self.templates

    def ready(self) -> list[Worker]:
        """Those that serve."""
        return [w for w in self.workers.values() if w.life.phase is Phase.READY]

    def holders(self, slots: Iterable[int], generation: int, candidate: int | None) -> Holders:
        """Those in ``slots`` that were not told to leave, whatever their phase: healthy ones of
        ``generation``, and those to be replaced. The canary of a ``candidate`` is neither.
        """
        found: Holders = {slot: ([], []) for slot in slots}
        for worker in self.workers.values():
            if worker.slot in found and not worker.life.retired and worker.generation != candidate:
                fresh, stale = found[worker.slot]
                good = worker.generation == generation and not worker.unhealthy
                (fresh if good else stale).append(worker)
        return found

    def unreported(self, generation: int) -> list[Worker]:
        """Asked of the template of ``generation``, which has not said whether it forked them."""
        return [
            worker
            for worker in self.workers.values()
            if worker.generation == generation and worker.life.pid is None
        ]
