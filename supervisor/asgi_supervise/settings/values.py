"""How the words people write become values: one kind per sort of setting.

The only place where text is parsed. A kind takes what the command line, the environment or a TOML
file gave and returns the value or raises ``ValueError`` with *what is wrong*, in words that finish
the sentence "name = value: ...". It reads no environment and touches no file, except that user and
group names are looked up, so that a wrong one is reported with all other problems.

Considered and refused: msgspec's own conversion (it stops at the first problem, and it knows
neither ``16MiB`` nor ``500ms``), Typer's types (they know only the command line).
"""

from __future__ import annotations

import grp
import ipaddress
import math
import pwd
import re
from collections.abc import Callable
from typing import Any, NamedTuple

Raw = str | int | float | bool | list[Any] | dict[str, Any]


class Kind(NamedTuple):
    """One sort of value: its word in ``--help``, how to read it, how to show it."""

    metavar: str
    parse: Callable[[Any], Any]
    show: Callable[[Any], str]
    is_flag: bool = False
    is_list: bool = False
    separator: str = ","
    """With ``is_list``: what separates items in one word or environment variable."""


_DURATION = re.compile(r"(?P<number>[0-9]+(\.[0-9]*)?|\.[0-9]+)\s*(?P<unit>ms|s|m|h)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}
_SIZE = re.compile(r"(?P<number>[0-9]+)\s*(?P<unit>KiB|MiB|GiB|B)?", re.IGNORECASE)
_BYTES = {"kib": 2**10, "mib": 2**20, "gib": 2**30, "b": 1, None: 1}
_FLAGS = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}
SMALLEST_SHARE = 0.001
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_OUR_FIELDS = {"connection", "content-length", "transfer-encoding"}


def _text(raw: Any) -> str:
    if not isinstance(raw, str):
        raise ValueError("must be text, in quotes")
    if "\0" in raw:
        raise ValueError("contains a NUL character")
    return raw


def text(metavar: str, *, pattern: str = "", complaint: str = "") -> Kind:
    """Text as it is; ``pattern`` must match all of it, else ``complaint`` is raised."""

    def parse(raw: Any) -> str:
        word = _text(raw)
        if pattern and not re.fullmatch(pattern, word):
            raise ValueError(complaint)
        return word

    return Kind(metavar, parse, str)


_MODULE = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
_APPLICATION = re.compile(rf"{_MODULE}:{_MODULE}")
_FILE = re.compile(r"(?:\./)*([\w./]+?)(?:\.py|/)?(?::([\w.]+))?")


def _parse_application(raw: Any) -> str:
    word = _text(raw)
    if _APPLICATION.fullmatch(word):
        return word
    called = word.partition("(")[0]
    if _APPLICATION.fullmatch(called):  # as for gunicorn
        raise ValueError(f"must be module:attribute; if it has to be called: --factory {called}")
    if meant := _FILE.fullmatch(word):
        guess = f"{meant[1].replace('/', '.')}:{meant[2] or 'app'}"
        if _APPLICATION.fullmatch(guess):
            is_file = meant[1] != word.partition(":")[0]
            hint = f", not a file: try {guess}" if is_file else f", for example {guess}"
            raise ValueError(f"must be module:attribute{hint}")
    raise ValueError("must be module:attribute, for example myproject.main:app")


APPLICATION = Kind("MODULE:ATTRIBUTE", _parse_application, str)
ROOT_PATH = text(
    "PATH",
    pattern=r"(/[^/?#]+)*",
    complaint="must begin with a slash and not end with one",
)
NAME = text(
    "NAME",
    pattern=r"[^\x00-\x1f\x7f]{1,64}",
    complaint="must be 1 to 64 characters on one line",
)
PATH = text("PATH", pattern=r"(?s).+", complaint="must name a path")


def _parse_health_path(raw: Any) -> str | None:
    if raw in ("off", False):
        return None
    if not re.fullmatch(r"/[!-~]*", _text(raw)) or "#" in raw:
        raise ValueError("must begin with a slash and be written as in a request (or off)")
    return str(raw)


HEALTH_PATH = Kind("PATH|off", _parse_health_path, str)


def _parse_log_file(raw: Any) -> str | None:
    path: str = PATH.parse(raw)
    return None if path == "-" else path  # as in gunicorn: the stream it goes to anyway


LOG_FILE = Kind("PATH", _parse_log_file, str)


def choice(*words: str) -> Kind:
    """One of ``words``."""

    def parse(raw: Any) -> str:
        if isinstance(raw, bool):  # TOML's and YAML-minded people's `lifespan = off`
            raw = "on" if raw else "off"
        if raw not in words:
            raise ValueError(f"choose one of {', '.join(words)}")
        return str(raw)

    return Kind("|".join(words), parse, str)


def integer(lowest: int, highest: int | None = None, *, off: bool = False) -> Kind:
    """A whole number from ``lowest`` to ``highest``; with ``off`` also ``off`` (``None``)."""

    def parse(raw: Any) -> int | None:
        if off and raw in ("off", False):
            return None
        if isinstance(raw, bool) or not re.fullmatch(r"[+-]?[0-9]{1,18}", str(raw)):
            raise ValueError("not a whole number" + (" (or off)" if off else ""))
        number = int(raw)
        if number < lowest:
            raise ValueError(f"must be at least {lowest}")
        if highest is not None and number > highest:
            raise ValueError(f"must be at most {highest}")
        return number

    return Kind("N|off" if off else "N", parse, _show_or_off(str))


