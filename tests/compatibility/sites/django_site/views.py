"""Views of the project, half of them asynchronous."""

# mypy: disable-error-code="import-untyped,misc,untyped-decorator"
# Django brings no types.

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django import forms
from django.conf import settings
from django.contrib.auth import get_user_model
from django.http import (
    FileResponse,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseRedirect,
    JsonResponse,
    StreamingHttpResponse,
)
from django.template import engines
from django.urls import reverse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST


def witness(path: str, word: str) -> None:
    """Tell the test what happened here, on the datagram socket that it listens to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(word.encode(), path)


class stamp:  # noqa: N801
    """A middleware for both worlds."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if iscoroutinefunction(self.get_response):
            return self.later(request)
        response: HttpResponseBase = self.get_response(request)
        response.headers["x-process"] = str(os.getpid())
        return response

    async def later(self, request: HttpRequest) -> HttpResponseBase:
        response: HttpResponseBase = await self.get_response(request)
        response.headers["x-process"] = str(os.getpid())
        return response


async def home(request: HttpRequest) -> HttpResponse:
    return JsonResponse(
        {
            "pid": os.getpid(),
            "secure": request.is_secure(),
            "client": request.META["REMOTE_ADDR"],
            "url": request.build_absolute_uri(),
        }
    )


def sync(request: HttpRequest) -> HttpResponse:
    main = threading.current_thread() is threading.main_thread()
    return JsonResponse({"main_thread": main, "get": dict(request.GET.lists())})


async def item(request: HttpRequest, number: int) -> HttpResponse:
    return JsonResponse({"number": number, "url": reverse("item", args=[number + 1])})


@csrf_exempt
async def echo_json(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"got": json.loads(request.body)})


class Contact(forms.Form):
    name = forms.CharField(max_length=20)
    age = forms.IntegerField(min_value=0)


PAGE = """<form method="post">{% csrf_token %}{{ form }}<button>Go</button></form>"""


def form(request: HttpRequest) -> HttpResponse:
    contact = Contact(request.POST or None)
    if contact.is_valid():
        request.session["contact"] = contact.cleaned_data
        return HttpResponseRedirect("/visits/")
    page = engines["django"].from_string(PAGE)
    return HttpResponse(
        page.render({"form": contact}, request), status=422 if request.POST else 200
    )


@csrf_exempt
@require_POST
def upload(request: HttpRequest) -> HttpResponse:
    answer: dict[str, Any] = {name: request.POST[name] for name in request.POST}
    for name, file in request.FILES.items():
        sha = hashlib.sha256()
        for piece in file.chunks():
            sha.update(piece)
        answer[name] = {
            "name": file.name,
            "size": file.size,
            "sha256": sha.hexdigest(),
            "kind": type(file).__name__,
        }
    return JsonResponse(answer)


@csrf_exempt
async def raw(request: HttpRequest) -> HttpResponse:
    body = request.body
    return JsonResponse({"size": len(body), "sha256": hashlib.sha256(body).hexdigest()})


async def stream(request: HttpRequest) -> HttpResponseBase:
    count = int(request.GET["count"])

    async def lines() -> AsyncIterator[str]:
        for number in range(count):
            yield f"{number}\n"
            if number % 100 == 0:
                await asyncio.sleep(0)

    return StreamingHttpResponse(lines(), content_type="text/plain")


def stream_sync(request: HttpRequest) -> HttpResponseBase:
    def lines() -> Iterator[bytes]:
        for number in range(100):
            yield b"%d\n" % number

    return StreamingHttpResponse(lines(), content_type="text/plain")


async def events(request: HttpRequest) -> HttpResponseBase:
    where = request.GET["witness"]

    async def body() -> AsyncIterator[bytes]:
        try:
            number = 0
            while True:
                yield f"data: {number}\n\n".encode()
                number += 1
                # Django cancels what waits here. What it finds at the ``yield``, because sending
                # fails first, it leaves to the garbage collector, so that is to be rare.
                await asyncio.sleep(0.05)
        finally:
            witness(where, "stream over")

    return StreamingHttpResponse(
        body(), content_type="text/event-stream", headers={"content-encoding": "identity"}
    )


async def wait(request: HttpRequest) -> HttpResponse:
    """An asynchronous view that the framework cancels when the client goes."""
    where = request.GET["witness"]
    witness(where, "waiting")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        witness(where, "cancelled")
        raise
    return HttpResponse("never")


def gate(request: HttpRequest) -> HttpResponse:
    """Blocks its thread until it gets a byte."""
    with Path(request.GET["gate"]).open("rb", buffering=0) as opened:
        witness(request.GET["witness"], "at the gate")
        return HttpResponse(opened.read(1))


def file(request: HttpRequest) -> HttpResponseBase:
    return FileResponse((settings.FILES / "large.bin").open("rb"), as_attachment=True)


def visits(request: HttpRequest) -> HttpResponse:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JsonResponse(
        {"visits": request.session["visits"], "contact": request.session.get("contact")}
    )


async def users(request: HttpRequest) -> HttpResponse:
    model = get_user_model()
    if request.method == "GET" and "make" in request.GET:
        await sync_to_async(model.objects.create_user)(request.GET["make"])
    names = [user.get_username() async for user in model.objects.order_by("username")]
    return JsonResponse({"users": names})


def long_text(request: HttpRequest) -> HttpResponse:
    return HttpResponse("All work and no play. " * 1000, content_type="text/plain")


async def crash(request: HttpRequest) -> HttpResponse:
    raise ZeroDivisionError("crash in an asynchronous view")


def crash_sync(request: HttpRequest) -> HttpResponse:
    raise ZeroDivisionError("crash in a synchronous view")
