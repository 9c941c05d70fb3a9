"""How a process of ours writes the Python stacks of its threads: when asked, and when it crashes.

Asked by :data:`~.contract.STACKS_SIGNAL`, it writes those of all threads as soon as Python code
goes on: in the middle of a loop, in ``time.sleep``, while it waits for a lock. By then nothing is
half made of what a stack consists of. A handler in C could write at once – and did: interrupted
between two instructions of the interpreter it followed a frame that was about to vanish, and took
a worker down that had done nothing but wait for a processor (CPython 3.13.0).

Native code that does not come back to Python answers to :data:`~.contract.NATIVE_STACKS_SIGNAL`
only, which is that handler. While such code runs, the stack it was called from stands still; those
of other threads may not, so they are left out.
"""

from __future__ import annotations

import faulthandler
import signal

from asgi_worker.contract import NATIVE_STACKS_SIGNAL, STACKS_SIGNAL


def write_when_asked(descriptor: int) -> None:
    """From now on this process writes there. For its main thread."""
    faulthandler.enable(descriptor, all_threads=True)
    faulthandler.register(NATIVE_STACKS_SIGNAL, descriptor, all_threads=False, chain=False)

    def write(*_: object) -> None:
        faulthandler.dump_traceback(descriptor, all_threads=True)

    signal.signal(STACKS_SIGNAL, write)
