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
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from asgi_supervise.host.sockets import Listeners
from asgi_supervise.host.template import Blueprint
from asgi_supervise.policy import vocabulary as v
from asgi_supervise.policy.health import Rules
from asgi_worker.contract import WorkerSettings
from asgi_worker.inbox import Inboxes
from asgi_worker.scoreboard import Scoreboard

FORK_S = 0.001
BOOT_S = 0.1
LEAVE_S = 0.05
SICK_S = 0.3
STUCK_S = 0.3
TICK_S = 0.1
STACKS = """\
Current thread 0x00007f (most recent call first):
  File "/srv/app/slow.py", line 7 in crunch
  File "/usr/lib/python3.11/asyncio/events.py", line 80 in _run
"""


class Script(enum.Enum):
    """What a fake worker or template does of its own accord."""

    OBEDIENT = "becomes ready, stops when told"
    BOOT_FAILS = "reports that the application cannot start"
    HANGS = "never becomes ready; SIGTERM ends it"
    CRASHES = "exits with status 7 as soon as it is ready"
    DEAF = "becomes ready, ignores being told to stop and SIGTERM"
    BABBLES = "becomes ready and sends what is no message, and what is none of a worker's"
    SICK = "becomes ready, then says that it is unhealthy"
    STUCK = "becomes ready, then its loop hangs: only signals are heard"


class Deadlock(AssertionError):
    """The master waits for ever, and nothing will ever happen."""


@dataclass
class FakeWorker:
    slot: int
    seat: int
    generation: int
    script: Script
    share: float | None = None
    pid: int | None = None
    ready: bool = False
    leaving: bool = False
    withdrawn: bool = False
    stuck_since: float = math.inf
    stacks: str = ""
    kills: int = 0
    figures: v.Figures = field(default_factory=lambda: v.Figures(0.0))


@dataclass
class FakeTemplate:
    pid: int
    script: Script
    ready: bool = False
    told_to_stop: bool = False
    hung: bool = False
    stacks: str = ""


