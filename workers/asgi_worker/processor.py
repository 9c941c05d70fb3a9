"""How long a worker had to wait for a processor: a loop that is late for want of one does not hang.

On a machine with more to do than it can, everybody is late, and who takes the others for dead makes
it worse. The kernel counts the time (``/proc/PID/schedstat``; sched-stats.rst in its documentation)
for the main thread, which is that of the loop. Of a wait that is not over it knows nothing yet.
"""

from __future__ import annotations

import os

from asgi_worker.scoreboard import Word

PID = int(Word.PID)
WAITED_NS = int(Word.WAITED_NS)


def ran_ns(pid: int) -> int:
    """Nanoseconds that its main thread has run, as far as it was counted; 0 as below."""
    return _schedstat(pid)[0]


def waited_ns(pid: int) -> int:
    """Nanoseconds since its start; 0 where the kernel does not tell, or the process is gone."""
    return _schedstat(pid)[1]


def waited_since_tick_ns(words: memoryview) -> int:
    """How long the worker whose seat has these ``words`` waited since its loop last ticked."""
    return max(0, waited_ns(words[PID]) - words[WAITED_NS])


def _schedstat(pid: int) -> tuple[int, int]:
    try:
        file = os.open(f"/proc/{pid}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        try:  # bare: a file object makes six calls more, ten times a second
            ran, waited, _ = os.read(file, 128).split()
        finally:
            os.close(file)
    except (OSError, ValueError):
        return 0, 0
    return int(ran), int(waited)
