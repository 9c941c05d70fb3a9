"""Applications on trio (``--loop trio``): trio is a guest in the worker's own event loop.

The only place that knows trio. One run of trio lasts as long as the worker, and every call of the
application is a task of it, with a cancel scope around. To the rest of the worker that is an
application like any other: what it awaits is an asyncio task's business, whose cancellation becomes
one of the scope. The other way round ``receive`` and ``send`` are coroutines of the worker's loop,
stepped by hand inside the trio task: most end without waiting for anything, and what the others
wait for is an asyncio future whose callback lets trio go on.

Everything happens in one thread. Trio's guest mode has a second one wait for trio's I/O whenever
trio has nothing to do; each request then costs two switches of threads, each of which waits for the
interpreter's lock where the other has much to do. What trio waits at is an epoll descriptor, and
those can be waited for themselves: so the worker's loop does (:class:`_Turns`). This needs some of
trio's insides. Where they are not as expected trio has its thread, and all else is the same.

Considered and refused: a thread of its own for trio. Then every message changes threads, and a
worker whose application hangs would look as if it did not.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Final, cast

import outcome
import trio
from trio.lowlevel import Abort, checkpoint_if_cancelled, reschedule, wait_task_rescheduled

from asgi_worker.application import application_traceback, one_line
from asgi_worker.tasks import coroutine_of

if TYPE_CHECKING:
    from asgi_worker.application import Application, Message, Receive, Scope, Send

LONGEST_TIMER_S: Final = 24 * 60 * 60.0
Tick = Callable[[], object]
RaiseCancelled = Callable[[], object]

log = logging.getLogger("asgi_worker")


class Guest:
    """A run of trio on ``loop``.

    ``crashed`` is called, once, when trio ends without having been told to: nothing that is on trio
    can go on then. That is a fault of trio, or of a system task of the application.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, crashed: Callable[[], object]) -> None:
        self.loop = loop
        self.error: BaseException | None = None
        """What trio has crashed with."""
        self.turns = _Turns(loop)
        self.calls: set[_Call] = set()
        self._crashed = crashed
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

    async def _live(self) -> None:
        with self._life:
            try:
                await trio.sleep_forever()
            finally:
                if not self._life.cancel_called:
                    self._crashed()

    def _ended(self, run: outcome.Outcome[None]) -> None:
        self.turns.close()
        if isinstance(run, outcome.Error):
            self.error = run.error
            log.error(
                "trio has crashed, and this worker ends: %s\n%s",
                one_line(run.error),
                application_traceback(run.error).rstrip(),
            )
        self._over.set_result(None)
        for call in list(self.calls):
            call.end(asyncio.CancelledError("trio has crashed"))


class _Turns:
    """When trio runs, and the clock by which it does (a ``trio.abc.Clock``).

    In guest mode trio asks for its next turn (:meth:`again`) if it has something to do, and goes to
    its thread if it has to sleep. This clock answers that there is no time to sleep; so trio asks,
    and gets its turn when its descriptor is readable, its next deadline has come, or a task is
    scheduled. Meanwhile trio is to think that it sleeps in a thread, and wakes that by making the
    descriptor readable: so it does when it is told something that we do not know of.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._context = copy_context()
        self._runner: Any = None  # trio's insides, where they are as expected
        self._descriptor = -1
        self._asleep: Tick | None = None  # what trio asked for; None: it was not asleep
        self._idle_until: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._known = False

    # What trio asks of a clock.

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return time.perf_counter()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        # Asked at the end of a turn that leaves nothing to do. Tasks that wait until all others are
        # blocked need a sleep that was slept.
        if self._runner is None or self._runner.waiting_for_idle:
            return deadline - time.perf_counter()
        self._idle_until = deadline
        return 0.0

    # What trio asks of its host.

    def again(self, tick: Tick) -> None:
        """Trio wants another turn."""
        if not self._known:
            self._known = True
            self._know(tick)
        until, self._idle_until = self._idle_until, None
        if until is None or _events_of(tick):
            self._loop.call_soon(tick, context=self._context)
        else:
            self._asleep = tick
            self._runner.guest_tick_scheduled = False
            if until < self._timer_at:
                self._set_timer(until)

    def wake(self) -> None:
        """Somebody outside of trio is about to schedule a task."""
        tick, self._asleep = self._asleep, None
        if tick is not None:
            self._runner.guest_tick_scheduled = True
            self._loop.call_soon(tick, context=self._context)

    def close(self) -> None:
        """There will be no more turns."""
        if self._timer is not None:
            self._timer.cancel()
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)

    def _know(self, tick: Any) -> None:
        """Find trio's insides, and leave trio its thread if they are others than those we know."""
        try:
            _events_of(tick)
            runner = tick.__self__.runner
            _ = runner.guest_tick_scheduled, runner.waiting_for_idle
            descriptor = runner.io_manager._epoll.fileno()  # noqa: SLF001 – see the module
        except AttributeError as error:
            log.debug("trio waits for its I/O in a thread: %s", error)
            return
        self._runner = runner
        self._descriptor = os.dup(descriptor)  # as trio closes its own before it says so
        self._loop.add_reader(self._descriptor, self._turn)

    def _set_timer(self, until: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        left_s = min(max(until - time.perf_counter(), 0.0), LONGEST_TIMER_S)
        # Whole milliseconds are what loops measure; a timer that comes early is to be set again.
        self._timer = self._loop.call_later(math.ceil(left_s * 1000) / 1000, self._due)
        self._timer_at = until

    def _due(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        self._turn()

    def _turn(self) -> None:
        """Something that trio waits for has come."""
        tick, self._asleep = self._asleep, None
        if tick is not None:
            self._runner.guest_tick_scheduled = True
            tick()


def _events_of(tick: Any) -> bool:
    """Whether ``tick`` has I/O to deliver, or an error."""
    return bool(getattr(tick.__self__.unrolled_run_next_send, "value", True))


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
            raise RuntimeError("the application cannot be called: trio has ended")
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
            self._coroutine = None
            self._guest.calls.discard(self)
            if self._ended is not None and not self._ended.done():
                self._ended.set_result(None)

    # For the task on trio.

    async def _run(self) -> None:
        error: BaseException | None = None
        try:
            with self._cancel_scope:
                await coroutine_of(self._app(self._scope, self.receive, self.send))
        except BaseException as raised:  # noqa: BLE001 – it would crash trio
            error = _without_cancelled(raised)
            if error.__traceback__ is not None:
                error.__traceback__ = error.__traceback__.tb_next  # this frame is none of theirs
        if self._cancel_scope.cancelled_caught and error is None:
            error = asyncio.CancelledError()
        self.end(error)

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
        return asyncio.CancelledError() if rest is None else rest
    return asyncio.CancelledError() if isinstance(error, trio.Cancelled) else error


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
