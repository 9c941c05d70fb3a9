from __future__ import annotations

import pytest

from asgi_supervise.policy.wording import Complaints, how_it_died


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
