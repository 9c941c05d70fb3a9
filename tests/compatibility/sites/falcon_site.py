"""A Falcon ASGI application of some size, written as for any server: nothing in it knows ours."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import falcon
import falcon.asgi
import falcon.media
import msgspec
from falcon import WebSocketDisconnected
from falcon.asgi import Request, Response, SSEvent, WebSocket
from falcon.constants import WebSocketPayloadType

FILES = Path(os.environ["SITE_FILES"])


def witness(path: str, word: str) -> None:
    """Tell the test what happened here, on the datagram socket that it listens to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(word.encode(), path)


class Refused(Exception):
    pass


class Lifetime:
    """Startup, shutdown, and a field in every answer."""

    started_in = 0

    async def process_startup(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        Lifetime.started_in = os.getpid()

    async def process_shutdown(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        assert Lifetime.started_in == os.getpid()
        witness(os.environ["SITE_WITNESS"], "shut down")

    async def process_request(self, req: Request, resp: Response) -> None:
        req.context.begun = time.monotonic()

    async def process_response(
        self, req: Request, resp: Response, resource: object, succeeded: bool
    ) -> None:
        resp.set_header("x-signed", f"falcon {succeeded}")

    async def process_request_ws(self, req: Request, ws: WebSocket) -> None:
        if req.get_param("token") == "wrong":
            raise falcon.HTTPForbidden


class Home:
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.text = "Hello, world!"

    on_head = on_get


class Pid:
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.text = str(os.getpid())


class Who:
    async def on_get(self, req: Request, resp: Response, number: int) -> None:
        resp.media = {
            "pid": os.getpid(),
            "started_in": Lifetime.started_in,
            "number": number,
            "client": req.remote_addr,
            "url": req.url,
            "path": req.path,
            "prefix": req.root_path,
            "scheme": req.scheme,
            "query": req.params,
            "agent": req.user_agent,
        }


class Sleep:
    async def on_get(self, req: Request, resp: Response) -> None:
        await asyncio.sleep(req.get_param_as_float("seconds", required=True))
        resp.text = req.get_param("mark")


async def must_be_open(req: Request, resp: Response, resource: Any, params: Any) -> None:
    if req.get_header("x-key") != "open":
        raise falcon.HTTPUnauthorized(title="locked", challenges=["Key"])


async def count(req: Request, resp: Response, resource: Any) -> None:
    resp.set_header("x-size", str(len(resp.text)))


class Hooked:
    @falcon.before(must_be_open)
    @falcon.after(count)
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.text = "inside"


class Media:
    async def on_post(self, req: Request, resp: Response) -> None:
        resp.content_type = req.get_header("accept") or falcon.MEDIA_JSON
        resp.media = await req.get_media()

    async def on_put(self, req: Request, resp: Response) -> None:
        resp.status = falcon.HTTP_201
        resp.data = await req.stream.read()


class Upload:
    async def on_post(self, req: Request, resp: Response) -> None:
        answer: dict[str, Any] = {}
        async for part in await req.get_media():
            if part.filename is None:
                answer[part.name] = await part.text
                continue
            sha, size = hashlib.sha256(), 0
            async for piece in part.stream:
                sha.update(piece)
                size += len(piece)
            answer[part.name] = [part.filename, part.content_type, size, sha.hexdigest()]
        resp.media = answer


class Digest:
    async def on_put(self, req: Request, resp: Response) -> None:
        """Read the body as it comes."""
        sha, size, pieces = hashlib.sha256(), 0, 0
        async for piece in req.stream:
            sha.update(piece)
            size += len(piece)
            pieces += 1
            await asyncio.sleep(0)
        resp.media = {"sha256": sha.hexdigest(), "size": size, "pieces": pieces}


class EchoStream:
    async def on_post(self, req: Request, resp: Response) -> None:
        """Answer while the request still arrives."""

        async def pieces() -> AsyncIterator[bytes]:
            async for piece in req.stream:
                yield piece.upper()

        resp.content_type = "application/octet-stream"
        resp.stream = pieces()


class Swallow:
    async def on_post(self, req: Request, resp: Response) -> None:
        """Read an upload that the client breaks off: Falcon ends the stream there."""
        witness(os.environ["SITE_WITNESS"], "reading")
        read = await req.stream.read()
        witness(os.environ["SITE_WITNESS"], f"read {len(read)}")


class Stream:
    async def on_get(self, req: Request, resp: Response) -> None:
        count, size = req.get_param_as_int("count"), req.get_param_as_int("size")

        async def pieces() -> AsyncIterator[bytes]:
            try:
                for number in range(count):
                    yield bytes([number % 251]) * size
            finally:
                if "tell" in req.params:
                    witness(os.environ["SITE_WITNESS"], "stream over")

        resp.content_type = "application/octet-stream"
        resp.stream = pieces()


class Events:
    async def on_get(self, req: Request, resp: Response) -> None:
        count = req.get_param_as_int("count", default=1_000_000_000)

        async def events() -> AsyncIterator[SSEvent]:
            try:
                for number in range(count):
                    yield SSEvent(json={"number": number}, event="tick", event_id=str(number))
                    await asyncio.sleep(0.005)
            finally:
                if "count" not in req.params:
                    witness(os.environ["SITE_WITNESS"], "events over")

        resp.sse = events()


class Background:
    async def on_get(self, req: Request, resp: Response) -> None:
        async def later() -> None:
            await asyncio.sleep(0.02)
            witness(os.environ["SITE_WITNESS"], "later")

        def in_thread() -> None:
            main = threading.current_thread() is threading.main_thread()
            witness(os.environ["SITE_WITNESS"], "on the loop" if main else "in a thread")

        resp.schedule(later)
        resp.schedule_sync(in_thread)
        resp.text = "answered"


class Cookies:
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.media = req.cookies
        resp.set_cookie("a", "1", secure=False, same_site="Lax")
        resp.set_cookie("b", "2", max_age=60, secure=False)
        resp.unset_cookie("c")


class Moved:
    async def on_get(self, req: Request, resp: Response) -> None:
        raise falcon.HTTPSeeOther("/")


class Nothing:
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.status = falcon.HTTP_204


class Crash:
    async def on_get(self, req: Request, resp: Response, when: str) -> None:
        if when == "refused":
            raise Refused("not for you")
        if when == "teapot":
            raise falcon.HTTPError(falcon.HTTP_418, title="short and stout")
        if when == "early":
            raise ZeroDivisionError("crash before the answer")

        async def pieces() -> AsyncIterator[bytes]:
            yield b"a" * 1000
            raise ZeroDivisionError("crash within the answer")

        resp.content_length = 2000
        resp.stream = pieces()


class Echo:
    async def on_websocket(self, req: Request, ws: WebSocket) -> None:
        await ws.accept()
        try:
            while True:
                await ws.send_text(await ws.receive_text())
                await ws.send_data(await ws.receive_data())
        except WebSocketDisconnected as gone:
            witness(os.environ["SITE_WITNESS"], f"closed {gone.code}")


class Facts:
    async def on_websocket(self, req: Request, ws: WebSocket, room: str) -> None:
        chosen = "chat.v2" if "chat.v2" in ws.subprotocols else None
        await ws.accept(subprotocol=chosen, headers={"x-accepted": "yes"})
        await ws.send_media(
            {"room": room, "path": req.path, "query": req.params, "cookie": req.cookies.get("who")}
        )
        await ws.close(4001, "seen enough")


class Sums:
    """Media of both kinds: JSON as text, MessagePack as binary."""

    async def on_websocket(self, req: Request, ws: WebSocket) -> None:
        await ws.accept()
        while True:
            try:
                numbers = await ws.receive_media()
            except WebSocketDisconnected:
                return
            await ws.send_media({"sum": sum(numbers)}, WebSocketPayloadType.TEXT)
            await ws.send_media({"sum": sum(numbers)}, WebSocketPayloadType.BINARY)


class Clock:
    async def on_websocket(self, req: Request, ws: WebSocket) -> None:
        await ws.accept()

        async def push() -> None:
            number = 0
            while not ws.closed:
                await ws.send_text(f"tick {number}")
                number += 1
                await asyncio.sleep(0.01)

        pushing = asyncio.create_task(push())
        try:
            while True:
                await ws.send_text((await ws.receive_text()).upper())
        except WebSocketDisconnected:
            pushing.cancel()
            await asyncio.gather(pushing, return_exceptions=True)
        witness(os.environ["SITE_WITNESS"], "clock stopped")


class Refuse:
    async def on_websocket(self, req: Request, ws: WebSocket) -> None:
        raise falcon.HTTPForbidden


class WsCrash:
    async def on_websocket(self, req: Request, ws: WebSocket) -> None:
        await ws.accept()
        raise ZeroDivisionError("crash in a WebSocket")


async def refused(
    req: Request, resp: Response, error: Refused, params: Any, ws: WebSocket | None = None
) -> None:
    resp.status = falcon.HTTP_403
    resp.media = {"refused": str(error)}


async def sink(req: Request, resp: Response, rest: str) -> None:
    resp.media = {"rest": rest, "path": req.path}


def create_app() -> falcon.asgi.App:
    app = falcon.asgi.App(middleware=[Lifetime()], cors_enable=True)
    app.resp_options.media_handlers[falcon.MEDIA_MSGPACK] = msgpack = Msgpack()
    app.req_options.media_handlers[falcon.MEDIA_MSGPACK] = msgpack
    app.ws_options.media_handlers[WebSocketPayloadType.BINARY] = MsgpackWs()
    app.add_route("/", Home())
    app.add_route("/pid", Pid())
    app.add_route("/who/{number:int}", Who())
    app.add_route("/sleep", Sleep())
    app.add_route("/hooked", Hooked())
    app.add_route("/media", Media())
    app.add_route("/upload", Upload())
    app.add_route("/digest", Digest())
    app.add_route("/echo-stream", EchoStream())
    app.add_route("/swallow", Swallow())
    app.add_route("/stream", Stream())
    app.add_route("/events", Events())
    app.add_route("/background", Background())
    app.add_route("/cookies", Cookies())
    app.add_route("/redirect", Moved())
    app.add_route("/no-content", Nothing())
    app.add_route("/crash/{when}", Crash())
    app.add_route("/ws/echo", Echo())
    app.add_route("/ws/facts/{room}", Facts())
    app.add_route("/ws/sums", Sums())
    app.add_route("/ws/clock", Clock())
    app.add_route("/ws/refuse", Refuse())
    app.add_route("/ws/crash", WsCrash())
    app.add_static_route("/static", str(FILES), fallback_filename=None)
    app.add_sink(sink, r"/sink/(?P<rest>.*)")
    app.add_error_handler(Refused, refused)
    return app


class Msgpack(falcon.media.BaseHandler):
    """MessagePack by msgspec."""

    def serialize(self, media: object, content_type: str) -> bytes:
        return msgspec.msgpack.encode(media)

    async def serialize_async(self, media: object, content_type: str) -> bytes:
        return msgspec.msgpack.encode(media)

    def deserialize(self, stream: Any, content_type: str, content_length: int | None) -> object:
        return msgspec.msgpack.decode(stream.read())

    async def deserialize_async(
        self, stream: Any, content_type: str, content_length: int | None
    ) -> object:
        return msgspec.msgpack.decode(await stream.read())


class MsgpackWs(falcon.media.BinaryBaseHandlerWS):
    def serialize(self, media: object) -> bytes:
        return msgspec.msgpack.encode(media)

    def deserialize(self, payload: bytes) -> object:
        return msgspec.msgpack.decode(payload)


app = create_app()
