"""ASGI specification 3.0.

What holds for every protocol.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from asgi_worker.application import Message, Receive, Scope, Send
from asgi_worker.lifespan import Lifespan
from tests.specification.asking import (
    START,
    Told,
    acting,
    answer,
    hello,
    left,
    listening,
    piece,
    request,
    scope_of,
    talk,
    websocket_scope,
)
from tests.worker.conftest import Run
from tests.worker.frames_by_hand import FIN, PING, close, frame, open_websocket, text
from tests.worker.lives import lifespan_of, polite
from tests.worker.modules import Place, modules_forgotten
from tests.worker.serving import Arena
from tests.worker.websocket_apps import ACCEPT


def lifespan_scope(run: Run) -> Scope:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await polite(scope, receive, send)

    run(whole_life(lifespan_of(app)))
    return seen[0]


async def whole_life(lifespan: Lifespan) -> None:
    await lifespan.startup()
    await lifespan.shutdown(10)


SCOPES: dict[str, Callable[[Run], Scope]] = {
    "http": scope_of,
    "websocket": websocket_scope,
    "lifespan": lifespan_scope,
}
PROTOCOLS = pytest.mark.parametrize("protocol", SCOPES)


# Overview


def test_main_thread(run: Run) -> None:
    """Overview: applications run as coroutines in an event loop, on the main thread.

    The loop of a worker runs on its main thread; the application is called as a task of it.
    """
    where: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        where.extend((threading.current_thread(), asyncio.current_task()))
        await hello(scope, receive, send)

    answer(run, app)
    assert where[0] is threading.main_thread()
    assert isinstance(where[1], asyncio.Task)


def test_a_little_longer(run: Run) -> None:
    """Overview: a call may last a little longer than its connection, to clean up.

    Nothing is cancelled when a response is complete or its client has gone; only a worker that has
    to stop does that, when its budget is spent.
    """
    ended: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await hello(scope, receive, send)
        while (await receive())["type"] != "http.disconnect":
            pass
        for _ in range(10):
            await asyncio.sleep(0)
        ended.append(scope["path"])

    assert answer(run, app).endswith(b"hello")
    assert ended == ["/"]


def test_any_task_may_send(run: Run) -> None:
    """Rationale: data may be sent and received at any time, from any task.

    Neither ``receive()`` nor ``send()`` belongs to the task that the application was called in.
    """

    async def act(receive: Receive, send: Send) -> None:
        async def reads() -> bytes:
            return bytes((await receive())["body"])

        body = await asyncio.create_task(reads())
        await asyncio.create_task(send(START))  # type: ignore[arg-type]
        pieces = [piece(one.encode(), more=True) for one in body.decode()]
        await asyncio.gather(*(send(one) for one in pieces))
        await asyncio.create_task(send(piece()))  # type: ignore[arg-type]

    got = answer(run, acting(act), request(method="POST", body=b"abc"))
    assert got.endswith(b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n")


def test_any_thread_may_send(run: Run) -> None:
    """Rationale: … and from different threads, by way of the loop.

    ``asyncio.run_coroutine_threadsafe()`` with ``receive()`` and ``send()`` is all it takes.
    """

    async def act(receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()

        def work() -> None:
            for message in (START, piece(b"from a thread")):
                asyncio.run_coroutine_threadsafe(send(message), loop).result(10)  # type: ignore[arg-type]

        await asyncio.to_thread(work)

    assert answer(run, acting(act)).endswith(b"\r\n\r\nfrom a thread")


def test_several_tasks_may_receive(run: Run) -> None:
    """Rationale: several tasks may wait for events at the same time.

    Each event goes to one of them, in the order in which they began to wait; the end of the
    connection is told to all.
    """
    got: list[tuple[int, str]] = []

    async def act(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)

        async def waits(number: int) -> None:
            while (message := await receive())["type"] == "websocket.receive":
                got.append((number, message["text"]))
            got.append((number, "end"))

        await asyncio.gather(*(waits(number) for number in range(3)))

    async def test() -> None:
        got.clear()
        async with Arena(acting(act)) as arena:
            client = await open_websocket(arena)
            for number in range(5):
                await client.send(text(str(number)), frame(FIN | PING))
                await client.frame()  # the pong: the message before it has been taken
            await client.send(close())
            await client.end()
        assert got[:5] == [(number % 3, str(number)) for number in range(5)]
        assert sorted(got[5:]) == [(0, "end"), (1, "end"), (2, "end")]

    run(test())


# Connection Scope


def test_a_call_for_each_connection(run: Run) -> None:
    """Connection Scope: every connection results in a call of the application.

    For HTTP that is every request, for WebSocket every handshake.
    """
    calls: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        calls.append(scope["path"])
        await hello(scope, receive, send)

    assert answer(run, app, request("/1", close=False) + request("/2")).count(b"hello") == 2
    assert calls == ["/1", "/2"]


def test_a_scope_of_its_own(run: Run) -> None:
    """Connection Scope: the scope describes one specific connection.

    What an application changes in its scope is seen by no other call: the dictionary, ``headers``,
    ``state`` and ``extensions`` are made for each.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        count = len(scope["headers"]), len(scope["state"]), len(scope["extensions"]), len(scope)
        scope["headers"].append((b"x", b"y"))
        scope["state"]["mine"] = scope["extensions"]["mine"] = scope["mine"] = {}
        await send(START)
        await send(piece(repr(count).encode()))

    async def test() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            answers = {(await wire.get())[2] for _ in range(4)}
            assert len(answers) == 1

    run(test())


