"""Which slots new connections are sent to."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from asgi_supervise.policy.fleet import Fleet, Worker


def weights(
    fleet: Fleet, slots: Iterable[int], is_stuck: Callable[[Worker], bool]
) -> tuple[int, ...]:
    """For each slot: 1 if somebody in it accepts connections, else 0.

    A slot whose worker starts, pauses after a crash or hangs gets none that others could serve. If
    nobody accepts, all are alike: connections wait, and who comes first to which slot is not known.
    """
    serving = {worker.slot for worker in fleet.ready() if not is_stuck(worker)}
    chosen = tuple(int(slot in serving) for slot in slots)
    return chosen if any(chosen) else tuple(1 for _ in chosen)
