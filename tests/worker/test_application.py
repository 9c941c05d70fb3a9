"""Applications of every shape are found, judged, made by factories and adapted."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_worker.application import Application
from tests.worker.modules import Place, modules_forgotten


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with modules_forgotten(tmp_path):
        yield Place(tmp_path)


def answer(app: Application) -> list[dict[str, Any]]:
    """What ``app`` sends when it is called."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def call() -> None:
        await app({"type": "http", "path": "/here", "asgi": {"version": "3.0"}}, receive, send)

    asyncio.run(call())
    return sent


SHAPES = """
    import functools

    async def app(scope, receive, send):
        await send({"path": scope["path"], "got": (await receive())["type"]})

    async def _more(extra, scope, receive, send):
        await app(scope, receive, send)

    def plain(scope, receive, send):
        return app(scope, receive, send)

    def honest(f):
        @functools.wraps(f)
        def wrapper(*args, **kwargs):
            return f(*args, **kwargs)
        return wrapper

    def opaque(f):
        async def wrapper(*args, **kwargs):
            await f(*args, **kwargs)
        return wrapper

    class Instance:
        async def __call__(self, scope, receive, send):
            await app(scope, receive, send)

        async def method(self, scope, receive, send):
            await app(scope, receive, send)

        @staticmethod
        async def static(scope, receive, send):
            await app(scope, receive, send)

        @classmethod
        async def made(cls, scope, receive, send):
            await app(scope, receive, send)

    class Awaited:
        def __init__(self, scope, receive, send):
            self.call = app(scope, receive, send)

        def __await__(self):
            return self.call.__await__()

    class Double:
        def __init__(self, scope):
            self.scope = scope

        async def __call__(self, receive, send):
            await app(self.scope, receive, send)

    def double(scope):
        return Double(scope)

    class DoubleInstance:
        def __call__(self, scope):
            return Double(scope)

    def marked(anything):
        return Double(anything)
    marked._asgi_double_callable = True

    def single(*args):
        return app(*args)
    single._asgi_single_callable = True

    class Unsigned:
        __signature__ = "none"
        def __call__(self, scope, receive, send):
            return app(scope, receive, send)

    instance = Instance()
    method = instance.method
    partial = functools.partial(_more, "extra")
    honestly = honest(app)
    opaquely = opaque(app)
    double_instance = DoubleInstance()
    unsigned = Unsigned()
"""


@pytest.mark.parametrize(
    "attribute",
    [
        "app",
        "plain",
        "instance",
        "method",
        "instance.method",
        "Instance.static",
        "Instance.made",
        "partial",
        "honestly",
        "opaquely",
        "Awaited",
        "Double",
        "double",
        "double_instance",
        "marked",
        "single",
        "unsigned",
    ],
)
def test_every_shape_of_application_is_an_asgi_3_callable(place: Place, attribute: str) -> None:
    place.write("shapes.py", SHAPES)
    app = place.load(f"shapes:{attribute}")
    assert answer(app) == [{"path": "/here", "got": "http.request"}]


def test_an_asgi_3_application_is_not_wrapped(place: Place) -> None:
    place.write("shapes.py", SHAPES)
    assert place.load("shapes:app") is sys.modules["shapes"].app


@pytest.mark.parametrize("name", ["app", "application"])
def test_without_attribute_the_usual_names_are_tried(place: Place, name: str) -> None:
    place.write("usual.py", f"async def {name}(scope, receive, send): ...")
    assert place.load("usual") is getattr(sys.modules["usual"], name)


def test_app_comes_before_application(place: Place) -> None:
    place.write("both.py", "async def application(s, r, t): ...\nasync def app(s, r, t): ...")
    assert place.load("both") is sys.modules["both"].app


def test_without_attribute_and_usual_names_the_error_says_what_is_there(place: Place) -> None:
    place.write("unusual.py", "async def site(scope, receive, send): ...")
    error = place.fails("unusual")
    assert error.reason == (
        'cannot load "unusual": it names no attribute, and module "unusual" has neither "app" nor '
        '"application"; what looks like an ASGI application there: site'
    )


