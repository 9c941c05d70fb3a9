"""Sentry as its introduction sets it up, around plain ASGI and in Starlette."""

from __future__ import annotations

import logging
import os

import sentry_sdk
from sentry_sdk.integrations.asgi import SentryAsgiMiddleware
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute

sentry_sdk.init(dsn=os.environ["SITE_DSN"], traces_sample_rate=1.0, release="site@1")


async def plain(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                sentry_sdk.capture_message("last words")
                return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        raise ZeroDivisionError("crash in a plain WebSocket")
    sentry_sdk.set_tag("worker", os.getpid())
    if scope["path"] == "/crash":
        with sentry_sdk.start_span(op="work", name="divide"):
            raise ZeroDivisionError("crash of the plain one")
    if scope["path"] == "/crash-late":
        headers = [(b"content-length", b"100")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ZeroDivisionError("crash within the plain answer")
    if scope["path"] == "/logged":
        logging.getLogger("site").error("something is wrong with %s", "this")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"Hello, world!"})


app = SentryAsgiMiddleware(plain)


async def home(request):
    return PlainTextResponse("home of Starlette")


async def crash(request):
    raise ZeroDivisionError(f"crash of Starlette for {request.path_params['who']}")


async def echo(websocket):
    await websocket.accept()
    await websocket.send_text(await websocket.receive_text())
    await websocket.close()


framework = Starlette(
    routes=[Route("/", home), Route("/crash/{who}", crash), WebSocketRoute("/echo", echo)]
)
