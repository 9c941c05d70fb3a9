"""Where new connections go, as far as the master has a say: the kernel's choice, and rescue.

The kernel chooses a slot by weights. Those of slots in which nobody accepts are 0; of the others
the one that is loaded more gets less. That evens out roughly and in advance; the workers themselves
make it exact. So the weights may be coarse, and are left alone until they would differ clearly: a
load that is constant but for chance must not move them.

Where requests are dear and every worker takes from every queue, all connections go to the queue of
one slot: who came first is served first, whoever has time first, which several queues cannot give.

What waits for somebody who does not come – in the queue of such a slot, or in the inbox of a worker
that is gone or hangs – the master gives to those that serve.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from asgi_supervise.policy import sizing
from asgi_supervise.policy import vocabulary as v
from asgi_supervise.policy.fleet import Fleet, Worker
from asgi_supervise.policy.health import Rules
from asgi_supervise.policy.watching import Watch
from asgi_supervise.policy.wording import Journal

WHOLE = 16
"""The weight of a slot with as much to do as the others have on average."""
MOST = 4 * WHOLE
CHANCE_CONNECTIONS = 8
"""A few connections more or less are chance …"""
CHANCE_BUSY = 0.25
"""… as is so much of a processor …"""
CHANCE_LAG_S = 0.5
"""… or of a delay: it is that of one tick, made by one long request, and soon over."""
CLEARLY = 1.5
"""The factor by which a weight must differ to be replaced."""


class Load(NamedTuple):
    """What the worker of a slot has to do."""

    connections: int
    """Those with a request in the application count twice."""
    busy: float
    """Processors it used lately."""
    lag_s: float = 0.0
    """How late its loop was lately."""
    gathers: bool = False
    """Its connections are dear, and it takes from the queues of all slots."""


NOTHING = Load(0, 0.0)
"""Of a worker that was not looked at yet."""


def weights(loads: Sequence[Load | None]) -> tuple[int, ...]:
    """Of each slot, from the load of its worker; ``None``: nobody accepts there.

    If nobody accepts anywhere, all are alike: who comes first to which slot is not known. If all
    who accept gather, the first of them gets all: its queue is that of the others, too.
    """
    known = [load for load in loads if load is not None]
    if not known:
        return tuple(WHOLE for _ in loads)
    if len(known) > 1 and all(load.gathers for load in known):
        first = loads.index(known[0])
        return tuple(WHOLE if slot == first else 0 for slot in range(len(loads)))
    connections = sum(load.connections for load in known) / len(known) + CHANCE_CONNECTIONS
    busy = sum(load.busy for load in known) / len(known) + CHANCE_BUSY
    lag_s = sum(load.lag_s for load in known) / len(known) + CHANCE_LAG_S

    def weight(load: Load | None) -> int:
        if load is None:
            return 0
        fewer = connections / (load.connections + CHANCE_CONNECTIONS)
        idler = busy / (load.busy + CHANCE_BUSY)
        sooner = lag_s / (load.lag_s + CHANCE_LAG_S)
        return max(1, min(MOST, round(WHOLE * fewer * idler * sooner)))

    return tuple(weight(load) for load in loads)


def clearly_differ(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether the one weights would steer clearly otherwise than the others."""
    return any(a != b and max(a, b) >= CLEARLY * min(a, b) for a, b in zip(one, other, strict=True))


class Steering:
    """Tells the kernel and the host where new connections go."""

    def __init__(self, fleet: Fleet, watch: Watch, journal: Journal, slots: int) -> None:
        self._fleet = fleet
        self._watch = watch
        self._journal = journal
        self._loads: dict[int, Load | None] = {}
        """Of each worker by number; ``None``: it drains by itself."""
        self._decided: object = None
        """What the last decision was based on."""
        self._weights = tuple(WHOLE for _ in range(slots))
        """In force; to begin with, the kernel spreads connections evenly itself."""
        self._rescue = v.Rescue((), (), ())

    def seen(self, event: v.FiguresSeen) -> bool:
        """The figures of the workers have been read; whether they are others than before."""
        before, self._loads = (
            self._loads,
            {
                number: Load(
                    figures.connections + figures.in_flight,
                    round(figures.busy, 2),
                    round(figures.lag_s, 2),
                    figures.gathers,
                )
                if figures.accepts
                else None
                for number, figures in event.figures.items()
            },
        )
        return self._loads != before

    def decide(self, rules: Rules, candidate: int | None) -> None:
        """Tell what has changed. ``candidate`` is the generation on trial: its worker does not
        accept itself.
        """
        slots = sizing.slots_wanted(rules)
        able = [worker for worker in self._fleet.ready() if self._is_able(worker)]
        basis = rules, candidate, able, self._loads
        if basis == self._decided:
            return
        self._decided = basis
        if rules.balance == "off":  # but those of a former generation may have handed something on
            self._steer(tuple(WHOLE for _ in slots))
            self._save(self._wanted_rescue(rules, able, []))
            return
        accepting = {w.slot: w for w in able if w.generation != candidate}
        self._steer(weights([self._load(accepting.get(slot)) for slot in slots]))
        self._save(self._wanted_rescue(rules, able, [s for s in slots if s not in accepting]))

    def stop(self) -> None:
        """The service stops: what waits is for each worker to serve, or to refuse."""
        self._save(v.Rescue((), (), ()))

    def _is_able(self, worker: Worker) -> bool:
        """Whether it takes connections: its loop turns, and it does not drain by itself."""
        return not self._watch.is_late(worker) and self._load(worker) is not None

    def _load(self, worker: Worker | None) -> Load | None:
        return None if worker is None else self._loads.get(worker.number, NOTHING)

    def _wanted_rescue(self, rules: Rules, able: list[Worker], deserted: list[int]) -> v.Rescue:
        if not able:
            return v.Rescue((), (), ())
        emptied = {worker.seat for worker in able}  # not those that leave, which may hang as well
        seats = tuple(seat for seat in range(sizing.most_workers(rules)) if seat not in emptied)
        return v.Rescue(tuple(deserted), seats, tuple(sorted(worker.number for worker in able)))

    def _steer(self, wanted: tuple[int, ...]) -> None:
        if clearly_differ(self._weights, wanted):
            self._weights = wanted
            self._journal.add(v.Steer(wanted))

    def _save(self, wanted: v.Rescue) -> None:
        if wanted != self._rescue:
            self._rescue = wanted
            self._journal.add(wanted)
