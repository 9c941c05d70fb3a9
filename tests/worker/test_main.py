"""A worker process by itself: what it is told, what it says, and how it ends."""

from __future__ import annotations

import os
import select
import signal
import time
from pathlib import Path

import pytest

from asgi_worker.contract import (
    LONGEST_MESSAGE_BYTES,
    STACKS_SIGNAL,
    Awake,
    Drain,
    Exit,
    Reopen,
    Spawn,
    decode,
)
from asgi_worker.scoreboard import State
from tests.worker.alone import GENERATION, SLOT, Alone, read_all
from tests.worker.serving import PATIENCE_S, LoopKind

HELLO = """
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            while True:
                kind = (await receive())["type"]
                await send({"type": kind + ".complete"})
                if kind == "lifespan.shutdown":
                    print("shut down", file=__import__("sys").stderr, flush=True)
                    return
        if scope["path"] == "/sleep":
            import time
            time.sleep(30)
        if scope["path"] == "/big":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        if scope["path"] == "/events":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"first", "more_body": True})
            await receive()
            assert (await receive())["type"] == "http.disconnect"
            print("told", file=__import__("sys").stderr, flush=True)
            import asyncio
            await asyncio.Event().wait()
        body = repr(scope["extensions"]["asgi_supervise"]).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
"""
SLOW_START = """
    import asyncio, sys
    async def app(scope, receive, send):
        await receive()
        print("starting", file=sys.stderr, flush=True)
        await asyncio.sleep(60)
"""


def title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()


def wait_until(condition: object, what: str) -> None:
    assert callable(condition)
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def files_of(worker: Alone) -> set[str]:
    return set(os.listdir(f"/proc/{worker.process.pid}/fd"))


def stacks_of(worker: Alone) -> str:
    return os.pread(worker.stacks, 65536, 0).decode()


def test_it_says_who_it_is(tmp_path: Path, loop_kind: LoopKind) -> None:
    with Alone(tmp_path, HELLO, loop_kind) as worker:
        worker.get_ready()
        reading = worker.reading()
        assert (reading.slot, reading.generation) == (SLOT, GENERATION)
        assert reading.pid == worker.process.pid
        assert reading.state is State.READY
        assert reading.promise_ns > reading.stamp_ns
        told = f"{{'slot': {SLOT}, 'generation': {GENERATION}, 'workers': 1}}"
        assert told.encode() in worker.get()
        name = f"asgi-supervise: worker slot={SLOT} gen={GENERATION} served:app"
        assert title(worker.process.pid) == name
        with worker.connect() as client:
            client.sendall(b"GET /events HTTP/1.1\r\nHost: t\r\n\r\n")
            assert client.recv(65536)
            worker.tell(Drain(2.0, successor=False))
            wait_until(lambda: title(worker.process.pid) == f"{name} (draining)", "it says so")
            assert worker.reading().state is State.DRAINING
        assert worker.ends() == Exit.OK
        assert worker.reading().promise_ns == 0


def test_stacks_are_written_while_the_loop_hangs(tmp_path: Path, loop_kind: LoopKind) -> None:
    with Alone(tmp_path, HELLO, loop_kind) as worker:
        worker.get_ready()
        with worker.connect() as client:
            client.sendall(b"GET /sleep HTTP/1.1\r\nHost: t\r\n\r\n")
            wait_until(
                lambda: time.monotonic_ns() > worker.reading().promise_ns, "a broken promise"
            )
            worker.process.send_signal(STACKS_SIGNAL)
            wait_until(lambda: "in <module>" in stacks_of(worker), "stacks")
            assert 'served.py", line 12 in app' in stacks_of(worker)
            assert worker.process.poll() is None
            worker.process.send_signal(signal.SIGSEGV)
            assert worker.ends() == -signal.SIGSEGV
        assert "Fatal Python error: Segmentation fault" in stacks_of(worker)


