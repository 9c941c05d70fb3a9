"""How deaths and failures are worded in the log, and that the same is not told twice."""

from __future__ import annotations

import re
from signal import Signals

_VARYING = re.compile(r"0x[0-9a-fA-F]+|\d+")
"""What may differ in the same traceback of two processes: addresses, pids, times."""


def how_it_died(status: int) -> str:
    """For a sentence that begins with the process: exit status, or minus the killing signal."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


class Complaints:
    """Tracebacks told already. N workers that fail for one reason print it once, not N times."""

    MOST = 50

    def __init__(self) -> None:
        self._told: set[str] = set()

    def word(self, reason: str, traceback: str) -> str:
        """``reason``, followed by ``traceback`` when that is news."""
        key = _VARYING.sub("#", f"{reason}\n{traceback}")
        if key in self._told:
            return f"{reason} (as reported above)"
        if len(self._told) >= self.MOST:  # reasons that always differ must not fill the memory
            self._told.clear()
        self._told.add(key)
        return f"{reason}\n{traceback.rstrip()}" if traceback else reason
