"""What a crowd saw: every answer counted, every failure named, nothing left out.

The only vocabulary between the process of the crowd and the test that started it.
"""

from __future__ import annotations

import asyncio
import enum
import time
from array import array
from collections import Counter
from collections.abc import Mapping

import msgspec

KEPT_FAILURES = 2000
"""More are counted, but not described one by one."""


class Kind(enum.StrEnum):
    """How a user can be disappointed."""

    REFUSED = "refused"
    RESET_FIRST = "reset on a first request"
    RESET_KEPT = "reset on a kept-alive connection"
    CUT = "answer begun and not finished"
    TIMED_OUT = "timed out"
    WRONG_STATUS = "wrong status"
    WRONG_BODY = "wrong body"
    WEBSOCKET_CLOSED = "WebSocket closed with another code"
    WEBSOCKET_LOST = "WebSocket lost, or its echo"


class Failure(msgspec.Struct, frozen=True):
    """One of them. ``pid`` is the worker that last answered on this connection, which may have
    moved since; 0: none had.
    """

    kind: Kind
    user: str
    pid: int
    at: float
    """``time.monotonic()``, which all processes of a machine share."""
    detail: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Who shall come, and how often. ``rate``: requests of all, but for the slow ones, a second."""

    host: str
    port: int
    rate: float = 2800.0
    kept: int = 200
    fresh: int = 16
    slow: int = 16
    uploaders: int = 8
    websockets: int = 8
    patience_s: float = 20.0
    may_close: tuple[int, ...] = (1012,)
    """Codes with which a WebSocket may be closed; its user comes again."""
    leaves_when_refused: bool = False
    """The service is to be stopped: a refused user is counted and does not come again."""

    def at(self, host: str, port: int, may_close: tuple[int, ...], *, stops: bool) -> Plan:
        """The same crowd, at this address."""
        return msgspec.structs.replace(
            self, host=host, port=port, may_close=may_close, leaves_when_refused=stops
        )

    def patient(self, patience_s: float) -> Plan:
        """The same crowd, which waits so long for an answer."""
        return msgspec.structs.replace(self, patience_s=patience_s)


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What has been seen until now."""

    seconds: float
    answers: int
    """Complete and right, of every kind of user; an echo counts as one."""
    in_all: int
    """Answers since the first of the crowd came; the others count from when all were there."""
    p99_ms: float
    worst_ms: float
    """From the moment a user wanted to send to the last octet; slow users are left out."""
    opened: dict[str, int]
    """Connections since the first of the crowd came, by what those are called who opened them."""
    reconnected_at: tuple[float, ...]
    """When the server closed a kept-alive connection between two requests."""
    renewals: int
    """WebSockets closed with a code that was allowed, and connected again."""
    interrupted: int
    """Messages under way while such a close came the other way; they were sent again."""
    versions: dict[str, int]
    pids: dict[int, int]
    failed: dict[Kind, int]
    failures: tuple[Failure, ...]

    @property
    def rate(self) -> float:
        return self.answers / self.seconds

    @property
    def lost(self) -> int:
        """All failures of all kinds."""
        return sum(self.failed.values())

    @property
    def reconnects(self) -> int:
        """Kept-alive connections that the server closed between two requests."""
        return len(self.reconnected_at)

    @property
    def unnoticed(self) -> bool:
        """No request has failed, and no connection that is kept alive has ended."""
        return self.lost == self.reconnects == 0

    @property
    def refused(self) -> int:
        """Failures that a service which was told to stop is allowed."""
        return self.failed.get(Kind.REFUSED, 0)

    def beyond(self, deaths: Mapping[int, float]) -> list[Failure]:
        """The failures that the deaths of workers – pids, and when – do not explain.

        They explain that connections to these ended, also those that somebody else had answered
        last, or nobody: for them only the time can tell. Who had to wait too long or was refused
        is not explained.
        """
        assert len(self.failures) == self.lost, "more failures than can be told apart"
        return [one for one in self.failures if not _explained(one, deaths)]

    def reconnected_beyond(self, deaths: Mapping[int, float]) -> list[float]:
        """When kept-alive connections were closed of which no death explains it."""
        return [at for at in self.reconnected_at if not _near_death(at, deaths)]

    def table(self, title: str) -> str:
        """One line each for what was reached, and for every kind of failure."""
        versions = ", ".join(f"{name}: {count}" for name, count in sorted(self.versions.items()))
        rows = [
            ("answers", f"{self.answers} in {self.seconds:.1f} s, {self.rate:.0f}/s ({versions})"),
            ("p99, worst", f"{self.p99_ms:.1f} ms, {self.worst_ms:.1f} ms"),
            (
                "reconnects",
                f"{self.reconnects}, WebSockets {self.renewals} "
                f"(with {self.interrupted} messages under way)",
            ),
            ("connections", ", ".join(f"{name}: {n}" for name, n in self.opened.items())),
            *((str(kind), str(self.failed.get(kind, 0))) for kind in Kind),
            ("failed in all", str(self.lost)),
        ]
        lines = [f"{name:<36}{figure}" for name, figure in rows]
        kinds = Counter((one.kind, one.user, one.pid, one.detail) for one in self.failures)
        lines += [
            f"  {count} x {' | '.join(map(str, what))}" for what, count in kinds.most_common(12)
        ]
        return "\n".join([f"--- {title}", *lines])


