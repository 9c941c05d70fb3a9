"""A Sanic application of some size, written as for any ASGI server: nothing in it knows ours."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import time
from pathlib import Path
from typing import Any

from sanic import Blueprint, Request, Sanic, Websocket
from sanic.exceptions import Forbidden, SanicException
from sanic.response import HTTPResponse, empty, file, file_stream, json, redirect, text
from sanic.views import HTTPMethodView

FILES = Path(os.environ["SITE_FILES"])


def witness(path: str, word: str) -> None:
    """Tell the test what happened here, on the datagram socket that it listens to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(word.encode(), path)


class Refused(Exception):
    pass


site = Blueprint("site")
shop = Blueprint("shop", url_prefix="/shop", version=1)
ws = Blueprint("ws", url_prefix="/ws")


@shop.middleware("request")
async def open_till(request: Request) -> None:
    request.ctx.till = "open"


@shop.get("/thing/<number:int>")
async def thing(request: Request, number: int) -> HTTPResponse:
    here = request.app.url_for("shop.thing", number=number)
    return json({"number": number, "till": request.ctx.till, "here": here})


@shop.get("/away/<rest:path>")
async def away(request: Request, rest: str) -> HTTPResponse:
    return json({"rest": rest, "path": request.path, "url": request.url})


@site.get("/")
async def home(request: Request) -> HTTPResponse:
    return text("Hello, world!")


@site.head("/")
async def head(request: Request) -> HTTPResponse:
    return text("", headers={"x-head": "yes"})


@site.get("/pid")
async def pid(request: Request) -> HTTPResponse:
    return text(str(os.getpid()))


@site.get("/who")
async def who(request: Request) -> HTTPResponse:
    return json(
        {
            "pid": os.getpid(),
            "events": request.app.ctx.events,
            "ticking": request.app.ctx.ticks > 0,
            "client": request.ip,
            "url": request.url,
            "version": request.version,
            "query": request.args,
        }
    )


@site.get("/sleep")
async def sleep(request: Request) -> HTTPResponse:
    await asyncio.sleep(float(request.args.get("seconds")))
    return text(request.args.get("mark"))


@site.get("/thread")
async def in_thread(request: Request) -> HTTPResponse:
    await asyncio.to_thread(time.sleep, 0.02)
    return text("slept in a thread")


class Thing(HTTPMethodView):
    async def get(self, request: Request, name: str) -> HTTPResponse:
        return text(f"got {name}")

    async def put(self, request: Request, name: str) -> HTTPResponse:
        return text(f"put {name}", status=201)

    async def delete(self, request: Request, name: str) -> HTTPResponse:
        return empty()


site.add_route(Thing.as_view(), "/view/<name:str>")


@site.post("/json")
async def echo_json(request: Request) -> HTTPResponse:
    return json(request.json)


@site.post("/form")
async def form(request: Request) -> HTTPResponse:
    answer: dict[str, Any] = {name: request.form.getlist(name) for name in request.form}
    for name, (one,) in request.files.items():
        sha256 = hashlib.sha256(one.body).hexdigest()
        answer[name] = [one.name, one.type, len(one.body), sha256]
    return json(answer)


@site.post("/whole")
async def whole(request: Request) -> HTTPResponse:
    return json({"size": len(request.body), "sha256": hashlib.sha256(request.body).hexdigest()})


@site.put("/digest", stream=True)
async def digest(request: Request) -> HTTPResponse:
    """Read the body as it comes."""
    sha, size, pieces = hashlib.sha256(), 0, 0
    async for piece in request.stream:
        sha.update(piece)
        size += len(piece)
        pieces += 1
        await asyncio.sleep(0)
    return json({"sha256": sha.hexdigest(), "size": size, "pieces": pieces})


@site.post("/echo-stream", stream=True)
async def echo_stream(request: Request) -> None:
    """Answer while the request still arrives."""
    response = await request.respond(content_type="application/octet-stream")
    async for piece in request.stream:
        await response.send(piece.upper())
    await response.eof()


@site.post("/swallow", stream=True)
async def swallow(request: Request) -> HTTPResponse:
    """Read an upload that the client breaks off: Sanic takes what came for all."""
    witness(os.environ["SITE_WITNESS"], "reading")
    size = 0
    async for piece in request.stream:
        size += len(piece)
    witness(os.environ["SITE_WITNESS"], f"read {size}")
    return empty()


@site.get("/stream")
async def stream(request: Request) -> None:
    count, size = int(request.args.get("count")), int(request.args.get("size"))
    response = await request.respond(content_type="application/octet-stream")
    for number in range(count):
        await response.send(bytes([number % 251]) * size)
    await response.eof()


