"""A Bocadillo application, written as for any server: nothing in it knows ours."""

import asyncio
import hashlib
import os
import socket
from pathlib import Path

from bocadillo import (
    App,
    HTTPError,
    Redirect,
    Templates,
    WebSocketDisconnect,
    configure,
    provider,
    server_event,
)

FILES = Path(os.environ["SITE_FILES"])

app = App()
templates = Templates(app, directory=str(FILES))


def tell(where: str, word: str) -> None:
    """Tell the test what happened here, on the datagram socket that it listens to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(word.encode(), where)


@provider(scope="app")
async def stock():
    yield {"tea": 3, "started in": os.getpid()}
    tell(os.environ["SITE_WITNESS"], "stock put away")


@provider
async def kettles(stock):
    return [kettle * stock["tea"] for kettle in (1, 2)]


class Stamp:
    """Plain ASGI: its own ``Middleware`` asserts that there are no WebSockets."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def stamped(message):
            if message["type"] == "http.response.start":
                own = (b"x-process", str(os.getpid()).encode())
                message = {**message, "headers": [*message["headers"], own]}
            await send(message)

        await self.app(scope, receive, stamped)


app.add_middleware(Stamp)


@app.route("/")
async def home(req, res):
    res.json = {"pid": os.getpid(), "client": req.client.host, "url": str(req.url)}


@app.route("/hello/{name}")
async def hello(req, res, name):
    res.text = f"Hello, {name}!"


@app.route("/add/{one}")
class Add:
    """Arguments from the path and from the query, converted by their annotations."""

    async def get(self, req, res, one: int, other: int = 1):
        res.json = {"sum": one + other}

    async def post(self, req, res, one: int):
        form = await req.form()
        res.status_code = 201
        res.json = {"one": one, "form": dict(form)}


@app.route("/stock")
async def see_stock(req, res, stock, kettles):
    same = stock["started in"] == os.getpid()
    res.json = {"stock": stock["tea"], "kettles": kettles, "same": same}


@app.route("/json", methods=["POST"])
async def echo_json(req, res):
    res.json = {"got": await req.json()}


@app.route("/digest", methods=["PUT"])
async def digest(req, res):
    sha, size = hashlib.sha256(), 0
    async for piece in req:
        sha.update(piece)
        size += len(piece)
    res.json = {"size": size, "sha256": sha.hexdigest()}


@app.route("/stream")
async def stream(req, res):
    @res.stream
    async def numbers():
        for number in range(int(req.query_params["count"])):
            yield f"{number}\n"


@app.route("/events")
async def events(req, res):
    @res.event_stream
    async def ticks():
        number = 0
        while number < int(req.query_params.get("count", "1000000")):
            yield server_event("tick", json={"number": number}, id=number)
            number += 1
            await asyncio.sleep(0.01)


@app.route("/page")
async def page(req, res):
    res.html = await templates.render("greeting.html", name="Zoë & Ali")


@app.route("/file")
async def file(req, res):
    res.file(str(FILES / "large.bin"))


@app.route("/background")
async def background(req, res):
    where = req.query_params["witness"]

    @res.background
    async def later():
        tell(where, "done later")

    res.text = "answered"


@app.route("/session")
async def session(req, res):
    req.session["visits"] = req.session.get("visits", 0) + 1
    res.json = {"visits": req.session["visits"]}


@app.route("/old")
async def old(req, res):
    raise Redirect("/hello/again")


@app.route("/teapot")
async def teapot(req, res):
    raise HTTPError(418, detail="short and stout")


@app.route("/crash")
async def crash(req, res):
    raise ZeroDivisionError("crash in a view")


@app.websocket_route("/ws/echo/{room}", value_type="json")
async def echo(ws, room):
    try:
        async for message in ws:
            await ws.send({"room": room, "got": message})
    except WebSocketDisconnect as gone:
        tell(ws.query_params["witness"], f"closed {gone.code}")
        raise


@app.websocket_route("/ws/letters")
async def letters(ws):
    async for message in ws:
        await ws.send(message.upper())
        if message == "bye":
            await ws.close(code=4000)
            return


@app.websocket_route("/ws/refuse", auto_accept=False)
async def refuse(ws):
    await ws.reject()


@app.websocket_route("/ws/crash")
async def ws_crash(ws):
    raise ZeroDivisionError("crash in a WebSocket")


async def mounted(scope, receive, send):
    """Another ASGI application under a prefix."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    body = f"{scope['root_path']} {scope['path']}"
    await send({"type": "http.response.body", "body": body.encode()})


app.mount("/inner", mounted)


def wsgi(environ, start_response):
    start_response("200 OK", [("content-type", "text/plain")])
    return [environ["PATH_INFO"].encode(), b" of WSGI"]


app.mount("/wsgi", wsgi)

configure(  # without GZIP, as that of its Starlette complains with each answer since Python 3.12
    app,
    PROVIDER_MODULES=["bocadillo_site"],
    ALLOWED_HOSTS=["127.0.0.1"],
    SESSIONS={"secret_key": "not a secret"},
    STATIC_DIR=str(FILES / "public"),
    STATIC_ROOT="assets",
)
