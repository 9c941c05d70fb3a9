"""A Quart application of some size, written as for any server: nothing in it knows ours."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from quart import (
    Blueprint,
    Quart,
    abort,
    copy_current_request_context,
    copy_current_websocket_context,
    current_app,
    flash,
    g,
    jsonify,
    make_response,
    redirect,
    render_template,
    request,
    send_file,
    send_from_directory,
    session,
    stream_template,
    stream_with_context,
    url_for,
    websocket,
)
from quart.datastructures import FileStorage

FILES = Path(os.environ["SITE_FILES"])


def witness(path: str, word: str) -> None:
    """Tell the test what happened here, on the datagram socket that it listens to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(word.encode(), path)


class Refused(Exception):
    pass


shop = Blueprint("shop", __name__, url_prefix="/shop")
ws = Blueprint("ws", __name__, url_prefix="/ws")
site = Blueprint("site", __name__)


@shop.before_request
async def open_till() -> None:
    g.till = "open"


@shop.get("/thing/<int:number>")
async def thing(number: int) -> dict[str, Any]:
    return {"number": number, "till": g.till, "here": url_for("shop.thing", number=number)}


@shop.get("/away/<path:rest>")
async def away(rest: str) -> dict[str, str]:
    return {"rest": rest, "path": request.path, "url": request.url}


@shop.errorhandler(404)
async def sold_out(error: Exception) -> tuple[str, int]:
    return "sold out", 404


@shop.get("/missing")
async def missing() -> None:
    abort(404)


@site.get("/")
async def home() -> str:
    return "Hello, world!"


@site.get("/pid")
async def pid() -> str:
    return str(os.getpid())


@site.get("/who")
async def who() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "started_in": current_app.started_in,
        "during": current_app.during,
        "client": request.remote_addr,
        "url": request.url,
        "scheme": request.scheme,
        "method": request.method,
        "version": request.http_version,
        "query": request.args.to_dict(flat=False),
    }


@site.get("/page")
async def page() -> str:
    await flash("told you")
    return await render_template("page.html", title="<Page>", name="Jürgen & Söhne")


@site.get("/rows")
async def rows() -> AsyncIterator[str]:
    async def count() -> AsyncIterator[int]:
        for number in range(2000):
            yield number
            if number % 100 == 0:
                await asyncio.sleep(0)

    return await stream_template("rows.html", rows=count())


@site.get("/sync")
def sync() -> str:
    """In a thread: the loop goes on."""
    time.sleep(0.05)
    return f"{request.method} in a thread"


@site.get("/sleep")
async def sleep() -> str:
    await asyncio.sleep(float(request.args["seconds"]))
    return request.args["mark"]


@site.post("/json")
async def echo_json() -> Any:
    return jsonify(await request.get_json())


@site.post("/form")
async def form() -> dict[str, Any]:
    files = await request.files
    answer: dict[str, Any] = (await request.form).to_dict()
    for name, value in files.items():
        assert isinstance(value, FileStorage)
        content = value.read()
        sha256 = hashlib.sha256(content).hexdigest()
        answer[name] = [value.filename, value.content_type, len(content), sha256]
    return answer


@site.route("/digest", methods=["PUT", "POST"])
async def digest() -> dict[str, Any]:
    """Read the body as it comes, which has no limit when it has no length."""
    sha, size = hashlib.sha256(), 0
    async for piece in request.body:
        sha.update(piece)
        size += len(piece)
    return {"sha256": sha.hexdigest(), "size": size}


@site.post("/echo-stream")
async def echo_stream() -> Any:
    """Answer while the request still arrives."""
    body = request.body

    @stream_with_context
    async def pieces() -> AsyncIterator[bytes]:
        async for piece in body:
            yield piece.upper()

    return pieces(), 200, {"content-type": "application/octet-stream"}


@site.post("/swallow")
async def swallow() -> str:
    """Read an upload that the client breaks off."""
    witness(os.environ["SITE_WITNESS"], "reading")
    try:
        await request.get_data()
    except asyncio.CancelledError:
        witness(os.environ["SITE_WITNESS"], "upload broken off")
        raise
    return "read it all"


@site.post("/impatient")
async def impatient() -> str:
    request.body_timeout = 0.1
    await request.get_data()
    return "read it all"


@site.get("/stream")
async def stream() -> Any:
    count, size = int(request.args["count"]), int(request.args["size"])

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(count):
            yield bytes([number % 251]) * size

    return pieces(), {"content-type": "application/octet-stream", "x-count": str(count)}


@site.get("/slow-stream")
async def slow_stream() -> Any:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"so far"
        try:
            await asyncio.Event().wait()
        finally:
            witness(os.environ["SITE_WITNESS"], "stopped")

    response = await make_response(pieces())
    response.timeout = 0.1
    return response


@site.get("/events")
async def events() -> Any:
    """Server-sent events: as many as asked for, or until the client goes."""
    count = int(request.args.get("count", "1000000000"))

    async def pieces() -> AsyncIterator[str]:
        try:
            for number in range(count):
                yield f"event: tick\ndata: {json.dumps(number)}\n\n"
                await asyncio.sleep(0.005)
        finally:
            if "count" not in request.args:
                witness(os.environ["SITE_WITNESS"], "stream over")

    response = await make_response(
        stream_with_context(pieces)(),
        {"content-type": "text/event-stream", "cache-control": "no-cache"},
    )
    response.timeout = None
    return response


