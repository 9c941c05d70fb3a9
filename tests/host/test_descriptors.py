"""What is said at start where there are too few descriptors."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator

import pytest

from asgi_supervise.host import sockets
from asgi_supervise.host.descriptors import TooFewDescriptors, make_inboxes
from asgi_supervise.host.sockets import BindError
from tests.host.proc import descriptors, limit_descriptors

SEATS = 5
INBOXES = 2 * SEATS + 1
NEEDED = INBOXES + 3 * (SEATS + 2) + 6


@contextlib.contextmanager
def room_for(more: int) -> Iterator[None]:
    """So many descriptors, and afterwards there are as many as before."""
    before = descriptors()
    limits = limit_descriptors(more)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert descriptors().keys() == before.keys()


@pytest.mark.parametrize("room", [0, 1, 2, INBOXES - 1, INBOXES])
def test_no_room_for_the_inboxes(room: int) -> None:
    with room_for(room), pytest.raises(TooFewDescriptors) as refused:
        make_inboxes(SEATS)
    assert str(refused.value).startswith(
        "cannot hold the sockets of so many workers: Too many open files; raise the limit of open "
        "files, which is "
    )


@pytest.mark.parametrize("room", [INBOXES + 1, NEEDED - 1])
def test_room_for_the_inboxes_and_not_for_the_workers(room: int) -> None:
    with (
        room_for(room),
        pytest.raises(TooFewDescriptors, match=r"would have \d+ open files; raise"),
    ):
        make_inboxes(SEATS)


def test_room_enough() -> None:
    with room_for(NEEDED):
        make_inboxes(SEATS).close()


def test_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    unlimited = resource.RLIM_INFINITY, resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda which: unlimited)
    make_inboxes(SEATS).close()


def test_without_proc_only_what_fails_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(path: str) -> list[str]:
        raise FileNotFoundError(path)

    with room_for(NEEDED - 1), monkeypatch.context() as patched:
        patched.setattr(os, "listdir", hidden)
        make_inboxes(SEATS).close()


def test_no_room_for_the_listeners() -> None:
    with room_for(3), pytest.raises(BindError) as refused:
        sockets.listen(["127.0.0.1:0"], slots=4, backlog=8, uds_mode=0o600, owner=None)
    assert str(refused.value).startswith(
        "cannot bind 127.0.0.1:0: Too many open files; raise the limit of open files, which is "
    )
    assert str(refused.value).endswith(" (ulimit -n, LimitNOFILE=), or start fewer workers")
