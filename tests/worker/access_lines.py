"""Access-log lines as the tests write and read them."""

from __future__ import annotations

import re

from asgi_worker.access_log import AccessLog

LINE = re.compile(
    r"(?P<client>\S+) - "
    r'"(?P<request>(?:[ !#-\[\]-~]|\\[\\"tnrxuU])*) HTTP/(?P<version>[0-9.]+)" '
    r"(?P<status>\d{3}) (?P<bytes>\d+)B (?P<ms>\d+\.\d)ms"
)


def note(log: AccessLog, target: str = "/", client: tuple[str, int] | None = None) -> None:
    log.record(client, "GET", target, "1.1", 200, 0, 0.0)


def noted(number: int, width: int = 0) -> str:
    return f"/{number}?{'x' * width}"


def numbers(data: bytes) -> list[int]:
    """The numbers of the lines in ``data``, each of which has to be whole."""
    lines = data.decode("ascii").splitlines(keepends=True)
    for line in lines:
        assert line.endswith("\n")
        assert LINE.fullmatch(line[:-1]), line
    return [int(line.split("/")[1].split("?")[0]) for line in lines]
