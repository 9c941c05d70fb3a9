"""An ASGI application on trio without a framework, written as for any server that can run one."""

from __future__ import annotations

import hashlib
import json
import math
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import sniffio
import trio

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

FILES = Path(os.environ["SITE_FILES"])


def witness(word: str) -> None:
    """Tell the test what happened here, on the datagram socket that it listens to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(word.encode(), os.environ["SITE_WITNESS"])


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    match scope["type"]:
        case "lifespan":
            await live(scope["state"], receive, send)
        case "websocket":
            await WEBSOCKETS[scope["path"].split("/")[2]](scope, receive, send)
        case _:
            handler = PAGES.get(scope["path"])
            if handler is None:
                await answer(send, b"nothing here", status=404)
            else:
                await handler(scope, receive, send)


async def live(state: dict[str, Any], receive: Receive, send: Send) -> None:
    """What runs as long as the application does is in one nursery."""
    async with trio.open_nursery() as nursery:
        assert (await receive())["type"] == "lifespan.startup"
        state["rooms"] = {}
        state["beats"] = Beats()
        state["nursery"] = nursery
        nursery.start_soon(state["beats"].run)
        listeners = await nursery.start(trio.serve_tcp, shout_back, 0)
        state["port"] = listeners[0].socket.getsockname()[1]
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        nursery.cancel_scope.cancel()
    with trio.CancelScope(shield=True):
        await trio.sleep(0.01)
    witness("lifespan over")
    await send({"type": "lifespan.shutdown.complete"})


class Beats:
    """A task in the background that counts."""

    def __init__(self) -> None:
        self.count = 0
        self.more = trio.Condition()

    async def run(self) -> None:
        while True:
            await trio.sleep(0.01)
            async with self.more:
                self.count += 1
                self.more.notify_all()


async def shout_back(stream: trio.SocketStream) -> None:
    async for piece in stream:
        await stream.send_all(piece.upper())


def query(scope: Scope, name: str, default: str = "") -> str:
    return parse_qs(scope["query_string"].decode()).get(name, [default])[0]


async def answer(send: Send, body: bytes, kind: str = "text/plain", status: int = 200) -> None:
    headers = [(b"content-type", kind.encode()), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def answer_json(send: Send, value: object) -> None:
    await answer(send, json.dumps(value).encode(), "application/json")


async def begin(send: Send, kind: str = "application/octet-stream") -> None:
    headers = [(b"content-type", kind.encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def home(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, b"Hello from trio!")


async def pid(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, str(os.getpid()).encode())


async def who(scope: Scope, receive: Receive, send: Send) -> None:
    await answer_json(
        send,
        {
            "pid": os.getpid(),
            "library": sniffio.current_async_library(),
            "task": trio.lowlevel.current_task().name,
            "query": scope["query_string"].decode(),
        },
    )


async def sleep(scope: Scope, receive: Receive, send: Send) -> None:
    await trio.sleep(float(query(scope, "seconds")))
    await answer(send, query(scope, "mark").encode())


async def beats(scope: Scope, receive: Receive, send: Send) -> None:
    """Three more beats of what runs in the background."""
    background: Beats = scope["state"]["beats"]
    first = background.count
    async with background.more:
        while background.count < first + 3:
            await background.more.wait()
    await answer(send, b"%d" % (background.count - first))


async def race(scope: Scope, receive: Receive, send: Send) -> None:
    """The first of several tasks wins; the others are cancelled."""
    winners: list[str] = []
    cancelled: list[str] = []

    async def run(name: str, seconds: float) -> None:
        try:
            await trio.sleep(seconds)
        except trio.Cancelled:
            cancelled.append(name)
            raise
        winners.append(name)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, "hare", math.inf)
        nursery.start_soon(run, "tortoise", 0.01)
        nursery.start_soon(run, "snail", 1000)
    await answer_json(send, {"winners": winners, "cancelled": sorted(cancelled)})


async def in_time(scope: Scope, receive: Receive, send: Send) -> None:
    """Deadlines around each other, and a shield."""
    with trio.move_on_after(10) as outer:
        with trio.move_on_after(0.02) as inner:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.05)
            await trio.sleep_forever()
    try:
        with trio.fail_after(0.01):
            await receive()
            await receive()
        late = False
    except trio.TooSlowError:
        late = True
    await answer_json(
        send, {"outer": outer.cancelled_caught, "inner": inner.cancelled_caught, "late": late}
    )


async def thread(scope: Scope, receive: Receive, send: Send) -> None:
    """Into a thread, from there back, and into it again."""

    def in_thread() -> str:
        name = trio.from_thread.run(back, "there")
        return f"{name} and {trio.from_thread.run_sync(sniffio.current_async_library)}"

    async def back(word: str) -> str:
        await trio.sleep(0.01)
        return await trio.to_thread.run_sync(word.upper)

    limiter = trio.CapacityLimiter(2)
    found: list[str] = []

    async def run() -> None:
        found.append(await trio.to_thread.run_sync(in_thread, limiter=limiter))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(run)
    await answer_json(send, found)


async def shout(scope: Scope, receive: Receive, send: Send) -> None:
    """Ask another server, by trio's own sockets."""
    word = query(scope, "word").encode()
    async with await trio.open_tcp_stream("127.0.0.1", scope["state"]["port"]) as stream:
        await stream.send_all(word)
        received = b""
        while len(received) < len(word):
            received += await stream.receive_some()
    await answer(send, received)


