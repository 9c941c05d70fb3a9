"""The health check: a request for ``health_path`` that never leaves the process.

Each worker asks its own application, so that each is judged by itself, and no proxy, no other
worker and no lack of connections comes in between. A worker is not Ready before the first check
has succeeded. Checks are no requests of clients: they are not logged, not counted, and no limit
of concurrency holds them up.

Answers from 200 to 399 are good. The host asked for is ``localhost``, which frameworks that check
it (Django's ``ALLOWED_HOSTS``, Starlette's ``TrustedHostMiddleware``) have to allow, and the client
is ``127.0.0.1``: applications that look at ``scope["client"]`` seldom expect ``None``.

Considered and refused: a request through the worker's own socket. It would need a listener that
only this worker serves, and say nothing that the loop's own tick does not.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from asgi_worker.application import BootError, application_traceback, one_line
from asgi_worker.contract import Healthy, Unhealthy
from asgi_worker.lifespan import waits_at
from asgi_worker.protocols.request import BadRequest, read_target

if TYPE_CHECKING:
    from asgi_worker.application import Application, Message, Receive, Scope, Send
    from asgi_worker.server import Server

RETRY_S: Final = 0.5
"""How soon a starting worker is asked again."""
JITTER: Final = 0.2
"""Intervals differ by this part, so that workers that started together ask at different times."""
LAST_WORDS_S: Final = 1.0
"""How long a check that was cancelled may take to end."""
HEADERS: Final = (
    (b"host", b"localhost"),
    (b"user-agent", b"asgi-supervise health check"),
    (b"accept", b"*/*"),
)
STOPPING: Final = b"This service is about to stop.\n"

log = logging.getLogger("asgi_worker")


class Verdict(NamedTuple):
    """``reason`` is what was wrong in one line, "" if nothing; ``traceback`` the application's."""

    reason: str
    traceback: str = ""


class Health:
    """Checks ``app`` as ``settings.health_path`` says, which is not ``None``.

    ``tell`` sends a message to the master, and returns whether it could be sent.
    """

    def __init__(
        self, app: Application, server: Server, tell: Callable[[Healthy | Unhealthy], bool]
    ) -> None:
        settings = server.settings
        self.scope = server.scope()
        self.scope.update(client=("127.0.0.1", 0), server=("127.0.0.1", 80))
        target = settings.health_path or "/"
        try:
            read_target(self.scope, target.encode())
        except BadRequest as error:
            raise BootError(f"cannot use --health-path {target}: {error.reason}") from None
        self.app = app
        self._server = server
        self._tell = tell
        self._what = f"GET {target}"
        self._timeout_s = settings.health_timeout_s
        self._interval_s = settings.health_interval_s
        self._limit = settings.health_failures
        self._task: asyncio.Task[None] | None = None
        self._unhealthy = False

    async def startup(self, timeout_s: float) -> None:
        """Return with the first success; raises ``BootError`` if there is none in ``timeout_s``."""
        loop = self._server.loop
        deadline = loop.time() + timeout_s
        last = ""
        while True:
            left_s = max(deadline - loop.time(), 0.0)
            verdict = await self.check(min(self._timeout_s, left_s))
            if not verdict.reason:
                return
            if loop.time() + 2 * RETRY_S > deadline:  # to be asked again takes its time, too
                raise BootError(
                    f"the application did not get healthy within {timeout_s:.3g} s: "
                    f"{verdict.reason} (see --health-path)",
                    verdict.traceback,
                )
            if verdict.reason != last:
                log.info("not ready yet: %s; it is asked again", verdict.reason)
                last = verdict.reason
            await asyncio.sleep(RETRY_S)

    def watch(self) -> None:
        """Go on checking, one check after the other."""
        self._task = self._server.loop.create_task(self._watch(), name="health checks")

    def stop(self) -> None:
        """Check no more; one that is under way is cancelled."""
        if self._task is not None:
            self._task.cancel()

    async def check(self, timeout_s: float) -> Verdict:
        """Ask once. The application's call has ended when this returns, or refuses to end."""
        check = Check(self._server.loop)
        task = self._server.loop.create_task(
            check.call(self.app, self._new_scope()), name="health check"
        )
        deadline = self._server.loop.time() + timeout_s
        try:
            await asyncio.wait(
                (task, check.answered), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            check.disconnect()
            if not (task.done() or check.answered.done()):
                said, where = f"gave no answer within {timeout_s:.3g} s", waits_at(task)
                return Verdict(f"{self._what} {said}", where)
            left_s = max(deadline - self._server.loop.time(), 0.0)
            await asyncio.wait((task,), timeout=left_s)  # it may have more to do than to answer
            return self._judge(check)
        finally:
            task.cancel()
            await asyncio.wait((task,), timeout=LAST_WORDS_S)

    async def _watch(self) -> None:
        failures = 0
        while True:
            await asyncio.sleep(self._interval_s * random.uniform(1 - JITTER, 1 + JITTER))
            reason = (await self.check(self._timeout_s)).reason
            failures = failures + 1 if reason else 0
            if 0 < failures <= self._limit:
                log.warning("health check failed (%d of %d): %s", failures, self._limit, reason)
            if failures >= self._limit and not self._unhealthy:
                self._unhealthy = self._tell(Unhealthy(reason))
            elif not failures and self._unhealthy:
                self._unhealthy = not self._tell(Healthy())

    def _new_scope(self) -> Scope:
        scope = self.scope.copy()
        scope["headers"] = list(HEADERS)
        scope["state"] = scope["state"].copy()
        scope["extensions"] = scope["extensions"].copy()
        return scope

    def _judge(self, check: Check) -> Verdict:
        error = check.error
        traceback = "" if error is None else application_traceback(error)
        raised = "" if error is None else one_line(error)
        if not check.answered.done():
            said = f"raised {raised}" if raised else "was not answered: the application returned"
        elif 200 <= check.status < 400:
            return Verdict("")
        else:
            said = f"was answered {check.status}"
            if raised:
                said += f" ({raised})"
            elif check.status == 400:
                said += " (does the application allow the host localhost?)"
        return Verdict(f"{self._what} {said}", traceback)


class Check:
    """One request and its answer."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.status = 0
        self.error: BaseException | None = None
        self.answered: asyncio.Future[None] = loop.create_future()
        self._asked = False
        self._over = asyncio.Event()

    async def call(self, app: Application, scope: Scope) -> None:
        """Call the application; what it raises is kept."""
        try:
            await app(scope, self._receive, self._send)
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001 - SystemExit would stop the loop
            self.error = error

    def disconnect(self) -> None:
        """The client has what it wanted, or has waited long enough."""
        self._over.set()

    async def _receive(self) -> Message:
        if self._asked:
            await self._over.wait()
            return {"type": "http.disconnect"}
        self._asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            self.status = message["status"]
        elif (
            kind == "http.response.pathsend"
            or (kind == "http.response.body" and not message.get("more_body", False))
        ) and not self.answered.done():
            self.answered.set_result(None)


def withdrawn(app: Application, path: str) -> Application:
    """``app``, but what is asked for at ``path`` is answered 503: load balancers turn away."""

    def application(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http" and scope["path"] == path:
            return _answer_stopping(send)
        return app(scope, receive, send)

    return application


async def _answer_stopping(send: Send) -> None:
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(STOPPING)),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": STOPPING})
