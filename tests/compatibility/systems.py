"""What the compatibility suite covers: a row for each system of the ASGI world.

A system ``quart`` is exercised by ``test_quart.py``, whose docstring begins with what that covers;
its application is in ``sites/``. Systems marked ``default`` are part of the default test run, in
the environment of the tests; the others are run by ``make compatibility`` alone, each in an
environment of its own, in which only the project and ``requires`` are installed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class System:
    name: str
    """Of the test module, without ``test_``."""
    title: str
    requires: tuple[str, ...]
    """For pip. The version of the first is shown; none: nothing but Python and the project."""
    alone: tuple[str, ...] = ()
    """For pip, before ``requires`` and without what they ask for themselves, which no longer goes
    together; then the version of the first of these is shown.
    """
    extras: tuple[str, ...] = ()
    """Of the project."""
    debian: tuple[str, ...] = ()
    """Packages of the distribution."""
    python: str | None = None
    """Another version than that of the tests (``3.12``), for systems that do not run there."""
    default: bool = False
    outside: str = ""
    """Why it cannot be run, which is outside our reach; then there is no test module."""


SYSTEMS = (
    System("introductions", "Introductory examples", ("starlette", "fastapi"), extras=("wsgi",)),
    System("interfaces", "Interfaces", ("asgiref",), extras=("wsgi",)),
    System(
        "starlette", "Starlette", ("starlette", "itsdangerous", "python-multipart"), default=True
    ),
    System("fastapi", "FastAPI", ("fastapi", "python-multipart"), default=True),
    System("django", "Django", ("django",), default=True),
    System("quart", "Quart", ("quart",), default=True),
    System("blacksheep", "BlackSheep", ("blacksheep",)),
    System("sanic", "Sanic in ASGI mode", ("sanic",)),
    System("litestar", "Litestar", ("litestar[cryptography]", "jinja2")),
    System("falcon", "Falcon ASGI", ("falcon", "msgspec")),
    System("channels", "Channels", ("channels", "django"), default=True),
    System(
        "channels_redis",
        "Channels over Redis",
        ("channels_redis", "channels", "django"),
        debian=("redis-server",),
    ),
    System("rest_framework", "Django REST framework", ("djangorestframework", "django")),
    System("datasette", "Datasette", ("datasette>=1.0a41",), debian=("chromium",)),
    System("ariadne", "Ariadne", ("ariadne", "python-multipart")),
    System("strawberry", "Strawberry", ("strawberry-graphql", "starlette", "python-multipart")),
    System(
        "bocadillo",
        "Bocadillo",
        (
            *("aiodine<2", "aiofiles", "itsdangerous", "jinja2", "python-multipart", "requests"),
            *("typesystem", "whitenoise"),
            "starlette<0.13",  # as it asks: it uses what later ones no longer have
            "uvicorn",  # which it imports for its own `run`; not used here
        ),
        # It wants uvicorn < 0.9, and with that a uvloop and a httptools that do not compile for
        # Python ≥ 3.11.
        alone=("bocadillo",),
    ),
    System(
        "tartiflette",
        "tartiflette-asgi",
        ("tartiflette-asgi", "tartiflette"),
        debian=("bison", "cmake", "flex", "g++", "make"),  # for libgraphqlparser
    ),
    System("flask", "Flask", ("flask",), extras=("wsgi",)),
    System("django_wsgi", "Django as WSGI", ("django",), extras=("wsgi",)),
    System("trio", "trio", ("trio", "starlette", "python-multipart"), extras=("trio",)),
    System("quart_trio", "Quart-Trio", ("quart-trio",), extras=("trio",)),
    System("timing", "Timing middleware", ()),
    System("asgiref", "asgiref", ("asgiref",)),
    System("timing_asgi", "timing-asgi", ("timing-asgi", "starlette")),
    System("sentry", "Sentry", ("sentry-sdk", "starlette")),
    System(
        "opentelemetry",
        "OpenTelemetry",
        (
            "opentelemetry-instrumentation-asgi",
            "opentelemetry-sdk",
            "opentelemetry-exporter-otlp-proto-http",
        ),
    ),
    System(
        "prometheus",
        "Prometheus",
        ("prometheus-client", "prometheus-fastapi-instrumentator", "starlette-exporter", "fastapi"),
    ),
    System(
        "socketio",
        "Socket.IO",
        ("python-socketio", "aiohttp", "redis"),
        debian=("redis-server",),
    ),
    System("sse_starlette", "sse-starlette", ("sse-starlette", "starlette", "uvicorn")),
    System(
        "middleware",
        "Widespread middleware",
        (
            *("asgi-correlation-id", "uvicorn", "brotli-asgi", "servestatic", "slowapi"),
            "starlette",
        ),
    ),
    System("mangum", "Mangum", ("mangum",)),
    System("httpx", "HTTPX", ("httpx", "starlette")),
    System("asgi_lifespan", "asgi-lifespan", ("asgi-lifespan", "httpx", "starlette")),
    System("databases", "databases", ("databases[aiosqlite]", "starlette", "typesystem")),
    System(
        "orm",
        "orm",
        (
            "orm",
            "aiosqlite",
            "databases<0.9",  # what orm 0.3.1, its last version, does with SQLAlchemy …
            "sqlalchemy<2",  # … needs 1.4: select() with a list
            "starlette",
        ),
    ),
    System(
        "peers",
        "Other servers",
        ("uvicorn[standard]", "gunicorn", "hypercorn[trio,uvloop]", "daphne", "granian"),
    ),
)
