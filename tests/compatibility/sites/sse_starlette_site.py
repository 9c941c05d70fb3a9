"""Event streams as sse-starlette makes them."""

from __future__ import annotations

import asyncio
import json
import os
import socket

import anyio
from sse_starlette import EventSourceResponse, JSONServerSentEvent, ServerSentEvent
from starlette.applications import Starlette
from starlette.routing import Route


def witness(word):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(word.encode(), os.environ["SITE_WITNESS"])


async def events(request):
    async def body():
        yield {"event": "first", "data": "one\ntwo", "id": "1", "retry": 500}
        yield ServerSentEvent("plain", comment="a comment")
        yield JSONServerSentEvent({"é": [1, 2]})
        for number in range(int(request.query_params.get("count", "0"))):
            yield {"data": number}
            await asyncio.sleep(0)

    return EventSourceResponse(body())


async def forever(request):
    name = request.query_params.get("name")

    async def body():
        number = 0
        try:
            while True:
                yield {"data": json.dumps({"number": number, "pid": os.getpid()})}
                number += 1
                await asyncio.sleep(0.01)
        finally:
            if name:
                witness(f"{name} over")

    async def closed(message):
        if name:
            witness(f"{name} closed: {message['type']}")

    return EventSourceResponse(body(), client_close_handler_callable=closed)


async def asking(request):
    async def body():
        while not await request.is_disconnected():
            yield {"data": "still here"}
            await asyncio.sleep(0.01)

    return EventSourceResponse(body())


async def silent(request):
    async def body():
        await asyncio.Event().wait()
        yield {}

    return EventSourceResponse(body(), ping=0.1)


async def farewell(request):
    stopping = anyio.Event()

    async def body():
        yield {"data": "hello"}
        await stopping.wait()
        yield {"data": "goodbye"}

    return EventSourceResponse(body(), shutdown_event=stopping, shutdown_grace_period=2)


async def crash(request):
    async def body():
        yield {"data": "hello"}
        raise ZeroDivisionError("crash in a stream of events")

    return EventSourceResponse(body())


app = Starlette(
    routes=[
        Route("/events", events),
        Route("/forever", forever),
        Route("/asking", asking),
        Route("/silent", silent),
        Route("/farewell", farewell),
        Route("/crash", crash),
    ]
)
