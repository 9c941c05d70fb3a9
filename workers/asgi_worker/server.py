"""The connections of one worker, and what they have in common.

One :class:`Server` a worker. Connections of every protocol register here and call the application
through it. How they come is in ``accepting``, how they move to other workers in ``handoff``, what
is done by the clock in ``ticking``, and how all this ends in ``draining``.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import os
import socket
import sys
import time
from asyncio import Task
from collections.abc import Callable, Sequence
from contextvars import copy_context
from email.utils import formatdate
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from asgi_worker import tasks
from asgi_worker.accepting import Accepting
from asgi_worker.balance import Cohort, Siblings, Young
from asgi_worker.draining import Draining
from asgi_worker.handoff import Handoff
from asgi_worker.protocols.exchange import EXTENSIONS
from asgi_worker.protocols.forwarded import TrustedProxies
from asgi_worker.protocols.http1 import LINGER_S, HttpConnection
from asgi_worker.queues import Whose
from asgi_worker.scoreboard import State, Word
from asgi_worker.ticking import Ticker

if TYPE_CHECKING:
    from asgi_worker.access_log import AccessLog
    from asgi_worker.application import Application, Receive, Scope, Send
    from asgi_worker.contract import WorkerSettings
    from asgi_worker.inbox import Inboxes
    from asgi_worker.protocols.exchange import Exchange
    from asgi_worker.protocols.http1_output import Output
    from asgi_worker.scoreboard import Scoreboard

Address = tuple[str, int | None]
Done = Callable[[Task[None]], None]
PIECE_BYTES: Final = 16 * 1024
_WRITELINES_PAUSES: Final = sys.version_info >= (3, 13, 2)
"""Before, asyncio's ``writelines()`` never called ``pause_writing()`` (CVE-2024-12254)."""


class Connection(Protocol):
    """What the server asks of a connection, whatever its protocol."""

    deadline: float
    """Loop time after which the sweep calls :meth:`expire`; ``math.inf`` for never."""
    cohort: Cohort

    def expire(self, now: float) -> None:
        """The deadline has passed."""

    def drain(self, successor: bool) -> None:
        """End soon: after the request in flight; a WebSocket with 1012 (``successor``) or 1001."""

    def disconnect(self) -> None:
        """Tell the application that its client has gone: the draining budget is nearly spent."""

    def abort(self) -> None:
        """End now."""


