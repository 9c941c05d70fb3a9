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
    System(
        "starlette", "Starlette", ("starlette", "itsdangerous", "python-multipart"), default=True
    ),
    System("fastapi", "FastAPI", ("fastapi", "python-multipart"), default=True),
    System("django", "Django", ("django",), default=True),
    System("quart", "Quart", ("quart",), default=True),
    System("blacksheep", "BlackSheep", ("blacksheep", "jinja2")),
    System("sanic", "Sanic in ASGI mode", ("sanic",)),
    System("litestar", "Litestar", ("litestar", "jinja2")),
    System("falcon", "Falcon ASGI", ("falcon", "msgspec")),
    System("timing", "Timing middleware", ()),
)
