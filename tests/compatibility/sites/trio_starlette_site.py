"""A Starlette application that has tasks and time from anyio, and so runs on trio as it is."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import sniffio
import trio
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

FILES = Path(os.environ["SITE_FILES"])


def witness(word: str) -> None:
    """Tell the test what happened here, on the datagram socket that it listens to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(word.encode(), os.environ["SITE_WITNESS"])


class Signing(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["x-library"] = sniffio.current_async_library()
        return response


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.sleep_forever)
        yield {"tasks": tasks, "library": sniffio.current_async_library()}
        tasks.cancel_scope.cancel()
    witness("lifespan over")


async def who(request: Request) -> JSONResponse:
    with trio.move_on_after(0.001):  # trio itself is there, too
        await anyio.sleep_forever()
    return JSONResponse({"lifespan": request.state.library, "pid": os.getpid()})


def in_thread(request: Request) -> PlainTextResponse:
    """A plain function: Starlette runs it in a thread."""
    library = anyio.from_thread.run_sync(sniffio.current_async_library)
    on_main = threading.current_thread() is threading.main_thread()
    return PlainTextResponse(f"main thread: {on_main}, from there: {library}")


async def upload(request: Request) -> JSONResponse:
    size = 0
    async for piece in request.stream():
        size += len(piece)
    return JSONResponse({"size": size})


async def form(request: Request) -> JSONResponse:
    async with request.form() as fields:
        file: Any = fields["file"]
        return JSONResponse({"name": file.filename, "size": len(await file.read())})


async def stream(request: Request) -> StreamingResponse:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(1000):
            yield b"%d\n" % number
            await anyio.lowlevel.checkpoint()

    return StreamingResponse(pieces(), media_type="text/plain")


async def file(request: Request) -> FileResponse:
    return FileResponse(FILES / "large.bin")


async def background(request: Request) -> PlainTextResponse:
    async def work() -> None:
        await anyio.sleep(0.02)
        witness("worked on")

    return PlainTextResponse("answered", background=BackgroundTask(work))


async def crash(request: Request) -> None:
    raise ZeroDivisionError("crash in Starlette")


async def echo(socket: WebSocket) -> None:
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(f"{sniffio.current_async_library()}: {text}")


app = Starlette(
    routes=[
        Route("/who", who),
        Route("/thread", in_thread),
        Route("/upload", upload, methods=["POST"]),
        Route("/form", form, methods=["POST"]),
        Route("/stream", stream),
        Route("/file", file),
        Route("/background", background),
        Route("/crash", crash),
        WebSocketRoute("/echo", echo),
    ],
    middleware=[Middleware(Signing), Middleware(GZipMiddleware)],
    lifespan=lifespan,
)