class FakeHost:
    """See the module. ``violations`` collects what the master must never do."""

    def __init__(self) -> None:
        self.clock = 1000.0
        self.scripts: Callable[[int], Script] = lambda slot: Script.OBEDIENT
        """What the next worker in a slot will be like."""
        self.generation_scripts: dict[int, Script] = {}
        """What all workers of a generation are like."""
        self.template_script = Script.OBEDIENT
        self.forks_refused = False
        self.templates: dict[int, FakeTemplate] = {}
        self.workers: dict[int, FakeWorker] = {}
        self.kills_wanted = 1
        """SIGKILLs until a process ends; more than one is a process stuck in the kernel."""
        self.listening = True
        self.closed = False
        self.weights: tuple[int, ...] = ()
        """Of each slot, as told last."""
        self.steered_at: list[float] = []
        self.rescued: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] = ((), (), ())
        """Slots and seats for which the master takes, and the workers it gives to."""
        self.state = "S"
        """What the kernel says of processes."""
        self.in_native_code = False
        """What hangs does so in native code, and answers only to who asks a second time."""
        self.resting = False
        """No worker has a connection."""
        self.passed_on: list[Mapping[int, int]] = []
        self.most_workers = 0
        """So many existed at a time."""
        self.drained: list[tuple[int, bool]] = []
        """Workers told to drain, and whether others go on serving."""
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

    def start_template(self, generation: int, blueprint: Blueprint) -> None:
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
            case Script.HANGS:
                pass
            case _:
                self._later(FORK_S, lambda: self._template_ready(generation, template))

    def stop_template(self, generation: int) -> None:
        template = self.templates.get(generation)
        if template is None:
            return
        template.told_to_stop = True
        self._see_out(generation)

    def kill_template(self, generation: int) -> None:
        if generation in self.templates:
            self.crash_template(generation, -9)

    def spawn_worker(
        self, worker: int, slot: int, seat: int, generation: int, share: float | None = None
    ) -> None:
        if any(other.seat == seat for other in self.workers.values()):
            self.violations.append(f"two workers with seat {seat}")
        if worker in self.reaped or worker in self.workers:
            self.violations.append(f"worker number {worker} used twice")
        template = self.templates.get(generation)
        if template is None or template.told_to_stop:
            self.happens(v.WorkerRefused(worker, "the template is gone"))
            return
        script = self.generation_scripts.get(generation, self.scripts(slot))
        self.workers[worker] = FakeWorker(slot, seat, generation, script, share=share)
        self.most_workers = max(self.most_workers, len(self.workers))
        self._later(FORK_S, lambda: self._fork(worker, template))

    def promote_worker(self, worker: int) -> None:
        if child := self.workers.get(worker):
            child.share = None

    def drain_worker(self, worker: int, budget_s: float, *, successor: bool) -> None:
        child = self.workers.get(worker)
        if child is None:
            return
        self.drained.append((worker, successor))
        if self._obeys(child):
            self._leave(worker, child, 0)

    def withdraw_worker(self, worker: int) -> None:
        if child := self.workers.get(worker):
            child.withdrawn = True

    def terminate_worker(self, worker: int) -> None:
        child = self.workers.get(worker)
        if child is not None and child.pid is not None and self._obeys(child):
            self._leave(worker, child, 0 if child.ready else -15)

    def abort_worker(self, worker: int) -> None:
        child = self.workers.get(worker)
        if child is not None and child.pid is not None and child.script is not Script.DEAF:
            self.crash_worker(worker, -6)

    def kill_worker(self, worker: int) -> None:
        child = self.workers.get(worker)
        if child is not None and child.pid is not None:
            child.kills += 1
            if child.kills >= self.kills_wanted:
                self.crash_worker(worker, -9)

    def look_at_figures(self) -> None:
        figures = {
            number: msgspec.structs.replace(
                child.figures, promise=min(self.clock, child.stuck_since) + TICK_S
            )
            for number, child in self.workers.items()
            if child.ready
        }
        self.happens(v.FiguresSeen(figures, self.resting))

    def dump_stacks(self, generation: int, worker: int | None, *, native: bool = False) -> None:
        child: FakeWorker | FakeTemplate | None = (
            self.templates.get(generation) if worker is None else self.workers.get(worker)
        )
        if child is not None:
            child.stacks = STACKS if native or not self.in_native_code else ""

    def read_stacks(self, generation: int, worker: int | None) -> None:
        child: FakeWorker | FakeTemplate | None = (
            self.templates.get(generation) if worker is None else self.workers.get(worker)
        )
        text, state = (child.stacks, self.state) if child is not None else ("", "")
        self.happens(v.StacksRead(generation, worker, text, state))

    def steer(self, weights: Sequence[int]) -> None:
        self.weights = tuple(weights)
        self.steered_at.append(self.clock)

    def rescue(self, slots: Sequence[int], seats: Sequence[int], takers: Sequence[int]) -> None:
        self.rescued = tuple(slots), tuple(seats), tuple(takers)

    def pass_on(self, descriptors: Mapping[int, int]) -> None:
        self.passed_on.append(descriptors)

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

    def change_health(self, worker: int, reason: str) -> None:
        """Let ``worker`` say that it is unhealthy because of ``reason``, or ("") healthy."""
        child = self.workers[worker]
        event = v.WorkerTurnedUnhealthy(worker, reason) if reason else v.WorkerTurnedHealthy(worker)
        self._later(0.0, lambda: event if self._serves(worker, child) else None)

    def crash_worker(self, worker: int, status: int, in_s: float = 0.0) -> None:
        """End a worker that exists."""
        self._later(in_s, lambda: self._worker_exits(worker, status))

    def crash_template(self, generation: int, status: int, in_s: float = 0.0) -> None:
        """End a template; what it was asked and has not done is lost."""
        template = self.templates[generation]
        self._later(in_s, lambda: self._template_exits(generation, template, status))

    def in_slot(self, slot: int) -> int:
        """The number of the first worker in ``slot``."""
        return next(number for number, child in self.workers.items() if child.slot == slot)

    def serving(self) -> list[FakeWorker]:
        """Those that serve, by slot."""
        serving = [w for w in self.workers.values() if w.ready and not w.leaving]
        return sorted(serving, key=lambda worker: worker.slot)

    def ready_slots(self) -> list[int]:
        """Slots in which somebody serves; one with two is named twice."""
        return [worker.slot for worker in self.serving()]

    def hang(self, worker: int, for_s: float = math.inf) -> None:
        """Let the loop of ``worker`` hang from now on."""
        child = self.workers[worker]
        child.stuck_since = self.clock

        def go_on() -> None:
            child.stuck_since = math.inf

        if for_s < math.inf:
            self.later(for_s, go_on)

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
        match child.script:
            case Script.BOOT_FAILS:
                failed = v.WorkerBootFailed(worker, "no such module", f"Traceback: {child.pid}")
                self._later(BOOT_S, lambda: failed if worker in self.workers else None)
                self.crash_worker(worker, 3, BOOT_S)
            case Script.HANGS:
                pass
            case _:
                self._later(BOOT_S, lambda: self._worker_ready(worker, child))
        return v.WorkerForked(worker, child.pid)

    def _worker_ready(self, worker: int, child: FakeWorker) -> v.Event | None:
        if self.workers.get(worker) is not child or child.leaving:
            return None
        child.ready = True
        if child.script is Script.CRASHES:
            self.crash_worker(worker, 7)
        if child.script is Script.SICK:
            sick = v.WorkerTurnedUnhealthy(worker, "/healthz answered 500")
            self._later(SICK_S, lambda: sick if self._serves(worker, child) else None)
        if child.script is Script.STUCK:
            self.later(STUCK_S, lambda: self._stuck(child))
        if child.script is Script.BABBLES:
            sender = f"worker slot={child.slot} gen={child.generation} pid={child.pid}"
            for reason in ("not MessagePack", "too long", "unexpected Spawn"):
                self.happens(v.MessageUnreadable(sender, reason))
        return v.WorkerBecameReady(worker)

    def _obeys(self, child: FakeWorker) -> bool:
        return child.script is not Script.DEAF and child.stuck_since == math.inf

    def _serves(self, worker: int, child: FakeWorker) -> bool:
        return self.workers.get(worker) is child and not child.leaving

    def _stuck(self, child: FakeWorker) -> None:
        child.stuck_since = min(child.stuck_since, self.clock)

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


class FakeGenerations:
    """In place of the settings: what a reload reads is what the test says."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        """What the next reading gives."""
        self.refusal = ""
        """Why the next reading fails, if it does."""
        self.at_restart: tuple[str, ...] = ()
        self.adopted: list[int] = []
        self._blueprint = Blueprint(
            settings=WorkerSettings(app="test:app"),
            listeners=Listeners([]),
            scoreboard=Scoreboard(1),
            inboxes=Inboxes(0),
        )

    def blueprint(self, generation: int) -> Blueprint:
        return self._blueprint

    def read(self, generation: int, in_use: Container[int]) -> v.SettingsRead | v.SettingsRefused:
        if self.refusal:
            return v.SettingsRefused(generation, self.refusal)
        return v.SettingsRead(generation, self.rules, self.at_restart)

    def adopt(self, generation: int) -> None:
        self.adopted.append(generation)


class FakeOutput:
    """In place of log files."""

    def __init__(self) -> None:
        self.reopened = 0

    def reopen(self) -> Mapping[int, int]:
        self.reopened += 1
        return {2: 2}
