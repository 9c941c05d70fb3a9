"""A BlackSheep application of some size, written as for any server: nothing in it knows ours."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blacksheep import (
    Application,
    ContentDispositionType,
    Cookie,
    FormPart,
    FromHeader,
    FromJSON,
    FromQuery,
    Request,
    Response,
    StreamedContent,
    WebSocket,
    WebSocketDisconnectError,
    file,
    json,
    redirect,
    text,
)
from blacksheep.exceptions import Forbidden, HTTPException, MessageAborted
from blacksheep.server.controllers import Controller, delete, get, post
from blacksheep.server.openapi.v3 import OpenAPIHandler
from blacksheep.server.sse import ServerSentEvent, ServerSentEventsResponse
from openapidocs.v3 import Info

FILES = Path(os.environ["SITE_FILES"])


def witness(path: str, word: str) -> None:
    """Tell the test what happened here, on the datagram socket that it listens to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(word.encode(), path)


class Refused(Exception):
    pass


class Agent(FromHeader[str]):
    name = "User-Agent"


@dataclass
class Order:
    thing: str
    pieces: int
    price: float = 1.5


class Till:
    """One for each request: a scoped service."""

    def __init__(self) -> None:
        self.taken = 0.0


class Shop:
    """One for each worker: a singleton."""

    def __init__(self) -> None:
        self.name = "The shop"
        self.events: list[str] = []


class Orders(Controller):
    @get("/orders/{int:number}")
    async def one(self, number: int, till: Till, shop: Shop, agent: Agent) -> Response:
        till.taken += number
        facts = {"number": number, "taken": till.taken, "shop": shop.name}
        return json({**facts, "agent": agent.value.partition("/")[0]})

    @post("/orders")
    async def make(self, data: FromJSON[Order]) -> Response:
        order = data.value
        return json({"thing": order.thing, "sum": order.pieces * order.price}, status=201)

    @delete("/orders/{number}")
    async def cancel(self, number: str) -> Response:
        return Response(204)


async def home() -> str:
    return "Hello, world!"


async def head() -> Response:
    return Response(200, [(b"x-head", b"yes")])


async def pid() -> str:
    return str(os.getpid())


async def who(request: Request, rest: str, shop: Shop, a: FromQuery[list[int]]) -> Response:
    return json(
        {
            "pid": os.getpid(),
            "events": shop.events,
            "rest": rest,
            "client": request.client_ip,
            "scheme": request.scheme,
            "host": request.host,
            "path": request.path,
            "base": request.base_path,
            "a": a.value,
        }
    )


async def sleep(seconds: float, mark: str) -> str:
    await asyncio.sleep(seconds)
    return mark


async def echo_json(request: Request) -> Response:
    return json(await request.json())


async def form(request: Request) -> Response:
    answer: dict[str, Any] = {}
    for name, value in (await request.form() or {}).items():
        part = value[0] if isinstance(value, list) else value
        if isinstance(part, FormPart):
            sha256 = hashlib.sha256(part.data).hexdigest()
            kind = (part.content_type or b"").decode()
            answer[name] = [part.file_name.decode(), kind, len(part.data), sha256]
        else:
            answer[name] = part
    return json(answer)


async def digest(request: Request) -> Response:
    """Read the body as it comes."""
    sha, size, pieces = hashlib.sha256(), 0, 0
    async for piece in request.stream():
        sha.update(piece)
        size += len(piece)
        pieces += 1
        await asyncio.sleep(0)
    return json({"sha256": sha.hexdigest(), "size": size, "pieces": pieces})


async def echo_stream(request: Request) -> Response:
    """Answer while the request still arrives."""

    async def pieces() -> AsyncIterator[bytes]:
        async for piece in request.stream():
            if piece:  # an empty one would end the answer
                yield piece.upper()

    return Response(200, content=StreamedContent(b"application/octet-stream", pieces))


async def swallow(request: Request) -> Response:
    """Read an upload that the client breaks off."""
    witness(os.environ["SITE_WITNESS"], "reading")
    try:
        await request.read()
    except MessageAborted:
        witness(os.environ["SITE_WITNESS"], "upload broken off")
    return Response(204)


async def linger(request: Request) -> Response:
    """Poll for the client's leaving, as long handlers do."""
    witness(os.environ["SITE_WITNESS"], "waiting")
    while not await request.is_disconnected():  # noqa: ASYNC110 – that is how it is done
        await asyncio.sleep(0.005)
    witness(os.environ["SITE_WITNESS"], "client gone")
    return text("nobody reads this")


async def stream(count: int, size: int) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(count):
            yield bytes([number % 251]) * size

    return Response(200, content=StreamedContent(b"application/octet-stream", pieces))


async def large(size: int) -> Response:
    return text("x" * size)


async def events(request: Request, count: int = 1_000_000_000) -> Response:
    async def ticks() -> AsyncIterator[ServerSentEvent]:
        try:
            for number in range(count):
                yield ServerSentEvent({"number": number}, event="tick", id=str(number))
                await asyncio.sleep(0.005)
        finally:
            if count > 1000:
                witness(os.environ["SITE_WITNESS"], "events over")

    return ServerSentEventsResponse(ticks)


