"""A host with fake children and a clock that jumps: the verified fake of :class:`PosixHost`.

``contract.py`` runs against both, so what the policies are tested with behaves like the real one.
Nothing here decides when something happens by chance: children follow a :class:`Script`, the test
may let them die, and :meth:`FakeHost.wait` jumps to whatever comes next.
"""

from __future__ import annotations

import enum
import heapq
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

from asgi_supervise.policy import vocabulary as v

FORK_S = 0.001
BOOT_S = 0.1
LEAVE_S = 0.05


class Script(enum.Enum):
    """What a fake worker or template does of its own accord."""

    OBEDIENT = "becomes ready, stops when told"
    BOOT_FAILS = "reports that the application cannot start"
    HANGS = "never becomes ready; SIGTERM ends it"
    CRASHES = "exits with status 7 as soon as it is ready"
    DEAF = "becomes ready, ignores being told to stop and SIGTERM"
    BABBLES = "becomes ready and sends what is no message, and what is none of a worker's"


class Deadlock(AssertionError):
    """The master waits for ever, and nothing will ever happen."""


@dataclass
class FakeWorker:
    slot: int
    generation: int
    script: Script
    pid: int | None = None
    ready: bool = False
    leaving: bool = False
    kills: int = 0


@dataclass
class FakeTemplate:
    pid: int
    script: Script
    ready: bool = False
    told_to_stop: bool = False
    hung: bool = False


