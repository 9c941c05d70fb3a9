"""The life of a process of ours and of the whole service, as total tables.

Rule 1: every change of a phase is an entry here; no other module assigns one.
Rule 2: the tables are total. A pair that cannot happen is written ``BUG``: it changes nothing, is
reported, and the master lives on.
Rule 3: time alone leads from every phase of a process to ``KILLED``, and death alone to ``GONE``.

Workers and templates live the same life, so there is one table for both; what a duty means for
which of the two is said where duties are turned into acts.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass


class Phase(enum.Enum):
    """Where a process stands."""

    ASKED = "asked"  # we want it; not known to exist
    STARTING = "starting"  # it exists; it has not said Ready
    READY = "ready"
    LEAVING = "leaving"  # told to stop, or stopping by itself; has a deadline
    KILLED = "killed"  # SIGKILL was sent; not reaped yet
    GONE = "gone"


class Change(enum.Enum):
    """What happens to a process."""

    FORKED = "forked"
    REFUSED = "refused"  # the system would not fork it
    BECAME_READY = "became ready"
    BOOT_FAILED = "boot failed"  # it said so and exits by itself
    RETIRED = "retired"  # we do not want it any more
    CONDEMNED = "condemned"  # its loop hangs for good
    EXPIRED = "expired"  # its deadline has passed
    EXITED = "exited"  # and was reaped
    LOST = "lost"  # its template died before it said whether it forked it


class Duty(enum.Enum):
    """What a change obliges us to do."""

    NONE = "none"
    DRAIN = "drain"
    TERMINATE = "terminate"
    ABORT = "abort"
    KILL = "kill"
    BURY = "bury"
    BUG = "bug"


_P, _C, _D = Phase, Change, Duty

LIFE: dict[Phase, dict[Change, tuple[Phase, Duty]]] = {
    _P.ASKED: {
        _C.FORKED: (_P.STARTING, _D.NONE),
        _C.REFUSED: (_P.GONE, _D.BURY),
        _C.BECAME_READY: (_P.ASKED, _D.BUG),  # a worker runs on only after FORKED was sent
        _C.BOOT_FAILED: (_P.ASKED, _D.BUG),
        _C.RETIRED: (_P.LEAVING, _D.NONE),  # told when it turns up
        _C.CONDEMNED: (_P.ASKED, _D.BUG),  # only who serves is judged
        _C.EXPIRED: (_P.KILLED, _D.KILL),
        _C.EXITED: (_P.ASKED, _D.BUG),
        _C.LOST: (_P.GONE, _D.BURY),
    },
    _P.STARTING: {
        _C.FORKED: (_P.STARTING, _D.BUG),
        _C.REFUSED: (_P.STARTING, _D.BUG),
        _C.BECAME_READY: (_P.READY, _D.NONE),
        _C.BOOT_FAILED: (_P.LEAVING, _D.NONE),
        _C.RETIRED: (_P.LEAVING, _D.TERMINATE),
        _C.CONDEMNED: (_P.STARTING, _D.BUG),
        _C.EXPIRED: (_P.KILLED, _D.KILL),
        _C.EXITED: (_P.GONE, _D.BURY),
        _C.LOST: (_P.STARTING, _D.BUG),
    },
    _P.READY: {
        _C.FORKED: (_P.READY, _D.BUG),
        _C.REFUSED: (_P.READY, _D.BUG),
        _C.BECAME_READY: (_P.READY, _D.BUG),
        _C.BOOT_FAILED: (_P.READY, _D.BUG),
        _C.RETIRED: (_P.LEAVING, _D.DRAIN),
        _C.CONDEMNED: (_P.LEAVING, _D.ABORT),
        _C.EXPIRED: (_P.KILLED, _D.KILL),
        _C.EXITED: (_P.GONE, _D.BURY),
        _C.LOST: (_P.READY, _D.BUG),
    },
    _P.LEAVING: {
        _C.FORKED: (_P.LEAVING, _D.TERMINATE),  # retired while asked for
        _C.REFUSED: (_P.GONE, _D.BURY),
        _C.BECAME_READY: (_P.LEAVING, _D.DRAIN),  # its message crossed ours, a bare signal
        _C.BOOT_FAILED: (_P.LEAVING, _D.NONE),
        _C.RETIRED: (_P.LEAVING, _D.NONE),
        _C.CONDEMNED: (_P.LEAVING, _D.NONE),  # it has a deadline already
        _C.EXPIRED: (_P.KILLED, _D.KILL),
        _C.EXITED: (_P.GONE, _D.BURY),
        _C.LOST: (_P.GONE, _D.BURY),
    },
    _P.KILLED: {
        _C.FORKED: (_P.KILLED, _D.KILL),  # killed while asked for
        _C.REFUSED: (_P.GONE, _D.BURY),
        _C.BECAME_READY: (_P.KILLED, _D.NONE),
        _C.BOOT_FAILED: (_P.KILLED, _D.NONE),
        _C.RETIRED: (_P.KILLED, _D.NONE),
        _C.CONDEMNED: (_P.KILLED, _D.NONE),
        _C.EXPIRED: (_P.KILLED, _D.KILL),
        _C.EXITED: (_P.GONE, _D.BURY),
        _C.LOST: (_P.GONE, _D.BURY),
    },
    _P.GONE: dict.fromkeys(Change, (_P.GONE, _D.BUG)),
}


@dataclass(slots=True)
class Life:
    """Where one process stands. Only :meth:`step` changes the phase."""

    deadline: float
    """When :attr:`Change.EXPIRED` is due; whoever steps sets the next one."""
    phase: Phase = Phase.ASKED
    pid: int | None = None
    ready_at: float = math.inf
    retired: bool = False
    """Its end was wanted by us, so its death is no crash."""

    def step(self, change: Change) -> Duty:
        """Go to the next phase; the caller must do the duty."""
        self.phase, duty = LIFE[self.phase][change]
        return duty

    @property
    def exists(self) -> bool:
        """It runs, or may run."""
        return self.phase is not Phase.GONE


class Service(enum.Enum):
    """Where the whole service stands."""

    BOOTING = "booting"  # first start: not every slot has been tried
    SERVING = "serving"
    WITHDRAWN = "withdrawn"  # still serving, but said to be not ready: shutdown-delay runs
    STOPPING = "stopping"  # every process was told to leave
    KILLING = "killing"  # every process was killed
    DONE = "done"


class Turn(enum.Enum):
    """What happens to the service."""

    BOOTED = "booted"  # every slot was tried, at least one serves
    STOP = "stop"
    ELAPSED = "elapsed"  # shutdown-delay has passed
    KILL = "kill"
    GIVE_UP = "give up"  # the application cannot start, or a crash loop
    EMPTIED = "emptied"  # no process of ours is left


class Task(enum.Enum):
    """What a turn obliges us to do."""

    NONE = "none"
    ANNOUNCE = "announce"
    WITHDRAW = "withdraw"
    RETIRE_ALL = "retire all"
    KILL_ALL = "kill all"
    FINISH = "finish"
    BUG = "bug"


_S, _T, _K = Service, Turn, Task

SERVICE: dict[Service, dict[Turn, tuple[Service, Task]]] = {
    _S.BOOTING: {
        _T.BOOTED: (_S.SERVING, _K.ANNOUNCE),
        _T.STOP: (_S.STOPPING, _K.RETIRE_ALL),
        _T.ELAPSED: (_S.BOOTING, _K.BUG),
        _T.KILL: (_S.KILLING, _K.KILL_ALL),
        _T.GIVE_UP: (_S.KILLING, _K.KILL_ALL),
        _T.EMPTIED: (_S.BOOTING, _K.NONE),
    },
    _S.SERVING: {
        _T.BOOTED: (_S.SERVING, _K.BUG),
        _T.STOP: (_S.WITHDRAWN, _K.WITHDRAW),
        _T.ELAPSED: (_S.SERVING, _K.BUG),
        _T.KILL: (_S.KILLING, _K.KILL_ALL),
        _T.GIVE_UP: (_S.KILLING, _K.KILL_ALL),
        _T.EMPTIED: (_S.SERVING, _K.NONE),
    },
    _S.WITHDRAWN: {
        _T.BOOTED: (_S.WITHDRAWN, _K.BUG),
        _T.STOP: (_S.WITHDRAWN, _K.NONE),
        _T.ELAPSED: (_S.STOPPING, _K.RETIRE_ALL),
        _T.KILL: (_S.KILLING, _K.KILL_ALL),
        _T.GIVE_UP: (_S.KILLING, _K.KILL_ALL),
        _T.EMPTIED: (_S.WITHDRAWN, _K.NONE),
    },
    _S.STOPPING: {
        _T.BOOTED: (_S.STOPPING, _K.BUG),
        _T.STOP: (_S.STOPPING, _K.NONE),
        _T.ELAPSED: (_S.STOPPING, _K.BUG),
        _T.KILL: (_S.KILLING, _K.KILL_ALL),
        _T.GIVE_UP: (_S.STOPPING, _K.BUG),  # what leaves anyway is not given up
        _T.EMPTIED: (_S.DONE, _K.FINISH),
    },
    _S.KILLING: {
        _T.BOOTED: (_S.KILLING, _K.BUG),
        _T.STOP: (_S.KILLING, _K.NONE),
        _T.ELAPSED: (_S.KILLING, _K.BUG),
        _T.KILL: (_S.KILLING, _K.KILL_ALL),
        _T.GIVE_UP: (_S.KILLING, _K.BUG),
        _T.EMPTIED: (_S.DONE, _K.FINISH),
    },
    _S.DONE: {
        _T.BOOTED: (_S.DONE, _K.BUG),
        _T.STOP: (_S.DONE, _K.NONE),
        _T.ELAPSED: (_S.DONE, _K.BUG),
        _T.KILL: (_S.DONE, _K.NONE),
        _T.GIVE_UP: (_S.DONE, _K.BUG),
        _T.EMPTIED: (_S.DONE, _K.NONE),
    },
}
