"""One question to a real server over a real connection, and what came of it.

Each statement of the specification is tested by an application that says or notes what the
statement is about, and a client that sends the bytes it needs. All of it is in these few functions.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from asgi_worker.application import Application, Message, Receive, Scope, Send
from tests.process.service import Service
from tests.worker.conftest import Run
from tests.worker.frames_by_hand import CLOSE, FIN, Frame, close, handshake, open_websocket
from tests.worker.serving import Arena, Wire
from tests.worker.websocket_apps import ACCEPT, Noted

Act = Callable[[Receive, Send], Awaitable[None]]
START: Message = {"type": "http.response.start", "status": 200, "headers": []}
DISCONNECT: Message = {"type": "http.disconnect"}


def request(
    target: str = "/", *lines: str, method: str = "GET", body: bytes = b"", close: bool = True
) -> bytes:
    """The bytes of a request; the server is to close the connection behind its answer."""
    head = [f"{method} {target} HTTP/1.1", "Host: test", *lines]
    if close:
        head.append("Connection: close")
    if body:
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join((*head, "", "")).encode("latin-1") + body


def piece(body: bytes = b"", *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


def sends(*messages: Any) -> Application:
    """An application that sends ``messages``, whatever it is asked."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await send(START)
    await send(piece(b"hello"))


def acting(act: Act) -> Application:
    """An application that does not look at its scope."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await act(receive, send)

    return app


def scopes(run: Run, *requests: bytes, **settings: Any) -> list[Scope]:
    """The scopes of ``requests``, which come one after the other on one connection."""
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await hello(scope, receive, send)

    async def test() -> None:
        async with Arena(app, **settings) as arena:
            wire = await arena.connect()
            for one in requests:
                await wire.write(one)
                await wire.read_response()

    run(test())
    assert len(seen) == len(requests)
    return seen


def scope_of(run: Run, asked: bytes | None = None, **settings: Any) -> Scope:
    """What an application is told of one request."""
    return scopes(run, request() if asked is None else asked, **settings)[0]


def answer(run: Run, app: Application, asked: bytes | None = None, **settings: Any) -> bytes:
    """All that the client gets until the server closes the connection."""
    got: list[bytes] = []

    async def test() -> None:
        async with Arena(app, **settings) as arena:
            got.append(await arena.exchange(request() if asked is None else asked))

    run(test())
    return got[0]


def fields(response: bytes) -> list[bytes]:
    """The header lines of a response, in order, without those that every response has."""
    lines = response.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    ours = (b"date: ", b"server: ", b"connection: ")
    return [line for line in lines if not line.startswith(ours)]


def content(response: bytes) -> bytes:
    return response.partition(b"\r\n\r\n")[2]


def refusal(run: Run, *messages: Any, websocket: bool = False) -> Exception:
    """What ``send()`` raises for the last of ``messages``; those before it must be taken."""
    caught: list[Exception | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages[:-1]:
            await send(message)
        try:
            await send(messages[-1])
        except Exception as error:
            caught.append(error)
            raise
        caught.append(None)

    async def test() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            await wire.write(handshake() if websocket else request())
            await arena.eventually(lambda: caught, "it has not come to the last")

    run(test())
    assert caught[0] is not None, "send() raised nothing"
    return caught[0]


class Told:
    """An HTTP application that does ``act``, and what ``receive()`` gave it."""

    def __init__(self, act: Act) -> None:
        self.act = act
        self.got: list[Message] = []
        self.error: BaseException | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def noting() -> Message:
            self.got.append(await receive())
            return self.got[-1]

        try:
            await self.act(noting, send)
        except BaseException as error:
            self.error = error
            raise


@contextlib.asynccontextmanager
async def left(app: Application, asked: bytes) -> AsyncIterator[tuple[Arena, Wire]]:
    """A request whose application runs; its client may leave within the block."""
    async with Arena(app) as arena:
        wire = await arena.connect()
        await wire.write(asked)
        await arena.eventually(lambda: arena.server.tasks, "the application does not run")
        yield arena, wire
        await arena.eventually(lambda: not arena.server.tasks, "the application has not ended")


# WebSockets.


def websocket_scope(run: Run, target: str = "/", *lines: str, **settings: Any) -> Scope:
    app = Noted()
    talk(run, app, close(), target=target, lines=lines, **settings)
    return app.scope


def talk(
    run: Run,
    app: Application,
    *sent: bytes,
    target: str = "/",
    lines: tuple[str, ...] = (),
    **settings: Any,
) -> list[Frame]:
    """Send ``sent`` on an accepted WebSocket; what comes back until its end."""
    frames: list[Frame] = []

    async def test() -> None:
        async with Arena(app, **settings) as arena:
            client = await open_websocket(arena, target, *lines)
            await client.send(*sent)
            with contextlib.suppress(asyncio.IncompleteReadError):
                while True:
                    frames.append(await client.frame())
                    if frames[-1].first == FIN | CLOSE:
                        await client.send(close())

    run(test())
    return frames


def knock(run: Run, app: Application, *lines: str, **settings: Any) -> bytes:
    """All that a client gets whose WebSocket is refused."""
    return answer(run, app, handshake("/", *lines), **settings)


def listening(*answers: Message) -> Noted:
    """A WebSocket application that accepts, sends ``answers`` and notes what it gets."""

    async def act(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        for message in answers:
            await send(message)
        while (await receive())["type"] != "websocket.disconnect":
            pass

    return Noted(act)


# Real processes.


def service(place: Path, text: str, *words: str, **more: Any) -> Service:
    """``asgi-supervise`` with an application of its own, whose text is ``text``."""
    (place / "served.py").write_text(text)
    return Service("--app-dir", str(place), *words, app="served:app", **more)