@site.get("/linger")
async def linger() -> str:
    """A handler is cancelled when its client goes."""
    witness(os.environ["SITE_WITNESS"], "waiting")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        witness(os.environ["SITE_WITNESS"], "client gone")
        raise
    return "nobody reads this"


@site.get("/background")
async def background() -> str:
    def in_thread() -> None:
        witness(os.environ["SITE_WITNESS"], "thread")

    @copy_current_request_context
    async def task(word: str) -> None:
        await asyncio.sleep(0.05)
        witness(os.environ["SITE_WITNESS"], f"{word} {request.path}")
        current_app.add_background_task(in_thread)

    current_app.add_background_task(task, "task of")
    return "answered"


@site.get("/background-crash")
async def background_crash() -> str:
    async def task() -> None:
        raise ZeroDivisionError("crash in the background")

    current_app.add_background_task(task)
    return "answered"


@site.get("/session")
async def visits() -> dict[str, int]:
    session["visits"] = session.get("visits", 0) + 1
    return {"visits": session["visits"]}


@site.get("/cookies")
async def cookies() -> Any:
    response = jsonify(dict(request.cookies))
    response.set_cookie("a", "1", httponly=True, samesite="Lax")
    response.set_cookie("b", "2", max_age=60)
    response.delete_cookie("c")
    return response


@site.get("/file")
async def file() -> Any:
    return await send_file(
        FILES / "large.bin", attachment_filename="grüße.bin", as_attachment=True, conditional=True
    )


@site.get("/files/<path:name>")
async def folder(name: str) -> Any:
    return await send_from_directory(FILES, name)


@site.get("/redirect")
async def go() -> Any:
    return redirect(url_for("site.home"))


@site.get("/no-content")
async def no_content() -> Any:
    return "", 204


@site.get("/refused")
async def refused() -> None:
    raise Refused("not for you")


@site.get("/crash")
async def crash() -> None:
    raise ZeroDivisionError("crash before the answer")


@site.get("/crash-late")
async def crash_late() -> Any:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"a" * 1000
        raise ZeroDivisionError("crash within the answer")

    return pieces(), {"content-length": "2000"}


@ws.websocket("/echo")
async def echo() -> None:
    try:
        while True:
            await websocket.send(await websocket.receive())
    except asyncio.CancelledError:
        if "tell" in websocket.args:
            witness(os.environ["SITE_WITNESS"], "client left")
        raise


@ws.websocket("/facts/<room>")
async def facts(room: str) -> None:
    await websocket.accept(headers={"x-accepted": "yes"}, subprotocol="chat.v2")
    await websocket.send_json(
        {
            "room": room,
            "path": websocket.path,
            "query": websocket.args.to_dict(),
            "cookie": websocket.cookies.get("who"),
            "offered": websocket.requested_subprotocols,
        }
    )
    await websocket.close(4001, "seen enough")


@ws.websocket("/clock")
async def clock() -> None:
    """Push and receive at the same time."""

    @copy_current_websocket_context
    async def push() -> None:
        for number in range(1_000_000):
            await websocket.send_json({"tick": number})
            await asyncio.sleep(0.01)

    @copy_current_websocket_context
    async def answer() -> None:
        while True:
            await websocket.send((await websocket.receive()).upper())

    await asyncio.gather(push(), answer())


@ws.websocket("/over")
async def over() -> None:
    await websocket.send("that is all")


@ws.websocket("/refuse")
async def refuse() -> None:
    await websocket.close(1008)


@ws.websocket("/deny")
async def deny() -> Any:
    return jsonify(detail="not today"), 429, {"retry-after": "60"}


@ws.websocket("/abort")
async def abort_ws() -> None:
    abort(401)


@ws.websocket("/crash")
async def ws_crash() -> None:
    await websocket.accept()
    raise ZeroDivisionError("crash in a WebSocket")


@ws.websocket("/crash-early")
async def ws_crash_early() -> None:
    raise ZeroDivisionError("crash before the handshake")


def create_app() -> Quart:
    app = Quart(
        __name__,
        template_folder="quart_templates",
        static_folder="quart_static",
        static_url_path="/static",
    )
    app.secret_key = "not a secret"
    app.config["MAX_CONTENT_LENGTH"] = 4 * 1024 * 1024
    app.config["BACKGROUND_TASK_SHUTDOWN_TIMEOUT"] = 0.2
    app.register_blueprint(site)
    app.register_blueprint(shop)
    app.register_blueprint(ws)

    @app.before_serving
    async def start() -> None:
        app.started_in = os.getpid()
        app.during = "before"

        async def never() -> None:
            await asyncio.Event().wait()

        app.add_background_task(never)

    @app.while_serving
    async def serve() -> AsyncIterator[None]:
        app.during = "serving"
        yield
        app.during = "no more"

    @app.after_serving
    async def stop() -> None:
        witness(os.environ["SITE_WITNESS"], f"after serving, {app.during}")

    @app.after_request
    async def sign(response: Any) -> Any:
        response.headers["x-signed"] = "quart"
        return response

    @app.errorhandler(Refused)
    async def handle(error: Refused) -> tuple[dict[str, str], int]:
        return {"refused": str(error)}, 403

    @app.context_processor
    async def names() -> dict[str, str]:
        return {"site_name": "The shop"}

    @app.template_global()
    def greeting() -> str:
        return "Good day"

    return app


app = create_app()
