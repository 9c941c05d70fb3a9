"""Lifespan specification 2.0.

``--lifespan auto``, which is the default.
"""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from typing import Any

import pytest

from asgi_worker.application import BootError, Receive, Scope, Send
from tests.process.service import Service, connected
from tests.process.service import request as ask
from tests.specification.asking import acting, service
from tests.worker.conftest import Run
from tests.worker.frames_by_hand import close, open_websocket
from tests.worker.lives import lifespan_of, logged, polite
from tests.worker.serving import Arena

LIVES = """
import asyncio, os, socket, sys

def say(*words):
    print("said", *words, file=sys.stderr, flush=True)

async def respond(send, body):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body.encode()})

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await startup(scope, receive, send)
        await shutdown(scope, receive, send)
    else:
        await serve(scope, receive, send)

async def startup(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})

async def shutdown(scope, receive, send):
    await receive()
    await send({"type": "lifespan.shutdown.complete"})

async def serve(scope, receive, send):
    await respond(send, "hello")
"""
process = pytest.mark.process


def living(place: Path, text: str = "", *words: str, **more: Any) -> Service:
    return service(place, LIVES + text, "--workers", "1", *words, **more)


@process
def test_in_each_process(tmp_path: Path) -> None:
    """Lifespan: in a multi-process environment there are lifespan events in each process.

    Each worker runs startup and shutdown of its own, its replacements too.
    """
    text = LIVES + (
        "async def startup(scope, receive, send):\n"
        "    say((await receive())['type'], os.getpid())\n"
        "    await send({'type': 'lifespan.startup.complete'})\n"
        "async def shutdown(scope, receive, send):\n"
        "    say((await receive())['type'], os.getpid())\n"
        "    await send({'type': 'lifespan.shutdown.complete'})\n"
    )
    with service(tmp_path, text, "--workers", "2") as site:
        site.serving()
        pids = set(site.workers().values())
        site.process.send_signal(signal.SIGTERM)
        assert site.ended() == 0
    for event in ("lifespan.startup", "lifespan.shutdown"):
        said = [line.split()[-1] for line in site.log.splitlines() if f"said {event} " in line]
        assert sorted(said) == sorted(map(str, pids))


@process
def test_in_the_same_loop(tmp_path: Path) -> None:
    """Lifespan: lifespan and requests are run in the same event loop.

    The one loop of a worker, which also is on its main thread.
    """
    text = """
async def startup(scope, receive, send):
    scope["state"]["loop"] = asyncio.get_running_loop()
    await receive()
    await send({"type": "lifespan.startup.complete"})

async def serve(scope, receive, send):
    await respond(send, str(scope["state"]["loop"] is asyncio.get_running_loop()))
"""
    with living(tmp_path, text) as site:
        assert ask(site.serving()) == "True"


# Scope


def test_the_scope(run: Run) -> None:
    """Scope: ``type``, ``asgi`` and ``state``, an empty namespace.

    Nothing else.
    """
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append({**scope, "state": scope["state"].copy()})
        await polite(scope, receive, send)

    async def test() -> None:
        lifespan = lifespan_of(app)
        await lifespan.startup()
        await lifespan.shutdown(10)

    run(test())
    asgi = {"version": "3.0", "spec_version": "2.0"}
    assert seen == [{"type": "lifespan", "asgi": asgi, "state": {}}]


@process
def test_as_long_as_the_loop(tmp_path: Path) -> None:
    """Scope: it exists for the duration of the event loop.

    One call of the application, from before the first request until after the last.
    """
    text = """
alive = []
async def startup(scope, receive, send):
    alive.append(asyncio.current_task())
    await receive()
    await send({"type": "lifespan.startup.complete"})

async def serve(scope, receive, send):
    await respond(send, str([task.done() for task in alive]))
"""
    with living(tmp_path, text) as site:
        address = site.serving()
        assert {ask(address) for _ in range(3)} == {"[False]"}


async def raises_at_scope(receive: Receive, send: Send) -> None:
    raise NotImplementedError("only http")


async def raises_at_startup(receive: Receive, send: Send) -> None:
    await receive()
    raise NotImplementedError("no startup")


@pytest.mark.parametrize("act", [raises_at_scope, raises_at_startup])
def test_exceptions(run: Run, act: Any) -> None:
    """Scope: if the application raises, the server must continue without lifespan events.

    Whether it raises at the scope or after ``lifespan.startup``; what looks like a startup that
    failed is logged as a warning. ``--lifespan on`` makes it a failure instead.
    """
    calls: list[int] = []

    async def counting(receive: Receive, send: Send) -> None:
        calls.append(1)
        await act(receive, send)

    async def test() -> None:
        calls.clear()
        lifespan = lifespan_of(acting(counting))
        await lifespan.startup()
        await lifespan.shutdown(10)
        assert calls == [1]
        with pytest.raises(BootError):
            await lifespan_of(acting(act), "on").startup()

    run(test())


@process
def test_exceptions_and_requests(tmp_path: Path) -> None:
    """Scope: … for compatibility with applications that do not support the protocol.

    They serve as ever, and stop without a word about lifespan.
    """
    text = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await respond(send, "hello")
