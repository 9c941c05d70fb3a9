"""HTTPX within an application: over the network, to itself too, and straight into applications."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os

import httpx
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route


@contextlib.asynccontextmanager
async def lifespan(app):
    async with httpx.AsyncClient(timeout=30) as network:
        yield {"network": network}


async def home(request):
    return JSONResponse({"pid": os.getpid(), "client": request.client.host})


async def big(request):
    async def body():
        for number in range(100):
            yield bytes([number]) * 10_000

    return StreamingResponse(body())


async def digest(request):
    return PlainTextResponse(hashlib.sha256(await request.body()).hexdigest())


async def crash(request):
    raise ZeroDivisionError("crash for a client within")


async def ask_itself(request):
    """Over the network, and at the same time: whoever answers."""
    url = str(request.url_for("home"))
    network = request.state.network
    answers = await asyncio.gather(*(network.get(url) for _ in range(20)))
    return JSONResponse({"pids": sorted({answer.json()["pid"] for answer in answers})})


async def proxy(request):
    """A reverse proxy as small as it gets: streams both ways."""
    network = request.state.network
    url = str(request.base_url) + request.path_params["path"]
    sent = network.build_request(request.method, url, content=request.stream())
    answer = await network.send(sent, stream=True)

    async def body():
        try:
            async for piece in answer.aiter_raw():
                yield piece
        finally:
            await answer.aclose()

    return StreamingResponse(body(), answer.status_code)


async def within(request):
    """Straight into the same application, without a socket."""
    transport = httpx.ASGITransport(app=request.app, client=("192.0.2.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://within") as client:
        found = (await client.get("/inner/home")).json()
        posted = await client.post("/inner/digest", content=b"x" * 100_000)
        streamed = await client.get("/inner/big")
    quiet = httpx.ASGITransport(app=request.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=quiet, base_url="http://within") as client:
        crashed = await client.get("/inner/crash")
    return JSONResponse(
        {
            "same": found["pid"] == os.getpid(),
            "client": found["client"],
            "digest": posted.text,
            "streamed": len(streamed.content),
            "crashed": crashed.status_code,
        }
    )


async def in_a_thread(request):
    """The synchronous client, in a thread."""
    url = str(request.url_for("home"))

    def ask():
        with httpx.Client(timeout=30) as client:
            return client.get(url).status_code

    return PlainTextResponse(str(await asyncio.to_thread(ask)))


async def refused(request):
    try:
        await request.state.network.get("http://127.0.0.1:1/")
    except httpx.ConnectError as error:
        return Response(type(error).__name__, 502)


inner = [Route("/home", home), Route("/digest", digest, methods=["POST"]), Route("/big", big)]
app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/", home, name="home"),
        Route("/ask-itself", ask_itself),
        Route("/proxy/{path:path}", proxy, methods=["GET", "POST"]),
        Route("/within", within),
        Route("/in-a-thread", in_a_thread),
        Route("/refused", refused),
        Mount("/inner", routes=[*inner, Route("/crash", crash)]),
    ],
)
