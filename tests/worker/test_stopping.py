"""How an application may learn that the service stops, as libraries do that were written for
uvicorn: whose handler SIGTERM has, and what its ``should_exit`` says.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

from asgi_worker.contract import Drain, Exit
from tests.worker.alone import Alone, read_all
from tests.worker.serving import LoopKind

STREAM = """
    import asyncio, signal

    async def app(scope, receive, send):
        assert scope["type"] == "http"
        server = signal.getsignal(signal.SIGTERM).__self__
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not server.should_exit:
            await send({"type": "http.response.body", "body": b"event ", "more_body": True})
            await asyncio.sleep(0.01)
        if scope["path"] == "/goodbye":
            await send({"type": "http.response.body", "body": b"goodbye"})
"""


def check(tmp_path: Path, loop_kind: LoopKind, path: str) -> tuple[bytes, str]:
    """What a client of an endless stream gets when the service stops; what is logged."""
    with Alone(tmp_path, STREAM, loop_kind) as worker:
        worker.get_ready()
        with worker.connect() as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: t\r\n\r\n".encode())
            received = client.recv(65536)
            while b"event event" not in received.replace(b"\r\n6\r\n", b""):
                received += client.recv(65536)
            worker.tell(Drain(30.0, successor=False))
            began = time.monotonic()
            received += read_all(client)
            assert time.monotonic() - began < 10, "it was told near the end of its time only"
        assert worker.ends() == Exit.OK
        return received, worker.said()


def test_an_endless_stream_that_says_goodbye(tmp_path: Path, loop_kind: LoopKind) -> None:
    received, said = check(tmp_path, loop_kind, "/goodbye")
    assert received.endswith(b"goodbye\r\n0\r\n\r\n")
    assert said == ""


def test_an_endless_stream_that_just_ends(tmp_path: Path, loop_kind: LoopKind) -> None:
    received, said = check(tmp_path, loop_kind, "/")
    assert received.endswith(b"event \r\n")
    assert said == ""


def test_a_stream_goes_on_while_others_take_over(tmp_path: Path, loop_kind: LoopKind) -> None:
    with Alone(tmp_path, STREAM, loop_kind) as worker:
        worker.get_ready()
        with worker.connect() as client:
            client.sendall(b"GET /goodbye HTTP/1.1\r\nHost: t\r\n\r\n")
            client.recv(65536)
            began = time.monotonic()
            worker.tell(Drain(2.0, successor=True))
            received = read_all(client)
            assert time.monotonic() - began > 0.5, "it had not the time that there was"
        assert b"goodbye" not in received, "it was told of the stop"
        assert worker.ends() == Exit.OK


def test_the_signal_itself_still_arrives(tmp_path: Path, loop_kind: LoopKind) -> None:
    with Alone(tmp_path, STREAM, loop_kind) as worker:
        worker.get_ready()
        worker.process.send_signal(signal.SIGTERM)
        assert "SIGTERM" in str(worker.hear())
        assert worker.ends() == Exit.OK