async def process(scope: Scope, receive: Receive, send: Send) -> None:
    done = await trio.run_process(["cat"], stdin=b"through a process", capture_stdout=True)
    await answer(send, done.stdout)


async def file(scope: Scope, receive: Receive, send: Send) -> None:
    await begin(send)
    async with await trio.open_file(FILES / "large.bin", "rb") as content:
        while piece := await content.read(65536):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def digest(scope: Scope, receive: Receive, send: Send) -> None:
    """One task reads, another computes, a channel between them."""
    order, received = trio.open_memory_channel[bytes](1)
    sha = hashlib.sha256()

    async def read() -> None:
        async with order:
            more = True
            while more:
                message = await receive()
                assert message["type"] == "http.request"
                await order.send(message["body"])
                more = message.get("more_body", False)

    size = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        async for piece in received:
            await trio.to_thread.run_sync(sha.update, piece)
            size += len(piece)
    await answer_json(send, {"size": size, "sha256": sha.hexdigest()})


async def swallow(scope: Scope, receive: Receive, send: Send) -> None:
    witness("reading")
    while (message := await receive())["type"] == "http.request":
        if not message.get("more_body", False):
            break
    witness(f"ended with {message['type']}")


async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    await begin(send)
    size = int(query(scope, "size"))
    for number in range(int(query(scope, "count"))):
        body = bytes([number % 251]) * size
        await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def events(scope: Scope, receive: Receive, send: Send) -> None:
    """Until the client goes: who waits for that cancels who sends."""
    await begin(send, "text/event-stream")

    async def push() -> None:
        for number in range(1_000_000):
            data = b"data: %d\n\n" % number
            await send({"type": "http.response.body", "body": data, "more_body": True})
            await trio.sleep(0.005)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(push)
        while (await receive())["type"] != "http.disconnect":
            pass
        nursery.cancel_scope.cancel()
    witness("stream over")


async def later(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer now, and work on in the nursery of the lifespan."""

    async def work() -> None:
        await trio.sleep(0.05)
        witness("worked on")

    scope["state"]["nursery"].start_soon(work)
    await answer(send, b"answered")


async def crash(scope: Scope, receive: Receive, send: Send) -> None:
    raise ZeroDivisionError("crash before the answer")


async def crash_together(scope: Scope, receive: Receive, send: Send) -> None:
    async def fail() -> None:
        await trio.sleep(0.01)
        raise ZeroDivisionError("crash in a nursery")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        nursery.start_soon(trio.sleep_forever)


async def crash_late(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"content-length", b"2000")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"a" * 1000, "more_body": True})
    raise ZeroDivisionError("crash within the answer")


async def accepted(receive: Receive, send: Send) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    await accepted(receive, send)
    while (message := await receive())["type"] == "websocket.receive":
        text, data = message.get("text"), message.get("bytes")
        await send({"type": "websocket.send", "text": text, "bytes": data})
    witness(f"client left with {message['code']}")


async def chat(scope: Scope, receive: Receive, send: Send) -> None:
    """A memory channel for each member; what one says is put into those of all."""
    room = scope["state"]["rooms"].setdefault(scope["path"], {})
    order, inbox = trio.open_memory_channel[str](100)
    await accepted(receive, send)
    await send({"type": "websocket.send", "text": str(os.getpid())})
    first = await receive()
    if first["type"] == "websocket.disconnect":
        return
    name = first["text"]
    async with trio.open_nursery() as nursery, order, inbox:
        nursery.start_soon(deliver, inbox, send)
        room[name] = order
        tell(room, f"{name} is here")
        while (message := await receive())["type"] == "websocket.receive":
            tell(room, f"{name}: {message['text']}")
        del room[name]
        tell(room, f"{name} has left")
        nursery.cancel_scope.cancel()


def tell(room: dict[str, trio.MemorySendChannel[str]], text: str) -> None:
    for member in room.values():
        member.send_nowait(text)


async def deliver(inbox: trio.MemoryReceiveChannel[str], send: Send) -> None:
    async for text in inbox:
        await send({"type": "websocket.send", "text": text})


async def patience(scope: Scope, receive: Receive, send: Send) -> None:
    """Close on a client that says nothing."""
    await accepted(receive, send)
    with trio.move_on_after(0.05):
        await receive()
    await send({"type": "websocket.close", "code": 4008, "reason": "too slow"})


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "websocket.close", "code": 4003})


async def ws_crash(scope: Scope, receive: Receive, send: Send) -> None:
    await accepted(receive, send)
    raise ZeroDivisionError("crash in a WebSocket")


PAGES = {
    "/": home,
    "/pid": pid,
    "/who": who,
    "/sleep": sleep,
    "/beats": beats,
    "/race": race,
    "/in-time": in_time,
    "/thread": thread,
    "/shout": shout,
    "/process": process,
    "/file": file,
    "/digest": digest,
    "/swallow": swallow,
    "/stream": stream,
    "/events": events,
    "/later": later,
    "/crash": crash,
    "/crash-together": crash_together,
    "/crash-late": crash_late,
}
WEBSOCKETS = {
    "echo": echo,
    "chat": chat,
    "patience": patience,
    "refuse": refuse,
    "crash": ws_crash,
}
