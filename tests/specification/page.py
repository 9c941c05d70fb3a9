"""``docs/asgi.md``, made of the docstrings of the tests.

``python -m tests.specification.page`` in a checkout writes it anew; a test holds the file in the
repository to what is made here, so that the page has a test for each of its rows.

The docstring of a test is *section: statement*, then a paragraph: how it is done here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "asgi.md"
FILES = (
    *("main", "main_errors", "http", "http_responses", "websocket", "websocket_handshake"),
    *("extensions", "lifespan", "tls"),
)
HEAD = """\
# ASGI, statement by statement

What the [ASGI specification](https://asgi.readthedocs.io/en/latest/specs/) says about servers, and
how this one does it: ASGI 3.0, HTTP & WebSocket 2.5, Lifespan 2.0, TLS 0.2 and the common
extensions.

Every row is a test in `tests/specification`, with the same words in its docstring: this page is
made of them by `make reference`. The tests talk to a real server over real connections, on uvloop
and on asyncio; those about processes start the whole service. *Optional* is what a server may leave
out.
"""


class Row(NamedTuple):
    """One statement, and the test that holds us to it."""

    section: str
    statement: str
    here: str
    test: str


def source(name: str) -> ast.Module:
    path = Path(__file__).parent / f"test_{name}.py"
    return ast.parse(path.read_text(encoding="utf-8"))


def rows(name: str) -> Iterator[Row]:
    """What the tests of one file say."""
    for node in source(name).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            words, _, here = (ast.get_docstring(node) or "").partition("\n\n")
            section, _, statement = words.partition(": ")
            test = f"{name}: {node.name}"
            yield Row(prose(section), prose(statement), prose(here), test)


def prose(text: str) -> str:
    """A paragraph of a docstring in Markdown, on one line."""
    return re.sub(r"\s+", " ", text).strip().replace("``", "`").replace("|", "\\|")


def page() -> str:
    """``docs/asgi.md``."""
    parts = [HEAD]
    for name in FILES:
        title, _, more = (ast.get_docstring(source(name)) or "").partition("\n\n")
        table = [f"| {row.section} | {row.statement} | {row.here} |" for row in rows(name)]
        lines = (f"## {title.rstrip('.')}", prose(more))
        head = ("| Section | Statement | Here |", "| --- | --- | --- |")
        parts.append("\n\n".join(lines) + "\n\n" + "\n".join((*head, *table)) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