def test_modules_in_packages_and_in_folders_without_init(place: Place) -> None:
    place.write("pack/__init__.py", "")
    place.write("pack/deep/inner.py", "async def app(scope, receive, send): ...")
    assert place.load("pack.deep.inner:app") is sys.modules["pack.deep.inner"].app


def test_the_application_directory_comes_first(place: Place) -> None:
    place.write("one/same.py", "async def app(scope, receive, send): ...\nwhere = 1")
    place.write("two/same.py", "async def app(scope, receive, send): ...\nwhere = 2")
    sys.path.insert(0, str(place.path / "two"))
    place.load("same:app", app_dir=str(place.path / "one"))
    assert sys.modules["same"].where == 1
    assert sys.path[0] == str(place.path / "one")


def test_a_relative_directory_is_made_absolute(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write("src/relative.py", "async def app(scope, receive, send): ...")
    monkeypatch.chdir(place.path)
    place.load("relative:app", app_dir="src")
    assert sys.path[0] == str(place.path / "src")
    place.load("relative:app", app_dir="src")
    assert sys.path.count(str(place.path / "src")) == 1


def test_a_module_written_after_the_directory_was_looked_at_is_found(place: Place) -> None:
    place.fails("later:app")
    seen = os.stat(place.path)
    place.write("later.py", "async def app(scope, receive, send): ...")
    os.utime(place.path, ns=(seen.st_atime_ns, seen.st_mtime_ns))  # within the clock's grain
    place.load("later:app")


FACTORIES = """
    import functools

    async def app(scope, receive, send):
        await send({"path": scope["path"]})

    def make(): return app
    def options(debug=False, testing=False, prefix=""): return app
    def anything(*args, **kwargs): return app
    def needs(settings): return app
    def keyword(*, settings): return app
    async def later(): return app
    def disguised(): return later()
    def nothing(): pass
    def number(): return 42
    def again(): return make
    def once_more(): return later
    def fails():
        raise RuntimeError("no database")
    def leaves():
        raise SystemExit(1)

    class Site:
        async def __call__(self, scope, receive, send):
            await send({"path": scope["path"]})

    class Builder:
        def build(self): return app

    class Double:
        def __init__(self, scope): self.scope = scope
        async def __call__(self, receive, send): await send({"path": self.scope["path"]})
    def double(): return Double

    partial = functools.partial(needs, "settings")
    builder = Builder()
    value = 42
"""


class TestFactory:
    @pytest.mark.parametrize(
        "attribute",
        ["make", "options", "anything", "partial", "Site", "builder.build", "double"],
    )
    def test_is_called(self, place: Place, attribute: str) -> None:
        place.write("factories.py", FACTORIES)
        assert answer(place.load(f"factories:{attribute}", factory=True)) == [{"path": "/here"}]

    @pytest.mark.parametrize(
        ("attribute", "said"),
        [
            ("app", "it takes (scope, receive, send), so it is the application itself: "),
            ("Double", "it takes (scope), so it is the application itself: leave --factory out"),
            ("needs", "it needs arguments: (settings)"),
            ("keyword", "it needs arguments: (*, settings)"),
            ("later", "it is asynchronous; make it a plain function and await what it needs in "),
            ("value", "it is an instance of int"),
        ],
    )
    def test_that_is_none(self, place: Place, attribute: str, said: str) -> None:
        place.write("factories.py", FACTORIES)
        error = place.fails(f"factories:{attribute}", factory=True)
        wanted = f'cannot call "factories:{attribute}" as a factory: {said}'
        assert error.reason.startswith(wanted)
        assert error.traceback == ""

    @pytest.mark.parametrize(
        ("attribute", "said"),
        [
            ("disguised", ": a coroutine; the factory has to be a plain function that returns "),
            ("nothing", " as an ASGI application: it is None"),
            ("number", " as an ASGI application: it is an instance of int"),
            ("again", " as an ASGI application: it is a function that takes (), not (scope, "),
            ("once_more", " as an ASGI application: it is a function that is asynchronous and "),
        ],
    )
    def test_that_makes_no_application(self, place: Place, attribute: str, said: str) -> None:
        place.write("factories.py", FACTORIES)
        error = place.fails(f"factories:{attribute}", factory=True)
        wanted = f'cannot use what factory "factories:{attribute}" returned{said}'
        assert error.reason.startswith(wanted)
        assert error.traceback == ""

    @pytest.mark.parametrize(
        ("attribute", "said"),
        [("fails", "RuntimeError: no database"), ("leaves", "it called exit (SystemExit: 1)")],
    )
    def test_that_fails_shows_its_traceback(self, place: Place, attribute: str, said: str) -> None:
        place.write("factories.py", FACTORIES)
        error = place.fails(f"factories:{attribute}", factory=True)
        assert error.reason == (
            f'cannot make the application: factory "factories:{attribute}" failed: {said}'
        )
        assert f"in {attribute}" in error.traceback

    @pytest.mark.parametrize("attribute", ["make", "options", "builder.build"])
    def test_named_without_the_option(self, place: Place, attribute: str) -> None:
        place.write("factories.py", FACTORIES)
        assert place.fails(f"factories:{attribute}").reason == (
            f'cannot use "factories:{attribute}" as an ASGI application: it is a function that can '
            "be called without arguments, a factory it seems: add --factory"
        )

    def test_that_is_asynchronous_named_without_the_option(self, place: Place) -> None:
        place.write("factories.py", FACTORIES)
        assert place.fails("factories:later").reason == (
            'cannot use "factories:later" as an ASGI application: it is a function that is '
            "asynchronous and takes no arguments: a factory has to be a plain one"
        )


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("42", "it is an instance of int"),
        ("None", "it is None"),
        ("os", 'it is the module "os": name the application in it, "module:attribute"'),
        (
            "Site",
            "it is the class Site, not an instance of it: name an instance, or add --factory",
        ),
        ("Needy", "it is the class Needy that takes (settings), not (scope, receive, send)"),
        ("needy", "it is a function that takes (settings), not (scope, receive, send)"),
        (
            "keyword",
            (
                "it is a function that takes (scope, receive, send, *, extra), "
                "not (scope, receive, send)"
            ),
        ),
        (
            "one_less",
            "it is a function that takes (scope, receive), not (scope, receive, send)",
        ),
        (
            "inner",
            "it is an instance of Inner that takes (receive, send), not (scope, receive, send)",
        ),
        (
            "late(1, 2, 3)",
            "it is an instance of coroutine, what a call returned: name what was called",
        ),
    ],
)
def test_what_is_no_application_says_what_it_is(place: Place, value: str, said: str) -> None:
    place.write(
        "things.py",
        f"""
        import os
        class Site:
            def __call__(self, scope, receive, send): ...
        class Needy:
            def __init__(self, settings): ...
        class Inner:
            async def __call__(self, receive, send): ...
        inner = Inner()
        def needy(settings): ...
        def keyword(scope, receive, send, *, extra): ...
        def one_less(scope, receive): ...
        async def late(scope, receive, send): ...
        thing = {value}
        """,
    )
    error = place.fails("things:thing")
    assert error.reason == f'cannot use "things:thing" as an ASGI application: {said}'


def test_an_object_that_raises_when_looked_at(place: Place) -> None:
    place.write(
        "proxy.py",
        """
        class Proxy:
            def __getattr__(self, name):
                raise RuntimeError("working outside of context")
            def __call__(self, scope, receive, send): ...
        proxy = Proxy()
        """,
    )
    error = place.fails("proxy:proxy")
    assert error.reason == 'cannot load "proxy:proxy": RuntimeError: working outside of context'
    assert "in __getattr__" in error.traceback
    # … and does not hide the answer to another question.
    assert 'has no "prox"; near it: proxy' in place.fails("proxy:prox").reason
