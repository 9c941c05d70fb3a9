"""A Starlette application of some size, written as for any server: nothing in it knows ours."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, TypedDict

from starlette.applications import Starlette
from starlette.background import BackgroundTask, BackgroundTasks
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

FILES = Path(os.environ["SITE_FILES"])


def witness(path: str, word: str) -> None:
    """Tell the test what happened here, on the datagram socket that it listens to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(word.encode(), path)


class State(TypedDict):
    started_in: int
    hits: list[int]


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[State]:
    app.state.task = asyncio.create_task(asyncio.Event().wait())
    yield {"started_in": os.getpid(), "hits": []}
    app.state.task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await app.state.task
    witness(os.environ["SITE_WITNESS"], "lifespan over")


async def home(request: Request) -> Response:
    return PlainTextResponse("Hello, world!")


async def who(request: Request) -> Response:
    return JSONResponse(
        {
            "pid": os.getpid(),
            "started_in": request.state.started_in,
            "client": request.client and request.client.host,
            "url": str(request.url),
            "http_version": request.scope["http_version"],
            "loop": type(asyncio.get_running_loop()).__module__.partition(".")[0],
        }
    )


async def item(request: Request) -> Response:
    return JSONResponse(
        {
            "number": request.path_params["number"],
            "query": request.query_params.multi_items(),
            "url": str(request.url_for("item", number=7)),
        }
    )


async def rest(request: Request) -> Response:
    return JSONResponse(
        {
            "rest": request.path_params["rest"],
            "path": request.scope["path"],
            "raw_path": request.scope["raw_path"].decode("ascii"),
        }
    )


async def echo_json(request: Request) -> Response:
    return JSONResponse(await request.json())


async def echo_headers(request: Request) -> Response:
    return JSONResponse(request.headers.items())


async def form(request: Request) -> Response:
    async with request.form() as data:
        return JSONResponse({name: value for name, value in data.items() if isinstance(value, str)})


async def upload(request: Request) -> Response:
    answer: dict[str, Any] = {}
    async with request.form() as data:
        for name, value in data.items():
            if isinstance(value, UploadFile):
                content = await value.read()
                answer[name] = {
                    "name": value.filename,
                    "type": value.content_type,
                    "size": len(content),
                    "sha256": hashlib.sha256(content).hexdigest(),
                }
            else:
                answer[name] = value
    return JSONResponse(answer)


async def digest(request: Request) -> Response:
    """Read the body as it comes, more slowly than it is sent."""
    sha, size, pieces = hashlib.sha256(), 0, 0
    async for piece in request.stream():
        sha.update(piece)
        size += len(piece)
        pieces += 1
        await asyncio.sleep(0)
    return JSONResponse({"sha256": sha.hexdigest(), "size": size, "pieces": pieces})


async def echo_stream(request: Request) -> Response:
    """Answer while the request still arrives."""

    async def body() -> AsyncIterator[bytes]:
        async for piece in request.stream():
            yield piece.upper()

    return StreamingResponse(body(), media_type="application/octet-stream")


async def stream(request: Request) -> Response:
    count, size = int(request.query_params["count"]), int(request.query_params["size"])

    async def body() -> AsyncIterator[bytes]:
        for number in range(count):
            yield bytes([number % 251]) * size
            if number % 10 == 0:
                await asyncio.sleep(0)

    return StreamingResponse(body(), media_type="application/octet-stream")


async def stream_sync(request: Request) -> Response:
    def body() -> Iterator[bytes]:
        for number in range(50):
            yield b"%d\n" % number

    return StreamingResponse(body(), media_type="text/plain")


async def events(request: Request) -> Response:
    """Server-sent events: as many as asked for, or until the client goes."""
    count = int(request.query_params.get("count", "1000000000"))

    async def body() -> AsyncIterator[bytes]:
        try:
            for number in range(count):
                yield f"id: {number}\ndata: {json.dumps({'number': number})}\n\n".encode()
                await asyncio.sleep(0.005)
        finally:
            if "witness" in request.query_params:
                witness(request.query_params["witness"], "stream over")

    return StreamingResponse(
        body(), media_type="text/event-stream", headers={"cache-control": "no-store"}
    )


