"""Kept-alive connections move to who has least to do: a worker that came late gets its share."""

from __future__ import annotations

import time

import pytest

from tests.process.boards import Board
from tests.process.loaded import FULL, kill, spend, under_load
from tests.process.service import until

pytestmark = [pytest.mark.process, pytest.mark.slow]

WORKERS = 4
SHARE = 0.8
"""Of the mean: what a worker has whose share is complete, but for what moves all the time."""
WITHIN_S = 5.0
PATIENCE_S = 15.0
"""On a machine that is busy with other things. What it took is printed."""


def has_its_share(board: Board, pid: int) -> bool:
    counts = {one.pid: one.connections for one in board.seats()}
    return counts.get(pid, 0) >= SHARE * sum(counts.values()) / WORKERS


def test_the_successor_of_a_dead_worker_gets_its_share_of_the_kept_alive() -> None:
    with under_load("SIGKILL of one of four", plan=FULL, workers=WORKERS) as (service, crowd, _):
        board = Board(service)
        deaths = kill(service.workers()[1])
        slot, successor = service.ready()
        ready_at = time.monotonic()
        until(lambda: has_its_share(board, successor), "it has its share", PATIENCE_S)
        took_s = time.monotonic() - ready_at
        counts = {one.slot: one.connections for one in board.seats()}
        print(f"its share after {took_s:.2f} s ({WITHIN_S:g} s on a machine of its own): {counts}")
        assert slot == 1
        assert not crowd.stop().beyond(deaths)


def test_where_all_do_the_same_nothing_moves_to_and_fro() -> None:
    with under_load("constant load", plan=FULL, workers=WORKERS) as (service, crowd, _):
        board = Board(service)
        before = board.total("given_idle")
        spend(3)
        moved = board.total("given_idle") - before
        counts = board.connections()
        result = crowd.stop()
    print(f"in 3 s {moved} kept-alive connections were moved; {counts}")
    assert moved < FULL.kept / 4
    assert result.lost == result.reconnects == 0
