"""A Quart-Trio application, written as for any server that can run one on trio."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import sniffio
import trio
import trio.lowlevel
from quart import (
    Blueprint,
    abort,
    current_app,
    g,
    jsonify,
    make_response,
    render_template_string,
    request,
    session,
    stream_template_string,
    url_for,
    websocket,
)
from quart_trio import QuartTrio

PAGE = (
    "<title>{{ title }}</title>\n<p>{{ greeting() }}, {{ name }}!</p>\n"
    '<a href="{{ url_for("shop.thing", number=7) }}">The shop</a>'
)
ROWS = "{% for row in rows %}<tr><td>{{ row }}</td></tr>\n{% endfor %}"

shop = Blueprint("shop", __name__, url_prefix="/shop")
site = Blueprint("site", __name__)


def witness(word: str) -> None:
    """Tell the test what happened here, on the datagram socket that it listens to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(word.encode(), os.environ["SITE_WITNESS"])


class Refused(Exception):
    pass


@shop.before_request
async def open_till() -> None:
    await trio.lowlevel.checkpoint()
    g.till = "open"


@shop.get("/thing/<int:number>")
async def thing(number: int) -> dict[str, Any]:
    return {"number": number, "till": g.till, "here": url_for("shop.thing", number=number)}


@shop.get("/missing")
async def missing() -> None:
    abort(404)


@shop.errorhandler(404)
async def sold_out(error: Exception) -> tuple[str, int]:
    return "sold out", 404


@site.get("/")
async def home() -> str:
    return "Hello from Quart-Trio!"


@site.get("/pid")
async def pid() -> str:
    return str(os.getpid())


@site.get("/who")
async def who() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "started_in": current_app.started_in,
        "during": current_app.during,
        "library": sniffio.current_async_library(),
        "url": request.url,
    }


@site.get("/page")
async def page() -> str:
    return await render_template_string(PAGE, title="<Page>", name="Jürgen & Söhne")


@site.get("/rows")
async def rows() -> Any:
    async def count() -> AsyncIterator[int]:
        for number in range(1000):
            yield number
            if number % 100 == 0:
                await trio.lowlevel.checkpoint()

    return await stream_template_string(ROWS, rows=count())


@site.get("/sync")
def sync() -> str:
    time.sleep(0.05)
    on_main = threading.current_thread() is threading.main_thread()
    return f"{request.method}, main thread: {on_main}"


@site.get("/sleep")
async def sleep() -> str:
    await trio.sleep(float(request.args["seconds"]))
    return request.args["mark"]


@site.get("/together")
async def together() -> dict[str, list[int]]:
    """Tasks of a nursery see the request."""
    found: list[int] = []

    async def look(number: int) -> None:
        await trio.sleep(0.001 * (5 - number))
        found.append(int(request.args["base"]) + number)

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(look, number)
    return {"found": sorted(found)}


@site.post("/json")
async def echo_json() -> Any:
    return jsonify(await request.get_json())


@site.post("/form")
async def form() -> dict[str, Any]:
    content = (await request.files)["file"].read()
    title = (await request.form)["title"]
    return {"title": title, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@site.put("/digest")
async def digest() -> dict[str, Any]:
    sha, size = hashlib.sha256(), 0
    async for piece in request.body:
        sha.update(piece)
        size += len(piece)
    return {"sha256": sha.hexdigest(), "size": size}


@site.get("/stream")
async def stream() -> Any:
    count, size = int(request.args["count"]), int(request.args["size"])

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(count):
            yield bytes([number % 251]) * size

    return pieces(), {"content-type": "application/octet-stream"}


@site.get("/events")
async def events() -> Any:
    async def pieces() -> AsyncIterator[str]:
        try:
            number = 0
            while True:
                yield f"data: {number}\n\n"
                number += 1
                await trio.sleep(0.005)
        finally:
            witness("stream over")

    response = await make_response(pieces(), {"content-type": "text/event-stream"})
    response.timeout = None
    return response


@site.get("/linger")
async def linger() -> str:
    witness("waiting")
    try:
        await trio.sleep_forever()
    except trio.Cancelled:
        witness("client gone")
        raise
    return "nobody reads this"


@site.get("/background")
async def background() -> str:
    async def work(word: str) -> None:
        await trio.sleep(0.05)
        witness(word)

    current_app.add_background_task(work, "worked on")
    return "answered"


@site.get("/session")
async def visits() -> dict[str, int]:
    session["visits"] = session.get("visits", 0) + 1
    return {"visits": session["visits"]}


@site.get("/refused")
async def refused() -> None:
    raise Refused("not for you")


@site.get("/refused-in-a-nursery")
async def refused_in_a_nursery() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(refused)


@site.get("/crash")
async def crash() -> None:
    raise ZeroDivisionError("crash before the answer")


@site.websocket("/ws/echo")
async def echo() -> None:
    while True:
        await websocket.send(await websocket.receive())


@site.websocket("/ws/clock")
async def clock() -> None:
    """Push and receive at the same time."""

    async def push() -> None:
        for number in range(1_000_000):
            await websocket.send_json({"tick": number})
            await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(push)
        try:
            while True:
                await websocket.send((await websocket.receive()).upper())
        finally:
            witness("clock stopped")


@site.websocket("/ws/over")
async def over() -> None:
    await websocket.accept(subprotocol="chat.v2")
    await websocket.send("that is all")
    await websocket.close(4001, "seen enough")


@site.websocket("/ws/refuse")
async def refuse() -> None:
    abort(401)


@site.websocket("/ws/crash")
async def ws_crash() -> None:
    await websocket.accept()
    raise ZeroDivisionError("crash in a WebSocket")


def create_app() -> QuartTrio:
    app = QuartTrio(__name__)
    app.secret_key = "not a secret"
    app.register_blueprint(site)
    app.register_blueprint(shop)

    @app.before_serving
    async def start() -> None:
        app.started_in = os.getpid()
        app.during = "before"
        app.nursery.start_soon(beat)

    async def beat() -> None:
        with trio.CancelScope() as app.beating:
            await trio.sleep_forever()

    @app.while_serving
    async def serve() -> AsyncIterator[None]:
        app.during = "serving"
        yield
        app.during = "no more"

    @app.after_serving
    async def stop() -> None:
        app.beating.cancel()
        witness(f"after serving, {app.during}")

    @app.after_request
    async def sign(response: Any) -> Any:
        response.headers["x-signed"] = sniffio.current_async_library()
        return response

    @app.errorhandler(Refused)
    async def handle(error: Refused) -> tuple[dict[str, str], int]:
        return {"refused": str(error)}, 403

    @app.template_global()
    def greeting() -> str:
        return "Good day"

    return app


app = create_app()
