"""Kinds of application, told apart by their arguments or by ``--interface``, and all served."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from asgiref.compatibility import guarantee_single_callable

from asgi_worker.application import Application, BootError, load
from asgi_worker.contract import WorkerSettings
from asgi_worker.interfaces import NoApplication, asgi3
from tests.worker.modules import Place, modules_forgotten

Interface = Literal["auto", "asgi3", "asgi2", "wsgi"]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with modules_forgotten(tmp_path):
        found = Place(tmp_path)
        found.write("kinds.py", KINDS)
        yield found


KINDS = """
    import functools
    import types
    from asgiref.compatibility import guarantee_single_callable

    async def app(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"asgi3"})

    lone = lambda scope, receive, send: app(scope, receive, send)

    async def extra(first, scope, receive, send, *, last):
        await app(scope, receive, send)
    partial = functools.partial(extra, "first", last=1)
    partial_of_partial = functools.partial(functools.partial(extra, "first"), last=1)

    def logged(wrapped):
        @functools.wraps(wrapped)
        async def wrapper(*args, **kwargs):
            return await wrapped(*args, **kwargs)
        return wrapper
    decorated = logged(app)
    twice_decorated = logged(logged(app))

    def closure(wrapped):
        async def middleware(scope, receive, send):
            await wrapped(scope, receive, send)
        return middleware
    closed = closure(closure(app))

    class Middleware:
        def __init__(self, app, **options):
            self.app = app
        async def __call__(self, scope, receive, send):
            await self.app(scope, receive, send)
    middleware = Middleware(Middleware(app), debug=True)

    class Plain:
        def __call__(self, scope, receive, send):
            return app(scope, receive, send)
    plain = Plain()

    class Inner:
        def __call__(self, scope):
            return functools.partial(app, scope)
    class Site:
        def __init__(self):
            self.inner = types.SimpleNamespace(app=app, wsgi=wsgi)
        async def serve(self, scope, receive, send):
            await app(scope, receive, send)
        def __getattr__(self, name):
            if name == "lazy":
                return app
            raise AttributeError(name)

    class Endpoint:
        def __init__(self, scope, receive, send):
            self.call = app(scope, receive, send)
        def __await__(self):
            return self.call.__await__()

    class Double:
        def __init__(self, scope):
            self.scope = scope
        async def __call__(self, receive, send):
            await app(self.scope, receive, send)
    class Further(Double):
        pass
    class WithOptions:
        def __init__(self, scope, debug=False):
            self.scope = scope
        async def __call__(self, receive, send):
            await app(self.scope, receive, send)

    def double(scope):
        async def instance(receive, send):
            await app(scope, receive, send)
        return instance
    doubly = Inner()
    guaranteed = guarantee_single_callable(Double)
    guaranteed_single = guarantee_single_callable(app)
    class DoubleMiddleware:
        def __init__(self, inner):
            self.inner = inner
        def __call__(self, scope):
            return self.inner(scope)
    double_middleware = DoubleMiddleware(Double)
    opaquely_double = lambda thing: Double(thing)

    def wsgi(environ, start_response):
        start_response("200 OK", [])
        return [b"wsgi"]
    class Flaskish:
        def wsgi_app(self, environ, start_response):
            return wsgi(environ, start_response)
        def __call__(self, environ, start_response):
            return self.wsgi_app(environ, start_response)
    flaskish = Flaskish()
    class OneRequest:
        def __init__(self, environ, start_response):
            self.start = start_response
        def __iter__(self):
            self.start("200 OK", [])
            yield b"wsgi"
    def opaque(*args):
        return wsgi(*args)
    @functools.wraps(wsgi)
    def honest(*args):
        return wsgi(*args)
    def of_request(view):  # as Request.application of Werkzeug
        @functools.wraps(view)
        def application(*args):
            args[-1]("200 OK", [])
            return view(*args[:-2], args[-2])
        return application
    @of_request
    def view(request):
        return [b"wsgi"]
    cached_view = functools.cache(view)
    wsgi_method = flaskish.wsgi_app
    def generator(environ, start_response):
        start_response("200 OK", [])
        yield b"wsgi"
    def with_option(environ, start_response, debug=False):
        return wsgi(environ, start_response)
    def with_rest(env, start_response, *rest):
        return wsgi(env, start_response)
    class WithOption:
        def __call__(self, environ, respond, cache=None):
            return wsgi(environ, respond)
    with_cache = WithOption()
    def optional_send(environ, receive, send=None):
        return app(environ, receive, send)
    def odd_names(a, b, c=None):
        return app(a, b, c)
    async def needs_no_send(environ, start_response, third=None):
        await app(environ, start_response, third)

    site = Site()

    def make_app(): return app
    def make_site(): return Site().serve
    def make_class(): return Double
    def make_double(): return double
    def make_wsgi(): return flaskish
    def make_partial(): return partial
    def needs(settings): return middleware
    make = functools.partial(needs, {})
    make_lambda = lambda: lone

    async def one(scope): ...
    async def two(environ, start_response): ...
    class AsyncTwo:
        async def __call__(self, environ, start_response): ...
    async_two = AsyncTwo()
    number = 42