async def linger(request: Request) -> Response:
    """Poll for the client's leaving, as long handlers do."""
    witness(request.query_params["witness"], "waiting")
    while not await request.is_disconnected():  # noqa: ASYNC110 – that is how it is done
        await asyncio.sleep(0.005)
    witness(request.query_params["witness"], "client gone")
    return PlainTextResponse("nobody reads this")


async def swallow(request: Request) -> Response:
    """Read an upload that the client breaks off."""
    witness(request.query_params["witness"], "reading")
    try:
        await request.body()
    except ClientDisconnect:
        witness(request.query_params["witness"], "upload broken off")
        raise
    return PlainTextResponse("read it all")


def in_thread(request: Request) -> Response:
    time.sleep(0.05)
    return PlainTextResponse(threading.current_thread().name)


async def to_thread(request: Request) -> Response:
    name = await run_in_threadpool(lambda: threading.current_thread().name)
    return PlainTextResponse(name)


async def background(request: Request) -> Response:
    where = request.query_params["witness"]
    tasks = BackgroundTasks([BackgroundTask(witness, where, "first")])
    tasks.add_task(witness, where, "second")
    return PlainTextResponse("answered", background=tasks)


async def file(request: Request) -> Response:
    return FileResponse(FILES / "large.bin", filename="grüße.bin")


async def session(request: Request) -> Response:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JSONResponse({"visits": request.session["visits"]})


async def cookies(request: Request) -> Response:
    response = JSONResponse(request.cookies)
    response.set_cookie("a", "1", httponly=True)
    response.set_cookie("b", "2", max_age=60)
    response.delete_cookie("c")
    return response


async def redirect(request: Request) -> Response:
    return RedirectResponse(request.url_for("home"), status_code=303)


async def no_content(request: Request) -> Response:
    return Response(status_code=204)


async def not_modified(request: Request) -> Response:
    return Response(status_code=304, headers={"etag": '"x"'})


async def teapot(request: Request) -> Response:
    raise HTTPException(418, "short and stout", headers={"x-lid": "on"})


async def crash(request: Request) -> Response:
    raise ZeroDivisionError("crash before the answer")


