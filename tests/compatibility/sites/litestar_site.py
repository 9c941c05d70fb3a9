"""A Litestar application of some size, written as for any server: nothing in it knows ours."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
from litestar import (
    Controller,
    Litestar,
    MediaType,
    Request,
    Response,
    Router,
    WebSocket,
    delete,
    get,
    head,
    post,
    put,
    websocket,
    websocket_listener,
)
from litestar.background_tasks import BackgroundTask, BackgroundTasks
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.memory import MemoryChannelsBackend
from litestar.config.compression import CompressionConfig
from litestar.config.cors import CORSConfig
from litestar.contrib.jinja import JinjaTemplateEngine
from litestar.datastructures import Cookie, State, UploadFile
from litestar.di import Provide
from litestar.dto import DataclassDTO, DTOConfig, MsgspecDTO
from litestar.enums import RequestEncodingType
from litestar.exceptions import HTTPException, NotAuthorizedException, WebSocketDisconnect
from litestar.handlers import WebsocketListener, send_websocket_stream
from litestar.logging import LoggingConfig
from litestar.middleware.rate_limit import RateLimitConfig
from litestar.middleware.session.client_side import CookieBackendConfig
from litestar.params import Body, Parameter
from litestar.response import File, Redirect, ServerSentEvent, Stream, Template
from litestar.static_files import create_static_files_router
from litestar.stores.file import FileStore
from litestar.template.config import TemplateConfig

FILES = Path(os.environ["SITE_FILES"])


def witness(path: str, word: str) -> None:
    """Tell the test what happened here, on the datagram socket that it listens to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(word.encode(), path)


class Refused(Exception):
    pass


class Order(msgspec.Struct, forbid_unknown_fields=True):
    thing: Annotated[str, msgspec.Meta(min_length=2)]
    pieces: Annotated[int, msgspec.Meta(ge=1, le=99)]
    price: float = 1.5


@dataclass
class Person:
    name: str
    email: str
    password: str
    id: int = 0


class PersonIn(DataclassDTO[Person]):
    config = DTOConfig(exclude={"id"}, forbid_unknown_fields=True)


class PersonOut(DataclassDTO[Person]):
    config = DTOConfig(exclude={"password"}, rename_strategy="camel")


async def till() -> AsyncGenerator[dict[str, str], None]:
    """A dependency that is cleaned up after the handler."""
    found = {"till": "open"}
    yield found
    found["till"] = "closed"


def who_asks(agent: Annotated[str, Parameter(header="user-agent")]) -> str:
    return agent.partition("/")[0]


class Orders(Controller):
    path = "/orders"
    tags = ("orders",)
    dependencies: ClassVar[dict[str, Provide]] = {
        "till": Provide(till),
        "asked_by": Provide(who_asks, sync_to_thread=False),
    }

    @get("/{number:int}")
    async def one(self, number: int, till: dict[str, str], asked_by: str) -> dict[str, Any]:
        return {"number": number, **till, "asked_by": asked_by}

    @post("/")
    async def make(self, data: Order) -> dict[str, Any]:
        return {"sum": data.pieces * data.price, "thing": data.thing}

    @put("/many")
    async def many(self, data: list[Order]) -> list[Order]:
        return data

    @delete("/{number:int}")
    async def cancel(self, number: int) -> None:
        return None


@post("/people", dto=PersonIn, return_dto=PersonOut)
async def people(data: Person) -> Person:
    data.id = 7
    return data


def sign(response: Response[Any]) -> Response[Any]:
    response.headers["x-signed"] = "litestar"
    return response


async def after(request: Request[Any, Any, State]) -> None:
    witness(os.environ["SITE_WITNESS"], f"after response to {request.url.path}")


@get("/", media_type=MediaType.TEXT)
async def home() -> str:
    return "Hello, world!"


@head("/head")
async def heads() -> Response[None]:
    return Response(None, headers={"x-head": "yes"})


@get("/after", media_type=MediaType.TEXT, after_response=after)
async def with_after() -> str:
    return "answered"


@get("/pid", media_type=MediaType.TEXT)
async def pid() -> str:
    return str(os.getpid())


@get("/who/{rest:path}")
async def who(request: Request[Any, Any, State], rest: str, state: State) -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "started_in": state.started_in,
        "rest": rest,
        "client": request.client.host if request.client else None,
        "url": str(request.url),
        "base": str(request.base_url),
        "query": request.query_params.dict(),
    }


@get("/sleep", media_type=MediaType.TEXT)
async def sleep(seconds: float, mark: str) -> str:
    await asyncio.sleep(seconds)
    return mark