class Server:
    """Serves ``app`` on ``listeners`` until told to drain. All its methods run on ``loop``."""

    def __init__(
        self,
        app: Application,
        settings: WorkerSettings,
        *,
        loop: asyncio.AbstractEventLoop,
        board: memoryview,
        slot: int = 0,
        generation: int = 1,
        state: dict[str, Any] | None = None,
        access_log: AccessLog | None = None,
    ) -> None:
        self.app = app
        self.settings = settings
        self.loop = loop
        self.board = board
        self.access_log = access_log
        self.tell_awake: Callable[[], object] = bool
        """Called when the first connection comes after a rest."""
        self.log = logging.getLogger("asgi_worker")
        self.connections: set[Connection] = set()
        self.young = Young()
        self.tasks: set[asyncio.Task[Any]] = set()
        self.requests = 0
        self.errors = 0
        self.websockets = 0
        self.draining = False
        self.successor = False
        """While draining: whether others go on serving."""
        self.moving = False
        """Whether connections are given to other workers as soon as they are idle."""
        self.handoff: Handoff | None = None
        self.piece_bytes = min(PIECE_BYTES, settings.head_max_bytes)
        """More is parsed piece by piece, so that a burst of pipelined requests can be stopped, and
        no head longer than the limit is parsed whole."""
        self.vectored = not isinstance(loop, asyncio.SelectorEventLoop) or _WRITELINES_PAUSES
        self.limit_concurrency = settings.limit_concurrency
        self.hosts: set[bytes] = set()  # values of the Host field that were found valid
        self.trusted = (
            TrustedProxies(settings.forwarded_allow_ips) if settings.proxy_headers else None
        )
        self._base_scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.5"},
            "http_version": "1.1",
            "server": None,
            "client": None,
            "scheme": "http",
            "method": "GET",
            "root_path": settings.root_path,
            "path": "/",
            "raw_path": b"/",
            "query_string": b"",
            "headers": [],
            "state": {} if state is None else state,
            "extensions": {
                **{f"http.response.{name}": {} for name in EXTENSIONS},
                "asgi_supervise": {
                    "slot": slot,
                    "generation": generation,
                    "workers": settings.workers,
                },
            },
        }
        self._keep_alive_s = settings.keep_alive_timeout_s
        self._context = copy_context()
        self.ticker = Ticker(self, board)
        self.accepting = Accepting(
            loop,
            workers=settings.workers,
            begin=self.ticker.wake,
            connections=self.connections,
            board=board,
            in_line=settings.balance == "exact",
        )
        self._listen_later: Callable[[], None] | None = None
        self._draining: Draining | None = None
        self._unflushed: list[Output] = []
        self._second = 0
        extra = (f"{name}: {value}\r\n" for name, value in settings.headers)
        self._extra_headers = "".join(extra).encode("latin-1")
        self.defaults = b""
        self.tell_time(loop.time())

    # For the connections.

    def call(self, scope: Scope, receive: Receive, send: Send, done: Done) -> None:
        """Call the application as a task, at once up to its first wait where Python can (≥ 3.12).

        ``done`` gets the task when it has ended – before this returns, if it never waited. Until
        then the task is among ``tasks``; ``done`` takes it out. Each has a context of its own made
        from the server's, so that nothing set by one request is seen by another; ``done`` runs in
        it, for what it logs belongs to the request: filters, error trackers look there.
        """
        try:
            call: Any = self.app(scope, receive, send)
        except Exception as error:  # noqa: BLE001 – a callable that is no application
            call = tasks.failing(error)
        if type(call) is not CoroutineType:
            call = tasks.coroutine_of(call)
        task = tasks.start(call, self.loop, context := self._context.copy())
        if task.done():
            context.run(done, task)
        else:
            self.tasks.add(task)
            task.add_done_callback(done, context=context)

    def call_soon(self, callback: Any, *args: Any) -> None:
        """``loop.call_soon`` in the server's context, not in that of a request."""
        self.loop.call_soon(callback, *args, context=self._context)

    def move_soon(self, connection: HttpConnection) -> None:
        """Its response is complete: look whether it can be given away, when that has been sent."""
        if self.handoff is not None:
            self.call_soon(self.handoff.move, connection)

    def flush_soon(self, output: Output) -> None:
        """Flush ``output`` at the end of this turn of the loop: one callback for all of them."""
        if not self._unflushed:
            self.call_soon(self._flush)
        self._unflushed.append(output)

    def _flush(self) -> None:
        outputs, self._unflushed = self._unflushed, []
        for output in outputs:
            output.flush()

    def is_full(self) -> bool:
        """Whether ``limit_concurrency`` connections or requests are there already."""
        limit = self.limit_concurrency
        return limit is not None and (len(self.tasks) >= limit or len(self.connections) > limit)

    def template(self, transport: asyncio.Transport, local: Address | None) -> tuple[Scope, bool]:
        """What requests on ``transport`` have in common; whether its peer is a trusted proxy."""
        scope = self._base_scope.copy()
        peer = transport.get_extra_info("peername")
        host = None
        if isinstance(peer, tuple):
            scope["client"] = peer[:2]
            host = peer[0]
        scope["server"] = _address(transport.get_extra_info("sockname")) if local is None else local
        return scope, self.trusted is not None and self.trusted.trusts(host)

    def default_headers(self, *, date: bool = True, server: bool = True) -> bytes:
        """Header lines that every response has, unless the application set them itself."""
        return b"".join(
            (
                b"server: asgi-supervise\r\n" if server and self.settings.server_header else b"",
                self._date if date and self.settings.date_header else b"",
                self._extra_headers,
            )
        )

    def record(self, exchange: Exchange) -> None:
        """Write the access-log line of a complete response; there is an access log."""
        scope = exchange.scope
        target = (scope["raw_path"] or b"").decode("latin-1")
        if scope["query_string"]:
            target = f"{target}?{scope['query_string'].decode('latin-1')}"
        self.access_log.record(  # type: ignore[union-attr]
            scope["client"],
            scope["method"],
            target,
            scope["http_version"],
            exchange.status,
            exchange.sent_bytes,
            time.perf_counter() - exchange.started_at,
        )

    def count(self) -> int:
        """How many connections there are, those too that are just being opened."""
        return len(self.connections) + self.accepting.opening

    def tell_count(self) -> None:
        """Tell the other workers, and the master, that it has changed."""
        self.accepting.tell()
        if self.limit_concurrency is not None and self.handoff is not None:
            self.handoff.say_whether_it_takes()

    def came(self, connection: Connection) -> None:
        """``connection`` is open. It was counted when it was accepted."""
        self.connections.add(connection)
        self.accepting.opened()
        connection.cohort = self.young.came()
        if self.limit_concurrency is not None:
            self.tell_count()

    def lost(self, connection: Connection) -> None:
        """``connection`` is closed, or another worker has it."""
        if connection in self.connections:
            self.connections.remove(connection)
            self.young.lost(connection.cohort)
            self.tell_count()
            if self._draining is not None:
                self._draining.lost()

    # For the worker process.

    def scope(self) -> Scope:
        """What every request begins with; to be changed at will."""
        scope = self._base_scope.copy()
        scope["state"] = scope["state"].copy()
        scope["extensions"] = scope["extensions"].copy()
        return scope

    def join(self, scoreboard: Scoreboard, inboxes: Inboxes, seat: int) -> None:
        """Give connections to other workers and take theirs. To be called before :meth:`listen`."""
        exact = self.settings.balance == "exact"
        most = math.inf if self.limit_concurrency is None else self.limit_concurrency
        siblings = Siblings(scoreboard, inboxes, seat, exact=exact, most=most)
        self.handoff = Handoff(self, siblings, inboxes, seat)
        self.accepting.pass_on = self.handoff.pass_on

    def listen(
        self,
        listeners: Sequence[socket.socket],
        shared: Sequence[socket.socket] = (),
        neighbours: Sequence[socket.socket] = (),
        *,
        on_trial: bool = False,
    ) -> None:
        """Accept connections, and begin to tick.

        ``listeners`` are for the workers of this slot only; at the ``shared`` ones all wait, and at
        those of ``neighbours`` to help out. All are bound and listening. A worker ``on_trial``
        accepts none before :meth:`promote`, and until then needs them to stay open.
        """
        self._listen_later = functools.partial(self._listen, listeners, shared, neighbours)
        if not on_trial:
            self.promote()
        self.board[Word.STATE] = State.READY
        self.ticker.start()
        if self.handoff is not None:
            self.handoff.start()

    def promote(self) -> None:
        """The trial is over, if there was one: accept connections as the others do."""
        listen, self._listen_later = self._listen_later, None
        if listen is not None:
            listen()

    def _listen(
        self,
        listeners: Sequence[socket.socket],
        shared: Sequence[socket.socket],
        neighbours: Sequence[socket.socket],
    ) -> None:
        kinds = ((Whose.OWN, listeners), (Whose.SHARED, shared), (Whose.NEIGHBOUR, neighbours))
        for whose, queues in kinds:
            for listener in queues:
                make = functools.partial(self._connection, _fixed_address(listener))
                self.accepting.listen(listener, make, whose)

    def adopt(self, descriptor: int, idle_until: float) -> None:
        """Serve a connection that was accepted elsewhere; ``idle_until`` is 0 if it is fresh."""
        self.accepting.adopt(descriptor, functools.partial(self._connection, None, idle_until))

    def _connection(self, local: Address | None, idle_until: float = 0.0) -> asyncio.Protocol:
        return cast("asyncio.Protocol", HttpConnection(self, local, idle_until))  # by its methods

    async def drain(self, budget_s: float, *, successor: bool) -> None:
        """Stop accepting, then end every connection and request within ``budget_s`` seconds.

        ``successor``: others go on serving, from the same queues. Returns when nothing is left.
        """
        if not successor:
            self.promote()  # else nobody would serve what is queued
        self.draining = True
        self.successor = successor
        if self.handoff is not None:
            self.handoff.leave()
        self.moving = successor and self.handoff is not None
        if not self.moving:
            self.announce_close()
        self.ticker.wake()  # connections that are taken from the queue now need the time
        self.board[Word.STATE] = State.DRAINING
        self._draining = Draining(self, budget_s, successor=successor)
        await self._draining.run()
        if self.handoff is not None:
            self.handoff.stop()

    def leave(self) -> None:
        """With a drain to come: have no more connections, and leave the queues to others."""
        self.accepting.leave()
        if self.handoff is not None:
            self.handoff.leave()

    def announce_close(self) -> None:
        """While draining: connections end here, with what they are at, and are not given away."""
        self.moving = False
        self._keep_alive_s = min(self._keep_alive_s, LINGER_S)
        self.tell_time(self.now)

    def hasten(self, budget_s: float) -> None:
        """A drain that goes on is to end within ``budget_s`` from now, if that is sooner."""
        if self._draining is not None:
            self._draining.hasten(budget_s)

    def close(self) -> None:
        """Stop ticking; the worker is about to exit."""
        self.ticker.stop()

    def tell_time(self, now: float) -> None:
        """For what needs no more than a tick's precision: deadlines, and the date."""
        self.now = now
        self.idle_deadline = now + self._keep_alive_s  # of what is idle from now on
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._date = f"date: {formatdate(second, usegmt=True)}\r\n".encode()
            self.defaults = self.default_headers()


def _address(name: object) -> Address:
    """What ``getsockname(2)`` said, as ASGI has it: host and port, or path and ``None``."""
    if isinstance(name, tuple):
        return name[0], name[1]
    return os.fsdecode(name) if isinstance(name, bytes | str) else "", None


def _fixed_address(listener: socket.socket) -> Address | None:
    """The local address of all its connections, if it is the same for all of them."""
    address = _address(listener.getsockname())
    return None if address[0] in ("0.0.0.0", "::") else address
