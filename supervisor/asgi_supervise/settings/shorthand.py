"""Settings that are used up while settings are read: each ends in another, or leads to others."""

from __future__ import annotations

from typing import Annotated

import msgspec

from asgi_supervise.settings.addresses import DEFAULT_HOST, DEFAULT_PORT, HOST, UDS
from asgi_supervise.settings.entry import LISTEN, SOURCES, Setting
from asgi_supervise.settings.values import PATH, integer


class Shorthand(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that are used up while settings are read: they end in a field of another name."""

    host: Annotated[
        str | None,
        Setting(
            LISTEN,
            HOST,
            "Host to listen on; short for --bind HOST:PORT.",
            default=DEFAULT_HOST,
            example='"127.0.0.1"',
            restart=True,
        ),
    ] = None
    port: Annotated[
        int | None,
        Setting(
            LISTEN,
            integer(0, 65535),
            "Port to listen on; 0 takes a free one.",
            default=str(DEFAULT_PORT),
            example=str(DEFAULT_PORT),
            restart=True,
        ),
    ] = None
    uds: Annotated[
        str | None,
        Setting(
            LISTEN,
            UDS,
            "Listen on this unix socket; short for --bind unix:PATH.",
            flags=("--unix-socket",),
            example='"/run/asgi-supervise.sock"',
            restart=True,
        ),
    ] = None
    fd: Annotated[
        int | None,
        Setting(
            LISTEN,
            integer(0),
            "Listen on this inherited socket; short for --bind fd://N.",
            example="3",
            restart=True,
        ),
    ] = None
    env_file: Annotated[
        str | None,
        Setting(
            SOURCES,
            PATH,
            "Load NAME=value lines into the environment; what is set already stays.",
            example='".env"',
        ),
    ] = None
    config: Annotated[
        str | None,
        Setting(
            SOURCES,
            PATH,
            "Settings file (TOML).",
            default="asgi-supervise.toml, else [tool.asgi-supervise] in pyproject.toml",
        ),
    ] = None