@get("/thread", media_type=MediaType.TEXT, sync_to_thread=True)
def in_thread() -> str:
    time.sleep(0.02)
    return str(threading.current_thread() is threading.main_thread())


@get("/page")
async def page() -> Template:
    return Template(template_str="<p>{{ name }}</p>", context={"name": "Jürgen & Söhne"})


@post("/upload")
async def upload(
    data: Annotated[dict[str, Any], Body(media_type=RequestEncodingType.MULTI_PART)],
) -> dict[str, Any]:
    answer: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, UploadFile):
            content = await value.read()
            sha256 = hashlib.sha256(content).hexdigest()
            answer[name] = [value.filename, value.content_type, len(content), sha256]
        else:
            answer[name] = value
    return answer


@put("/digest", request_max_body_size=None)
async def digest(request: Request[Any, Any, State]) -> dict[str, Any]:
    """Read the body as it comes."""
    sha, size, pieces = hashlib.sha256(), 0, 0
    async for piece in request.stream():
        sha.update(piece)
        size += len(piece)
        pieces += 1
        await asyncio.sleep(0)
    return {"sha256": sha.hexdigest(), "size": size, "pieces": pieces}


@post("/swallow")
async def swallow(request: Request[Any, Any, State]) -> None:
    """Read an upload that the client breaks off."""
    witness(os.environ["SITE_WITNESS"], "reading")
    try:
        await request.body()
    except HTTPException:
        witness(os.environ["SITE_WITNESS"], "upload broken off")


@get("/stream")
async def stream(count: int, size: int, tell: bool = False) -> Stream:
    async def pieces() -> AsyncIterator[bytes]:
        try:
            for number in range(count):
                yield bytes([number % 251]) * size
                if number % 100 == 0:
                    await asyncio.sleep(0)
        finally:
            if tell:
                witness(os.environ["SITE_WITNESS"], "stream over")

    return Stream(pieces(), media_type="application/octet-stream")


@get("/events")
async def events(count: int = 1_000_000_000) -> ServerSentEvent:
    async def ticks() -> AsyncGenerator[dict[str, Any], None]:
        try:
            for number in range(count):
                yield {"data": str(number), "event": "tick", "id": str(number)}
                await asyncio.sleep(0.005)
        finally:
            if count > 1000:
                witness(os.environ["SITE_WITNESS"], "events over")

    return ServerSentEvent(ticks())


@get("/background", media_type=MediaType.TEXT)
async def background() -> Response[str]:
    where = os.environ["SITE_WITNESS"]

    async def task(word: str) -> None:
        witness(where, word)

    tasks = BackgroundTasks([BackgroundTask(task, "first"), BackgroundTask(task, "second")])
    return Response("answered", background=tasks)


@get("/visits")
async def visits(request: Request[Any, Any, State]) -> dict[str, int]:
    number = request.session.get("visits", 0) + 1
    request.set_session({"visits": number})
    return {"visits": number}


@get("/store/{name:str}")
async def stored(request: Request[Any, Any, State], name: str, value: str | None = None) -> str:
    """A store in files, which all workers share."""
    store = request.app.stores.get("shared")
    if value is not None:
        await store.set(name, value, expires_in=60)
    return (await store.get(name) or b"").decode()


@get("/cached", media_type=MediaType.TEXT, cache=60)
async def cached() -> str:
    return str(time.monotonic_ns())


@get("/cookies")
async def cookies(request: Request[Any, Any, State]) -> Response[dict[str, str]]:
    return Response(
        request.cookies,
        cookies=[Cookie("a", "1", httponly=True), Cookie("b", "2", max_age=60)],
    )


@get("/long-text", media_type=MediaType.TEXT)
async def long_text() -> str:
    return "All work and no play. " * 1000


@get("/file")
async def file() -> File:
    return File(FILES / "large.bin", filename="large.bin")


@get("/redirect")
async def go() -> Redirect:
    return Redirect("/")


@get("/no-content", status_code=204)
async def no_content() -> None:
    return None


@get("/limited", middleware=[RateLimitConfig(rate_limit=("minute", 3)).middleware])
async def limited() -> None:
    return None


@get("/crash/{when:str}")
async def crash(when: str) -> Stream:
    if when == "refused":
        raise Refused("not for you")
    if when == "teapot":
        raise HTTPException("short and stout", status_code=418)
    if when == "early":
        raise ZeroDivisionError("crash before the answer")

    async def pieces() -> AsyncIterator[bytes]:
        yield b"a" * 1000
        raise ZeroDivisionError("crash within the answer")

    return Stream(pieces(), headers={"content-length": "2000"})


