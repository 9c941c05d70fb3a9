"""What the workers write of themselves into the scoreboard, as the policies see it.

With two exceptions they are believed. A worker with nothing to do promises for a whole second, and
meanwhile others give it connections. If it hangs in that second, these would wait until it is over;
but that nothing is taken out of its inbox can be seen from outside, and then the promise does not
count. And who could not keep a promise for want of a processor is given that time in addition.
"""

from __future__ import annotations

from collections.abc import Mapping

from asgi_supervise.policy import vocabulary as v
from asgi_worker.inbox import Inboxes
from asgi_worker.processor import waited_since_tick_ns
from asgi_worker.scoreboard import Scoreboard, State, Word


class Looks:
    """The looks of the master at the scoreboard, one after the other."""

    def __init__(self, scoreboard: Scoreboard, inboxes: Inboxes) -> None:
        self._scoreboard = scoreboard
        self._inboxes = inboxes
        self._looked_at = 0.0
        self._had_waiting: dict[int, tuple[int, int, int]] = {}
        """Of those in whose inbox there was something, and who have done nothing since: what would
        have changed."""

    def look(self, seats: Mapping[int, int], now: float) -> v.FiguresSeen:
        """The figures of workers, by number, that have these ``seats``."""
        figures = {}
        had_waiting, self._had_waiting = self._had_waiting, {}
        resting = True
        for worker, seat in seats.items():
            words = self._scoreboard.writer(seat)
            if promise_ns := words[Word.PROMISE_NS]:
                promise = promise_ns / 1e9
                waiting = self._inboxes.waiting(seat)
                done = words[Word.STAMP_NS], words[Word.TAKEN_FRESH], words[Word.TAKEN_IDLE]
                is_mute = had_waiting.get(worker) == done  # also if others took it out since
                if is_mute:
                    promise = min(promise, self._looked_at)
                if waiting or is_mute:
                    self._had_waiting[worker] = done
                if promise < now:
                    promise += waited_since_tick_ns(words) / 1e9
                connections, in_flight = words[Word.CONNECTIONS], words[Word.IN_FLIGHT]
                figures[worker] = v.Figures(
                    promise=promise,
                    connections=connections,
                    in_flight=in_flight,
                    lag_s=words[Word.LAG_NS] / 1e9,
                    busy=words[Word.BUSY] / 1000,
                    accepts=words[Word.STATE] == State.READY,
                    gathers=words[Word.GATHERS] == 1,
                )
                resting = resting and connections == in_flight == waiting == 0
        self._looked_at = now
        return v.FiguresSeen(figures, resting)
