from __future__ import annotations

import pytest

from asgi_supervise.policy.wording import (
    Complaints,
    guilty_frame,
    how_it_died,
    where_it_hangs,
    with_traceback,
    without_our_start,
)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "exited with status 0"),
        (3, "exited with status 3"),
        (-9, "was killed by SIGKILL"),
        (-11, "crashed in native code (SIGSEGV)"),
        (-99, "was killed by signal 99"),
    ],
)
def test_how_it_died(status: int, words: str) -> None:
    assert how_it_died(status) == words


def test_a_traceback_is_told_once_whatever_address_or_pid_is_in_it() -> None:
    complaints = Complaints()
    first = complaints.word("KeyError: 'x'", "Traceback: <object at 0x7f00> in pid 41\n")
    assert first == "KeyError: 'x'\nTraceback: <object at 0x7f00> in pid 41"
    again = complaints.word("KeyError: 'x'", "Traceback: <object at 0x7fff> in pid 42\n")
    assert again == "KeyError: 'x' (as reported above)"
    assert complaints.word("KeyError: 'y'", "Traceback: other") == "KeyError: 'y'\nTraceback: other"


def test_complaints_without_end_do_not_fill_the_memory() -> None:
    complaints = Complaints()
    for number in range(1000):
        complaints.word("x" * number, "")
        assert len(complaints._told) <= Complaints.MOST


DUMP = """\
Thread 0x00007f01 [pool-0] (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 320 in wait
  File "/srv/app/pool.py", line 9 in work

Current thread 0x00007f02 (most recent call first):
  File "/usr/lib/python3.11/socket.py", line 7 in read
  File "/srv/.venv/lib/python3.11/site-packages/driver/net.py", line 3 in fetch
  File "/srv/app/views.py", line 41 in report
  File "/usr/lib/python3.11/asyncio/events.py", line 80 in _run
  File "/opt/workers/asgi_worker/server.py", line 50 in _task
  File "/opt/workers/asgi_worker/main.py", line 117 in run
  File "/opt/supervisor/asgi_supervise/host/template.py", line 252 in work
  File "/srv/bin/asgi-supervise", line 8 in <module>
"""


def test_the_guilty_frame_is_the_innermost_of_the_application_in_the_loop_s_thread() -> None:
    assert guilty_frame(DUMP) == "/srv/app/views.py:41 in report"


def test_without_a_frame_of_the_application_the_innermost_is_guilty() -> None:
    current = DUMP[DUMP.index("Current") :].splitlines(keepends=True)
    dump = "".join(line for line in current if "/srv/app" not in line)
    assert guilty_frame(dump) == "/usr/lib/python3.11/socket.py:7 in read"


@pytest.mark.parametrize("dump", ["", "Current thread 0x1 (most recent call first):\n", "\0\0"])
def test_no_frame_no_guilt(dump: str) -> None:
    assert guilty_frame(dump) == ""


def test_the_demo_is_an_application_too() -> None:
    dump = 'Current thread 0x1:\n  File "/x/asgi_supervise/demo.py", line 3 in hang\n'
    assert guilty_frame(dump) == "/x/asgi_supervise/demo.py:3 in hang"


def test_how_the_process_was_started_is_left_out_of_stacks() -> None:
    kept = without_our_start(DUMP)
    assert kept == DUMP[: DUMP.index('  File "/opt/workers/asgi_worker/main.py"')]


@pytest.mark.parametrize(
    ("stacks", "state", "words"),
    [
        (DUMP, "R", "at /srv/app/views.py:41 in report"),
        (DUMP, "T", "at /srv/app/views.py:41 in report"),
        (
            DUMP[DUMP.index("Current") : DUMP.index("  File", DUMP.index("Current"))],
            "R",
            "outside the application (has it too little processor time?)",
        ),
        ("", "T", "because it was stopped (SIGSTOP, or a debugger)"),
        ("", "t", "because it was stopped (SIGSTOP, or a debugger)"),
        ("", "D", "in the kernel (uninterruptible wait)"),
        ("", "S", "at an unknown place (it wrote no stack)"),
        ("", "", "at an unknown place (it wrote no stack)"),
    ],
)
def test_where_it_hangs(stacks: str, state: str, words: str) -> None:
    assert where_it_hangs(stacks, state) == words


def test_whose_work_a_death_was() -> None:
    assert how_it_died(-9, killed_by_us=True) == "was killed by SIGKILL from the master"
    assert how_it_died(-9, out_of_memory=True) == (
        "was killed by the kernel, because memory ran out (SIGKILL)"
    )
    assert how_it_died(-15, out_of_memory=True) == "was killed by SIGTERM"
    assert how_it_died(1, out_of_memory=True) == "exited with status 1"
    assert how_it_died(-11, stacks=DUMP) == (
        "crashed in native code (SIGSEGV) at /srv/app/views.py:41 in report"
    )


@pytest.mark.parametrize("blank", ["", "\n", "  \n"])
def test_no_line_is_left_blank_for_a_traceback_that_is_not_there(blank: str) -> None:
    assert with_traceback("it hangs", blank) == "it hangs"
    assert with_traceback("it hangs", f"  File x\n{blank}") == "it hangs\n  File x"
