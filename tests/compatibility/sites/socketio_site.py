"""A chat in Socket.IO: rooms, acknowledgements, binary data, a namespace, a background task."""

from __future__ import annotations

import os
import socket

import socketio


def witness(word):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(word.encode(), os.environ["SITE_WITNESS"])


manager = None
if url := os.environ.get("SITE_REDIS"):
    manager = socketio.AsyncRedisManager(url)
sio = socketio.AsyncServer(async_mode="asgi", client_manager=manager)


@sio.event
async def connect(sid, environ, auth):
    if auth and auth.get("refuse"):
        raise socketio.exceptions.ConnectionRefusedError("not today")
    await sio.save_session(sid, {"name": (auth or {}).get("name", "nobody")})


@sio.event
async def disconnect(sid, reason):
    session = await sio.get_session(sid)
    if session["name"] == "one":
        witness(f"{session['name']} left: {reason}")


@sio.event
async def echo(sid, data):
    return data


@sio.event
async def who(sid):
    session = await sio.get_session(sid)
    return {"pid": os.getpid(), "name": session["name"], "transport": sio.transport(sid)}


@sio.event
async def enter(sid, room):
    await sio.enter_room(sid, room)
    return room


@sio.event
async def leave(sid, room):
    await sio.leave_room(sid, room)
    return room


@sio.event
async def say(sid, room, text):
    await sio.emit("said", {"room": room, "text": text}, room=room, skip_sid=sid)
    return "passed on"


@sio.event
async def count(sid, number):
    async def work():
        for turn in range(number):
            await sio.emit("counted", turn, to=sid)
            await sio.sleep(0.001)

    sio.start_background_task(work)


@sio.event
async def throw_out(sid):
    await sio.disconnect(sid)


@sio.event
async def crash(sid):
    raise ZeroDivisionError("crash in an event")


class Admin(socketio.AsyncNamespace):
    async def on_connect(self, sid, environ, auth):
        pass

    async def on_add(self, sid, one, two):
        return one + two


sio.register_namespace(Admin("/admin"))


async def other(scope, receive, send):
    assert scope["type"] == "http"
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"beside Socket.IO"})


app = socketio.ASGIApp(sio, other)
