"""Datasette over a real SQLite file, written as for any server: nothing in it knows ours."""

# ruff: noqa: E402

from __future__ import annotations

import os
import sys
from pathlib import Path

# Where Rich can be imported, Datasette has it draw every error, a page that is not found too, with
# all local variables; that takes half a second in which the worker does nothing else. Rich comes
# with Typer, which the server's command line is written with.
sys.modules["rich"] = None  # type: ignore[assignment]

from datasette import hookimpl
from datasette.app import Datasette
from datasette.plugins import pm
from datasette.utils.asgi import Response

FILES = Path(os.environ["SITE_FILES"])


class Plugin:
    """Pages of our own and a function for SQL."""

    __name__ = "site"

    @hookimpl
    def register_routes(self) -> list[tuple[str, object]]:
        return [(r"^/-/process$", process), (r"^/-/crash$", crash)]

    @hookimpl
    def prepare_connection(self, conn: object) -> None:
        conn.create_function("twice", 1, lambda value: value * 2)


async def process() -> Response:
    return Response.json({"pid": os.getpid()})


async def crash() -> Response:
    raise ZeroDivisionError("crash in a page of a plugin")


pm.register(Plugin(), name="site")
site = Datasette(
    [FILES / "shop.sqlite3"],
    config={"databases": {"shop": {"permissions": {"insert-row": True}}}},
    settings={"default_page_size": 50, "sql_time_limit_ms": 3000, "max_returned_rows": 1000},
)
app = site.app()
