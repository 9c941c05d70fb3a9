"""The workers and templates there are, and the questions asked about them.

A worker that is gone is forgotten at once: every worker here runs or may run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from asgi_supervise.policy.lifecycle import Life, Phase


@dataclass(slots=True)
class Worker:
    """One worker, from the moment it is wanted until it is reaped."""

    number: int
    slot: int
    generation: int
    life: Life

    def __str__(self) -> str:
        return f"worker slot={self.slot} gen={self.generation} pid={self.life.pid or '-'}"


@dataclass(slots=True)
class Template:
    """The process from which the workers of one generation are forked."""

    generation: int
    life: Life

    def __str__(self) -> str:
        return f"template gen={self.generation} pid={self.life.pid or '-'}"


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
        worker = Worker(self.asked, slot, generation, Life(deadline))
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

    def vacant(self, slots: Iterable[int]) -> list[int]:
        """Of ``slots``, those in which no worker sits, whatever its phase."""
        taken = {worker.slot for worker in self.workers.values()}
        return [slot for slot in slots if slot not in taken]

    def unreported(self, generation: int) -> list[Worker]:
        """Asked of the template of ``generation``, which has not said whether it forked them."""
        return [
            worker
            for worker in self.workers.values()
            if worker.generation == generation and worker.life.pid is None
        ]
