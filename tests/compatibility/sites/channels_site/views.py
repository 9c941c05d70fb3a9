"""The ordinary views beside the consumers."""

from __future__ import annotations

import json
import os

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.contrib.auth import authenticate, login, logout
from django.http import HttpRequest, HttpResponse, JsonResponse


def enter(request: HttpRequest) -> HttpResponse:
    user = authenticate(request, **json.loads(request.body))
    if user is None:
        return JsonResponse({"user": None}, status=401)
    login(request, user)
    return JsonResponse({"user": user.get_username()})


def leave(request: HttpRequest) -> HttpResponse:
    logout(request)
    return HttpResponse(status=204)


async def who(request: HttpRequest) -> HttpResponse:
    user = await request.auser()
    return JsonResponse({"pid": os.getpid(), "user": user.get_username()})


def announce(request: HttpRequest, room: str) -> HttpResponse:
    """A synchronous view speaks to a group."""
    send = async_to_sync(get_channel_layer().group_send)
    send(f"room.{room}", {"type": "room.said", "author": "the view", "text": request.GET["text"]})
    return JsonResponse({"pid": os.getpid()})


def crash(request: HttpRequest) -> HttpResponse:
    raise ZeroDivisionError("crash in a view beside the consumers")