def duration(*, off: bool = False, zero: bool = False) -> Kind:
    """Seconds, or a number with ``ms``, ``s``, ``m``, ``h``; with ``off`` also ``off``."""

    def parse(raw: Any) -> float | None:
        if off and raw in ("off", False):
            return None
        match = None if isinstance(raw, bool) else _DURATION.fullmatch(str(raw).strip())
        if match is None:
            raise ValueError(
                "not a duration: write seconds, or a number with ms, s, m or h"
                + (", or off" if off else "")
            )
        seconds = float(match["number"]) * _SECONDS[match["unit"]]
        if not math.isfinite(seconds) or seconds > 1e8:
            raise ValueError("must be at most 1e8 seconds")
        if seconds == 0 and not zero:
            raise ValueError("must be more than zero" + ("; off turns it off" if off else ""))
        return seconds

    return Kind("TIME|off" if off else "TIME", parse, _show_or_off(lambda s: f"{s:g} s"))


def share() -> Kind:
    """A part of a whole: more than 0, and 1 at most. Less than a thousandth is none."""

    def parse(raw: Any) -> float:
        if isinstance(raw, bool) or not re.fullmatch(
            r"[0-9]+(\.[0-9]*)?|\.[0-9]+", str(raw).strip()
        ):
            raise ValueError("not a part of 1: write a number like 0.1")
        part = float(raw)
        if not SMALLEST_SHARE <= part <= 1:
            raise ValueError(f"must be at least {SMALLEST_SHARE} and at most 1")
        return part

    return Kind("NUMBER", parse, lambda part: f"{part:g}")


def size(lowest: int, *, off: bool = False) -> Kind:
    """Bytes, or a number with ``KiB``, ``MiB`` or ``GiB``; with ``off`` also ``off`` (``None``)."""

    def parse(raw: Any) -> int | None:
        if off and raw in ("off", False):
            return None
        match = None if isinstance(raw, bool) else _SIZE.fullmatch(str(raw).strip())
        if match is None:
            raise ValueError(
                "not a size: write bytes, or a number with KiB, MiB or GiB"
                + (", or off" if off else "")
            )
        unit = match["unit"]
        number = int(match["number"]) * _BYTES[unit and unit.lower()]
        if number < lowest:
            raise ValueError(f"must be at least {show_size(lowest)}")
        if number > 2**62:
            raise ValueError("is more than any machine has")
        return number

    return Kind("SIZE|off" if off else "SIZE", parse, _show_or_off(show_size))


def show_size(number: int) -> str:
    """``number`` bytes in the largest unit that needs no fraction."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number and number % factor == 0:
            return f"{number // factor} {unit}"
    return f"{number} B"


def _show_or_off(show: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda value: "off" if value is None else show(value)


def _parse_flag(raw: Any) -> bool:
    if isinstance(raw, bool):
        return raw
    try:
        return _FLAGS[raw.lower()]
    except (AttributeError, KeyError):
        raise ValueError("write true or false") from None


FLAG = Kind("", _parse_flag, lambda value: "on" if value else "off", is_flag=True)


def workers(usable_cpus: Callable[[], int]) -> Kind:
    """A number of processes, or ``auto`` for as many as there are usable CPUs."""
    number = integer(1, 1024)

    def parse(raw: Any) -> int:
        if raw == "auto":
            return usable_cpus()
        try:
            value: int = number.parse(raw)
        except ValueError as problem:
            raise ValueError(f"{problem} (or auto)") from None
        return value

    return Kind("N|auto", parse, str)


def _parse_mode(raw: Any) -> int:
    if not isinstance(raw, str) or not re.fullmatch(r"(0o)?[0-7]{1,4}", raw):
        raise ValueError('not an octal mode: write it like chmod does, in quotes in a file: "660"')
    mode = int(raw, 8)
    if mode > 0o777:
        raise ValueError("must be at most 777")
    return mode


MODE = Kind("OCTAL", _parse_mode, lambda value: "" if value is None else f"{value:03o}")


def _parse_account(raw: Any, find: Callable[[str], object], noun: str) -> str:
    word = str(raw) if isinstance(raw, int) and not isinstance(raw, bool) else _text(raw)
    if not word.isascii() or not word.isdecimal():  # a number needs no entry: containers have none
        try:
            find(word)
        except KeyError:
            raise ValueError(f"there is no such {noun} on this machine") from None
    return word


USER = Kind("NAME|UID", lambda raw: _parse_account(raw, pwd.getpwnam, "user"), str)
GROUP = Kind("NAME|GID", lambda raw: _parse_account(raw, grp.getgrnam, "group"), str)


def _parse_header(raw: Any) -> tuple[str, str]:
    name, colon, value = _text(raw).partition(":")
    value = value.strip(" \t")
    if not colon or not _TOKEN.fullmatch(name):
        raise ValueError("must be 'Name: value', the name without spaces")
    if not _FIELD_VALUE.fullmatch(value):
        raise ValueError("the value may hold printable Latin-1 characters only")
    if name.lower() in _OUR_FIELDS:
        raise ValueError("this field is decided for each response and cannot be preset")
    return name, value


HEADERS = Kind(
    "'NAME: VALUE'",
    _parse_header,
    lambda value: ", ".join(f"{name}: {text}" for name, text in value),
    is_list=True,
    separator="\n",
)


def _parse_network(raw: Any) -> str:
    word = _text(raw).strip()
    if word != "*":
        try:
            ipaddress.ip_network(word, strict=False)
        except ValueError:
            raise ValueError("neither an address, nor a network like 10.0.0.0/8, nor *") from None
    return word


NETWORKS = Kind("ADDRESS,...", _parse_network, ",".join, is_list=True)
