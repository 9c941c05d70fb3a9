"""WSGI applications behind a real server, and what their tests ask it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from asgi_worker.wsgi import asgi3
from tests.worker.conftest import Run
from tests.worker.http1_requests import GET
from tests.worker.serving import Arena

Start = Callable[..., Callable[[bytes], object]]
Environ = dict[str, Any]
TEXT = [("Content-Type", "text/plain")]


def serve(application: Any, threads: int = 4, **settings: Any) -> Arena:
    return Arena(asgi3(application, threads=threads), **settings)


def ask(
    run: Run, application: Any, request: bytes = GET, **settings: Any
) -> tuple[bytes, dict[bytes, bytes], bytes]:
    """The response of ``application`` to ``request``."""
    answers = []

    async def test() -> None:
        async with serve(application, **settings) as arena:
            wire = await arena.connect()
            await wire.write(request)
            answers.append(await wire.read_response())

    run(test())
    return answers[0]


def facts(environ: Environ, start_response: Start) -> list[bytes]:
    start_response("200 OK", TEXT)
    shown = {name: value for name, value in environ.items() if isinstance(value, str | bool)}
    return [json.dumps(shown).encode()]


def lines(*fields: str, first: str = "GET / HTTP/1.1", host: str = "shop.example:81") -> bytes:
    return "\r\n".join((first, f"Host: {host}", *fields, "", "")).encode("latin-1")


def environ_for(run: Run, request: bytes, **settings: Any) -> Environ:
    got: Environ = json.loads(ask(run, facts, request, **settings)[2])
    return got


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    records = [record for record in caplog.records if record.levelno >= logging.WARNING]
    return [str(record.exc_info[1]) if record.exc_info else record.message for record in records]