# Events


@PROTOCOLS
def test_events_are_dictionaries(run: Run, protocol: str) -> None:
    """Events: each event is a ``dict`` with a ``type``, a unicode string.

    A new ``dict`` for each call of ``receive()``, so what is done to one changes no other.
    """
    for one in events(run)[protocol]:
        assert type(one) is dict
        assert type(one["type"]) is str


@PROTOCOLS
def test_types_of_events(run: Run, protocol: str) -> None:
    """Events: they consist of byte strings, unicode strings, numbers, lists, dicts and ``None``.

    Bodies and messages are ``bytes`` and ``str`` themselves, never views or subclasses.
    """
    for one in events(run)[protocol]:
        for value in one.values():
            assert type(value) in {bytes, str, int, bool}, one


@PROTOCOLS
def test_namespaces(run: Run, protocol: str) -> None:
    """Protocol Specifications: the ``type`` of a message begins with that of its scope.

    ``http.``, ``websocket.`` and ``lifespan.``.
    """
    for one in events(run)[protocol]:
        assert one["type"].startswith(f"{protocol}.")


def events(run: Run) -> dict[str, list[Message]]:
    """All kinds of events, by protocol."""

    async def reads(receive: Receive, send: Send) -> None:
        while (await receive())["more_body"]:
            pass
        await hello({}, receive, send)
        await receive()

    http, websocket, lifespan = Told(reads), listening(), Told(lives)
    answer(run, http, request(method="POST", body=bytes(200_000)))
    talk(
        run, websocket, text("a"), frame(FIN | 2, b"b"), frame(FIN | 2, bytes(99_999)), close(1000)
    )
    run(whole_life(lifespan_of(lifespan)))
    assert len(http.got) > 2
    assert len(websocket.got) >= 5
    assert len(lifespan.got) >= 2
    return {"http": http.got, "websocket": websocket.got, "lifespan": lifespan.got}


async def lives(receive: Receive, send: Send) -> None:
    for _ in range(2):
        await send({"type": (await receive())["type"] + ".complete"})


# Applications


def test_arguments(run: Run) -> None:
    """Applications: an application is one callable that takes ``scope``, ``receive``, ``send``.

    They are given by position, so that they may have any names; what is returned may be any
    awaitable.
    """

    def app(a: Scope, b: Receive, c: Send, /, *others: Any, **more: Any) -> Awaitable[None]:
        assert (others, more) == ((), {})
        return asyncio.ensure_future(hello(a, b, c))

    assert answer(run, app).endswith(b"hello")


@PROTOCOLS
def test_scope_is_a_dict(run: Run, protocol: str) -> None:
    """Applications: ``scope`` must be a ``dict``.

    ``dict`` itself, no subclass or view.
    """
    assert type(SCOPES[protocol](run)) is dict


@PROTOCOLS
def test_type(run: Run, protocol: str) -> None:
    """Applications: ``scope["type"]`` is always present, a unicode string.

    ``http``, ``websocket`` or ``lifespan``.
    """
    assert SCOPES[protocol](run)["type"] == protocol


@PROTOCOLS
def test_version(run: Run, protocol: str) -> None:
    """Applications: ``scope["asgi"]`` is a dictionary; its ``version`` is that of ASGI.

    ``"3.0"`` in every scope; ``"2.0"`` where the application is called as ASGI 2 has it.
    """
    asgi = SCOPES[protocol](run)["asgi"]
    assert type(asgi) is dict
    assert asgi["version"] == "3.0"


@PROTOCOLS
def test_spec_version(run: Run, protocol: str) -> None:
    """Applications: ``scope["asgi"]["spec_version"]`` may be that of the protocol's document.

    ``"2.5"`` for HTTP and WebSocket, ``"2.0"`` for lifespan: the newest there are.
    """
    newest = {"http": "2.5", "websocket": "2.5", "lifespan": "2.0"}
    assert SCOPES[protocol](run)["asgi"]["spec_version"] == newest[protocol]


def test_receive_waits(run: Run) -> None:
    """Applications: ``receive()`` yields a new event when one is available.

    Until then it waits. A wait that is cancelled loses no event.
    """

    async def act(receive: Receive, send: Send) -> None:
        first = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        assert not first.done()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await send({"type": "http.response.early_hint", "links": []})  # the client may go on
        await send(START)
        await send(piece((await receive())["body"]))

    async def test() -> None:
        async with Arena(acting(act)) as arena:
            wire = await arena.connect()
            await wire.write(request(method="POST", body=b"hello")[:-5])
            await wire.read_until(b"\r\n\r\n")
            await wire.write(b"hello")
            assert (await wire.read_response())[2] == b"hello"

    run(test())


