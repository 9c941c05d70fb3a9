"""The two vocabularies between policy and host: events report what happened, acts command.

Events are named in the past tense, acts in the imperative. Both are frozen values; who handles them
does so in one ``match`` that ends in ``assert_never``, so that mypy finds a word nobody handles.

A worker is named by the number the policy gave it when it asked for it (``worker``). That number is
never used again, unlike slots and pids, so a late event cannot be taken for one of the successor.
A template is named by its generation: there is at most one at a time.
"""

from __future__ import annotations

import enum
from typing import Literal

import msgspec


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
    and leaves by itself.
    """

    generation: int
    status: int


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
    """It was reaped: exit status, or the negative number of the signal that killed it."""

    worker: int
    status: int


class MessageUnreadable(msgspec.Struct, frozen=True):
    """A process of ours sent something that is not a message of ours, or not one it may send."""

    sender: str
    reason: str


Event = (
    Asked
    | TemplateForked
    | TemplateRefused
    | TemplateBecameReady
    | TemplateBootFailed
    | TemplateExited
    | WorkerForked
    | WorkerRefused
    | WorkerBecameReady
    | WorkerBootFailed
    | WorkerExited
    | MessageUnreadable
)


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
    """Ask the template of ``generation`` to fork a worker into ``slot``."""

    worker: int
    slot: int
    generation: int


class DrainWorker(msgspec.Struct, frozen=True):
    """Tell it to stop within ``budget_s``; see :class:`asgi_worker.contract.Drain`."""

    worker: int
    budget_s: float
    successor: bool


class TerminateWorker(msgspec.Struct, frozen=True):
    """SIGTERM: for a worker that is not ready and may not listen to messages yet."""

    worker: int


class KillWorker(msgspec.Struct, frozen=True):
    """SIGKILL."""

    worker: int


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
    StartTemplate
    | StopTemplate
    | KillTemplate
    | SpawnWorker
    | DrainWorker
    | TerminateWorker
    | KillWorker
    | CloseListeners
    | AnnounceServing
    | Say
)
