"""Lifespans of applications under test."""

from __future__ import annotations

import logging
from typing import Literal

import pytest

from asgi_worker.application import Application, BootError, Receive, Scope, Send
from asgi_worker.contract import WorkerSettings
from asgi_worker.lifespan import Lifespan

Mode = Literal["auto", "on", "off"]


def lifespan_of(app: Application, mode: Mode = "auto", startup_timeout_s: float = 30) -> Lifespan:
    settings = WorkerSettings(app="test:app", lifespan=mode, startup_timeout_s=startup_timeout_s)
    return Lifespan(app, settings)


def logged(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "asgi_worker.lifespan" and record.levelno >= level
    ]


async def fails(lifespan: Lifespan, timeout_s: float | None = None) -> BootError:
    with pytest.raises(BootError) as caught:
        await lifespan.startup(timeout_s)
    error = caught.value
    assert "\n" not in error.reason
    assert "asgi_worker" not in error.traceback
    # What main may still do after a failed boot must do no harm.
    await lifespan.shutdown(1)
    return error


async def polite(scope: Scope, receive: Receive, send: Send) -> None:
    assert await receive() == {"type": "lifespan.startup"}
    await send({"type": "lifespan.startup.complete"})
    assert await receive() == {"type": "lifespan.shutdown"}
    await send({"type": "lifespan.shutdown.complete"})
