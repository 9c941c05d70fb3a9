"""Applications on trio (``--loop trio``): trio is a guest in the worker's own event loop.

One run of trio lasts as long as the worker, and every call of the
application is a task of it, with a cancel scope around. To the rest of the worker that is an
application like any other: what it awaits is an asyncio task's business, whose cancellation becomes
one of the scope. The other way round ``receive`` and ``send`` are coroutines of the worker's loop,
stepped by hand inside the trio task: most end without waiting for anything, and what the others
wait for is an asyncio future whose callback lets trio go on.

Everything happens in one thread, and ``guest_turns`` is why that may hold for trio's own I/O, too.

Considered and refused: a thread of its own for trio. Then every message changes threads, and a
worker whose application hangs would look as if it did not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Final, cast

import outcome
import trio
from trio.lowlevel import Abort, checkpoint_if_cancelled, reschedule, wait_task_rescheduled

from asgi_worker.application import BootError, application_traceback, one_line
from asgi_worker.guest_turns import Turns
from asgi_worker.tasks import coroutine_of

if TYPE_CHECKING:
    from asgi_worker.application import Application, Message, Receive, Scope, Send

ENDED: Final = "trio has ended"
RaiseCancelled = Callable[[], object]

log = logging.getLogger("asgi_worker")


class Guest:
    """A run of trio on ``loop``.

    ``crashed`` is called, once, when trio ends without having been told to: nothing that is on trio
    can go on then. That is a fault of trio, or of a system task of the application.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, crashed: Callable[[], object]) -> None:
        self.loop = loop
        self.has_crashed = False
        self.turns = Turns(loop)
        self.calls: set[_Call] = set()
        self._tell_of_crash = crashed
        self._error: BaseException | None = None
        self._life = trio.CancelScope()
        self._over: asyncio.Future[None] = loop.create_future()

    @property
    def is_over(self) -> bool:
        """Whether the run has ended."""
        return self._over.done()

    def start(self) -> None:
        """Begin the run; for when ``loop`` runs."""
        trio.lowlevel.start_guest_run(
            self._live,
            run_sync_soon_threadsafe=self.loop.call_soon_threadsafe,
            run_sync_soon_not_threadsafe=self.turns.again,
            done_callback=self._ended,
            host_uses_signal_set_wakeup_fd=True,
            clock=cast("trio.abc.Clock", self.turns),  # by its methods
        )

    def application(self, app: Application) -> Application:
        """``app``, which is written for trio, as one to be called and awaited on the loop."""

        def application(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
            return _Call(self, app, scope, receive, send)

        return application

    async def stop(self, timeout_s: float) -> None:
        """Cancel what still runs, and end the run; returns after ``timeout_s`` at the latest."""
        if not self._over.done():
            self.turns.wake()
            self._life.cancel()
            await asyncio.wait((self._over,), timeout=timeout_s)
        if not self._over.done():
            log.error(
                "The application's trio tasks refuse to be cancelled and are abandoned: %s",
                ", ".join(sorted({task.name for task in _leaves()})),
            )

    def report_crash(self, *, at_startup: bool) -> None:
        """Log what trio has crashed with; raise it as a ``BootError`` instead if at startup."""
        said, text = "its tasks do not end", ""
        if self._error is not None:
            error = _cause(self._error)
            said, text = one_line(error), application_traceback(error)
        if at_startup:
            raise BootError(f"trio has crashed at startup: {said}", text)
        log.error("trio has crashed, and this worker ends: %s\n%s", said, text.rstrip())

    async def _live(self) -> None:
        with self._life:
            try:
                await trio.sleep_forever()
            finally:
                if not self._life.cancel_called:
                    self._crash()

    def _crash(self) -> None:
        if not self.has_crashed:
            self.has_crashed = True
            self._tell_of_crash()

    def _ended(self, run: outcome.Outcome[None]) -> None:
        self.turns.close()
        if isinstance(run, outcome.Error):
            self._error = run.error
            self._crash()
        self._over.set_result(None)
        for call in list(self.calls):
            call.end(asyncio.CancelledError(ENDED))


class _Call:
    """One call of the application: what the loop awaits, and the trio task that runs meanwhile.

    An iterator, as ``await`` wants one, and not a coroutine: ``waits_at`` finds the suspended
    coroutine of the trio task among what this object refers to.
    """

    __slots__ = (
        *("_app", "_cancel_scope", "_context", "_coroutine", "_ended", "_error", "_guest"),
        *("_is_over", "_receive", "_scope", "_send"),
    )

    def __init__(
        self, guest: Guest, app: Application, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._guest = guest
        self._app = app
        self._scope = scope
        self._receive = receive
        self._send = send
        self._cancel_scope = trio.CancelScope()
        self._context = Context()
        self._coroutine: Any = None
        self._ended: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self._is_over = False

    # For the task on the loop.

    def __await__(self) -> Generator[asyncio.Future[None], None, None]:
        guest = self._guest
        if guest.is_over:
            raise RuntimeError(f"the application cannot be called: {ENDED}")
        guest.turns.wake()
        self._context = copy_context()
        task = trio.lowlevel.spawn_system_task(
            self._run, name=_name(self._scope), context=self._context
        )
        self._coroutine = task.coro
        guest.calls.add(self)
        return cast("Generator[asyncio.Future[None], None, None]", self)  # by its methods

    def __next__(self) -> asyncio.Future[None]:
        if self._is_over:
            error, self._error = self._error, None
            if error is None:
                raise StopIteration
            for variable, value in self._context.items():  # for those who log it, filters say
                variable.set(value)
            try:
                raise error
            finally:
                del error  # whose traceback refers to this frame
        ended = self._ended = self._guest.loop.create_future()
        ended._asyncio_future_blocking = True  # noqa: SLF001 – what `yield from` of it does
        return ended

    def throw(self, *_: object) -> asyncio.Future[None]:
        """The task on the loop was cancelled; it ends when the application has."""
        if not self._is_over:
            self._guest.turns.wake()
            self._cancel_scope.cancel()
        return self.__next__()

    def end(self, error: BaseException | None) -> None:
        """The application has ended."""
        if not self._is_over:
            self._is_over = True
            self._error = error
            self._guest.calls.discard(self)
            if self._ended is not None and not self._ended.done():
                self._ended.set_result(None)

    # For the task on trio.

    async def _run(self) -> None:
        try:
            with self._cancel_scope:
                await coroutine_of(self._app(self._scope, self.receive, self.send))
        except BaseException as raised:  # noqa: BLE001 – it would crash trio
            self.end(_without_cancelled(raised))
        else:
            self.end(asyncio.CancelledError() if self._cancel_scope.cancelled_caught else None)

    async def receive(self) -> Message:
        await checkpoint_if_cancelled()
        message: Message = await self._on_loop(self._receive())
        return message

    async def send(self, message: Message) -> None:
        await checkpoint_if_cancelled()
        await self._on_loop(self._send(message))

    async def _on_loop(self, coroutine: Any) -> Any:
        """Run a coroutine that is written for the loop."""
        try:
            future = coroutine.send(None)
        except StopIteration as done:
            return done.value
        return await self._wait(coroutine, future)

    async def _wait(self, coroutine: Any, future: Any) -> Any:
        """Run to its end what waits for ``future``; for the loop's next turn if that is ``None``.

        Trio's cancellation is told to the coroutine as asyncio's, once it waits for something that
        can be cancelled. What it returns in spite of that, a message it may be, is not lost.
        """
        guest, task = self._guest, trio.lowlevel.current_task()
        raise_cancelled: RaiseCancelled | None = None
        told = False

        def wake(_: object = None) -> None:
            if not guest.is_over:
                guest.turns.wake()
                reschedule(task)

        def abort(raise_it: RaiseCancelled) -> Abort:
            nonlocal raise_cancelled, told
            raise_cancelled = raise_it
            told = told or (future is not None and future.cancel())
            return Abort.FAILED

        while True:
            if future is None:
                guest.loop.call_soon(wake)
            else:
                future._asyncio_future_blocking = False  # noqa: SLF001 – what a task does with it
                future.add_done_callback(wake)
            await wait_task_rescheduled(abort)
            try:
                future = coroutine.send(None)
            except StopIteration as done:
                return done.value
            except asyncio.CancelledError:
                if not told or raise_cancelled is None:
                    raise
                break
        return raise_cancelled()


def _without_cancelled(error: BaseException) -> BaseException:
    """``error`` as others know it: what trio raises to cancel a task means nothing elsewhere."""
    if isinstance(error, BaseExceptionGroup):
        _, rest = error.split(trio.Cancelled)
        return asyncio.CancelledError(ENDED) if rest is None else rest
    return asyncio.CancelledError(ENDED) if isinstance(error, trio.Cancelled) else error


def _cause(error: BaseException) -> BaseException:
    """What made trio raise ``error``: if a task did, there are nurseries around it."""
    error = error.__cause__ or error
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _name(scope: Scope) -> str:
    """What reports call the task."""
    if scope["type"] == "lifespan":
        return "lifespan"
    return f"{scope.get('method', scope['type'])} {scope['path']}"


def _leaves() -> Iterator[trio.lowlevel.Task]:
    """Tasks of the application that wait for no task of theirs."""
    root = trio.lowlevel.current_root_task()
    tasks = [] if root is None else [root]
    for task in tasks:
        children = [child for nursery in task.child_nurseries for child in nursery.child_tasks]
        tasks += children
        if not children and not task.name.startswith("<"):  # as trio calls its own
            yield task
