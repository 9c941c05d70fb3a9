"""The page of memory that a running master shares with its workers, read from outside."""

from __future__ import annotations

import os
import re
from pathlib import Path

from asgi_worker.scoreboard import WORDS_PER_SEAT, Reading, Scoreboard, State
from tests.process.service import Service, until

_SEAT_BYTES = WORDS_PER_SEAT * 8
_SHARED = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) rw-s .* /dev/zero \(deleted\)$", re.MULTILINE)


class Board:
    """What the workers of ``service``, which serves, say of themselves."""

    def __init__(self, service: Service) -> None:
        self._master = service.process.pid
        crew = set(service.workers().values())
        maps = Path(f"/proc/{self._master}/maps").read_text()
        for found in _SHARED.finditer(maps):
            start, end = int(found[1], 16), int(found[2], 16)
            self._start, self._seats = start, (end - start) // _SEAT_BYTES
            if crew <= {seat.pid for seat in self.seats()}:
                return
        raise AssertionError(f"the master shares no page that names {crew}:\n{maps}")

    def seats(self) -> list[Reading]:
        """The seats in which there is somebody."""
        copy = Scoreboard(self._seats)
        with open(f"/proc/{self._master}/mem", "rb", buffering=0) as memory:
            data = os.pread(memory.fileno(), self._seats * _SEAT_BYTES, self._start)
        for seat in range(self._seats):
            line = data[seat * _SEAT_BYTES : (seat + 1) * _SEAT_BYTES]
            copy.writer(seat)[:] = memoryview(line).cast("Q")
        found = (_read(copy, seat) for seat in range(self._seats))
        return [one for one in found if one is not None and one.state is not State.EMPTY]

    def of(self, pid: int) -> Reading | None:
        """What the worker with this pid says."""
        return next((one for one in self.seats() if one.pid == pid), None)

    def connections(self) -> list[int]:
        """Of each ready worker, the fewest first."""
        return sorted(one.connections for one in self.seats() if one.state is State.READY)

    def total(self, *figures: str) -> int:
        """The sum of these figures over all seats."""
        return sum(getattr(one, figure) for one in self.seats() for figure in figures)

    def rests(self) -> bool:
        """Whether nobody has anything to do, and promises to look after that only seldom."""
        return all(one.promise_ns - one.stamp_ns > 0.5e9 for one in self.seats())

    def until_connections(self, count: int) -> None:
        """Until the workers have so many together, and have told."""
        until(lambda: self.total("connections") == count, f"{count} connections are told of")


def _read(board: Scoreboard, seat: int) -> Reading | None:
    try:
        return board.read(seat)
    except ValueError:  # another page than ours
        return None