"""
    with living(tmp_path, text) as site:
        assert ask(site.serving()) == "hello"


# Lifespan State


def test_state(run: Run) -> None:
    """Lifespan State: a shallow copy of the namespace is passed into each request.

    HTTP and WebSocket alike: what the lifespan put there is the same object for all, what a request
    puts there is its own.
    """
    seen: list[dict[str, Any]] = []
    pool = object()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            scope["state"]["pool"] = pool
            await polite(scope, receive, send)
            return
        seen.append(scope["state"].copy())
        scope["state"]["mine"] = len(seen)
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            return
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    async def test() -> None:
        seen.clear()
        lifespan = lifespan_of(app)
        await lifespan.startup()
        async with Arena(app) as arena:
            arena.server._base_scope["state"] = lifespan.state  # as main does
            wire = await arena.connect()
            for _ in range(4):
                await wire.get()
            client = await open_websocket(arena)
            await client.closed()
            await client.send(close())
        await lifespan.shutdown(10)
        assert seen == [{"pool": pool}] * 5
        assert lifespan.state == {"pool": pool}

    run(test())


@process
def test_state_is_left_alone(tmp_path: Path) -> None:
    """Lifespan State: the server does not interact with the namespace other than to copy it.

    Nothing of ours is in it, and values of any kind may be.
    """
    text = """
async def startup(scope, receive, send):
    scope["state"]["lock"] = scope["state"]["again"] = asyncio.Lock()
    await receive()
    await send({"type": "lifespan.startup.complete"})

async def serve(scope, receive, send):
    state = scope["state"]
    await respond(send, f"{sorted(state)} {state['lock'] is state['again']}")
"""
    with living(tmp_path, text) as site:
        assert ask(site.serving()) == "['again', 'lock'] True"


# Startup


@process
def test_startup_comes_before_connections(tmp_path: Path) -> None:
    """Startup: it is sent when the server is ready to receive connections, but before it does so.

    The port is bound already, and connections wait in its queue.
    """
    text = """
async def startup(scope, receive, send):
    say((await receive())["type"])
    await send({"type": "lifespan.startup.complete"})
"""
    with living(tmp_path, text) as site:
        site.wait_line("said lifespan.startup")
        assert site.listening()
        site.serving()  # which is logged behind it


@process
def test_startup_complete_is_waited_for(tmp_path: Path) -> None:
    """Startup Complete: a server must wait for it before it starts processing connections.

    As long as ``--startup-timeout`` says.
    """
    gate = tmp_path / "gate"
    text = f"""
async def startup(scope, receive, send):
    say((await receive())["type"], "received")
    while not os.path.exists({str(gate)!r}):
        await asyncio.sleep(0.01)
    say("complete")
    await send({{"type": "lifespan.startup.complete"}})

async def serve(scope, receive, send):
    say("request")
    await respond(send, "hello")
"""
    with living(tmp_path, text) as site:
        site.wait_line("said lifespan.startup received")
        (address,) = site.listening()
        with connected(address) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
            gate.touch()
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
    words = [line.split("said ")[1] for line in site.log.splitlines() if "said " in line]
    assert words == ["lifespan.startup received", "complete", "request"]


@process
@pytest.mark.parametrize("message", [{"message": "no database at db:5432"}, {}], ids=str)
def test_startup_failed(tmp_path: Path, message: dict[str, str]) -> None:
    """Startup Failed: the server should log the ``message`` and then exit. Optional.

    Exit status 3, at the first start. At a reload it is the new version that is given up.
    """
    text = f"""
async def startup(scope, receive, send):
    await receive()
    await send({{"type": "lifespan.startup.failed", **{message}}})
"""
    with living(tmp_path, text, errors_expected=True) as site:
        assert site.ended() == 3
    said = message.get("message", "no message was given")
    assert f"the application failed at lifespan startup: {said}" in site.log


# Shutdown


@process
def test_shutdown_comes_last(tmp_path: Path) -> None:
    """Shutdown: it is sent when no connections are accepted and all have been closed.

    A request in flight is finished first, up to ``--graceful-timeout``.
    """
    text = """
where = []
async def serve(scope, receive, send):
    where.append(scope["server"])
    say("begins")
    await receive()
    await asyncio.sleep(0.3)
    await respond(send, "hello")
    await receive()
    say("ends")

async def shutdown(scope, receive, send):
    say((await receive())["type"], refused())
    await send({"type": "lifespan.shutdown.complete"})

def refused():
    try:
        socket.create_connection(where[0])
    except ConnectionRefusedError:
        return True
"""
    with living(tmp_path, text) as site:
        address = site.serving()
        with connected(address) as client, connected(address) as idle:
            client.sendall(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
            site.wait_line("said begins")
            site.process.send_signal(signal.SIGTERM)
            assert site.ended() == 0
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
            assert idle.recv(1) == b""
    words = [line.split("said ")[1] for line in site.log.splitlines() if "said " in line]
    assert words == ["begins", "ends", "lifespan.shutdown True"]


@process
def test_shutdown_complete_is_waited_for(tmp_path: Path) -> None:
    """Shutdown Complete: a server must wait for it before terminating.

    Up to 5 s are kept for it out of ``--graceful-timeout``; then the application is cancelled.
    """
    text = """
async def shutdown(scope, receive, send):
    await receive()
    await asyncio.sleep(1)
    say("cleaned up")
    await send({"type": "lifespan.shutdown.complete"})
    say("returns")
"""
    with living(tmp_path, text) as site:
        site.serving()
        site.process.send_signal(signal.SIGTERM)
        assert site.ended() == 0
    assert "said cleaned up" in site.log
    assert "said returns" in site.log


@pytest.mark.parametrize("message", [{"message": "the pool is stuck"}, {}], ids=str)
def test_shutdown_failed(
    run: Run, message: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """Shutdown Failed: the server should log the ``message`` and then terminate. Optional.

    One line at level ERROR; the worker ends as it would have.
    """

    async def act(receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.failed", **message})

    async def test() -> None:
        lifespan = lifespan_of(acting(act))
        await lifespan.startup()
        await lifespan.shutdown(10)

    run(test())
    said = message.get("message", "")
    line = f"The application failed at lifespan shutdown: {said}"
    assert logged(caplog, logging.ERROR) == [line]