"""


def answer(app: Application) -> bytes:
    """The body that ``app`` sends when it is called."""
    body: list[bytes] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            body.append(message["body"])

    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "scheme": "http",
        "method": "GET",
        "path": "/",
        "raw_path": b"/",
        "root_path": "",
        "query_string": b"",
        "headers": [],
        "server": ("127.0.0.1", 80),
        "client": None,
    }

    async def call() -> None:
        await app(scope, receive, send)

    asyncio.run(call())
    return b"".join(body)


def loaded(
    place: Place, attribute: str, interface: Interface = "auto", *, factory: bool = False
) -> Application:
    return load(
        WorkerSettings(
            app=f"kinds:{attribute}",
            app_dir=str(place.path),
            interface=interface,
            factory=factory,
        )
    )


SINGLE = [
    *("app", "lone", "partial", "partial_of_partial", "decorated", "twice_decorated", "closed"),
    *("middleware", "plain", "Endpoint", "site.serve", "site.inner.app", "site.lazy"),
    *("guaranteed", "guaranteed_single", "middleware.app.app"),
    *("optional_send", "odd_names", "needs_no_send"),
]
DOUBLE = ["Double", "Further", "WithOptions", "double", "doubly", "double_middleware"]
WSGI = [
    *("wsgi", "flaskish", "flaskish.wsgi_app", "wsgi_method", "OneRequest", "honest", "generator"),
    *("site.inner.wsgi", "with_option", "with_rest", "with_cache"),
]


@pytest.mark.parametrize("attribute", [*SINGLE, *DOUBLE])
def test_asgi_is_recognised(place: Place, attribute: str) -> None:
    assert answer(loaded(place, attribute)) == b"asgi3"


@pytest.mark.parametrize(("attribute", "version"), [("tell", "3.0"), ("Tell", "2.0")])
def test_each_is_told_the_version_it_is_called_by(
    place: Place, attribute: str, version: str
) -> None:
    place.write(
        "telling.py",
        """
        async def tell(scope, receive, send):
            version, spec_version = scope["asgi"]["version"], scope["asgi"]["spec_version"]
            assert spec_version == "2.5"
            await send({"type": "http.response.body", "body": version.encode()})

        class Tell:
            def __init__(self, scope):
                self.scope = scope
            async def __call__(self, receive, send):
                await tell(self.scope, receive, send)
        """,
    )
    app = load(WorkerSettings(app=f"telling:{attribute}", app_dir=str(place.path)))
    assert [answer(app), answer(app)] == [version.encode()] * 2


@pytest.mark.parametrize("attribute", WSGI)
def test_wsgi_is_recognised(place: Place, attribute: str) -> None:
    assert answer(loaded(place, attribute)) == b"wsgi"


@pytest.mark.parametrize("attribute", SINGLE)
def test_asgi_3_may_be_told(place: Place, attribute: str) -> None:
    assert answer(loaded(place, attribute, "asgi3")) == b"asgi3"


def test_what_takes_anything_is_taken_for_asgi_3(place: Place) -> None:
    """Nobody can know that it is WSGI."""
    assert loaded(place, "opaque") is sys.modules["kinds"].opaque


@pytest.mark.parametrize("attribute", [*DOUBLE, "opaquely_double"])
def test_asgi_2_may_be_told(place: Place, attribute: str) -> None:
    assert answer(loaded(place, attribute, "asgi2")) == b"asgi3"


@pytest.mark.parametrize("attribute", [*WSGI, "opaque"])
def test_wsgi_may_be_told(place: Place, attribute: str) -> None:
    assert answer(loaded(place, attribute, "wsgi")) == b"wsgi"


@pytest.mark.parametrize(
    ("attribute", "body"),
    [
        *(("make_app", b"asgi3"), ("make_site", b"asgi3"), ("make_class", b"asgi3")),
        *(("make_double", b"asgi3"), ("make_partial", b"asgi3"), ("make", b"asgi3")),
        *(("make_lambda", b"asgi3"), ("make_wsgi", b"wsgi"), ("Flaskish", b"wsgi")),
    ],
)
def test_factories_of_each(place: Place, attribute: str, body: bytes) -> None:
    assert answer(loaded(place, attribute, factory=True)) == body


def test_a_factory_and_an_interface(place: Place) -> None:
    assert answer(loaded(place, "make_wsgi", "wsgi", factory=True)) == b"wsgi"
    assert answer(loaded(place, "make_class", "asgi2", factory=True)) == b"asgi3"


ASGI_3 = "an ASGI application (--interface asgi3)"
ASGI_2 = "an ASGI 2 application (--interface asgi2)"
A_WSGI = "a WSGI application (--interface wsgi)"


@pytest.mark.parametrize(
    ("interface", "attribute", "said"),
    [
        ("asgi3", "number", f"{ASGI_3}: it is an instance of int"),
        (
            "asgi3",
            "wsgi",
            f"{ASGI_3}: it is a function that takes (environ, start_response), "
            "not (scope, receive, send)",
        ),
        (
            "asgi3",
            "Double",
            f"{ASGI_3}: it is the class Double that takes (scope), not (scope, receive, send)",
        ),
        ("asgi2", "number", f"{ASGI_2}: it is an instance of int"),
        (
            "asgi2",
            "app",
            f"{ASGI_2}: it is a function that takes (scope, receive, send), not (scope)",
        ),
        (
            "asgi2",
            "one",
            f"{ASGI_2}: it is a function that is asynchronous, which only ASGI 3 has",
        ),
        ("wsgi", "number", f"{A_WSGI}: it is an instance of int"),
        (
            "wsgi",
            "middleware",
            f"{A_WSGI}: it is an instance of Middleware that takes (scope, receive, send), "
            "not (environ, start_response)",
        ),
        (
            "wsgi",
            "async_two",
            f"{A_WSGI}: it is an instance of AsyncTwo that is asynchronous, which only ASGI 3 has",
        ),
        (
            "wsgi",
            "make_wsgi",
            f"{A_WSGI}: it is a function that takes (), not (environ, start_response)",
        ),
    ],
)
def test_what_clearly_is_something_else(
    place: Place, interface: Interface, attribute: str, said: str
) -> None:
    with pytest.raises(BootError) as caught:
        loaded(place, attribute, interface)
    assert str(caught.value) == f'cannot use "kinds:{attribute}" as {said}'


def test_what_a_decorator_has_made_of_it_may_be_told(place: Place) -> None:
    """Its arguments are said to be those of what is decorated."""
    assert answer(loaded(place, "view", "wsgi")) == b"wsgi"
    loaded(place, "cached_view", "wsgi")
    with pytest.raises(BootError) as caught:
        loaded(place, "view")
    assert str(caught.value) == (
        'cannot use "kinds:view" as an ASGI application: it is a function that takes (request), '
        "not (scope, receive, send); it is decorated: say with --interface what that makes of it"
    )


@pytest.mark.parametrize("attribute", ["one", "two", "async_two"])
def test_what_is_asynchronous_and_takes_less_is_nothing(place: Place, attribute: str) -> None:
    with pytest.raises(BootError, match=r"that takes \(.*\), not \(scope, receive, send\)$"):
        loaded(place, attribute)


def test_compiled_callables_without_signature() -> None:
    """Python does not know what ``dict`` takes."""
    settings = WorkerSettings(app="compiled:app")
    compiled: Any = type("Compiled", (), {"__signature__": 1, "__call__": dict.update})()
    assert asgi3(compiled, settings, made=False) is compiled


def test_guaranteed_by_asgiref() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    settings = WorkerSettings(app="guaranteed:app")
    single = guarantee_single_callable(app)  # type: ignore[no-untyped-call]
    assert asgi3(single, settings, made=False) is app


class TestWsgi:
    def test_what_is_taken_for_it_is_said_once(
        self, place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        caplog.set_level(logging.INFO)
        for slot in "012":
            monkeypatch.setenv("ASGI_SUPERVISE_SLOT", slot)
            loaded(place, "wsgi")
        assert caplog.messages == [
            "kinds:wsgi takes two arguments and is served as a WSGI application; "
            "--interface wsgi says so explicitly"
        ]

    def test_what_was_told_is_not_said(
        self, place: Place, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        loaded(place, "wsgi", "wsgi")
        assert caplog.messages == []

    @pytest.mark.parametrize(
        ("interface", "why"),
        [("auto", ", as the arguments (environ, start_response) suggest: "), ("wsgi", ": ")],
    )
    def test_without_a2wsgi(
        self, place: Place, interface: Interface, why: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "a2wsgi", None)
        with pytest.raises(BootError) as caught:
            loaded(place, "wsgi", interface)
        said = caught.value.reason
        assert said.startswith(f'cannot use "kinds:wsgi" as a WSGI application{why}')
        assert said.endswith("; pip install 'asgi-supervise[wsgi]'")

    def test_a2wsgi_is_imported_only_when_needed(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "a2wsgi", None)
        loaded(place, "app")

    def test_on_trio(self) -> None:
        def application(environ: Any, start_response: Any) -> list[bytes]:
            return []

        settings = WorkerSettings(app="main:app", loop="trio")
        with pytest.raises(NoApplication, match="it runs in threads; leave --loop trio out"):
            asgi3(application, settings, made=False)


def test_a_handler_of_aws_lambda_is_not_taken_for_wsgi() -> None:
    class Mangum:
        def __call__(self, event: dict[str, Any], context: object) -> dict[str, Any]:
            raise AssertionError("nobody calls it to find out")

    settings = WorkerSettings(app="kinds:handler")
    with pytest.raises(NoApplication) as refused:
        asgi3(Mangum(), settings, made=False)
    assert str(refused.value).startswith("as an ASGI application: it is an instance of Mangum ")
    assert str(refused.value).endswith(
        "a handler of AWS Lambda it seems: name the application that it wraps"
    )
