"""``asgi_supervise.demo:app``: something to serve, and a page on which supervision can be watched.

A plain ASGI application without a framework. It runs on any ASGI server; which worker answered is
known only under asgi-supervise (``scope["extensions"]["asgi_supervise"]``). It is for trying out:
it has routes that hang and kill its own process, so do not offer it to strangers.

Every answer about the worker closes its connection, because a browser would otherwise ask the same
worker again and again over the few connections it keeps.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from asgi_worker.application import Receive, Scope, Send

Route = Callable[[Scope, Receive, Send], Awaitable[None]]

TICKS = 5
"""Events of one clock: a stream without an end would hold up every graceful stop."""
TICK_S = 1.0
HANG_S = 2.0

PAGE = Path(__file__).with_suffix(".html").read_bytes()
STARTED = time.monotonic()


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """The ASGI application."""
    match scope["type"]:
        case "lifespan":
            await _lifespan(receive, send)
        case "websocket" if scope["path"] == "/echo":
            await _echo(scope, receive, send)
        case "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
        case _:  # "http"
            method, route = ROUTES.get(scope["path"], ("GET", _not_found))
            if scope["method"] in (method, "HEAD" if method == "GET" else method):
                await route(scope, receive, send)
            else:
                headers = [(b"allow", method.encode())]
                await _answer(send, b"wrong method\n", status=405, headers=headers)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _worker(scope: Scope) -> dict[str, Any]:
    """Who answers."""
    ours = scope.get("extensions", {}).get("asgi_supervise", {})
    return {
        "slot": ours.get("slot", 0),
        "generation": ours.get("generation", 0),
        "workers": ours.get("workers", 1),
        "pid": os.getpid(),
        "master": os.getppid(),
        "uptime_s": round(time.monotonic() - STARTED, 1),
    }


async def _page(scope: Scope, receive: Receive, send: Send) -> None:
    await _answer(send, PAGE, content_type="text/html; charset=utf-8")


async def _who(scope: Scope, receive: Receive, send: Send) -> None:
    close = [(b"connection", b"close")] if scope["http_version"] == "1.1" else []
    body = json.dumps(_worker(scope)).encode() + b"\n"
    await _answer(send, body, content_type="application/json", headers=close)


async def _slow(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer after ``?seconds=`` (2, at most 60) without keeping anybody else waiting."""
    asked = parse_qs(scope["query_string"].decode("latin-1")).get("seconds", ["2"])[0]
    try:
        seconds = min(max(float(asked), 0.0), 60.0)
    except ValueError:
        await _answer(send, b"seconds must be a number\n", status=400)
        return
    await asyncio.sleep(seconds)
    await _who(scope, receive, send)


async def _error(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("somebody asked the demo for /error")


async def _hang(scope: Scope, receive: Receive, send: Send) -> None:
    """Wait for a lock that nobody lets go of, in the event loop: all that it serves waits, too."""
    lock = threading.Lock()
    lock.acquire()
    lock.acquire(timeout=HANG_S)
    await _who(scope, receive, send)


async def _crash(scope: Scope, receive: Receive, send: Send) -> None:
    """End this worker's process at once, as a segmentation fault would."""
    os._exit(1)


async def _clock(scope: Scope, receive: Receive, send: Send) -> None:
    """Server-sent events: the time once a second, a few times; then the browser comes again."""
    headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    gone = asyncio.ensure_future(_gone(receive))
    body = b"retry: 500\n\n"
    for _ in range(TICKS):
        event = {**_worker(scope), "time": time.strftime("%H:%M:%S")}
        body += f"data: {json.dumps(event)}\n\n".encode()
        await send({"type": "http.response.body", "body": body, "more_body": True})
        body = b""
        await asyncio.wait({gone}, timeout=TICK_S)
        if gone.done():
            return
    gone.cancel()
    await send({"type": "http.response.body", "body": b""})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": json.dumps(_worker(scope))})
    while (message := await receive())["type"] == "websocket.receive":
        text, data = message.get("text"), message.get("bytes")
        echo = {"text": text} if text is not None else {"bytes": data}
        await send({"type": "websocket.send", **echo})


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    body = "".join(f"{method:4} {path}\n" for path, (method, _) in ROUTES.items())
    await _answer(send, f"not found; there are:\n{body}".encode(), status=404)


async def _answer(
    send: Send,
    body: bytes,
    *,
    status: int = 200,
    content_type: str = "text/plain; charset=utf-8",
    headers: list[tuple[bytes, bytes]] | None = None,
) -> None:
    fields = [
        (b"content-type", content_type.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *(headers or []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


ROUTES: dict[str, tuple[str, Route]] = {
    "/": ("GET", _page),
    "/who": ("GET", _who),
    "/slow": ("GET", _slow),
    "/clock": ("GET", _clock),
    "/error": ("GET", _error),
    "/hang": ("POST", _hang),
    "/crash": ("POST", _crash),
}
