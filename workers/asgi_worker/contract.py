"""What master, template and worker have promised each other: settings, messages, exit statuses.

The only vocabulary that crosses a process boundary. Every message is one datagram on a
``SOCK_SEQPACKET`` socket pair, so a reader never sees half of one and needs no framing; end-of-file
on it means that the other side is gone. Messages are MessagePack with the type's name as tag: a
receiver of another version that does not know a tag fails to decode it and can say so.

Considered and refused: pickle (executes what it reads), JSON (no bytes).
"""

from __future__ import annotations

import enum
import signal
from typing import Literal

import msgspec

LONGEST_MESSAGE_BYTES = 128 * 1024
"""A datagram longer than this is never sent: tracebacks are cut (see :func:`encode`)."""


STACKS_SIGNAL = signal.SIGRTMIN + 11
"""On it, templates and workers write the Python stack of every thread to the file they were given,
as soon as Python code goes on (:mod:`asgi_worker.stacks`) …
"""
NATIVE_STACKS_SIGNAL = signal.SIGRTMIN + 12
"""… and on this one that of the main thread, from within native code.

Real-time signals in the middle of the range: applications and libraries use the standard ones,
debuggers and libc the ends.
"""


class Exit(enum.IntEnum):
    """Exit statuses of every process of ours; 2 to 70 are also those of the master."""

    OK = 0
    USAGE = 2  # wrong command line or settings: nothing was started
    BOOT = 3  # the application failed to start (its traceback was reported)
    BIND = 4  # an address cannot be bound
    INTERNAL = 70  # a bug of ours, or a crash loop (EX_SOFTWARE of sysexits.h)


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """All that a worker needs to know; the data plane's half of the settings.

    Durations are seconds (``_s``), sizes bytes (``_bytes``); ``None`` means off.
    """

    app: str
    app_dir: str = "."
    factory: bool = False
    interface: Literal["auto", "asgi3", "asgi2", "wsgi"] = "auto"
    lifespan: Literal["auto", "on", "off"] = "auto"
    loop: Literal["auto", "uvloop", "asyncio", "trio"] = "auto"
    root_path: str = ""
    workers: int = 1
    name: str = "asgi-supervise"
    log_level: str = "info"

    access_log: bool = True
    server_header: bool = True
    date_header: bool = True
    headers: tuple[tuple[str, str], ...] = ()
    proxy_headers: bool = True
    forwarded_allow_ips: tuple[str, ...] = ("127.0.0.1", "::1")

    balance: Literal["exact", "kernel", "off"] = "exact"

    backlog: int = 2048
    limit_concurrency: int | None = None
    head_timeout_s: float = 10.0
    head_max_bytes: int = 64 * 1024
    head_max_fields: int = 100
    body_timeout_s: float | None = 60.0
    body_max_bytes: int | None = None
    keep_alive_timeout_s: float = 5.0
    pipeline_max_requests: int = 16
    wsgi_threads: int = 10

    ws_max_bytes: int = 16 * 1024 * 1024
    ws_max_queue: int = 32
    ws_ping_interval_s: float | None = 20.0
    ws_ping_timeout_s: float | None = 20.0
    ws_per_message_deflate: bool = True

    startup_timeout_s: float = 60.0
    graceful_timeout_s: float = 30.0
    shutdown_reserve_s: float = 5.0

    health_path: str | None = None
    health_interval_s: float = 5.0
    health_timeout_s: float = 5.0
    health_failures: int = 3


class Spawn(msgspec.Struct, frozen=True, tag=True):
    """Master to template: fork a worker for ``slot``, with line ``seat`` of the scoreboard.

    Two workers may be in one slot at a time, the one that leaves and its successor; a seat has one.
    Carries the worker's end of its channel, and the file for its stacks (:data:`STACKS_SIGNAL`).

    ``on_trial``: it is the first of a new generation. Until *Promote* it accepts nothing itself;
    the others give it its share of new connections.
    """

    slot: int
    seat: int
    on_trial: bool = False


class Spawned(msgspec.Struct, frozen=True, tag=True):
    """Template to master: the worker with ``seat`` runs as ``pid``. Carries a pidfd of it."""

    seat: int
    pid: int


class SpawnFailed(msgspec.Struct, frozen=True, tag=True):
    """Template to master: the fork of the worker with ``seat`` was refused by the system."""

    seat: int
    reason: str


class TemplateReady(msgspec.Struct, frozen=True, tag=True):
    """Template to master: the application is imported (with ``preload``), workers can be forked."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Worker to master: lifespan startup is complete and connections are accepted."""


class BootFailed(msgspec.Struct, frozen=True, tag=True):
    """Worker or template to master: the application cannot start. The sender exits with BOOT.

    ``reason`` is one line, ``traceback`` the application's own (may be empty).
    """

    reason: str
    traceback: str


class Drain(msgspec.Struct, frozen=True, tag=True):
    """Master to worker: stop within ``budget_s`` seconds.

    ``successor`` tells whether other workers go on serving (reload, recycle, scale-down), in which
    case WebSockets are closed with 1012, or the service stops and they are closed with 1001.
    """

    budget_s: float
    successor: bool


class Promote(msgspec.Struct, frozen=True, tag=True):
    """Master to worker: its trial is over; from now on it accepts connections as all others do."""


class Withdraw(msgspec.Struct, frozen=True, tag=True):
    """Master to worker: the service stops soon (``shutdown_delay``).

    Everything is served as before, but requests for ``health_path`` are answered 503, so that load
    balancers turn away in time.
    """


class Reopen(msgspec.Struct, frozen=True, tag=True):
    """Master to worker or template: put the descriptor that comes with it in the place of each of
    ``targets``, in this order. Their log files were moved away and opened anew.
    """

    targets: tuple[int, ...]


class Unhealthy(msgspec.Struct, frozen=True, tag=True):
    """Worker to master: ``health_path`` failed ``health_failures`` times in a row; last because of
    ``reason`` (one line).
    """

    reason: str


class Awake(msgspec.Struct, frozen=True, tag=True):
    """Worker to master: it was resting, and has a connection now. It promises more often from here
    on, so the master looks more often.
    """


class Healthy(msgspec.Struct, frozen=True, tag=True):
    """Worker to master, after *Unhealthy*: ``health_path`` is answered again."""


Message = (
    Spawn
    | Spawned
    | SpawnFailed
    | TemplateReady
    | Ready
    | BootFailed
    | Drain
    | Promote
    | Withdraw
    | Reopen
    | Unhealthy
    | Healthy
    | Awake
)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """One datagram. A traceback too long for it keeps its end, which names the error."""
    datagram = _encoder.encode(message)
    if len(datagram) > LONGEST_MESSAGE_BYTES and isinstance(message, BootFailed):
        kept = message.traceback[-LONGEST_MESSAGE_BYTES // 8 :]
        datagram = _encoder.encode(BootFailed(message.reason[:1000], f"[…]\n{kept}"))
    return datagram


def decode(datagram: bytes) -> Message:
    """The message in ``datagram``; raises ``msgspec.DecodeError`` for what is not one of ours."""
    message: Message = _decoder.decode(datagram)
    return message
