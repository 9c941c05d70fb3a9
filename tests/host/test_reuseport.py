"""The program by hand, and in the kernel."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_supervise.host import reuseport, sockets
from tests.host.cookies import CONNECTIONS, NOT_ALLOWED

ROOT = Path(__file__).parents[2]


def run(steps: list[tuple[int, int, int, int]], drawn: int) -> int:
    """What the kernel does with the program when it draws this number (bpf(2), classic)."""
    accumulator, at = 0, 0
    while True:
        code, if_true, if_false, operand = steps[at]
        at += 1
        match code:
            case 0x20:
                assert operand == 2**32 - 0x1000 + 56
                accumulator = drawn
            case 0x94:
                accumulator %= operand
            case 0x35:
                at += if_true if accumulator >= operand else if_false
            case 0x06:
                return operand
            case _:
                raise AssertionError(f"no such instruction: {code}")


@given(st.lists(st.integers(0, 9), min_size=1, max_size=70).filter(any), st.integers(0, 2**20))
def test_each_index_is_chosen_as_often_as_it_weighs(weights: list[int], first: int) -> None:
    steps = reuseport.program(weights)
    drawn = Counter(run(steps, first + number) for number in range(sum(weights)))
    assert drawn == {index: weight for index, weight in enumerate(weights) if weight}


@pytest.mark.parametrize("weights", [(), (0,), (0, 0)])
def test_somebody_must_be_chosen(weights: Sequence[int]) -> None:
    with pytest.raises(ValueError, match="no index"):
        reuseport.program(weights)


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "[::1]:0"])
def test_the_kernel_chooses_the_slots_that_weigh(bind: str) -> None:
    listeners = sockets.listen([bind], slots=4, backlog=200, uds_mode=0o600, owner=None)
    try:
        for weights in ((0, 1, 0, 3), (1, 0, 0, 0), (0, 0, 1, 0), (1, 1, 1, 1)):
            listeners.steer(weights)
            counts = connections(listeners, 200)
            assert {slot for slot, weight in enumerate(weights) if weight} == set(counts)
            if weights == (0, 1, 0, 3):
                assert counts[3] > counts[1]
    finally:
        listeners.close()


def connections(listeners: sockets.Listeners, number: int) -> Counter[int]:
    """Open and take so many; how many came to each slot."""
    counts: Counter[int] = Counter()
    with contextlib.ExitStack() as opened:
        for _ in range(number):
            opened.enter_context(
                socket.create_connection(listeners.by_slot[0][0].getsockname()[:2])
            )
        for slot, (listener,) in enumerate(listeners.by_slot):
            with contextlib.suppress(BlockingIOError):
                while True:
                    listener.accept()[0].close()
                    counts[slot] += 1
    assert counts.total() == number
    return counts


@pytest.mark.process
def test_under_syn_cookies_the_last_packet_of_the_handshake_chooses_and_is_always_taken() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.host.cookies"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": "supervisor:workers:."},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode == NOT_ALLOWED:
        pytest.skip("may not have a network of its own")
    assert done.stderr == ""
    counts, taken, refused = json.loads(done.stdout)
    assert (taken, refused) == (CONNECTIONS * len(counts), 0)
    for first, second, third in counts.values():
        assert first + third == CONNECTIONS
        assert second == 0
        assert third > first > 0


def test_what_is_no_group_is_refused() -> None:
    with socket.socket(socket.AF_UNIX) as other, pytest.raises(OSError, match=r"\w") as refused:
        reuseport.attach(other, (1,))
    assert refused.value.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOPROTOOPT, errno.EACCES)


def test_after_it_was_closed_there_is_nothing_to_steer() -> None:
    listeners = sockets.listen(["127.0.0.1:0"], slots=2, backlog=5, uds_mode=0o600, owner=None)
    listeners.close()
    listeners.steer((1, 0))