@site.get("/events")
async def events(request: Request) -> None:
    """Server-sent events: as many as asked for, or until the client goes."""
    count = int(request.args.get("count", "1000000000"))
    response = await request.respond(content_type="text/event-stream")
    try:
        for number in range(count):
            await response.send(f"data: {number}\n\n")
            await asyncio.sleep(0.005)
    except OSError:
        witness(os.environ["SITE_WITNESS"], "stream over")
        raise


@site.get("/background")
async def background(request: Request) -> HTTPResponse:
    async def task(word: str) -> None:
        await asyncio.sleep(0.05)
        witness(os.environ["SITE_WITNESS"], word)

    request.app.add_task(task("done later"), name=f"later {id(request)}")
    return text("answered")


@site.get("/cookies")
async def cookies(request: Request) -> HTTPResponse:
    response = json({name: request.cookies.get(name) for name in request.cookies})
    response.add_cookie("a", "1", httponly=True, secure=False)
    response.add_cookie("b", "2", max_age=60, secure=False)
    response.delete_cookie("c")
    return response


@site.get("/file")
async def whole_file(request: Request) -> HTTPResponse:
    return await file(FILES / "large.bin", filename="large file.bin")


@site.get("/file-stream")
async def streamed_file(request: Request) -> Any:
    return await file_stream(FILES / "large.bin", chunk_size=65_536)


@site.get("/redirect")
async def go(request: Request) -> HTTPResponse:
    return redirect(request.app.url_for("site.home"))


@site.get("/no-content")
async def no_content(request: Request) -> HTTPResponse:
    return empty()


@site.get("/forbidden")
async def forbidden(request: Request) -> None:
    raise Forbidden("not for you", headers={"x-why": "because"})


@site.get("/refused")
async def refused(request: Request) -> None:
    raise Refused("go away")


@site.get("/teapot")
async def teapot(request: Request) -> None:
    raise SanicException("short and stout", status_code=418)


@site.exception(Refused)
async def handle(request: Request, error: Refused) -> HTTPResponse:
    return json({"refused": str(error)}, status=403)


@site.get("/crash")
async def crash(request: Request) -> None:
    raise ZeroDivisionError("crash before the answer")


@site.get("/crash-late")
async def crash_late(request: Request) -> None:
    response = await request.respond(headers={"content-length": "2000"})
    await response.send("a" * 1000)
    raise ZeroDivisionError("crash within the answer")


@ws.websocket("/echo")
async def echo(request: Request, socket: Websocket) -> None:
    while (message := await socket.recv()) is not None:
        await socket.send(message)
    witness(os.environ["SITE_WITNESS"], "client left")


@ws.websocket("/facts/<room:str>", subprotocols=["chat.v2"])
async def facts(request: Request, socket: Websocket, room: str) -> None:
    await socket.send(f"{room} {request.path} {request.args.get('a')} {request.cookies.get('who')}")
    await socket.close(4001, "which Sanic does not pass on")


@ws.websocket("/clock")
async def clock(request: Request, socket: Websocket) -> None:
    """Push and receive at the same time."""

    async def push() -> None:
        number = 0
        while True:
            await socket.send(f"tick {number}")
            number += 1
            await asyncio.sleep(0.01)

    pushing = asyncio.create_task(push())
    try:
        while (message := await socket.recv()) is not None:
            await socket.send(str(message).upper())
    finally:
        pushing.cancel()
        await asyncio.gather(pushing, return_exceptions=True)
    witness(os.environ["SITE_WITNESS"], "clock stopped")


@ws.websocket("/crash")
async def ws_crash(request: Request, socket: Websocket) -> None:
    raise ZeroDivisionError("crash in a WebSocket")


def create_app() -> Sanic:
    app = Sanic("Site")
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.REQUEST_MAX_SIZE = 1024 * 1024
    app.blueprint(Blueprint.group(site, shop, ws))
    app.static("/static", FILES, name="static", use_content_range=True, index="index.html")
    app.ctx.events = []
    app.ctx.ticks = 0

    for name in ("before_server_start", "after_server_start"):

        async def started(app: Sanic, name: str = name) -> None:
            app.ctx.events.append(name)

        app.register_listener(started, name)

    for name in ("before_server_stop", "after_server_stop"):

        async def stops(app: Sanic, name: str = name) -> None:
            app.ctx.events.append(name)
            if name.startswith("after"):
                witness(os.environ["SITE_WITNESS"], ", ".join(app.ctx.events))

        app.register_listener(stops, name)

    async def tick(app: Sanic) -> None:
        while True:
            app.ctx.ticks += 1
            await asyncio.sleep(0.05)

    app.add_task(tick)

    @app.on_response
    async def sign(request: Request, response: HTTPResponse) -> None:
        response.headers["x-signed"] = "sanic"

    return app
