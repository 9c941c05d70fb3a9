"""The operating system as a value: the verbs the master has.

:class:`Host` is all the master knows of the world. What a verb cannot do is not raised but comes
as an event out of the next :meth:`Host.wait`, like everything else that happens. The tests run the
same master on a fake host; one contract test runs against that and :class:`~.posix.PosixHost`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from asgi_supervise.host.template import Blueprint
from asgi_supervise.policy import vocabulary as v


class Host(Protocol):
    """The verbs. None blocks but :meth:`wait`; none raises for what the environment refuses."""

    def now(self) -> float:
        """Monotonic seconds."""
        ...

    def wait(self, deadline: float) -> list[v.Event]:
        """What happened, in an order in which causes come before effects; empty at ``deadline``."""
        ...

    def start_template(self, generation: int, blueprint: Blueprint) -> None:
        """Fork the template of ``generation``; comes *TemplateForked* or *TemplateRefused*."""
        ...

    def stop_template(self, generation: int) -> None:
        """No worker is asked of it any more; it leaves after those it forked."""
        ...

    def kill_template(self, generation: int) -> None:
        """SIGKILL."""
        ...

    def spawn_worker(
        self, worker: int, slot: int, seat: int, generation: int, share: float | None = None
    ) -> None:
        """Ask for a worker; comes *WorkerForked*, *WorkerRefused* or *TemplateExited*.

        With a ``share`` it is on trial, and gets so much of new connections from the others.
        """
        ...

    def promote_worker(self, worker: int) -> None:
        """Its trial is over: it accepts connections as all others do."""
        ...

    def drain_worker(self, worker: int, budget_s: float, *, successor: bool) -> None:
        """Tell it to stop within ``budget_s``."""
        ...

    def withdraw_worker(self, worker: int) -> None:
        """Tell it to answer health checks from outside with 503."""
        ...

    def terminate_worker(self, worker: int) -> None:
        """SIGTERM."""
        ...

    def abort_worker(self, worker: int) -> None:
        """SIGABRT."""
        ...

    def kill_worker(self, worker: int) -> None:
        """SIGKILL."""
        ...

    def look_at_figures(self) -> None:
        """Comes *FiguresSeen*."""
        ...

    def dump_stacks(self, generation: int, worker: int | None, *, native: bool = False) -> None:
        """Ask a worker (``None``: the template) for its stacks; forgets what it wrote before.

        ``native``: it was asked and has written nothing, so it may be in native code.
        """
        ...

    def read_stacks(self, generation: int, worker: int | None) -> None:
        """Comes *StacksRead*, also for a process that is gone (empty)."""
        ...

    def steer(self, weights: Sequence[int]) -> None:
        """Send new TCP connections to slots with these weights, as far as the kernel can."""
        ...

    def rescue(self, slots: Sequence[int], seats: Sequence[int], takers: Sequence[int]) -> None:
        """From now on give what waits for ``slots`` and ``seats``, and only that, to ``takers``."""
        ...

    def pass_on(self, descriptors: Mapping[int, int]) -> None:
        """Put a copy of each open descriptor (value) in the place of another (key), in every
        process of ours but this one.
        """
        ...

    def close_listeners(self) -> None:
        """Close the master's copies and remove the unix sockets; may be said again."""
        ...

    def close(self) -> None:
        """Leave nothing behind: kill what still runs, close what is open."""
        ...
