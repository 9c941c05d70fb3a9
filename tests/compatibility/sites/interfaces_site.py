"""One application in every shape that an application may have."""

from __future__ import annotations

import functools
import json
import types
from collections.abc import Callable, Iterator
from typing import Any

from asgiref.compatibility import guarantee_single_callable
from asgiref.wsgi import WsgiToAsgi

Scope = dict[str, Any]


async def app(scope: Scope, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    """ASGI 3: it says what was asked and how often it was started, and echoes."""
    if scope["type"] == "lifespan":
        assert (await receive())["type"] == "lifespan.startup"
        scope["state"]["started"] = True
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "websocket":
        await echo(receive, send)
    else:
        body = b""
        more = True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        facts = {
            "method": scope["method"],
            "path": scope["path"],
            "query": scope["query_string"].decode(),
            "started": scope["state"].get("started", False),
            "received": len(body),
        }
        start = {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"application/json"), (b"x-seen", b"once")],
        }
        await send(start)
        answer = json.dumps(facts).encode()
        await send({"type": "http.response.body", "body": answer[:10], "more_body": True})
        await send({"type": "http.response.body", "body": answer[10:]})


async def echo(receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


# Functions, and what is made of them.


async def with_more(first: str, scope: Any, receive: Any, send: Any, *, last: str) -> None:
    assert (first, last) == ("first", "last")
    await app(scope, receive, send)


lone = lambda scope, receive, send: app(scope, receive, send)  # noqa: E731, PLW0108
partial = functools.partial(with_more, "first", last="last")


def logged(wrapped: Any) -> Any:
    @functools.wraps(wrapped)
    async def wrapper(*args: Any, **kwargs: Any) -> None:
        await wrapped(*args, **kwargs)

    return wrapper


def closure(wrapped: Any) -> Any:
    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        await wrapped(scope, receive, send)

    return middleware


decorated = logged(logged(app))
closed = closure(closure(app))

# Classes and instances.


class Middleware:
    def __init__(self, app: Any, **options: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


class Site:
    """Its application is an attribute, a method, and an attribute of an attribute."""

    def __init__(self, debug: bool = False) -> None:
        self.app = app
        self.inner = types.SimpleNamespace(app=Middleware(app))

    async def serve(self, scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)

    def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        return app(scope, receive, send)


class Endpoint:
    """As Starlette's: made of one request, and awaited."""

    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        self.call = app(scope, receive, send)

    def __await__(self) -> Any:
        return self.call.__await__()


site = Site()
middleware = Middleware(Middleware(app), debug=True)

# ASGI 2.


class Double:
    def __init__(self, scope: Any) -> None:
        self.scope = scope

    async def __call__(self, receive: Any, send: Any) -> None:
        await app(self.scope, receive, send)


class DoubleMiddleware:
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, scope: Any) -> Any:
        return self.inner(scope)


def double(scope: Any) -> Any:
    async def instance(receive: Any, send: Any) -> None:
        await app(scope, receive, send)

    return instance


double_middleware = DoubleMiddleware(DoubleMiddleware(Double))
unnamed_double = lambda anything: Double(anything)  # noqa: E731, PLW0108
guaranteed = guarantee_single_callable(Double)

# WSGI.


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
    facts = {
        "method": environ["REQUEST_METHOD"],
        "path": environ["PATH_INFO"],
        "query": environ["QUERY_STRING"],
        "started": True,
        "received": len(environ["wsgi.input"].read()),
    }
    start_response("200 OK", [("Content-Type", "application/json"), ("X-Seen", "once")])
    answer = json.dumps(facts).encode()
    yield answer[:10]
    yield answer[10:]


class OneRequest:
    def __init__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> None:
        self.body = wsgi(environ, start_response)

    def __iter__(self) -> Iterator[bytes]:
        return self.body


class Upper:
    """A middleware of old."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        return self.app(environ, start_response)


def opaque(*args: Any) -> Iterator[bytes]:
    return wsgi(*args)


wrapped_wsgi = Upper(Upper(wsgi))
asgi_of_wsgi = WsgiToAsgi(wsgi)

# Factories.


def make_app(prefix: str = "") -> Any:
    return app


def make_site() -> Any:
    return Site().serve


def make_double() -> Any:
    return Double


def make_wsgi() -> Any:
    return wrapped_wsgi


def make_with(settings: dict[str, str]) -> Any:
    return Middleware(app, **settings)


make = functools.partial(make_with, {"debug": "yes"})
