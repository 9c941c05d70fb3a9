"""What goes to the log: acts in order, how deaths and stacks are worded, nothing told twice."""

from __future__ import annotations

import re
from signal import Signals
from typing import Literal

from asgi_supervise.policy import vocabulary as v

_VARYING = re.compile(r"0x[0-9a-fA-F]+|\d+")
"""What may differ in the same traceback of two processes: addresses, pids, times."""
_FRAME = re.compile(
    r'^  File "(?P<file>.+)", line (?P<line>\d+) in (?P<function>.+)$', re.MULTILINE
)
_NOT_THE_APPLICATION = re.compile(
    r"/lib/python3\.\d+/|/asgi_worker/|/asgi_supervise/(?!demo\.py)|^<"
)
_OUR_ANSWER = re.compile(r"/asgi_worker/stacks\.py")
"""The frame that writes what was asked for."""
_OUR_START = re.compile(r"/asgi_worker/main\.py|/asgi_supervise/(?!demo\.py)")
"""Frames from here outwards are how the process came to be: the same in all of them."""
_NATIVE_CRASHES = frozenset({Signals.SIGSEGV, Signals.SIGBUS, Signals.SIGILL, Signals.SIGFPE})

Level = Literal["debug", "info", "warning", "error"]


class Journal:
    """The acts decided on, in order; log lines are acts too."""

    def __init__(self) -> None:
        self._acts: list[v.Act] = []

    def add(self, act: v.Act) -> None:
        """Have ``act`` done."""
        self._acts.append(act)

    def say(self, level: Level, text: str) -> None:
        """Have ``text`` logged."""
        self._acts.append(v.Say(level, text))

    def take(self) -> list[v.Act]:
        """All since the last time."""
        acts, self._acts = self._acts, []
        return acts


def how_it_died(
    status: int, *, killed_by_us: bool = False, out_of_memory: bool = False, stacks: str = ""
) -> str:
    """For a sentence that begins with the process: exit status, or minus the killing signal."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        name = Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    if killed_by_us and -status == Signals.SIGKILL:
        return f"was killed by {name} from the master"
    if out_of_memory and -status == Signals.SIGKILL:
        return "was killed by the kernel, because memory ran out (SIGKILL)"
    if -status in _NATIVE_CRASHES:
        where = guilty_frame(stacks)
        return f"crashed in native code ({name})" + (f" at {where}" if where else "")
    return f"was killed by {name}"


def guilty_frame(stacks: str) -> str:
    """``FILE:LINE in FUNCTION`` of the application's innermost frame in a dump by ``faulthandler``.

    The thread looked at is the current one, where the loop runs; if no frame of the application is
    on its stack, its innermost frame. Empty if there is none.
    """
    stacks = without_our_start(stacks)
    threads = re.split(r"^(?=(?:Current thread|Thread) 0x)", stacks, flags=re.MULTILINE)
    current = [text for text in threads if text.startswith("Current thread")]
    frames = list(_FRAME.finditer((current or threads)[-1]))
    if not frames:
        return ""
    ours = [frame for frame in frames if not _NOT_THE_APPLICATION.search(frame["file"])]
    frame = (ours or frames)[0]
    return f"{frame['file']}:{frame['line']} in {frame['function']}"


def without_our_start(stacks: str) -> str:
    """Each thread in a dump by ``faulthandler`` without the frames that started the process."""
    kept = []
    ours = False
    for line in stacks.splitlines(keepends=True):
        frame = _FRAME.match(line)
        ours = frame is not None and (ours or _OUR_START.search(frame["file"]) is not None)
        if not ours and not (frame and _OUR_ANSWER.search(frame["file"])):
            kept.append(line)
    return "".join(kept)


def where_it_hangs(stacks: str, state: str) -> str:
    """For a sentence: where a process is, by its stacks or by the kernel's word for its state."""
    frame = guilty_frame(stacks)
    if frame:
        return f"at {frame}"
    match state:
        case "T" | "t":
            return "because it was stopped (SIGSTOP, or a debugger)"
        case "D":
            return "in the kernel (uninterruptible wait)"
        case _ if stacks:
            return "outside the application (has it too little processor time?)"
        case _:
            return "at an unknown place (it wrote no stack)"


class Complaints:
    """Tracebacks told already. N workers that fail for one reason print it once, not N times."""

    MOST = 50

    def __init__(self) -> None:
        self._told: set[str] = set()

    def word(self, reason: str, traceback: str, key: str = "") -> str:
        """``reason``, followed by ``traceback`` when that is news: that of ``key``, if given."""
        key = key or _VARYING.sub("#", f"{reason}\n{traceback}")
        if key in self._told:
            return f"{reason} (as reported above)"
        if len(self._told) >= self.MOST:  # reasons that always differ must not fill the memory
            self._told.clear()
        self._told.add(key)
        return with_traceback(reason, traceback)


def with_traceback(reason: str, traceback: str) -> str:
    """``reason``, and ``traceback`` below it if there is one."""
    return f"{reason}\n{traceback.rstrip()}" if traceback.strip() else reason