async def visits(request: Request) -> Response:
    number = int(request.session.get("visits", 0)) + 1
    request.session["visits"] = number
    return json({"visits": number})


async def cookies(request: Request) -> Response:
    response = json(dict(request.cookies))
    response.set_cookie(Cookie("a", "1", http_only=True))
    response.set_cookie(Cookie("b", "2", max_age=60))
    response.unset_cookie("c")
    return response


async def download() -> Response:
    return file(
        str(FILES / "large.bin"),
        "application/octet-stream",
        file_name="large.bin",
        content_disposition=ContentDispositionType.ATTACHMENT,
    )


async def go() -> Response:
    return redirect("/")


async def nothing() -> Response:
    return Response(204)


async def crash(when: str) -> Response:
    if when == "refused":
        raise Refused("not for you")
    if when == "forbidden":
        raise Forbidden("nor for you")
    if when == "teapot":
        raise HTTPException(418, "short and stout")
    if when == "early":
        raise ZeroDivisionError("crash before the answer")

    async def pieces() -> AsyncIterator[bytes]:
        yield b"a" * 1000
        raise ZeroDivisionError("crash within the answer")

    return Response(200, content=StreamedContent(b"text/plain", pieces))


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        while True:
            await websocket.send_text(await websocket.receive_text())
            await websocket.send_bytes(await websocket.receive_bytes())
    except WebSocketDisconnectError as gone:
        witness(os.environ["SITE_WITNESS"], f"closed {gone.code}")


async def facts(websocket: WebSocket, room: str, shop: Shop) -> None:
    await websocket.accept(headers=[(b"x-accepted", b"yes")], subprotocol="chat.v2")
    await websocket.send_json(
        {
            "room": room,
            "path": websocket.scope["path"],
            "query": dict(websocket.query.items()),
            "cookie": websocket.cookies.get("who"),
            "shop": shop.name,
        }
    )
    await websocket.close(4001, "seen enough")


async def clock(websocket: WebSocket) -> None:
    """Push and receive at the same time."""
    await websocket.accept()

    async def push() -> None:
        number = 0
        while True:
            await websocket.send_text(f"tick {number}")
            number += 1
            await asyncio.sleep(0.01)

    pushing = asyncio.create_task(push())
    try:
        while True:
            await websocket.send_text((await websocket.receive_text()).upper())
    except WebSocketDisconnectError:
        pushing.cancel()
        await asyncio.gather(pushing, return_exceptions=True)
    witness(os.environ["SITE_WITNESS"], "clock stopped")


async def refuse(websocket: WebSocket) -> None:
    await websocket.close()


async def ws_crash(websocket: WebSocket) -> None:
    await websocket.accept()
    raise ZeroDivisionError("crash in a WebSocket")


async def refused(app: Application, request: Request, error: Refused) -> Response:
    return json({"refused": str(error)}, status=403)


async def sign(request: Request, handler: Any) -> Response:
    response = await handler(request)
    if response is not None:  # that of a WebSocket
        response.add_header(b"x-signed", b"blacksheep")
    return response


def create_app() -> Application:
    app = Application()
    shop = Shop()
    app.services.add_instance(shop)
    app.services.add_scoped(Till)
    app.use_sessions("not a secret")
    app.use_cors(allow_origins="https://front.example", allow_methods="*")
    app.middlewares.append(sign)
    app.exceptions_handlers[Refused] = refused

    router = app.router
    router.add_get("/", home)
    router.add_head("/head", head)
    router.add_get("/pid", pid)
    router.add_get("/who/{path:rest}", who)
    router.add_get("/sleep", sleep)
    router.add_post("/json", echo_json)
    router.add_post("/form", form)
    router.add_put("/digest", digest)
    router.add_post("/echo-stream", echo_stream)
    router.add_post("/swallow", swallow)
    router.add_get("/linger", linger)
    router.add_get("/stream", stream)
    router.add_get("/large", large)
    router.add_get("/events", events)
    router.add_get("/visits", visits)
    router.add_get("/cookies", cookies)
    router.add_get("/file", download)
    router.add_get("/redirect", go)
    router.add_get("/no-content", nothing)
    router.add_get("/crash/{when}", crash)
    router.add_ws("/ws/echo", echo)
    router.add_ws("/ws/facts/{room}", facts)
    router.add_ws("/ws/clock", clock)
    router.add_ws("/ws/refuse", refuse)
    router.add_ws("/ws/crash", ws_crash)
    app.serve_files(FILES, root_path="static", extensions={".css", ".html", ".txt", ".bin"})

    docs = OpenAPIHandler(info=Info(title="The shop", version="1.0"))
    docs.bind_app(app)

    @app.on_start
    async def start(app: Application) -> None:
        shop.events.append("on_start")

    @app.after_start
    async def after(app: Application) -> None:
        shop.events.append("after_start")

    @app.lifespan
    async def living() -> AsyncIterator[None]:
        shop.events.append("lifespan")
        yield
        shop.events.append("lifespan over")

    @app.on_stop
    async def stop(app: Application) -> None:
        witness(os.environ["SITE_WITNESS"], ", ".join(shop.events))

    return app