ENDED = (Kind.RESET_FIRST, Kind.RESET_KEPT, Kind.CUT, Kind.WEBSOCKET_LOST)
AROUND_DEATH_S = 0.5


def _explained(failure: Failure, deaths: Mapping[int, float]) -> bool:
    if failure.kind not in ENDED:
        return False
    if failure.pid in deaths:
        return True
    return _near_death(failure.at, deaths)


def _near_death(at: float, deaths: Mapping[int, float]) -> bool:
    return any(abs(at - moment) < AROUND_DEATH_S for moment in deaths.values())


class Book:
    """What all users of a crowd have seen; the one place where it is written down."""

    def __init__(self, plan: Plan, loop: asyncio.AbstractEventLoop) -> None:
        self.plan = plan
        self.loop = loop
        self.leaving = False
        self.began_at = time.monotonic()
        self._ended_at = 0.0
        self._before = 0
        self.answers = 0
        self.opened: Counter[str] = Counter()
        self.reconnected_at: list[float] = []
        self.renewals = 0
        self.interrupted = 0
        self._took_ms = array("d")
        self._versions: Counter[str] = Counter()
        self._pids: Counter[int] = Counter()
        self._failed: Counter[Kind] = Counter()
        self._failures: list[Failure] = []

    def begin(self) -> None:
        """All are there: forget what was answered until now, but no failure."""
        self.began_at = time.monotonic()
        self._before, self.answers = self.answers, 0
        self._versions.clear()
        self._pids.clear()
        del self._took_ms[:]

    def end(self) -> None:
        """No more is asked; what is still answered took none of the time in which it was asked."""
        self._ended_at = time.monotonic()

    def answered(self, took_s: float | None, version: str, pid: int) -> None:
        """``took_s`` is ``None`` where it says something of the user only."""
        self.answers += 1
        self._versions[version] += 1
        self._pids[pid] += 1
        if took_s is not None:
            self._took_ms.append(took_s * 1000)

    def reconnected(self) -> None:
        """A connection that was to be kept alive has ended, as it may, after an answer."""
        self.reconnected_at.append(time.monotonic())

    def failed(self, kind: Kind, user: str, pid: int, detail: object) -> None:
        self._failed[kind] += 1
        if len(self._failures) < KEPT_FAILURES:
            text = str(detail)[:200]
            self._failures.append(Failure(kind, user, pid, time.monotonic(), text))

    def result(self) -> Result:
        took = sorted(self._took_ms) or [0.0]
        return Result(
            seconds=(self._ended_at or time.monotonic()) - self.began_at,
            answers=self.answers,
            in_all=self._before + self.answers,
            p99_ms=took[int(len(took) * 0.99)],
            worst_ms=took[-1],
            opened=dict(self.opened),
            reconnected_at=tuple(self.reconnected_at),
            renewals=self.renewals,
            interrupted=self.interrupted,
            versions=dict(self._versions),
            pids=dict(self._pids),
            failed=dict(self._failed),
            failures=tuple(self._failures),
        )