@websocket_listener("/ws/upper")
async def upper(data: str, till: dict[str, str]) -> str:
    return f"{data.upper()} {till['till']}"


@websocket_listener("/ws/orders", dto=MsgspecDTO[Order], return_dto=None)
async def ws_orders(data: Order) -> dict[str, float]:
    return {"sum": data.pieces * data.price}


class Bytes(WebsocketListener):
    path = "/ws/bytes"
    receive_mode = "binary"
    send_mode = "binary"

    async def on_accept(self, socket: WebSocket[Any, Any, State]) -> None:
        await socket.send_bytes(b"welcome")

    def on_disconnect(self, socket: WebSocket[Any, Any, State]) -> None:
        witness(os.environ["SITE_WITNESS"], "bytes over")

    async def on_receive(self, data: bytes) -> bytes:
        return data[::-1]


@websocket("/ws/facts/{room:str}")
async def facts(socket: WebSocket[Any, Any, State], room: str) -> None:
    await socket.accept(subprotocols="chat.v2", headers={"x-accepted": "yes"})
    await socket.send_json(
        {
            "room": room,
            "path": socket.url.path,
            "query": socket.query_params.dict(),
            "cookie": socket.cookies.get("who"),
            "started": socket.app.state.started_in == os.getpid(),
        }
    )
    await socket.close(4001, "seen enough")


@websocket("/ws/ticks")
async def ticks(socket: WebSocket[Any, Any, State]) -> None:
    async def numbers() -> AsyncGenerator[str, None]:
        try:
            for number in range(1_000_000):
                yield f"tick {number}"
                await asyncio.sleep(0.005)
        finally:
            witness(os.environ["SITE_WITNESS"], "ticks over")

    await socket.accept()
    try:
        await send_websocket_stream(socket, numbers(), listen_for_disconnect=True)
    except* WebSocketDisconnect:  # it was noticed by sending before it was by listening
        pass


def only_with_key(connection: Any, handler: Any) -> None:
    if connection.headers.get("x-key") != "open":
        raise NotAuthorizedException("locked")


@websocket("/ws/locked", guards=[only_with_key])
async def locked(socket: WebSocket[Any, Any, State]) -> None:
    await socket.accept()
    await socket.send_text("inside")
    await socket.close()


@websocket("/ws/crash")
async def ws_crash(socket: WebSocket[Any, Any, State]) -> None:
    await socket.accept()
    raise ZeroDivisionError("crash in a WebSocket")


@post("/publish/{channel:str}")
async def publish(channel: str, data: dict[str, Any], channels: ChannelsPlugin) -> None:
    channels.publish(data, channel)


@contextlib.asynccontextmanager
async def lifespan(app: Litestar) -> AsyncIterator[None]:
    app.state.started_in = os.getpid()
    yield
    witness(os.environ["SITE_WITNESS"], "lifespan over")


def refused(request: Request[Any, Any, State], error: Refused) -> Response[dict[str, str]]:
    return Response({"refused": str(error)}, status_code=403)


def create_app() -> Litestar:
    return Litestar(
        route_handlers=[
            *(Orders, people, home, heads, with_after, pid, who, sleep, in_thread, page, upload),
            *(digest, swallow, stream, events, background, visits, stored, cached),
            *(cookies, long_text, file, go, no_content, limited, crash, publish),
            *(ws_orders, Bytes, facts, ticks, locked, ws_crash),
            Router("/", route_handlers=[upper], dependencies={"till": Provide(till)}),
            create_static_files_router("/static", directories=[FILES], html_mode=True),
        ],
        lifespan=[lifespan],
        after_request=sign,
        exception_handlers={Refused: refused},
        cors_config=CORSConfig(allow_origins=["https://front.example"]),
        compression_config=CompressionConfig(backend="gzip", minimum_size=5000),
        middleware=[CookieBackendConfig(secret=b"not a secret 16b").middleware],
        plugins=[
            ChannelsPlugin(
                MemoryChannelsBackend(history=5),
                arbitrary_channels_allowed=True,
                create_ws_route_handlers=True,
                ws_handler_base_path="/ws/channel",
                ws_handler_send_history=5,
            )
        ],
        stores={"shared": FileStore(FILES / "store", create_directories=True)},
        template_config=TemplateConfig(engine=JinjaTemplateEngine, directory=FILES),
        request_max_body_size=4 * 1024 * 1024,
        logging_config=LoggingConfig(
            log_exceptions="always",
            disable_stack_trace={400, 401, 403, 404, 405, 413, 418, 429, Refused},
        ),
    )


app = create_app()
