"""asgi-lifespan: an application that starts and stops another one, which takes no part itself."""

from __future__ import annotations

import contextlib
import os
import socket

import httpx
from asgi_lifespan import LifespanManager
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route


def witness(word):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(word.encode(), os.environ["SITE_WITNESS"])


@contextlib.asynccontextmanager
async def inner_lifespan(app):
    witness("inner begins")
    yield {"number": 42}
    witness("inner ends")


async def number(request):
    return JSONResponse({"number": request.state.number})


inner = Starlette(lifespan=inner_lifespan, routes=[Route("/number", number)])


@contextlib.asynccontextmanager
async def lifespan(app):
    """Mounted applications have no lifespan of their own: this gives them one."""
    async with LifespanManager(inner) as manager:
        app.mount("/inner", manager.app)
        yield {"own": "outer"}
        witness("outer ends")


async def check(request):
    """What tests of users do, in a running service: a whole life of another application."""
    async with LifespanManager(Starlette(lifespan=inner_lifespan, routes=inner.routes)) as manager:
        transport = httpx.ASGITransport(app=manager.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            found = (await client.get("/number")).json()
    return JSONResponse({**found, "own": request.state.own})


async def fails(request):
    @contextlib.asynccontextmanager
    async def broken(app):
        raise ZeroDivisionError("no start")
        yield

    try:
        async with LifespanManager(Starlette(lifespan=broken)):
            pass
    except ZeroDivisionError as error:
        return JSONResponse({"error": str(error)})


app = Starlette(lifespan=lifespan, routes=[Route("/check", check), Route("/fails", fails)])