def test_send_returns_when_sent(run: Run) -> None:
    """Applications: ``send()`` returns once the send has been completed.

    It waits while the client takes less than is sent, so that memory stays bounded.
    """
    state = {"sent": 0}

    async def act(receive: Receive, send: Send) -> None:
        await send(START)
        for _ in range(400):
            await send(piece(bytes(65536), more=True))
            state["sent"] += 1
        await send(piece())

    async def test() -> None:
        state["sent"] = 0
        async with Arena(acting(act)) as arena:
            wire = await arena.connect()
            await wire.write(request())
            before = -1
            while before != state["sent"]:  # until it goes no further
                before = state["sent"]
                await asyncio.sleep(0.1)
            assert before < 400
            got = 0
            while data := await wire.reader.read(1_000_000):
                got += len(data)
            assert got > 400 * 65536

    run(test())


def test_send_returns_when_closed(run: Run) -> None:
    """Applications: … or the connection has been closed.

    A ``send()`` that waits for a client ends, with an ``OSError``, when the client leaves.
    """

    async def act(receive: Receive, send: Send) -> None:
        await send(START)
        while True:
            await send(piece(bytes(1_000_000), more=True))

    app = Told(act)

    async def test() -> None:
        async with left(app, request()) as (_, wire):
            await wire.read_until(b"\r\n\r\n")
            wire.writer.transport.abort()
        assert isinstance(app.error, OSError)

    run(test())


def test_legacy(run: Run, tmp_path: Any) -> None:
    """Legacy Applications: two-callable applications should be supported.

    They are told apart by the arguments they take. The first callable is called when the connection
    starts, the second at once.
    """
    with modules_forgotten(tmp_path):
        place = Place(tmp_path)
        place.write(
            "legacy.py",
            """
            def app(scope):
                async def instance(receive, send):
                    await send({"type": "http.response.start", "status": 200})
                    await send({"type": "http.response.body", "body": scope["path"].encode()})
                return instance
            """,
        )
        assert answer(run, place.load("legacy:app"), request("/old")).endswith(b"\r\n\r\n/old")


# Middleware


def test_middleware(run: Run) -> None:
    """Middleware: code between server and application may copy and change the ``scope``.

    Nothing that concerns the connection is read from what the application was given, and calls of
    ``receive()`` and ``send()`` may be wrapped.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["method"] = "HEAD"
        scope["extensions"] = None

        async def sending(message: Message) -> None:
            await send({**message, "body": message.get("body", b"").upper()})

        inner = {"type": "http", "headers": []}
        await Told(reads)(inner, receive, sending)

    async def reads(receive: Receive, send: Send) -> None:
        await send({"type": "http.response.early_hint", "links": []})
        await send({**START, "trailers": True})
        await send(piece((await receive())["body"]))
        await send({"type": "http.response.trailers"})

    asked = request(method="POST", body=b"hello", close=False) + request(method="POST", body=b"bye")
    got = answer(run, app, asked)
    assert got.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert b"\r\n\r\nHELLOHTTP/1.1" in got
    assert got.endswith(b"\r\n\r\nBYE")


# Extensions


@pytest.mark.parametrize("protocol", ["http", "websocket"])
def test_extensions(run: Run, protocol: str) -> None:
    """Extensions: each that is supported is an entry of ``scope["extensions"]``, itself a dict.

    The value is empty where there is nothing to say. Our own, ``asgi_supervise``, says which
    worker this is: ``slot``, ``generation`` and how many ``workers`` there are.
    """
    extensions = SCOPES[protocol](run)["extensions"]
    assert type(extensions) is dict
    assert all(type(key) is str and type(value) is dict for key, value in extensions.items())
    assert set(extensions["asgi_supervise"]) == {"slot", "generation", "workers"}


# Strings and Unicode


@PROTOCOLS
def test_keys_are_unicode(run: Run, protocol: str) -> None:
    """Strings and Unicode: all keys of scopes and events are unicode strings.

    Those of ``asgi`` and ``extensions`` too.
    """
    scope = SCOPES[protocol](run)
    inner = [scope["asgi"], scope.get("extensions", {})]
    for one in (scope, *inner, *events(run)[protocol]):
        assert all(type(key) is str for key in one)


@pytest.mark.parametrize("protocol", ["http", "websocket"])
def test_strings_are_exact(run: Run, protocol: str) -> None:
    """Strings and Unicode: *byte string* is ``bytes`` and *unicode string* is ``str``.

    Exactly these types, whatever made the values.
    """
    scope = SCOPES[protocol](run)
    for key in ("type", "http_version", "scheme", "path", "root_path"):
        assert type(scope[key]) is str
    for key in ("raw_path", "query_string"):
        assert type(scope[key]) is bytes
    assert all(type(part) is bytes for header in scope["headers"] for part in header)
