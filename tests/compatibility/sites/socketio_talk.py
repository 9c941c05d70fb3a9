"""Clients of socketio_site, in the environment of Socket.IO; what they saw is printed as JSON.

socketio_talk.py URL TRANSPORTS TALK
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys

import socketio

url, transports, talk = sys.argv[1:4]
PATIENCE_S = 30


class Client:
    def __init__(self, **options):
        self.sio = socketio.AsyncClient(**options)
        self.heard = asyncio.Queue()
        self.gone = asyncio.Event()
        self.connected = 0
        self.whys = []
        self.sio.on("said", self.heard.put)
        self.sio.on("counted", self.heard.put)
        self.sio.on("connect", self.on_connect)
        self.sio.on("disconnect", self.on_disconnect)
        self.sio.on("connect_error", self.on_connect_error)

    async def on_connect(self):
        self.connected += 1

    async def on_disconnect(self, reason):
        self.gone.set()

    async def on_connect_error(self, why):
        self.whys.append(why)

    async def open(self, **options):
        await self.sio.connect(url, transports=transports.split(","), wait_timeout=20, **options)
        return self

    async def ask(self, event, *data, **options):
        return await self.sio.call(event, data, timeout=PATIENCE_S, **options)

    async def next(self):
        return await asyncio.wait_for(self.heard.get(), PATIENCE_S)

    async def close(self):
        await self.sio.disconnect()


async def features():
    """Everything that one connection does."""
    one = await Client().open(auth={"name": "one"}, namespaces=["/", "/admin"])
    said = {"who": await one.ask("who"), "echo": await one.ask("echo", {"a": [1, None, "é"]})}
    data = bytes(range(256)) * 2000
    said["binary"] = await one.ask("echo", data) == data
    said["nested"] = await one.ask("echo", {"x": b"1", "y": [b"2"]}) == {"x": b"1", "y": [b"2"]}
    said["admin"] = await one.ask("add", 2, 3, namespace="/admin")
    await one.ask("count", 50)
    said["counted"] = [await one.next() for _ in range(50)]
    said["transport"] = one.sio.transport()
    await one.sio.emit("throw_out")
    await asyncio.wait_for(one.gone.wait(), PATIENCE_S)
    return said


async def refused():
    unwelcome = Client()
    with contextlib.suppress(socketio.exceptions.ConnectionError):
        await unwelcome.open(auth={"refuse": True})
    return unwelcome.whys


async def rooms():
    """Who is in a room hears what is said there, and nobody else."""
    clients = [await Client().open() for _ in range(6)]
    pids = {(await client.ask("who"))["pid"] for client in clients}
    for client in clients[:4]:
        await client.ask("enter", "red")
    await clients[3].ask("leave", "red")
    await clients[0].ask("say", "red", "hello")
    heard = [await clients[number].next() for number in (1, 2)]
    for client in clients:  # what was sent before has been received by now
        await client.ask("echo", 1)
    rest = sum(client.heard.qsize() for client in clients)
    for client in clients:
        await client.close()
    return {"heard": heard, "rest": rest, "workers": len(pids)}


async def many():
    """Many clients at once, on all workers."""

    async def one(number):
        client = await Client().open(auth={"name": ""})
        pid = (await client.ask("who"))["pid"]
        marks = [f"{number}-{turn}" for turn in range(20)]
        assert [await client.ask("echo", mark) for mark in marks] == marks
        await client.close()
        return pid

    return {"workers": len(set(await asyncio.gather(*(one(number) for number in range(20)))))}


async def returning():
    """Stay until the server says goodbye, and come back to another worker."""
    client = await Client(reconnection_delay=0.05, reconnection_delay_max=0.1).open()
    before = (await client.ask("who"))["pid"]
    print(json.dumps("connected"), flush=True)
    await asyncio.wait_for(client.gone.wait(), PATIENCE_S)
    async with asyncio.timeout(PATIENCE_S):
        while client.connected < 2:  # noqa: ASYNC110 – it has no event for that
            await asyncio.sleep(0.01)
    after = (await client.ask("who"))["pid"]
    await client.close()
    return {"other worker": before != after}


print(json.dumps(asyncio.run(globals()[talk]())))
