"""The two vocabularies between policy and host: events report what happened, acts command.

Events are named in the past tense, acts in the imperative. Both are frozen values; who handles them
does so in one ``match`` that ends in ``assert_never``, so that mypy finds a word nobody handles.

A worker is named by the number the policy gave it when it asked for it (``worker``). That number is
never used again, unlike slots and pids, so a late event cannot be taken for one of the successor.
A template is named by its generation: each has at most one at a time.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Literal

import msgspec

from asgi_supervise.policy.health import Rules


class Intent(enum.Enum):
    """What somebody wants of the master, whichever way it was said."""

    STOP = "graceful stop"
    INTERRUPT = "graceful stop, immediate when said again"
    QUIT = "immediate stop"
    RELOAD = "reload"
    REOPEN_LOGS = "reopening of log files"
    UPGRADE = "upgrade in place"
    MORE = "one worker more"
    FEWER = "one worker fewer"


class Asked(msgspec.Struct, frozen=True):
    """A signal (or, later, a command) arrived; ``by`` names it for the log."""

    intent: Intent
    by: str


class SettingsRead(msgspec.Struct, frozen=True):
    """The settings of ``generation`` are good; workers can be made from them."""

    generation: int
    rules: Rules
    at_restart: tuple[str, ...]
    """Settings that differ from those in force, but only a restart changes them."""


class SettingsRefused(msgspec.Struct, frozen=True):
    """They cannot be used; nothing has changed."""

    generation: int
    reason: str


class TemplateForked(msgspec.Struct, frozen=True):
    """The template asked for runs as ``pid``."""

    generation: int
    pid: int


class TemplateRefused(msgspec.Struct, frozen=True):
    """The system refused to fork the template."""

    generation: int
    reason: str


class TemplateBecameReady(msgspec.Struct, frozen=True):
    """Workers can be forked from it."""

    generation: int


class TemplateBootFailed(msgspec.Struct, frozen=True):
    """The application cannot be imported; the template exits by itself."""

    generation: int
    reason: str
    traceback: str


class TemplateExited(msgspec.Struct, frozen=True):
    """It was reaped: exit status, or the negative number of the signal that killed it.

    Workers it was asked for and never reported are lost: if one runs, it finds its channel closed
    and leaves by itself. The rest as in :class:`WorkerExited`.
    """

    generation: int
    status: int
    out_of_memory: bool = False
    stacks: str = ""


class WorkerForked(msgspec.Struct, frozen=True):
    """The worker asked for runs as ``pid``."""

    worker: int
    pid: int


class WorkerRefused(msgspec.Struct, frozen=True):
    """The system refused to fork the worker."""

    worker: int
    reason: str


class WorkerBecameReady(msgspec.Struct, frozen=True):
    """Its lifespan startup is complete and it accepts connections."""

    worker: int


class WorkerBootFailed(msgspec.Struct, frozen=True):
    """The application cannot start in it; it exits by itself."""

    worker: int
    reason: str
    traceback: str


class WorkerExited(msgspec.Struct, frozen=True):
    """It was reaped: exit status, or the negative number of the signal that killed it.

    ``out_of_memory``: since the last death the kernel has killed for want of memory in our control
    group. ``stacks``: what a worker that crashed in native code wrote of its threads.
    """

    worker: int
    status: int
    out_of_memory: bool = False
    stacks: str = ""


class WorkerTurnedUnhealthy(msgspec.Struct, frozen=True):
    """Its health check has failed too often in a row."""

    worker: int
    reason: str


class WorkerTurnedHealthy(msgspec.Struct, frozen=True):
    """Its health check succeeds again."""

    worker: int


class WorkerAwoke(msgspec.Struct, frozen=True):
    """It was resting, and has a connection now."""

    worker: int


class Figures(msgspec.Struct, frozen=True):
    """What a worker has written of itself into the scoreboard."""

    promise: float
    """The time by which its loop has promised to turn again."""
    connections: int = 0
    in_flight: int = 0
    lag_s: float = 0.0
    busy: float = 0.0
    """Processors it used lately, usually 0 to 1."""
    accepts: bool = True
    """It does not drain by itself, as after a SIGTERM that was not the master's."""
    gathers: bool = False
    """Its connections are dear, and it takes from the queues of all slots."""


class FiguresSeen(msgspec.Struct, frozen=True):
    """The figures of every worker whose loop has promised anything.

    Those that have promised nothing (not ready yet) are missing. ``resting``: none of them has a
    connection, or anything running; the first that gets one says so (*WorkerAwoke*).
    """

    figures: Mapping[int, Figures]
    resting: bool


class StacksRead(msgspec.Struct, frozen=True):
    """What a process has written since it was asked for its stacks; see :class:`DumpStacks`.

    ``text`` is empty if it wrote nothing. ``state`` is the kernel's word for what it does (proc(5):
    ``R`` running, ``S`` sleeping, ``D`` in the kernel, ``T`` stopped …; "" when it is gone).
    """

    generation: int
    worker: int | None
    text: str
    state: str


