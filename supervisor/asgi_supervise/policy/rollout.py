"""One reload: from the settings read anew to the last worker replaced, or back.

A reload is a number, the generation. This table only says how far the newest one has come; what
follows for the fleet is decided afresh in every turn by comparing generations, so there is no
procedure that could be interrupted half-way.

The first worker of a generation is its canary: it gets ready beside the worker it shall replace
and is watched for a while (it *bakes*). Until that is over no worker of the former generation is
touched, so abandoning costs nothing.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

MOST_YOUNG_DEATHS = 3
"""So many workers of an accepted generation may die young before it has replaced the former."""


class Step(enum.Enum):
    """How far a rollout has come."""

    READING = "reading settings"
    TRYING = "starting its first worker"
    BAKING = "watching its first worker"
    ROLLING = "replacing workers"
    COMPLETE = "complete"
    ABANDONED = "abandoned"


class Mark(enum.Enum):
    """What happens to a rollout."""

    READ = "settings read"
    FAILED = "failed"  # settings refused; canary or its template did not start, or died
    STARTED = "started"  # the canary is ready
    BAKED = "baked"
    SPOILED = "spoiled"  # too many young deaths
    REPLACED = "replaced"  # no worker of a former generation is left to be replaced
    STOPPED = "stopped"  # the service stops


class Deed(enum.Enum):
    """What a mark obliges us to do."""

    NONE = "none"
    BAKE = "bake"
    ADOPT = "adopt"
    ABANDON = "abandon"
    RETURN = "return"  # to the former generation
    FINISH = "finish"
    BUG = "bug"


_S, _M, _D = Step, Mark, Deed

ROLLOUT: dict[Step, dict[Mark, tuple[Step, Deed]]] = {
    _S.READING: {
        _M.READ: (_S.TRYING, _D.NONE),
        _M.FAILED: (_S.ABANDONED, _D.ABANDON),
        _M.STARTED: (_S.READING, _D.BUG),
        _M.BAKED: (_S.READING, _D.BUG),
        _M.SPOILED: (_S.READING, _D.BUG),
        _M.REPLACED: (_S.READING, _D.BUG),
        _M.STOPPED: (_S.ABANDONED, _D.ABANDON),
    },
    _S.TRYING: {
        _M.READ: (_S.TRYING, _D.BUG),
        _M.FAILED: (_S.ABANDONED, _D.ABANDON),
        _M.STARTED: (_S.BAKING, _D.BAKE),
        _M.BAKED: (_S.TRYING, _D.BUG),
        _M.SPOILED: (_S.TRYING, _D.BUG),
        _M.REPLACED: (_S.TRYING, _D.BUG),
        _M.STOPPED: (_S.ABANDONED, _D.ABANDON),
    },
    _S.BAKING: {
        _M.READ: (_S.BAKING, _D.BUG),
        _M.FAILED: (_S.ABANDONED, _D.ABANDON),
        _M.STARTED: (_S.BAKING, _D.BUG),
        _M.BAKED: (_S.ROLLING, _D.ADOPT),
        _M.SPOILED: (_S.BAKING, _D.BUG),
        _M.REPLACED: (_S.BAKING, _D.BUG),
        _M.STOPPED: (_S.ABANDONED, _D.ABANDON),
    },
    _S.ROLLING: {
        _M.READ: (_S.ROLLING, _D.BUG),
        _M.FAILED: (_S.ROLLING, _D.BUG),  # single workers are tried again
        _M.STARTED: (_S.ROLLING, _D.BUG),
        _M.BAKED: (_S.ROLLING, _D.BUG),
        _M.SPOILED: (_S.ABANDONED, _D.RETURN),
        _M.REPLACED: (_S.COMPLETE, _D.FINISH),
        _M.STOPPED: (_S.ABANDONED, _D.NONE),  # what it has replaced stays replaced
    },
    _S.COMPLETE: dict.fromkeys(Mark, (_S.COMPLETE, _D.BUG)),
    _S.ABANDONED: dict.fromkeys(Mark, (_S.ABANDONED, _D.BUG)),
}


@dataclass(slots=True)
class Rollout:
    """How far one generation has come. Only :meth:`mark` changes the step."""

    generation: int
    former: int
    by: str
    """Who asked for it, for the log."""
    began: float
    step: Step = Step.READING
    template_asked: bool = False
    canary: int | None = None
    """The number of its first worker, once asked for."""
    baked_at: float = math.inf
    young_deaths: int = 0
    reason: str = ""
    """Why it was abandoned: one line."""
    traceback: str = ""

    def mark(self, mark: Mark) -> Deed:
        """Go to the next step; the caller must do the deed."""
        self.step, deed = ROLLOUT[self.step][mark]
        return deed

    @property
    def candidate(self) -> int | None:
        """The generation while it is on trial: not accepted yet."""
        return self.generation if self.step in (Step.TRYING, Step.BAKING) else None
