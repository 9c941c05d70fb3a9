"""Who shall have a connection: what a worker decides by looking at the figures of its siblings.

Each worker decides for itself, from the scoreboard and from what waits in the inboxes; there is
nobody to be asked, and nobody whose word is late. Three questions, from the most to the least
frequent:

* Who shall have a connection that was just accepted? Whoever has the fewest, if that is fewer by
  more than one. So the balance is exact, even where connections live for hours. Where most soon
  end it is not worth that much: who accepts has time at the moment, and others may not.
* Who shall have one of a worker that leaves? Whoever has the fewest.
* Which connections shall move though nobody leaves? Some of a worker that has more than the mean,
  or a processor much busier than theirs, so that a new worker soon has its share.

In the last one several workers act at the same time upon the same figures, and what a processor
does is known only a second late. So each gives a part of its surplus only, rounded by chance, to
those that lack, each as likely as much as it lacks: together they never give many more than are
lacking. Nobody gives to a worker that would then have as many as the giver had: between equals
nothing moves.

A worker on trial is left out of all that. It gets its share, by chance, and nothing else.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from asgi_worker.inbox import VERSION
from asgi_worker.processor import waited_since_tick_ns
from asgi_worker.scoreboard import State, Word

if TYPE_CHECKING:
    from asgi_worker.inbox import Inboxes
    from asgi_worker.scoreboard import Scoreboard

LATELY_S: Final = 0.5
"""How far back it counts what connections cost."""
YOUNG_TICKS: Final = 5
"""A connection is young for so many ticks at least, and twice as many at most."""
FREQUENT: Final = 100.0
"""Connections a second that may be handed over without need: a hundredth of a processor."""
OCCUPIED: Final = 100
"""Who uses fewer thousandths of a processor has time whenever a connection comes."""
CHEAP_S: Final = 0.001
"""Time of a processor that a connection costs. If it is less, several are taken in a turn."""
LATE_NS: Final = 100_000_000
"""Who has not ticked so long after it was to, is busy with something else, or hangs, unless it had
to wait for a processor."""
GAP: Final = 2
"""How many connections more than another one has are too many …"""
WIDE_GAP: Final = 16
"""… and if most of them soon end."""
FEW: Final = 3
"""Of those that soon end, so many are handed over in a tick: that costs as much as they do."""
STEP: Final = 0.25
"""The part of a surplus that goes at once."""
MOST: Final = 128
"""Connections that a worker gives in a tick: some milliseconds."""
CHANCE: Final = 200
"""Thousandths of a processor that a worker may be busier than the mean: that is chance."""
HOT: Final = 300
"""Who is so much busier than the mean gets no more, even if it has fewer connections."""


class Load(NamedTuple):
    """What a worker has to do."""

    connections: int
    busy: int
    """Thousandths of a processor."""


def emptiest(
    seats: Iterable[int],
    below: float,
    connections: Callable[[int], int],
    waiting: Callable[[int], int],
) -> int | None:
    """The one of ``seats`` with the fewest connections, if that is fewer than ``below``.

    What waits in its inbox counts. That is asked only of those for which it matters.
    """
    found = None
    for seat in seats:
        count = connections(seat)
        if count < below:
            count += waiting(seat)
            if count < below:
                below = count
                found = seat
    return found


def by_share(roll: float, shares: Mapping[int, int]) -> int | None:
    """Whose turn it is of those with a share, in thousandths, of all connections; 0 ≤ ``roll`` < 1.

    ``None``: that of all others.
    """
    roll *= 1000
    for seat, share in shares.items():
        if roll < share:
            return seat
        roll -= share
    return None


def is_hot(busy: int, mean_busy: float) -> bool:
    """Whether a worker has too much to do to be given a connection."""
    return busy > mean_busy + HOT


def surplus(
    mine: Load, others: Mapping[int, Load], roll: Callable[[], float] = random.random
) -> list[int]:
    """Who shall have some of my connections: a seat for each that shall go.

    A worker that is clearly busier than the mean counts as if it had more connections: as many
    times the mean as the processors that it uses beyond.
    """
    loads = (mine, *others.values())
    mean = sum(load.connections for load in loads) / len(loads)
    mean_busy = sum(load.busy for load in loads) / len(loads)

    def burden(load: Load) -> float:
        beyond = load.busy - mean_busy - CHANCE
        return load.connections + (mean * beyond / 1000 if beyond > 0 else 0.0)

    burdens = {seat: burden(load) for seat, load in others.items()}
    own = burden(mine)
    wanted = (own + sum(burdens.values())) / len(loads)
    going = min(int((own - wanted) * STEP + roll()), mine.connections, MOST)
    chosen: list[int] = []
    while len(chosen) < going:
        lacking = {
            seat: wanted - carried
            for seat, carried in burdens.items()
            if carried < wanted and carried <= own - GAP
        }
        if not lacking:
            break
        seat = _by_chance(lacking, roll())
        chosen.append(seat)
        burdens[seat] += 1
        own -= 1
    return chosen


def _by_chance(weights: Mapping[int, float], roll: float) -> int:
    left = roll * sum(weights.values())
    for seat, weight in weights.items():
        left -= weight
        if left < 0:
            return seat
    return seat


class Cohort:
    """Connections that came within a few ticks; each knows its own."""

    __slots__ = ("came", "ended", "is_young")

    def __init__(self) -> None:
        self.came = 0
        self.ended = 0
        """Of these, while they were young."""
        self.is_young = True


class Young:
    """Counts the connections that came lately, and those of them that end so soon.

    When thousands that stayed for hours end at once, they do not come and go by the hundred: those
    that come in their place may stay as long, and are worth being spread.
    """

    def __init__(self) -> None:
        self.ended = 0
        """How many ended young so far."""
        self._ticks = 0
        self._now, self._before, self._grown = Cohort(), Cohort(), Cohort()

    def came(self) -> Cohort:
        """A connection is open. What it belongs to from now on, also as one of another protocol."""
        cohort = self._now
        cohort.came += 1
        return cohort

    def lost(self, cohort: Cohort) -> None:
        """One of ``cohort`` is closed, or another worker has it."""
        if cohort.is_young:
            cohort.ended += 1
            self.ended += 1

    def age(self) -> None:
        """Time has passed. For every tick."""
        self._ticks += 1
        if self._ticks % YOUNG_TICKS == 0:
            self._grown, self._before, self._now = self._before, self._now, Cohort()
            self._grown.is_young = False

    def mostly_end(self) -> bool:
        """Whether most connections do: those of which it is known, and so far the latest, too."""
        return self._grown.ended > self._grown.came / 2 and self.end_lately()

    def end_lately(self) -> bool:
        """Whether most of the latest have ended already."""
        now, before = self._now, self._before
        return now.ended + before.ended > (now.came + before.came) / 2


class Turnover:
    """What follows from how connections come and go lately."""

    def __init__(self, now: float) -> None:
        self.gap = GAP
        """How many connections more than another one has are too many."""
        self.patient = True
        """Whether each is worth a turn of the loop, as others may have time for the next."""
        self.dear = False
        """Whether they soon end, and there is so much to do, for so few, that they may be dear."""
        self._seen_at = now
        self._ended = 0
        self._ended_per_s = 0.0

    def seen(self, now: float, young: Young, busy: int) -> None:
        """Look again, for every tick; ``busy`` as in :class:`Load`."""
        passed_s = max(now - self._seen_at, 0.001)
        per_s = (young.ended - self._ended) / passed_s
        self._ended_per_s += (per_s - self._ended_per_s) * min(passed_s / LATELY_S, 1.0)
        self._seen_at, self._ended = now, young.ended
        are_many = self._ended_per_s >= FREQUENT
        matters = are_many or busy >= OCCUPIED
        self.gap = WIDE_GAP if matters and young.mostly_end() else GAP
        self.patient = not are_many or busy / 1000 >= CHEAP_S * self._ended_per_s
        self.dear = self.patient and young.end_lately() and busy >= OCCUPIED


class Siblings:
    """The other workers, as the one with ``seat`` sees them.

    ``exact``: whether workers balance at all while none of them leaves; a worker on trial gets its
    share in any case. ``most``: so many connections each of them has room for. ``roll`` is a number
    from 0 (inclusive) to 1 (exclusive).
    """

    def __init__(
        self,
        scoreboard: Scoreboard,
        inboxes: Inboxes,
        seat: int,
        *,
        exact: bool = True,
        most: float = math.inf,
        roll: Callable[[], float] = random.random,
    ) -> None:
        self._scoreboard = scoreboard
        self._seat = seat
        self._exact = exact
        self._most = most
        self._roll = roll
        self._waiting = inboxes.waiting
        self._others = [(seat + step) % scoreboard.seats for step in range(1, scoreboard.seats)]
        """Each worker begins behind its own seat, so that not all choose the same of two equals."""
        self._state = scoreboard.column(Word.STATE)
        self._takes = scoreboard.column(Word.TAKES)
        self._promise_ns = scoreboard.column(Word.PROMISE_NS)
        self._share = scoreboard.column(Word.SHARE)
        self._busy = scoreboard.column(Word.BUSY)
        self._connections = scoreboard.column(Word.CONNECTIONS).__getitem__
        self._takers: list[int] = []
        self._for_fresh: list[int] = []
        """Those of the takers that have time for more."""
        self._shares: dict[int, int] = {}
        self._on_trial = False
        self._turnover = Turnover(time.monotonic())
        self._few = FEW
        """How many may still be handed over in this tick, if most soon end."""
        self.refresh()

    @property
    def patient(self) -> bool:
        """Whether each connection is worth a turn of the loop, as others may have time for it."""
        return self._turnover.patient and bool(self._for_fresh)

    @property
    def gathers(self) -> bool:
        """Whether connections are so dear that all workers should take them from one queue."""
        return self._turnover.dear and bool(self._for_fresh)

    def see(self, young: Young) -> None:
        """Look how our connections come and go. For every tick."""
        self._turnover.seen(time.monotonic(), young, self._busy[self._seat])
        self._few = FEW

    def refresh(self) -> None:
        """Look who is there. For every tick; who comes is seen by then, who leaves or hangs at
        once, and so is who turns again.
        """
        able = [seat for seat in self._others if self._takes[seat] == VERSION]
        self._on_trial = self._share[self._seat] > 0
        self._shares = {seat: self._share[seat] for seat in able if self._share[seat]}
        self._takers = [seat for seat in able if seat not in self._shares]
        self._for_fresh = []
        if self._exact and not self._on_trial and self._takers:
            busy = [self._busy[seat] for seat in self._takers]
            mean = (sum(busy) + self._busy[self._seat]) / (len(busy) + 1)
            self._for_fresh = [s for s in self._takers if not is_hot(self._busy[s], mean)]

    def is_able(self, seat: int) -> bool:
        """Whether it takes connections of our kind, and its loop turns."""
        if self._takes[seat] != VERSION or self._state[seat] != State.READY:
            return False
        late_ns = time.monotonic_ns() - self._promise_ns[seat] - LATE_NS
        return late_ns < 0 or late_ns < waited_since_tick_ns(self._scoreboard.writer(seat))

    def for_fresh(self, connections: int, *, first: bool = True) -> int | None:
        """Who shall have a connection just accepted; ``None``: we. ``connections``: ours with it.

        ``first``: it was not given to us, so that those on trial have not had their chance yet.
        """
        if first and self._shares and not self._on_trial:
            seat = by_share(self._roll(), self._shares)
            if seat is not None and self.is_able(seat):
                return seat
        gap = self._turnover.gap
        below = connections - gap + 1
        if below <= 0 or (gap > GAP and not self._few):
            return None
        if min(map(self._connections, self._for_fresh), default=below) >= below:
            return None
        seat = self._emptiest(self._for_fresh, below)
        if gap > GAP and seat is not None:
            self._few -= 1
        return seat

    def for_idle(self) -> int | None:
        """Who shall have a connection of ours when we leave; ``None``: nobody can."""
        seat = self._emptiest(self._takers, self._most)
        return seat if seat is not None else self._emptiest(self._shares, self._most)

    def has_takers(self) -> bool:
        """Whether somebody takes connections, if perhaps not before its loop turns again."""
        known = (*self._takers, *self._shares)
        return any(self._takes[s] == VERSION and self._state[s] == State.READY for s in known)

    def who_take_nothing(self) -> list[int]:
        """Seats of those who leave, have not started, or have no room."""
        return [seat for seat in self._others if not self._takes[seat]]

    def _emptiest(self, seats: Iterable[int], below: float) -> int | None:
        return emptiest(filter(self.is_able, seats), below, self._connections, self._waiting)

    def to_shed(self, connections: int, busy: int) -> list[int]:
        """Who shall have some of our ``connections`` now: a seat for each that shall go.

        For every tick, after :meth:`refresh`. ``busy``: thousandths of a processor that we use.
        """
        if not self._exact or self._on_trial or connections < GAP:
            return []
        others = {
            seat: Load(self._connections(seat) + self._waiting(seat), self._busy[seat])
            for seat in self._takers
            if self.is_able(seat)
        }
        return surplus(Load(connections, busy), others, self._roll)
