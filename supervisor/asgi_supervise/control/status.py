"""The immutable snapshot of a running master: what tools print and tests assert."""

from __future__ import annotations

import os

import msgspec

from asgi_supervise.policy.supervisor import Supervisor
from asgi_worker.scoreboard import Scoreboard


class WorkerStatus(msgspec.Struct, frozen=True):
    """One worker: what the master knows of it, and what it says of itself."""

    slot: int
    generation: int
    pid: int | None
    phase: str
    unhealthy: str
    """What its health check says, if it fails."""
    on_trial: bool
    """It accepts nothing itself yet; the others give it its share."""
    connections: int
    in_flight: int
    requests: int
    errors: int
    websockets: int
    busy: float
    """Processors it used lately, usually 0 to 1."""
    given_fresh: int
    """Connections it handed over before anything of them was read …"""
    given_idle: int
    """… and between two requests."""
    taken_fresh: int
    taken_idle: int
    rescued: int
    """Taken, of those that waited for a worker who did not come."""
    helped: int
    """Accepted from the queue of another slot."""


class ReloadStatus(msgspec.Struct, frozen=True):
    """The reload under way, or the latest that has ended."""

    generation: int
    former: int
    step: str
    """*complete*, *abandoned*, or what is done just now."""
    reason: str
    """Why it was abandoned."""
    traceback: str


class Status(msgspec.Struct, frozen=True):
    """The service as a whole."""

    pid: int
    service: str
    generation: int
    wanted: int
    ready: int
    crashes: int
    """Workers that died unwanted since the start."""
    failures: int
    """Errors of ours that the master survived; each is in the log."""
    reload: ReloadStatus | None
    workers: tuple[WorkerStatus, ...]


def snapshot(supervisor: Supervisor, scoreboard: Scoreboard, failures: int) -> Status:
    """How things stand now; workers in the order of their slots, then of age."""
    workers = []
    fleet = supervisor.fleet.workers.values()
    for worker in sorted(fleet, key=lambda worker: (worker.slot, worker.number)):
        said = scoreboard.read(worker.seat)
        workers.append(
            WorkerStatus(
                slot=worker.slot,
                generation=worker.generation,
                pid=worker.life.pid,
                phase=worker.life.phase.value,
                unhealthy=worker.unhealthy,
                on_trial=said.share > 0,
                connections=said.connections,
                in_flight=said.in_flight,
                requests=said.requests,
                errors=said.errors,
                websockets=said.websockets,
                busy=said.busy / 1000,
                given_fresh=said.given_fresh,
                given_idle=said.given_idle,
                taken_fresh=said.taken_fresh,
                taken_idle=said.taken_idle,
                rescued=said.rescued,
                helped=said.helped,
            )
        )
    return Status(
        pid=os.getpid(),
        service=supervisor.service.value,
        generation=supervisor.reloads.generation,
        wanted=supervisor.rules.workers,
        ready=len(supervisor.fleet.ready()),
        crashes=supervisor.deaths.crashes,
        failures=failures,
        reload=_reload(supervisor),
        workers=tuple(workers),
    )


def _reload(supervisor: Supervisor) -> ReloadStatus | None:
    rollout = supervisor.reloads.current or supervisor.reloads.last
    if rollout is None:
        return None
    return ReloadStatus(
        generation=rollout.generation,
        former=rollout.former,
        step=rollout.step.value,
        reason=rollout.reason,
        traceback=rollout.traceback,
    )
