"""Connections move between worker processes, whatever becomes of these."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from asgi_worker.contract import Drain, Exit, Promote
from asgi_worker.inbox import VERSION, Handed, Kind
from asgi_worker.scoreboard import State, Word
from tests.worker.alone import Alone, Commons, read_all
from tests.worker.serving import PATIENCE_S, LoopKind
from tests.worker.test_main import wait_until

WHO = """
    import os
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200,
                    "headers": [(b"content-length", b"8")]})
        await send({"type": "http.response.body", "body": b"%8d" % os.getpid()})
"""
GET = b"GET / HTTP/1.1\r\nHost: t\r\n\r\n"
GIVER, TAKER = 1, 2


@pytest.fixture
def commons() -> Iterator[Commons]:
    with closing(Commons()) as commons:
        yield commons


class Site:
    """Workers that have everything in common but their listeners."""

    def __init__(self, place: Path, loop: LoopKind, commons: Commons) -> None:
        self.place = place
        self.loop = loop
        self.commons = commons

    def worker(self, seat: int, *, balance: str = "kernel", **more: Any) -> Alone:
        more |= {"balance": balance, "lifespan": "off", "keep_alive_timeout_s": 60.0}
        return Alone(self.place, WHO, self.loop, commons=self.commons, seat=seat, **more)

    def stop(self, worker: Alone) -> None:
        """It gets no turn any more, and looks as if it were about to take what it is given."""
        worker.process.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{worker.process.pid}/stat")
        wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "it is stopped")
        promise_ns = time.monotonic_ns() + 10**12
        self.commons.board.writer(worker.seat)[Word.PROMISE_NS] = promise_ns


@pytest.fixture
def site(tmp_path: Path, loop_kind: LoopKind, commons: Commons) -> Site:
    return Site(tmp_path, loop_kind, commons)


def answer(client: socket.socket) -> int:
    """Who answers, and does not close."""
    received = b""
    while not received.partition(b"\r\n\r\n")[2][7:]:
        piece = client.recv(4096)
        assert piece, "closed"
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" not in head.lower()
    return int(body)


def ask(client: socket.socket) -> int:
    client.sendall(GET)
    return answer(client)


@pytest.mark.parametrize("why", ["Drain", "SIGTERM"])
def test_who_leaves_leaves_no_client_behind(site: Site, why: str) -> None:
    with site.worker(GIVER) as giver, site.worker(TAKER) as taker, ExitStack() as stack:
        giver.get_ready()
        taker.get_ready()
        clients = [stack.enter_context(giver.connect()) for _ in range(300)]
        assert {ask(client) for client in clients} == {giver.process.pid}
        if why == "Drain":
            giver.tell(Drain(30.0, successor=True))
        else:
            giver.process.send_signal(signal.SIGTERM)
        assert giver.ends() == Exit.OK
        assert {ask(client) for client in clients} == {taker.process.pid}
        assert giver.reading().given_idle == taker.reading().taken_idle == 300
        assert taker.reading().connections == 300


def test_what_a_crashed_worker_had_not_taken_is_for_the_next_with_its_seat(site: Site) -> None:
    with site.worker(GIVER) as giver, ExitStack() as stack:
        giver.get_ready()
        clients = [stack.enter_context(giver.connect()) for _ in range(20)]
        assert {ask(client) for client in clients} == {giver.process.pid}
        with site.worker(TAKER) as crashed:
            crashed.get_ready()
            site.stop(crashed)
            giver.tell(Drain(30.0, successor=True))
            assert giver.ends() == Exit.OK
            assert site.commons.inboxes.waiting(TAKER) == 20
            for client in clients:
                client.sendall(GET)
        site.commons.board.clear(TAKER)
        with site.worker(TAKER) as taker:
            taker.get_ready()
            assert {answer(client) for client in clients} == {taker.process.pid}
            assert {ask(client) for client in clients} == {taker.process.pid}


def test_on_trial_it_serves_its_inbox_and_no_queue(site: Site) -> None:
    with site.worker(TAKER, on_trial=True) as canary, canary.connect() as queued:
        canary.get_ready()
        queued.sendall(GET)
        queued.settimeout(0.5)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname(), timeout=PATIENCE_S)
            accepted, _ = listener.accept()
        with client, accepted:
            assert site.commons.inboxes.give(TAKER, Handed(Kind.FRESH), accepted.fileno())
            assert ask(client) == canary.process.pid
        with pytest.raises(TimeoutError):
            queued.recv(1)
        canary.tell(Promote())
        queued.settimeout(PATIENCE_S)
        assert answer(queued) == canary.process.pid
        assert canary.says_nothing(0.1)
        canary.tell(Drain(5.0, successor=False))
        assert canary.ends() == Exit.OK
        with pytest.raises(ConnectionRefusedError):
            canary.connect()


def test_without_descriptors_what_is_given_waits(site: Site) -> None:
    with site.worker(TAKER, limits="40") as taker, ExitStack() as stack:
        taker.get_ready()
        clients = []
        with socket.create_server(("127.0.0.1", 0)) as listener:
            for _ in range(50):
                client = socket.create_connection(listener.getsockname(), timeout=PATIENCE_S)
                accepted, _ = listener.accept()
                with accepted:
                    assert site.commons.inboxes.give(TAKER, Handed(Kind.FRESH), accepted.fileno())
                clients.append(stack.enter_context(client))
        wait_until(lambda: "they wait in the queue" in taker.said(), "it is said")
        wait_until(lambda: taker.reading().takes == 0, "who gives can see it")
        for client in clients:  # in turn: each makes room for another
            assert ask(client) == taker.process.pid
            client.close()
        wait_until(lambda: taker.reading().takes == VERSION, "it takes again")
        assert taker.reading().taken_fresh == 50
        assert taker.said().count("cannot accept connections") == 1


def test_with_balance_off_nothing_moves(site: Site) -> None:
    with site.worker(GIVER, balance="off") as giver, site.worker(TAKER, balance="off") as taker:
        giver.get_ready()
        taker.get_ready()
        assert giver.reading().takes == taker.reading().takes == 0
        with giver.connect() as client:
            assert ask(client) == giver.process.pid
            assert site.commons.board.column(Word.CONNECTIONS)[GIVER] == 1
            giver.tell(Drain(5.0, successor=True))
            wait_until(lambda: giver.reading().state is State.DRAINING, "it drains")
            client.sendall(GET)
            assert b"\r\nconnection: close\r\n" in read_all(client)
        assert giver.ends() == Exit.OK
        assert giver.reading().given_idle == taker.reading().taken_idle == 0
