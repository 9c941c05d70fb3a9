"""Timing middleware as in every introduction to ASGI, many deep, around everything."""

from __future__ import annotations

import asyncio
import os
import socket
import time


def witness(word: str) -> None:
    """Tell the test what happened here."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(word.encode(), os.environ["SITE_WITNESS"])


class ProcessTime:
    """The one that is printed everywhere: adds a field to the list that is in the message."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()

        async def timed(message):
            if message["type"] == "http.response.start":
                duration = time.perf_counter() - started
                headers = message.setdefault("headers", [])
                headers.append((b"x-process-time", f"{duration:.6f}".encode()))
            await send(message)

        await self.app(scope, receive, timed)


class ServerTiming:
    """Looks at no type: it wraps HTTP, WebSocket and lifespan alike, and copies what it changes."""

    def __init__(self, app, name):
        self.app = app
        self.name = name

    async def __call__(self, scope, receive, send):
        started = time.perf_counter()

        def timed(message):
            if message["type"] in ("http.response.start", "websocket.accept"):
                took = (time.perf_counter() - started) * 1000
                field = (b"server-timing", f"{self.name};dur={took:.3f}".encode())
                message = {**message, "headers": [*message.get("headers", ()), field]}
            return send(message)  # not a coroutine function, but what it returns is awaited

        await self.app(scope, receive, timed)


class Logged:
    """Times the whole call, also if it fails or is cancelled, and counts messages both ways."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        counts = {"in": 0, "out": 0}

        async def counted_receive():
            message = await receive()
            counts["in"] += 1
            return message

        async def counted_send(message):
            await send(message)
            counts["out"] += 1

        started = time.perf_counter()
        ended = "returned"
        try:
            await self.app(scope, counted_receive, counted_send)
        except BaseException as error:
            ended = type(error).__name__
            raise
        finally:
            took = time.perf_counter() - started
            if scope["type"] == "lifespan" or b"witness" in scope.get("query_string", b""):
                slow = "slow" if took >= 0.1 else "quick"
                witness(f"{scope['type']} {ended} {slow} {counts['in']} in {counts['out']} out")


def timing(app):
    """A middleware that is a plain function."""

    async def middleware(scope, receive, send):
        started = time.monotonic()
        scope = dict(scope, started=started)
        await app(scope, receive, send)
        scope["took"] = time.monotonic() - started

    return middleware


async def lifespan(receive, send):
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def echo(receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


async def site(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "websocket":
        await echo(receive, send)
    else:
        await page(scope, receive, send)


async def page(scope, receive, send):
    start = {"type": "http.response.start", "status": 200, "headers": []}
    match scope["path"]:
        case "/":
            assert scope["started"] <= time.monotonic()
            body = b"Hello, world!"
            start["headers"] = [(b"content-length", str(len(body)).encode())]
            await send(start)
            await send({"type": "http.response.body", "body": body})
        case "/no-headers":
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"bare"})
        case "/slow":
            await asyncio.sleep(0.12)  # loops count in milliseconds that have begun
            await send(start)
            await send({"type": "http.response.body", "body": b"slow"})
        case "/echo":
            await send(start)
            while (message := await receive())["type"] == "http.request":
                more = message.get("more_body", False)
                body = message.get("body", b"")
                await send({"type": "http.response.body", "body": body, "more_body": more})
                if not more:
                    break
        case "/crash":
            raise ZeroDivisionError("timed crash")
        case "/crash-late":
            await send({**start, "headers": [(b"content-length", b"100")]})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            raise ZeroDivisionError("timed crash within the answer")
        case "/endless":
            await send(start)
            while True:
                await send({"type": "http.response.body", "body": b"x" * 100, "more_body": True})
                await asyncio.sleep(0.005)


LAYERS = 20

app = site
for layer in range(LAYERS):
    app = ServerTiming(app, f"layer{layer}")
app = Logged(timing(ProcessTime(ProcessTime(app))))