class MessageUnreadable(msgspec.Struct, frozen=True):
    """A process of ours sent something that is not a message of ours, or not one it may send."""

    sender: str
    reason: str


TemplateEvent = (
    TemplateForked | TemplateRefused | TemplateBecameReady | TemplateBootFailed | TemplateExited
)
WorkerEvent = (
    WorkerForked
    | WorkerRefused
    | WorkerBecameReady
    | WorkerBootFailed
    | WorkerTurnedUnhealthy
    | WorkerTurnedHealthy
    | WorkerExited
)
Event = (
    Asked
    | SettingsRead
    | SettingsRefused
    | TemplateEvent
    | WorkerEvent
    | WorkerAwoke
    | FiguresSeen
    | StacksRead
    | MessageUnreadable
)


class ReadSettings(msgspec.Struct, frozen=True):
    """Read all settings anew, for ``generation``; comes *SettingsRead* or *SettingsRefused*."""

    generation: int


class AdoptSettings(msgspec.Struct, frozen=True):
    """The settings of ``generation`` are in force now, also for the master itself."""

    generation: int


class StartTemplate(msgspec.Struct, frozen=True):
    """Fork a template for ``generation`` from the master."""

    generation: int


class StopTemplate(msgspec.Struct, frozen=True):
    """Tell it that nothing more will be asked: it leaves when its workers have left."""

    generation: int


class KillTemplate(msgspec.Struct, frozen=True):
    """SIGKILL."""

    generation: int


class SpawnWorker(msgspec.Struct, frozen=True):
    """Ask the template of ``generation`` to fork a worker into ``slot``.

    ``seat`` is its line of the scoreboard; while it is replaced, a worker and its successor share
    the slot, but no seat. With a ``share`` it is on trial: it accepts nothing itself until
    *PromoteWorker*, and gets that share of new connections (0 to 1) from the others.
    """

    worker: int
    slot: int
    seat: int
    generation: int
    share: float | None = None


class PromoteWorker(msgspec.Struct, frozen=True):
    """Tell it that its trial is over: it accepts connections as all others do."""

    worker: int


class DrainWorker(msgspec.Struct, frozen=True):
    """Tell it to stop within ``budget_s``; see :class:`asgi_worker.contract.Drain`."""

    worker: int
    budget_s: float
    successor: bool


class WithdrawWorker(msgspec.Struct, frozen=True):
    """Tell it to answer health checks from outside with 503: the service stops soon."""

    worker: int


class TerminateWorker(msgspec.Struct, frozen=True):
    """SIGTERM: for a worker that is not ready and may not listen to messages yet."""

    worker: int


class AbortWorker(msgspec.Struct, frozen=True):
    """SIGABRT, which leaves a core where those are wanted."""

    worker: int


class KillWorker(msgspec.Struct, frozen=True):
    """SIGKILL."""

    worker: int


class LookAtFigures(msgspec.Struct, frozen=True):
    """Comes *FiguresSeen*."""


class DumpStacks(msgspec.Struct, frozen=True):
    """Let the worker (``None``: the template of ``generation``) write the stacks of its threads.

    Takes no more than moments, or never happens; what is there then is asked for by *ReadStacks*.
    ``native``: it was asked, and has written nothing; it may be in native code.
    """

    generation: int
    worker: int | None
    native: bool = False


class ReadStacks(msgspec.Struct, frozen=True):
    """Comes *StacksRead*."""

    generation: int
    worker: int | None


class Steer(msgspec.Struct, frozen=True):
    """Send new TCP connections to slots with these weights, as far as the kernel can."""

    weights: tuple[int, ...]


class Rescue(msgspec.Struct, frozen=True):
    """From now on accept what waits in the queues of ``slots`` and take what waits in the inboxes
    of ``seats``, and give it to ``takers`` (workers); nothing else any more. All slots: also what
    waits in queues that the workers share.
    """

    slots: tuple[int, ...]
    seats: tuple[int, ...]
    takers: tuple[int, ...]


class ReopenLogs(msgspec.Struct, frozen=True):
    """Open the log files anew, here and in every process of ours."""


class CloseListeners(msgspec.Struct, frozen=True):
    """Close the master's copies of all listeners; what the draining workers hold is theirs."""


class AnnounceServing(msgspec.Struct, frozen=True):
    """Say that the service is up, where, and with how many of the wanted workers."""

    ready: int
    wanted: int


class Say(msgspec.Struct, frozen=True):
    """One record in the log."""

    level: Literal["debug", "info", "warning", "error"]
    text: str


Act = (
    ReadSettings
    | AdoptSettings
    | StartTemplate
    | StopTemplate
    | KillTemplate
    | SpawnWorker
    | PromoteWorker
    | DrainWorker
    | WithdrawWorker
    | TerminateWorker
    | AbortWorker
    | KillWorker
    | LookAtFigures
    | DumpStacks
    | ReadStacks
    | Steer
    | Rescue
    | ReopenLogs
    | CloseListeners
    | AnnounceServing
    | Say
)
