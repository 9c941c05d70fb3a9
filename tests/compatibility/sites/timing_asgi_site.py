"""timing-asgi as its own introduction uses it, with a client that tells the test."""

from __future__ import annotations

import asyncio
import json
import os
import socket

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from timing_asgi import TimingClient, TimingMiddleware
from timing_asgi.integrations import StarletteScopeToName


class Told(TimingClient):
    def timing(self, metric_name, timing, tags):
        word = json.dumps({"name": metric_name, "timing": timing, "tags": tags})
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(word.encode(), os.environ["SITE_WITNESS"])


async def home(request):
    return PlainTextResponse("home")


async def slow(request):
    await asyncio.sleep(0.07)  # loops count in milliseconds that have begun
    return PlainTextResponse("slow", 201)


async def stream(request):
    async def body():
        for _ in range(5):
            await asyncio.sleep(0.02)
            yield b"piece"

    return StreamingResponse(body())


async def crash(request):
    raise ZeroDivisionError("timed by statsd")


async def echo(websocket):
    await websocket.accept()
    await websocket.send_text(await websocket.receive_text())
    await websocket.close()


site = Starlette(
    routes=[
        Route("/", home),
        Route("/slow", slow, methods=["POST"]),
        Route("/stream", stream),
        Route("/crash", crash),
        WebSocketRoute("/echo", echo),
        Mount("/inner", routes=[Route("/home", home)], name="inner"),
    ]
)
app = TimingMiddleware(site, client=Told(), metric_namer=StarletteScopeToName("site", site))
