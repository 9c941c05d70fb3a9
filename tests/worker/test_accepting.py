"""Connections that cannot be accepted stay in the queue, and nobody is reset."""

from __future__ import annotations

import asyncio
import resource
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from asgi_worker.accepting import Accepting
from asgi_worker.contract import Drain, Exit
from asgi_worker.queues import BATCH, Whose
from asgi_worker.scoreboard import Scoreboard
from tests.worker.alone import Alone, read_all
from tests.worker.conftest import Run
from tests.worker.http1_requests import tell as app
from tests.worker.serving import Arena, LoopKind
from tests.worker.test_main import wait_until

HELLO = """
    async def app(scope, receive, send):
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})
"""
GET = b"GET / HTTP/1.1\r\nHost: t\r\n\r\n"
LAST_GET = b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"
SHORTAGES = ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EBADF"]
TRIFLES = ["ECONNABORTED", "EINTR", "EPROTO", "EPERM", "ENETDOWN", "EINVAL"]


@contextmanager
def injected(worker: Alone, fault: str) -> Iterator[None]:
    """Let a system call of ``worker`` fail."""
    call = fault.partition(":")[0]
    words = ["strace", "-qq", "-f", "-p", str(worker.process.pid), "-o", "/dev/null"]
    strace = subprocess.Popen([*words, "-e", f"trace={call}", "-e", f"inject={fault}"])
    status = Path(f"/proc/{worker.process.pid}/status")
    try:
        wait_until(lambda: "TracerPid:\t0\n" not in status.read_text(), "strace is there")
        yield
    finally:
        strace.terminate()
        strace.wait()


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
@pytest.mark.parametrize("error", [*SHORTAGES, *TRIFLES])
def test_no_error_of_accept_costs_a_connection(
    tmp_path: Path, loop_kind: LoopKind, error: str
) -> None:
    with Alone(tmp_path, HELLO, loop_kind, lifespan="off") as worker, ExitStack() as stack:
        worker.get_ready()
        stack.enter_context(injected(worker, f"accept4:error={error}:when=3..20+4"))
        clients = [stack.enter_context(worker.connect()) for _ in range(12)]
        for client in clients:
            client.sendall(LAST_GET)
        assert [read_all(client)[:15] for client in clients] == [b"HTTP/1.1 200 OK"] * 12
        assert worker.said().count("cannot accept connections: ") == (error in SHORTAGES)
        assert "Traceback" not in worker.said()


def test_without_descriptors_connections_wait(tmp_path: Path, loop_kind: LoopKind) -> None:
    with Alone(tmp_path, HELLO, loop_kind, limits="32", lifespan="off") as worker:
        worker.get_ready()
        with ExitStack() as stack:
            clients = [stack.enter_context(worker.connect()) for _ in range(40)]
            wait_until(lambda: "cannot accept connections" in worker.said(), "it is said")
            for client in clients:  # in turn: each makes room for another
                client.sendall(LAST_GET)
                assert read_all(client).startswith(b"HTTP/1.1 200 OK")
        assert worker.said().count("cannot accept connections") == 1
        assert "Too many open files; they wait in the queue (allow more" in worker.said()
        assert worker.get("/after").endswith(b"/after")


def test_what_is_queued_at_the_end_is_served_as_room_is_made(
    tmp_path: Path, loop_kind: LoopKind
) -> None:
    with Alone(tmp_path, HELLO, loop_kind, limits="32", lifespan="off") as worker:
        worker.get_ready()
        with ExitStack() as stack:
            first = [stack.enter_context(worker.connect()) for _ in range(32)]
            for client in first:
                client.sendall(GET)
            wait_until(lambda: "cannot accept connections" in worker.said(), "it is said")
            worker.tell(Drain(60.0, successor=False))
            answers = [read_all(client) for client in first]
        assert [answer.count(b"200 OK") for answer in answers] == [1] * 32
        assert worker.ends() == Exit.OK


def test_one_at_a_time_from_queues_where_all_wait(run: Run, tmp_path: Path) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        own, inherited, other = (
            socket.create_server(("127.0.0.1", 0), reuse_port=True) for _ in range(3)
        )
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(str(tmp_path / "socket"))
        unix.listen()
        everything = {
            own: Whose.OWN,
            inherited: Whose.SHARED,
            unix: Whose.SHARED,
            other: Whose.NEIGHBOUR,
        }
        for workers, batches in ((2, [BATCH, 1, 1, BATCH]), (1, [BATCH] * 4)):
            accepting = Accepting(
                loop,
                workers=workers,
                begin=lambda: None,
                connections=(),
                board=Scoreboard(1).writer(0),
                in_line=True,
            )
            for listener, whose in everything.items():
                accepting.listen(listener, asyncio.Protocol, whose)
            assert [queue.batch for queue in accepting.queues] == batches
            accepting.stop()
        for listener in everything:
            listener.close()

    run(test())


def test_who_comes_after_the_end_is_refused(tmp_path: Path, loop_kind: LoopKind) -> None:
    with Alone(tmp_path, HELLO, loop_kind, lifespan="off") as worker:
        worker.get_ready()
        worker.tell(Drain(5.0, successor=False))
        assert worker.ends() == Exit.OK
        with pytest.raises(ConnectionRefusedError):
            worker.connect()


def test_an_inherited_queue_outlives_the_service(tmp_path: Path, loop_kind: LoopKind) -> None:
    """Though it has ``SO_REUSEPORT``, as our own have: somebody else holds it, and goes on."""
    with Alone(tmp_path, HELLO, loop_kind, inherited=True, lifespan="off") as worker:
        worker.get_ready()
        assert worker.get("/here").endswith(b"/here")
        worker.tell(Drain(5.0, successor=False))
        assert worker.ends() == Exit.OK
        with worker.connect() as client:
            accepted, _ = worker.listener.accept()
            accepted.close()
            assert client.recv(1) == b""


def test_a_burst_is_taken_within_a_few_turns(run: Run) -> None:
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 300

    async def test() -> None:
        async with Arena(app) as arena:
            clients = []
            for _ in range(100):
                clients.append(socket.create_connection(("127.0.0.1", arena.port)))
            for _ in range(100 // BATCH + 5):
                await asyncio.sleep(0.001)
            assert len(arena.server.connections) == 100
            for client in clients:
                client.close()
            await arena.eventually(lambda: not arena.server.connections, "all are closed")

    run(test())


def test_connections_that_are_reset_in_the_queue_do_no_harm(run: Run) -> None:
    async def test() -> None:
        async with Arena(app) as arena:
            for _ in range(10):
                client = socket.create_connection(("127.0.0.1", arena.port))
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.close()
            assert (await (await arena.connect()).get())[0] == b"HTTP/1.1 200 OK"

    run(test())
