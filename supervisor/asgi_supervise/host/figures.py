"""What the workers write of themselves into the scoreboard, as the policies see it."""

from __future__ import annotations

from collections.abc import Mapping

from asgi_supervise.policy import vocabulary as v
from asgi_worker.scoreboard import Scoreboard, State, Word


def seen(scoreboard: Scoreboard, seats: Mapping[int, int]) -> v.FiguresSeen:
    """The figures of workers, by number, that have these ``seats``."""
    figures = {}
    resting = True
    for worker, seat in seats.items():
        words = scoreboard.writer(seat)
        if promise_ns := words[Word.PROMISE_NS]:
            connections, in_flight = words[Word.CONNECTIONS], words[Word.IN_FLIGHT]
            figures[worker] = v.Figures(
                promise=promise_ns / 1e9,
                connections=connections,
                in_flight=in_flight,
                lag_s=words[Word.LAG_NS] / 1e9,
                busy=words[Word.BUSY] / 1000,
                accepts=words[Word.STATE] == State.READY,
            )
            resting = resting and connections == in_flight == 0
    return v.FiguresSeen(figures, resting)