async def crash_late(request: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        yield b"a" * 1000
        raise ZeroDivisionError("crash within the answer")

    return StreamingResponse(body(), headers={"content-length": "2000"})


async def long_text(request: Request) -> Response:
    return PlainTextResponse("All work and no play. " * 1000)


class Methods(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return PlainTextResponse("got")

    async def put(self, request: Request) -> Response:
        return Response(await request.body(), 201)

    async def delete(self, request: Request) -> Response:
        return Response(status_code=204)


class Echo(WebSocketEndpoint):
    async def on_receive(self, websocket: WebSocket, data: Any) -> None:
        if isinstance(data, str):
            await websocket.send_text(data)
        else:
            await websocket.send_bytes(data)

    async def decode(self, websocket: WebSocket, message: Message) -> Any:
        text = message.get("text")
        return text if text is not None else message["bytes"]

    async def on_disconnect(self, websocket: WebSocket, close_code: int) -> None:
        if "witness" in websocket.query_params:
            witness(websocket.query_params["witness"], f"closed {close_code}")


async def ws_facts(websocket: WebSocket) -> None:
    chosen = "chat.v2" if "chat.v2" in websocket.scope["subprotocols"] else None
    await websocket.accept(subprotocol=chosen, headers=[(b"x-accepted", b"yes")])
    await websocket.send_json(
        {
            "path": websocket.url.path,
            "query": dict(websocket.query_params),
            "room": websocket.path_params["room"],
            "cookie": websocket.cookies.get("who"),
            "offered": websocket.scope["subprotocols"],
            "started_in": websocket.state.started_in,
        }
    )
    await websocket.close(4001, "seen enough")


async def ws_refuse(websocket: WebSocket) -> None:
    await websocket.close()


async def ws_deny(websocket: WebSocket) -> None:
    await websocket.send_denial_response(JSONResponse({"detail": "not today"}, 429))


async def ws_crash(websocket: WebSocket) -> None:
    await websocket.accept()
    raise ZeroDivisionError("crash in a WebSocket")


async def ws_clock(websocket: WebSocket) -> None:
    """Push and receive at the same time."""
    await websocket.accept()

    async def push() -> None:
        number = 0
        while True:
            await websocket.send_json({"tick": number})
            number += 1
            await asyncio.sleep(0.01)

    task = asyncio.create_task(push())
    try:
        while True:
            await websocket.send_text((await websocket.receive_text()).upper())
    except WebSocketDisconnect:
        pass
    finally:
        task.cancel()


class Timed(BaseHTTPMiddleware):
    """The middleware with the most machinery between server and endpoint."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["x-timed"] = str(os.getpid())
        return response


class Counted:
    """A middleware in plain ASGI that writes to the state the lifespan left."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            assert "own" not in scope["state"], "the state of another request"
            scope["state"]["own"] = True
            scope["state"]["hits"].append(1)
            count = str(len(scope["state"]["hits"])).encode()
            pid = str(os.getpid()).encode()

            async def counted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    own = [(b"x-hits", count), (b"x-process", pid)]
                    message["headers"] = [*message["headers"], *own]
                await send(message)

            await self.app(scope, receive, counted)
        else:
            await self.app(scope, receive, send)


inner = Starlette(routes=[Route("/facts/{rest:path}", rest), Route("/url", who)])

app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/", home, name="home"),
        Route("/who", who),
        Route("/items/{number:int}", item, name="item"),
        Route("/rest/{rest:path}", rest),
        Route("/json", echo_json, methods=["POST"]),
        Route("/headers", echo_headers),
        Route("/form", form, methods=["POST"]),
        Route("/upload", upload, methods=["POST"]),
        Route("/digest", digest, methods=["POST", "PUT"]),
        Route("/echo-stream", echo_stream, methods=["POST"]),
        Route("/stream", stream),
        Route("/stream-sync", stream_sync),
        Route("/events", events),
        Route("/linger", linger),
        Route("/swallow", swallow, methods=["POST"]),
        Route("/in-thread", in_thread),
        Route("/to-thread", to_thread),
        Route("/background", background),
        Route("/file", file),
        Route("/session", session),
        Route("/cookies", cookies),
        Route("/redirect", redirect),
        Route("/no-content", no_content),
        Route("/not-modified", not_modified),
        Route("/teapot", teapot),
        Route("/crash", crash),
        Route("/crash-late", crash_late),
        Route("/long-text", long_text),
        Route("/methods", Methods),
        WebSocketRoute("/ws/echo", Echo),
        WebSocketRoute("/ws/facts/{room}", ws_facts),
        WebSocketRoute("/ws/refuse", ws_refuse),
        WebSocketRoute("/ws/deny", ws_deny),
        WebSocketRoute("/ws/crash", ws_crash),
        WebSocketRoute("/ws/clock", ws_clock),
        Mount("/inner", inner),
        Mount(
            "/timed",
            routes=[
                Route("/home", home),
                Route("/digest", digest, methods=["PUT"]),
                Route("/stream", stream),
                Route("/events", events),
                Route("/background", background),
                Route("/crash", crash),
            ],
            middleware=[Middleware(Timed)],
        ),
        Mount("/static", StaticFiles(directory=FILES, html=True)),
    ],
    middleware=[
        Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "*.example"]),
        Middleware(CORSMiddleware, allow_origins=["https://front.example"], allow_methods=["PUT"]),
        Middleware(SessionMiddleware, secret_key="not a secret"),
        Middleware(GZipMiddleware, minimum_size=500),
        Middleware(Counted),
    ],
)
