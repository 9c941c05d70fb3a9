"""Modules of applications, written to a directory and loaded from it."""

from __future__ import annotations

import contextlib
import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from asgi_worker.application import Application, BootError, load
from asgi_worker.contract import WorkerSettings


class Place:
    """A directory of modules to load from."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, text: str) -> None:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))

    def load(self, word: str, *, factory: bool = False, app_dir: str | None = None) -> Application:
        where = str(self.path) if app_dir is None else app_dir
        return load(WorkerSettings(app=word, app_dir=where, factory=factory))

    def fails(self, word: str, *, factory: bool = False, app_dir: str | None = None) -> BootError:
        with pytest.raises(BootError) as caught:
            self.load(word, factory=factory, app_dir=app_dir)
        error = caught.value
        assert "\n" not in error.reason
        assert str(error) == error.reason
        for foreign in ("asgi_worker", f"importlib{os.sep}", "<frozen"):
            assert foreign not in error.traceback
        return error


@contextlib.contextmanager
def modules_forgotten(place: Path) -> Iterator[None]:
    """Undo what loading from ``place`` does to the import system."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if str(place) in str(getattr(sys.modules[name], "__spec__", "")):
            del sys.modules[name]