class FakeHost:
    """See the module. ``violations`` collects what the master must never do."""

    def __init__(self) -> None:
        self.clock = 1000.0
        self.scripts: Callable[[int], Script] = lambda slot: Script.OBEDIENT
        """What the next worker in a slot will be like."""
        self.template_script = Script.OBEDIENT
        self.forks_refused = False
        self.templates: dict[int, FakeTemplate] = {}
        self.workers: dict[int, FakeWorker] = {}
        self.kills_wanted = 1
        """SIGKILLs until a process ends; more than one is a process stuck in the kernel."""
        self.listening = True
        self.closed = False
        self.reaped: list[int] = []
        self.violations: list[str] = []
        self._pids = itertools.count(100)
        self._order = itertools.count()
        self._future: list[tuple[float, int, Callable[[], v.Event | None]]] = []

    # --- the verbs -----------------------------------------------------------------------------

    def now(self) -> float:
        return self.clock

    def wait(self, deadline: float) -> list[v.Event]:
        happened: list[v.Event] = []
        while not happened:
            due = self._future[0][0] if self._future else math.inf
            if due > deadline or due == math.inf:
                if deadline == math.inf:
                    raise Deadlock("nothing is under way and no deadline is set")
                self.clock = max(self.clock, deadline)
                return []
            self.clock = max(self.clock, due)
            while self._future and self._future[0][0] <= self.clock:
                event = heapq.heappop(self._future)[2]()
                if event is not None:
                    happened.append(event)
        return happened

    def start_template(self, generation: int) -> None:
        if generation in self.templates:
            self.violations.append(f"two templates of generation {generation}")
        if self.forks_refused:
            self.happens(v.TemplateRefused(generation, "fork: no more processes"))
            return
        template = FakeTemplate(next(self._pids), self.template_script)
        self.templates[generation] = template
        self.happens(v.TemplateForked(generation, template.pid))
        match template.script:
            case Script.BOOT_FAILS:
                failure = v.TemplateBootFailed(generation, "no such module", "Traceback: template")
                self._later(FORK_S, lambda: failure if self._is(generation, template) else None)
                self.crash_template(generation, 3, FORK_S)
            case Script.CRASHES:
                self.crash_template(generation, 7, FORK_S)
            case Script.OBEDIENT | Script.DEAF | Script.BABBLES:
                self._later(FORK_S, lambda: self._template_ready(generation, template))
            case Script.HANGS:
                pass

    def stop_template(self, generation: int) -> None:
        template = self.templates.get(generation)
        if template is None:
            return
        template.told_to_stop = True
        for number, worker in self.workers.items():
            if worker.generation == generation and worker.pid is not None:
                self.terminate_worker(number)
        self._see_out(generation)

    def kill_template(self, generation: int) -> None:
        if generation in self.templates:
            self.crash_template(generation, -9)

    def spawn_worker(self, worker: int, slot: int, generation: int) -> None:
        if any(other.slot == slot for other in self.workers.values()):
            self.violations.append(f"two workers in slot {slot}")
        if worker in self.reaped or worker in self.workers:
            self.violations.append(f"worker number {worker} used twice")
        template = self.templates.get(generation)
        if template is None or template.told_to_stop:
            self.happens(v.WorkerRefused(worker, "the template is gone"))
            return
        self.workers[worker] = FakeWorker(slot, generation, self.scripts(slot))
        self._later(FORK_S, lambda: self._fork(worker, template))

    def drain_worker(self, worker: int, budget_s: float, *, successor: bool) -> None:
        child = self.workers.get(worker)
        if child is not None and child.script is not Script.DEAF:
            self._leave(worker, child, 0)

    def terminate_worker(self, worker: int) -> None:
        child = self.workers.get(worker)
        if child is not None and child.pid is not None and child.script is not Script.DEAF:
            self._leave(worker, child, 0 if child.ready else -15)

    def kill_worker(self, worker: int) -> None:
        child = self.workers.get(worker)
        if child is not None and child.pid is not None:
            child.kills += 1
            if child.kills >= self.kills_wanted:
                self.crash_worker(worker, -9)

    def close_listeners(self) -> None:
        self.listening = False

    def close(self) -> None:
        self.closed = True

    # --- what a test may do ----------------------------------------------------------------------

    def happens(self, event: v.Event, in_s: float = 0.0) -> None:
        """Let the master observe ``event``."""
        self._later(in_s, lambda: event)

    def later(self, in_s: float, what: Callable[[], None]) -> None:
        """Let the world change without the master being told."""
        self._later(in_s, what)

    def crash_worker(self, worker: int, status: int, in_s: float = 0.0) -> None:
        """End a worker that exists."""
        self._later(in_s, lambda: self._worker_exits(worker, status))

    def crash_template(self, generation: int, status: int, in_s: float = 0.0) -> None:
        """End a template; what it was asked and has not done is lost."""
        template = self.templates[generation]
        self._later(in_s, lambda: self._template_exits(generation, template, status))

    def in_slot(self, slot: int) -> int:
        """The number of the worker in ``slot``."""
        return next(number for number, child in self.workers.items() if child.slot == slot)

    def ready_slots(self) -> list[int]:
        """Slots whose worker serves."""
        return sorted(w.slot for w in self.workers.values() if w.ready and not w.leaving)

    @property
    def busy(self) -> bool:
        """Something will happen by itself."""
        return bool(self._future)

    # --- what children do ------------------------------------------------------------------------

    def _later(self, in_s: float, what: Callable[[], v.Event | None]) -> None:
        heapq.heappush(self._future, (self.clock + in_s, next(self._order), what))

    def _is(self, generation: int, template: FakeTemplate) -> bool:
        return self.templates.get(generation) is template

    def _template_ready(self, generation: int, template: FakeTemplate) -> v.Event | None:
        if not self._is(generation, template):
            return None
        template.ready = True
        return v.TemplateBecameReady(generation)

    def _fork(self, worker: int, template: FakeTemplate) -> v.Event | None:
        child = self.workers.get(worker)
        if child is None or not self._is(child.generation, template) or template.hung:
            return None
        if self.forks_refused:
            del self.workers[worker]
            return v.WorkerRefused(worker, "fork: no more processes")
        child.pid = next(self._pids)
        if template.told_to_stop:
            self.terminate_worker(worker)
        match child.script:
            case Script.BOOT_FAILS:
                failed = v.WorkerBootFailed(worker, "no such module", f"Traceback: {child.pid}")
                self._later(BOOT_S, lambda: failed if worker in self.workers else None)
                self.crash_worker(worker, 3, BOOT_S)
            case Script.OBEDIENT | Script.CRASHES | Script.DEAF | Script.BABBLES:
                self._later(BOOT_S, lambda: self._worker_ready(worker, child))
            case Script.HANGS:
                pass
        return v.WorkerForked(worker, child.pid)

    def _worker_ready(self, worker: int, child: FakeWorker) -> v.Event | None:
        if self.workers.get(worker) is not child or child.leaving:
            return None
        child.ready = True
        if child.script is Script.CRASHES:
            self.crash_worker(worker, 7)
        if child.script is Script.BABBLES:
            sender = f"worker slot={child.slot} gen={child.generation} pid={child.pid}"
            for reason in ("not MessagePack", "too long", "unexpected Spawn"):
                self.happens(v.MessageUnreadable(sender, reason))
        return v.WorkerBecameReady(worker)

    def _leave(self, worker: int, child: FakeWorker, status: int) -> None:
        if not child.leaving:
            child.leaving = True
            if child.pid is not None:
                self.crash_worker(worker, status, LEAVE_S)

    def _worker_exits(self, worker: int, status: int) -> v.Event | None:
        child = self.workers.pop(worker, None)
        if child is None:
            return None
        self.reaped.append(worker)
        self._see_out(child.generation)
        return v.WorkerExited(worker, status)

    def _see_out(self, generation: int) -> None:
        template = self.templates.get(generation)
        forked = any(w.generation == generation for w in self.workers.values())
        if template is not None and template.told_to_stop and not template.hung and not forked:
            self.crash_template(generation, 0, FORK_S)

    def _template_exits(
        self, generation: int, template: FakeTemplate, status: int
    ) -> v.Event | None:
        if not self._is(generation, template):
            return None
        del self.templates[generation]
        for number, child in list(self.workers.items()):
            if child.generation == generation and child.pid is None:
                del self.workers[number]
        return v.TemplateExited(generation, status)
