"""The end of a queue: nobody is in it who is not served, at any moment."""

from __future__ import annotations

import asyncio
import errno
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from asgi_worker import ending
from asgi_worker.application import Receive, Scope, Send
from tests.worker.conftest import Run
from tests.worker.serving import PATIENCE_S, Arena

NOT_AT_ONCE_S = 0.2
"""On this machine a handshake needs a hundredth of a millisecond; who was dropped tries again in a
second."""
GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


@pytest.fixture(params=["127.0.0.1", "::1"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.create_server((request.param, 0), family=family) as listener:
        yield listener


def knock(listener: socket.socket, stack: ExitStack) -> socket.socket:
    """Somebody who comes now, and does not wait."""
    client = stack.enter_context(socket.socket(listener.family))
    client.setblocking(False)
    assert client.connect_ex(listener.getsockname()) == errno.EINPROGRESS
    return client


def outcome(client: socket.socket, within_s: float) -> int | None:
    """0: connected; ``None``: nothing yet."""
    if not select.select([], [client], [], within_s)[1]:
        return None
    return client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def test_who_comes_between_the_last_look_and_the_end_is_refused(listener: socket.socket) -> None:
    with ExitStack() as stack:
        before = knock(listener, stack)
        assert outcome(before, PATIENCE_S) == 0
        ending.admit_no_more(listener)
        listener.accept()[0].close()
        late = knock(listener, stack)
        assert outcome(late, NOT_AT_ONCE_S) is None
        ending.end(listener)
        assert outcome(late, PATIENCE_S) == errno.ECONNREFUSED


def test_who_has_begun_the_handshake_is_let_in(listener: socket.socket) -> None:
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)  # it ends with the request
    listener.settimeout(PATIENCE_S)
    with ExitStack() as stack:
        early = knock(listener, stack)
        assert outcome(early, PATIENCE_S) == 0
        ending.admit_no_more(listener)
        early.sendall(GET)
        with listener.accept()[0] as served:
            assert served.recv(4096) == GET
            served.sendall(b"here")
        early.setblocking(True)
        assert early.recv(9) == b"here"


def test_without_filters_there_is_room_for_one_only() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(9)
        with pytest.raises(OSError, match="Invalid argument"):
            ending.attach(listener, 26, ())
        ending.end(listener)
        ending.end(listener)  # by another process that holds it
        ending.admit_no_more(listener)


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def test_a_server_that_stops_serves_who_has_begun_the_handshake_and_nobody_else(run: Run) -> None:
    async def test() -> None:
        async with Arena(hello) as arena:
            arena.listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
            early = await arena.connect()
            draining = asyncio.ensure_future(arena.server.drain(10, successor=False))
            await asyncio.sleep(0)
            with ExitStack() as stack:
                late = knock(arena.listener, stack)
                status, fields, _ = await early.get()
                assert status == b"HTTP/1.1 200 OK"
                assert fields[b"connection"] == b"close"
                await draining
                assert outcome(late, PATIENCE_S) == errno.ECONNREFUSED

    run(test())
