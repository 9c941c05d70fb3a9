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
    connections: int
    in_flight: int
    requests: int
    errors: int
    websockets: int


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
    workers: tuple[WorkerStatus, ...]


def snapshot(supervisor: Supervisor, scoreboard: Scoreboard, failures: int) -> Status:
    """How things stand now; workers in the order of their slots."""
    workers = []
    for worker in sorted(supervisor.fleet.workers.values(), key=lambda worker: worker.slot):
        said = scoreboard.read(worker.slot)
        workers.append(
            WorkerStatus(
                slot=worker.slot,
                generation=worker.generation,
                pid=worker.life.pid,
                phase=worker.life.phase.value,
                connections=said.connections,
                in_flight=said.in_flight,
                requests=said.requests,
                errors=said.errors,
                websockets=said.websockets,
            )
        )
    return Status(
        pid=os.getpid(),
        service=supervisor.service.value,
        generation=supervisor.generation,
        wanted=supervisor.rules.workers,
        ready=len(supervisor.fleet.ready()),
        crashes=supervisor.crashes,
        failures=failures,
        workers=tuple(workers),
    )
