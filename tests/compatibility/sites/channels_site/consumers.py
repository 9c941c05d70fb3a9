"""Consumers of all kinds."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
from typing import Any
from urllib.parse import parse_qs

from asgiref.sync import async_to_sync
from channels.auth import get_user, login
from channels.db import database_sync_to_async
from channels.exceptions import DenyConnection, StopConsumer
from channels.generic.http import AsyncHttpConsumer
from channels.generic.websocket import (
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    JsonWebsocketConsumer,
    WebsocketConsumer,
)
from django.contrib.auth import authenticate

from channels_site.models import Message


def witness(scope: dict[str, Any], word: str) -> None:
    """Tell the test what happened here, on the datagram socket that it names in the query."""
    query = parse_qs(scope["query_string"].decode())
    if "witness" in query:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(word.encode(), query["witness"][0])


class Echo(WebsocketConsumer):
    """In threads."""

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        main = threading.current_thread() is threading.main_thread()
        if text_data == "thread":
            self.send(text_data="main" if main else "other")
        elif text_data == "crash":
            raise ZeroDivisionError("crash in a synchronous consumer")
        elif text_data == "close":
            self.close(code=4001, reason="as you wish")
        else:
            self.send(text_data=text_data, bytes_data=bytes_data)

    def disconnect(self, code: int) -> None:
        witness(self.scope, f"closed {code}")


class AsyncEcho(AsyncWebsocketConsumer):
    """On the loop, with a subprotocol."""

    async def connect(self) -> None:
        offered = self.scope["subprotocols"]
        chosen = "echo.v2" if "echo.v2" in offered else None
        await self.accept(
            subprotocol=chosen,
            headers=[(b"x-offered", b",".join(word.encode() for word in offered))],
        )

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if text_data == "crash":
            raise ZeroDivisionError("crash in an asynchronous consumer")
        await self.send(text_data=text_data, bytes_data=bytes_data)

    async def disconnect(self, code: int) -> None:
        witness(self.scope, f"closed {code}")


class Room(AsyncJsonWebsocketConsumer):
    """A group a room; what is said is kept in the database."""

    async def connect(self) -> None:
        self.room = self.scope["url_route"]["kwargs"]["room"]
        await self.channel_layer.group_add(f"room.{self.room}", self.channel_name)
        await self.accept()

    async def receive_json(self, content: dict[str, Any]) -> None:
        match content["do"]:
            case "who":
                user = self.scope["user"]
                await self.send_json(
                    {
                        "pid": os.getpid(),
                        "user": user.get_username() if user.is_authenticated else None,
                        "channel": self.channel_name,
                    }
                )
            case "enter":
                words = {"username": content["username"], "password": content["password"]}
                user = await database_sync_to_async(authenticate)(**words)
                await login(self.scope, user)
                await database_sync_to_async(self.scope["session"].save)()
                self.scope["user"] = await get_user(self.scope)
                await self.send_json({"user": self.scope["user"].get_username()})
            case "say":
                author = self.scope["user"].get_username() or "nobody"
                await self.keep(author, content["text"])
                said = {"type": "room.said", "author": author, "text": content["text"]}
                await self.channel_layer.group_send(f"room.{self.room}", said)
            case "whisper":
                said = {"type": "room.said", "author": "whisper", "text": content["text"]}
                await self.channel_layer.send(content["to"], said)
            case "history":
                await self.send_json({"history": await self.history()})
            case "leave":
                await self.channel_layer.group_discard(f"room.{self.room}", self.channel_name)
                await self.send_json({"left": self.room})
            case "close":
                await self.close(code=4002)

    async def room_said(self, event: dict[str, Any]) -> None:
        await self.send_json({"author": event["author"], "text": event["text"]})

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(f"room.{self.room}", self.channel_name)
        witness(self.scope, f"left {self.room} {code}")

    @database_sync_to_async
    def keep(self, author: str, text: str) -> None:
        Message.objects.create(room=self.room, author=author, text=text)

    @database_sync_to_async
    def history(self) -> list[str]:
        kept = Message.objects.filter(room=self.room).order_by("id")
        return [f"{message.author}: {message.text}" for message in kept]


class Lobby(JsonWebsocketConsumer):
    """In threads, and in a group from the beginning."""

    groups = ["lobby"]  # noqa: RUF012 – as its documentation has it
    greeting = ""

    def __init__(self, *, greeting: str) -> None:
        super().__init__()
        self.greeting = greeting

    def connect(self) -> None:
        self.accept()
        seat = self.scope["url_route"]["kwargs"]["seat"]
        self.send_json({"greeting": self.greeting, "seat": seat, "pid": os.getpid()})

    def receive_json(self, content: dict[str, Any]) -> None:
        Message.objects.create(room="lobby", author="seat", text=content["text"])
        send = async_to_sync(self.channel_layer.group_send)
        send("lobby", {"type": "lobby.said", "text": content["text"]})

    def lobby_said(self, event: dict[str, Any]) -> None:
        count = Message.objects.filter(room="lobby", text=event["text"]).count()
        self.send_json({"text": event["text"], "kept": count})


class Members(AsyncWebsocketConsumer):
    """For those who are logged in."""

    async def connect(self) -> None:
        if not self.scope["user"].is_authenticated:
            raise DenyConnection
        await self.accept()
        await self.send(text_data=f"welcome {self.scope['user'].get_username()}")


class Refused(WebsocketConsumer):
    def connect(self) -> None:
        self.close()


class Digest(AsyncHttpConsumer):
    """Of the whole body, which the consumer gets in one piece."""

    async def handle(self, body: bytes) -> None:
        answer = {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        await self.send_response(
            200,
            json.dumps(answer).encode(),
            headers=[
                (b"Content-Type", b"application/json"),
                (b"X-Twice", b"1"),
                (b"X-Twice", b"2"),
            ],
        )


class News(AsyncHttpConsumer):
    """What is said in a room, as events; for those who are logged in."""

    async def http_request(self, message: dict[str, Any]) -> None:
        if not self.scope["user"].is_authenticated:
            await self.send_response(403, b"not for you")
            raise StopConsumer
        self.room = self.scope["url_route"]["kwargs"]["room"]
        await self.channel_layer.group_add(f"room.{self.room}", self.channel_name)
        await self.send_headers(headers=[(b"Content-Type", b"text/event-stream")])
        await self.tell(f"{os.getpid()} {self.scope['user'].get_username()}")

    async def room_said(self, event: dict[str, Any]) -> None:
        await self.tell(event["text"])
        if event["text"] == "good night":
            await self.send_body(b"")
            await self.disconnect()
            raise StopConsumer

    async def tell(self, text: str) -> None:
        await self.send_body(f"data: {text}\n\n".encode(), more_body=True)

    async def disconnect(self) -> None:
        await self.channel_layer.group_discard(f"room.{self.room}", self.channel_name)
        witness(self.scope, "no more news")


class Crash(AsyncHttpConsumer):
    async def handle(self, body: bytes) -> None:
        raise ZeroDivisionError("crash in an HTTP consumer")