def test_asking_a_worker_that_is_busy_for_its_stacks_does_no_harm(
    tmp_path: Path, loop_kind: LoopKind
) -> None:
    with Alone(tmp_path, HELLO, loop_kind) as worker:
        worker.get_ready()
        with worker.connect() as client:
            for _ in range(300):
                client.sendall(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n" * 8)
                worker.process.send_signal(STACKS_SIGNAL)
                came = b""
                while came.count(b"HTTP/1.1 200") < 8:
                    came += client.recv(65536)
        assert worker.process.poll() is None
        assert "Current thread" in stacks_of(worker)


def test_endless_responses_are_told_late_and_then_cancelled(
    tmp_path: Path, loop_kind: LoopKind
) -> None:
    with Alone(tmp_path, HELLO, loop_kind, shutdown_reserve_s=1.0) as worker:
        worker.get_ready()
        with worker.connect() as client:
            client.sendall(b"GET /events HTTP/1.1\r\nHost: t\r\n\r\n")
            assert client.recv(65536)
            began = time.monotonic()
            worker.tell(Drain(3.0, successor=False))
            wait_until(lambda: "told" in worker.said(), "http.disconnect")
            assert time.monotonic() - began > 0.9
            assert worker.ends() == Exit.OK
            assert time.monotonic() - began < 3.0
            assert b"0\r\n\r\n" not in read_all(client), "the client can tell that it was cut"
        assert "WARNING 1 request still runs and is told to stop: " in worker.said()
        assert "WARNING 1 request cancelled at the end of the budget" in worker.said()
        assert worker.said().endswith("shut down\n"), "lifespan shutdown runs whatever happened"


def test_a_client_that_hangs_does_not_keep_lifespan_from_its_shutdown(
    tmp_path: Path, loop_kind: LoopKind
) -> None:
    with Alone(tmp_path, HELLO, loop_kind, shutdown_reserve_s=1.0) as worker:
        worker.get_ready()
        with worker.connect() as deaf, worker.connect() as mute:
            deaf.sendall(b"GET /big HTTP/1.1\r\nHost: t\r\n\r\n")
            mute.sendall(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\n")
            wait_until(lambda: worker.reading().in_flight == 1, "it is stuck")
            worker.tell(Drain(3.0, successor=True))
            assert worker.ends() == Exit.OK
        assert worker.said().endswith("shut down\n")


def test_a_later_order_with_less_time_is_obeyed(tmp_path: Path, loop_kind: LoopKind) -> None:
    with Alone(tmp_path, HELLO, loop_kind) as worker:
        worker.get_ready()
        with worker.connect() as client:
            client.sendall(b"GET /events HTTP/1.1\r\nHost: t\r\n\r\n")
            assert client.recv(65536)
            began = time.monotonic()
            worker.tell(Drain(60.0, successor=False))
            worker.tell(Drain(90.0, successor=False))
            worker.process.send_signal(signal.SIGTERM)
            wait_until(lambda: worker.reading().state is State.DRAINING, "it drains")
            worker.tell(Drain(1.0, successor=True))
            assert worker.ends() == Exit.OK
            assert time.monotonic() - began < 5
        assert worker.said().endswith("shut down\n")


def test_a_worker_that_is_terminated_alone_leaves_its_queue_to_its_replacement(
    tmp_path: Path, loop_kind: LoopKind
) -> None:
    with Alone(tmp_path, HELLO, loop_kind) as worker:
        worker.get_ready()
        worker.process.send_signal(signal.SIGTERM)
        assert worker.ends() == Exit.OK
        assert worker.said().endswith("shut down\n")
        with worker.connect() as client:
            accepted, _ = worker.listener.accept()
            with accepted:
                accepted.sendall(b"from the replacement")
            assert read_all(client) == b"from the replacement"


@pytest.mark.parametrize("how", ["Drain", "TERM", "end-of-file"])
def test_a_starting_worker_stops(tmp_path: Path, loop_kind: LoopKind, how: str) -> None:
    with Alone(tmp_path, SLOW_START, loop_kind) as worker:
        wait_until(lambda: "starting" in worker.said(), "it starts")
        if how == "Drain":
            worker.tell(Drain(5.0, successor=False))
        elif how == "TERM":
            worker.process.send_signal(signal.SIGTERM)
        else:
            worker.channel.close()
        assert worker.ends() == Exit.OK


def test_an_order_that_came_during_the_import_is_found(tmp_path: Path, loop_kind: LoopKind) -> None:
    with Alone(tmp_path, SLOW_START, loop_kind) as worker:
        worker.tell(Drain(5.0, successor=False))
        assert worker.ends() == Exit.OK
        assert worker.said() == "", "nothing of the application was started"


def test_a_start_that_takes_too_long_is_told_with_where_it_waits(
    tmp_path: Path, loop_kind: LoopKind
) -> None:
    with Alone(tmp_path, SLOW_START, loop_kind, startup_timeout_s=4.0) as worker:
        failure = worker.fails()
        assert "did not complete lifespan startup" in failure.reason
        assert "await asyncio.sleep(60)" in failure.traceback
        assert worker.ends() == Exit.BOOT


def test_the_access_log_is_reopened(tmp_path: Path, loop_kind: LoopKind) -> None:
    """From a pipe, to which lines go in pieces when it is polled, to a file and back."""
    reader, writer = os.pipe()
    try:
        with Alone(tmp_path, HELLO, loop_kind, access_log=writer) as worker:
            worker.get_ready()
            worker.get("/one")
            assert b'"GET /one HTTP/1.1" 200' in os.read(reader, 4096)
            files = files_of(worker)
            new = os.open(tmp_path / "access.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            errors = os.open(tmp_path / "error.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            worker.tell(Reopen((writer, 2)), new, errors)
            os.close(new)
            os.close(errors)
            wait_until(lambda: worker.get("/two") and (tmp_path / "access.log").read_text(), "two")
            assert '"GET /two HTTP/1.1" 200' in (tmp_path / "access.log").read_text()
            worker.tell(Reopen((writer,)), writer, writer)  # more than it can place
            worker.tell(Spawn(0, 0), writer)  # not for workers
            worker.channel.send(b"\xc1")  # not a message
            worker.tell(Reopen((writer,)), writer)
            wait_until(lambda: worker.get("/three") and select.select([reader], [], [], 0)[0], "3")
            assert b"/three" in os.read(reader, 65536)
            wait_until(lambda: files_of(worker) == files, "none is left over")
            worker.tell(Drain(5.0, successor=False))
            assert worker.ends() == Exit.OK
            said = (tmp_path / "error.log").read_text()
            assert "cannot reopen log files: 2 descriptors came for 1" in said
            assert "not for workers: Spawn(slot=0, seat=0, on_trial=False)" in said
            assert "not understood" in said
            assert said.endswith("shut down\n")
    finally:
        os.close(reader)
        os.close(writer)


def test_the_queue_is_left_to_the_successor(tmp_path: Path, loop_kind: LoopKind) -> None:
    """But not what is queued behind a hung loop, of which the kernel may have told nobody else."""
    with Alone(tmp_path, HELLO, loop_kind) as worker:
        worker.get_ready()
        worker.process.send_signal(signal.SIGSTOP)
        worker.tell(Drain(10.0, successor=True))
        clients = [worker.connect() for _ in range(5)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        worker.process.send_signal(signal.SIGCONT)
        for client in clients:
            with client:
                assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
        assert worker.ends() == Exit.OK
        with worker.connect() as client:
            accepted, _ = worker.listener.accept()
            with accepted:
                accepted.sendall(b"from the successor")
                assert client.recv(4096) == b"from the successor"


def test_a_resting_worker_tells_the_master_when_it_wakes(
    tmp_path: Path, loop_kind: LoopKind
) -> None:
    with Alone(tmp_path, HELLO, loop_kind) as worker:
        worker.get_ready()
        for _ in range(2):
            with worker.connect():
                assert decode(worker.channel.recv(LONGEST_MESSAGE_BYTES)) == Awake()
            deadline = time.monotonic() + PATIENCE_S
            while (seen := worker.reading()).promise_ns - seen.stamp_ns < 0.9e9:
                assert time.monotonic() < deadline, "it rests when the connection is gone"
                time.sleep(0.01)
