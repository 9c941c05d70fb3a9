"""What cannot be loaded says exactly why: words, modules, attributes, failing imports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asgi_worker.application import BootError, load
from asgi_worker.contract import WorkerSettings
from tests.worker.modules import Place, modules_forgotten


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with modules_forgotten(tmp_path):
        yield Place(tmp_path)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("", "the module is missing: module:attribute is wanted"),
        (":app", "the module is missing: module:attribute is wanted"),
        ("main:", "the attribute is missing: module:attribute is wanted"),
        ("main:app:x", "module:attribute is wanted"),
        ("main:create_app()", "module:attribute is wanted, without a call; see --factory"),
        ("main..x:app", "module:attribute is wanted"),
        ("main:app.", "module:attribute is wanted"),
        ("main.py", 'a module name is wanted, not a file: try "main:app"'),
        ("./main.py:site", 'a module name is wanted, not a file: try "main:site"'),
        ("src/web/main:app", 'a module name is wanted, not a file: try "src.web.main:app"'),
    ],
)
def test_a_malformed_word(place: Place, word: str, said: str) -> None:
    error = place.fails(word)
    assert error.reason == f'cannot load "{word}": {said}'
    assert error.traceback == ""


@settings(max_examples=200)
@given(word=st.text(alphabet=":./\\ -(x\0é\ud800", max_size=12))
def test_no_word_gets_anything_but_a_boot_error(word: str) -> None:
    with pytest.raises(BootError):
        load(WorkerSettings(app=word, app_dir="/nonexistent"))


class TestMissingModule:
    def test_names_near_it(self, place: Place) -> None:
        place.write("service.py", "")
        error = place.fails("servise:app")
        assert error.reason == (
            f'cannot load "servise:app": no module "servise" in {place.path} nor installed; '
            "near it: service"
        )
        assert error.traceback == ""

    def test_packages_and_plain_folders_are_near_too(self, place: Place) -> None:
        place.write("website/__init__.py", "")
        place.write("webside/main.py", "")
        place.write("websize/data.txt", "")
        assert place.fails("webslte:app").reason.endswith("near it: website, webside")

    def test_names_that_are_there_when_none_is_near(self, place: Place) -> None:
        for name in "abcdefghij":
            place.write(f"{name}{name}.py", "")
        assert place.fails("unlike:app").reason.endswith(
            "there are: aa, bb, cc, dd, ee, ff, gg, hh and 2 more"
        )

    def test_an_empty_directory(self, place: Place) -> None:
        assert place.fails("unlike:app").reason.endswith(
            "nor installed, nor any other module there (see --app-dir)"
        )

    def test_a_directory_that_does_not_exist(self, place: Place) -> None:
        gone = str(place.path / "gone")
        assert place.fails("unlike:app", app_dir=gone).reason.endswith(
            f'no module "unlike": there is no directory {gone} (see --app-dir)'
        )

    def test_one_directory_down(self, place: Place) -> None:
        place.write("src/main.py", "")
        assert place.fails("main:app").reason.endswith("but there is one in src: try --app-dir src")

    def test_in_a_package(self, place: Place) -> None:
        place.write("pack/__init__.py", "")
        place.write("pack/server.py", "")
        assert place.fails("pack.servers:app").reason == (
            'cannot load "pack.servers:app": no module "pack.servers" in package "pack" '
            f"({place.path / 'pack'}); near it: server"
        )

    def test_the_package_itself(self, place: Place) -> None:
        place.write("pack/__init__.py", "")
        assert 'no module "pick" in' in place.fails("pick.server:app").reason

    def test_a_module_taken_for_a_package(self, place: Place) -> None:
        place.write("lone.py", "")
        assert place.fails("lone.app:app").reason == (
            f'cannot load "lone.app:app": "lone" is a module ({place.path / "lone.py"}), '
            'not a package: it has no "app"; is "lone:app" meant?'
        )


class TestFailingImport:
    def test_an_import_inside_it_is_the_applications_error(self, place: Place) -> None:
        place.write("outer.py", "import sys\nimport not_there_at_all\n")
        error = place.fails("outer:app")
        assert error.reason == (
            "cannot import \"outer\": ModuleNotFoundError: No module named 'not_there_at_all'"
        )
        assert error.traceback.startswith("Traceback (most recent call last):\n  File ")
        assert f'{place.path / "outer.py"}", line 2' in error.traceback
        assert error.traceback.count("File") == 1

    def test_even_when_what_it_misses_has_its_name(self, place: Place) -> None:
        place.write("selfish.py", "raise ModuleNotFoundError('gone', name='selfish')")
        error = place.fails("selfish:app")
        assert error.reason == 'cannot import "selfish": ModuleNotFoundError: gone'
        assert "line 1" in error.traceback

    def test_a_package_that_misses_its_own_part(self, place: Place) -> None:
        place.write("pack/__init__.py", "import pack.part")
        error = place.fails("pack.part:app")
        assert error.reason.startswith('cannot import "pack.part": ModuleNotFoundError')
        assert "import pack.part" in error.traceback

    def test_frames_of_all_causes_are_kept_and_foreign_ones_cut(self, place: Place) -> None:
        place.write(
            "chain.py",
            """
            import importlib
            def inner():
                importlib.import_module("broken_one")
            try:
                inner()
            except ZeroDivisionError as error:
                raise ExceptionGroup("several", [ValueError("first"), error]) from error
            """,
        )
        place.write("broken_one.py", "1 / 0")
        error = place.fails("chain:app")
        assert error.reason == ('cannot import "chain": ExceptionGroup: several (2 sub-exceptions)')
        for part in ("in inner", "broken_one.py", "1 / 0", "ValueError: first", "direct cause"):
            assert part in error.traceback

    def test_a_syntax_error_shows_its_line(self, place: Place) -> None:
        place.write("wrong.py", "x = 1\nasync def app(:\n")
        error = place.fails("wrong:app")
        assert error.reason.startswith('cannot import "wrong": SyntaxError: invalid syntax')
        assert f'File "{place.path / "wrong.py"}", line 2' in error.traceback
        assert not error.traceback.startswith("Traceback")

    @pytest.mark.parametrize(
        ("statement", "said"),
        [
            ("raise SystemExit(3)", "it called exit (SystemExit: 3)"),
            ("import sys; sys.exit()", "it called exit (SystemExit)"),
            ("raise KeyboardInterrupt", "KeyboardInterrupt"),
            ("raise GeneratorExit", "GeneratorExit"),
            ("raise BaseException('odd')", "BaseException: odd"),
            ("raise ValueError('one\\n\\ntwo')", "ValueError: one"),
            ("raise ValueError('\\n\\n')", "ValueError"),
            ("import asyncio; raise asyncio.CancelledError", "CancelledError"),
        ],
    )
    def test_whatever_it_raises(self, place: Place, statement: str, said: str) -> None:
        place.write("raises.py", statement)
        error = place.fails("raises:app")
        assert error.reason == f'cannot import "raises": {said}'
        assert "raises.py" in error.traceback

    def test_an_error_that_cannot_be_read(self, place: Place) -> None:
        place.write(
            "mute.py",
            """
            class Mute(Exception):
                def __str__(self):
                    raise RuntimeError
            raise Mute
            """,
        )
        assert place.fails("mute:app").reason == (
            'cannot import "mute": Mute: (its message cannot be read)'
        )


class TestMissingAttribute:
    def test_names_near_it_and_applications(self, place: Place) -> None:
        place.write(
            "parts.py",
            """
            from os.path import join as application_maker
            from asyncio import sleep as other
            from elsewhere import foreign
            class Site:
                def __call__(self, scope, receive, send): ...
            async def service(scope, receive, send): ...
            async def _hidden(scope, receive, send): ...
            site = Site()
            appl = 3
            """,
        )
        place.write("elsewhere.py", "async def foreign(scope, receive, send): ...")
        assert place.fails("parts:app").reason == (
            'cannot load "parts:app": module "parts" has no "app"; near it: appl; '
            "what looks like an ASGI application there: service, site"
        )

    def test_nothing_is_there(self, place: Place) -> None:
        place.write("empty.py", "")
        assert place.fails("empty:app").reason == (
            'cannot load "empty:app": module "empty" has no "app"; '
            "nothing there looks like an ASGI application"
        )

    def test_further_down_the_path(self, place: Place) -> None:
        place.write("down.py", "class Holder:\n    inner = None\nholder = Holder()")
        assert 'the class Holder) has no "iner"; near it: inner' in (
            place.fails("down:Holder.iner").reason
        )
        assert '"inner" (None) has no "app"' in place.fails("down:holder.inner.app").reason

    @pytest.mark.parametrize(
        "error", ["ValueError('lazy')", "AttributeError('lazy')", "SystemExit"]
    )
    def test_an_attribute_whose_reading_fails(self, place: Place, error: str) -> None:
        place.write(
            "lazy.py",
            f"""
            class Lazy:
                @property
                def app(self):
                    raise {error}
            lazy = Lazy()
            """,
        )
        found = place.fails("lazy:lazy.app")
        assert found.reason.startswith('cannot read "app" of "lazy" (an instance of Lazy): ')
        assert f"raise {error}" in found.traceback

    def test_a_module_that_makes_its_attributes(self, place: Place) -> None:
        place.write(
            "dynamic.py",
            """
            async def _app(scope, receive, send): ...
            def __getattr__(name):
                if name == "app":
                    return _app
                raise AttributeError(f"module has no {name}", name=name)
            """,
        )
        place.load("dynamic:app")
        assert 'module "dynamic" has no "site"' in place.fails("dynamic:site").reason
