"""What can only be said about settings together: addresses, directories, times that must fit.

The last step from parsed values to one :class:`Settings`. Problems are added to the list that is
handed in.
"""

from __future__ import annotations

import grp
import os
import pwd
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from asgi_supervise.settings.addresses import DEFAULT_HOST, DEFAULT_PORT, tcp_address
from asgi_supervise.settings.problems import Problem
from asgi_supervise.settings.schema import TABLE, Settings

_DEFAULTS = {entry.field: entry.default for entry in TABLE}
_WORDS = {entry.field: entry.word for entry in TABLE}


class Origin(Protocol):
    """Where a value was set, and how strong that source is (0 is the strongest)."""

    @property
    def where(self) -> str:
        """In words for the operator."""

    @property
    def rank(self) -> int:
        """The smaller, the stronger."""


Origins = Mapping[str, Origin]


def settle(
    values: dict[str, Any], origins: Origins, directory: Path, problems: list[Problem]
) -> Settings | None:
    """The settings, or ``None`` when they cannot be made; ``values`` holds only what was set.

    A value that could not be parsed is ``None`` in ``values``; that problem is noted already.
    """
    _fold_bind(values, origins, problems)
    _check_part("shutdown_reserve_s", "graceful_timeout_s", values, origins, problems)
    _check_part("stall_warn_s", "worker_timeout_s", values, origins, problems)
    _check_health(values, origins, problems)
    _check_canary(values, origins, problems)
    _check_interface(values, origins, problems)
    place = _check_directories(values, origins, directory, problems)
    if place is not None:
        _place_log_files(values, origins, place, problems)
    _check_accounts(values, origins, problems)
    if "app" not in values:
        complaint = "say which application to run, for example: asgi-supervise myproject.main:app"
        problems.append(Problem("app", None, complaint, ""))
    if problems:
        return None
    fields = Settings.__struct_fields__
    return Settings(**{name: value for name, value in values.items() if name in fields})


def _fold_bind(values: dict[str, Any], origins: Origins, problems: list[Problem]) -> None:
    """The four ways to say where to listen become ``bind``; the strongest source's way counts."""
    ranks = {
        way: min(origins[field].rank for field in way if field in values)
        for way in (("bind",), ("host", "port"), ("uds",), ("fd",))
        if any(field in values for field in way)
    }
    strongest = [way for way, rank in ranks.items() if rank == min(ranks.values())]
    if len(strongest) > 1:
        named = [field for way in strongest for field in way if field in values]
        complaint = "say where to listen in one way; bind can say them all"
        where = ", ".join(dict.fromkeys(origins[field].where for field in named))
        problems.append(Problem(" and ".join(named), None, complaint, where))
        return
    match strongest:
        case [("host", "port")]:
            host = values.get("host") or DEFAULT_HOST
            port = values.get("port")
            values["bind"] = (tcp_address(host, DEFAULT_PORT if port is None else port),)
        case [("uds",)]:
            values["bind"] = (f"unix:{values['uds']}",)
        case [("fd",)]:
            values["bind"] = (f"fd://{values['fd']}",)
        case _:
            _check_bind(values, origins, problems)


def _check_bind(values: dict[str, Any], origins: Origins, problems: list[Problem]) -> None:
    if "bind" not in values:
        return
    bind, where = values["bind"], origins["bind"].where
    if bind == ():
        problems.append(Problem("bind", None, "must name at least one address", where))
    count = Counter(bind or ())
    twice = [address for address, n in count.items() if n > 1 and not address.endswith(":0")]
    problems += [Problem("bind", address, "is given twice", where) for address in twice]


def _check_part(
    part: str, whole: str, values: dict[str, Any], origins: Origins, problems: list[Problem]
) -> None:
    """The part must be less than the whole; who shortens only the whole gets half of it."""
    limit = values.get(whole, _DEFAULTS[whole])
    if limit is None:  # off, or not understood
        return
    if part not in values:
        values[part] = min(_DEFAULTS[part], limit / 2)
    elif values[part] is not None and values[part] >= limit:
        complaint = f"must be less than {_WORDS[whole]}, which is {limit:g} s"
        where = origins[part].where
        problems.append(Problem(_WORDS[part], f"{values[part]:g} s", complaint, where))


def _check_health(values: dict[str, Any], origins: Origins, problems: list[Problem]) -> None:
    """What is said about a health check that nobody asked for is a mistake; so is one that cannot
    fail before the worker is given up for another reason.
    """
    if "health_path" not in values:
        for field in ("health_interval_s", "health_timeout_s", "health_failures"):
            if field in values:
                complaint = "does nothing without health-path; set that, too"
                problems.append(Problem(_WORDS[field], None, complaint, origins[field].where))
        return
    timeout, startup = (
        values.get(field, _DEFAULTS[field]) for field in ("health_timeout_s", "startup_timeout_s")
    )
    if values["health_path"] and timeout and startup and timeout >= startup:
        complaint = f"must be less than startup-timeout, which is {startup:g} s"
        field = "health_timeout_s" if "health_timeout_s" in values else "startup_timeout_s"
        where = origins[field].where
        problems.append(Problem("health-timeout", f"{timeout:g} s", complaint, where))


def _check_canary(values: dict[str, Any], origins: Origins, problems: list[Problem]) -> None:
    """A weight needs somebody who hands connections on, and a time in which it counts."""
    if "canary_weight" not in values:
        return
    for field, value, shown, remedy in (
        ("balance", "off", "off", "choose exact or kernel there"),
        ("bake_time_s", 0, "0", "give it a time"),
    ):
        if values.get(field) == value:
            complaint = f"does nothing with {_WORDS[field]} = {shown}; {remedy}, or leave it out"
            where = origins["canary_weight"].where
            problems.append(Problem("canary-weight", None, complaint, where))


def _check_interface(values: dict[str, Any], origins: Origins, problems: list[Problem]) -> None:
    """A WSGI application runs in threads and has no lifespan; it needs neither trio nor that."""
    if values.get("interface") != "wsgi":
        return
    for field, value, complaint in (
        ("loop", "trio", "runs no WSGI application, which waits in threads; leave it out"),
        ("lifespan", "on", "needs an ASGI application: WSGI has no lifespan; leave it out"),
    ):
        if values.get(field) == value:
            problems.append(Problem(_WORDS[field], value, complaint, origins[field].where))


def _check_directories(
    values: dict[str, Any], origins: Origins, directory: Path, problems: list[Problem]
) -> Path | None:
    """The directory that other paths are relative to, if there is one."""
    for field in ("chdir", "app_dir"):
        if values.get(field):
            place = directory / values[field]
            if not _is_directory(place):
                complaint, where = "there is no such directory", origins[field].where
                problems.append(Problem(_WORDS[field], values[field], complaint, where))
                return None
            if field == "chdir":
                directory = place
    return directory


def _place_log_files(
    values: dict[str, Any], origins: Origins, directory: Path, problems: list[Problem]
) -> None:
    """Their paths become absolute, and it must be possible to write there."""
    for field in ("log_file", "access_log_file"):
        if values.get(field):
            path = directory / values[field]
            if complaint := _unwritable(path):
                where = origins[field].where
                problems.append(Problem(_WORDS[field], values[field], complaint, where))
            values[field] = str(path)


def _unwritable(path: Path) -> str:
    """Why nothing can be appended to ``path``, or an empty text."""
    if _is_directory(path):
        return "is a directory; name a file in it"
    if not _is_directory(path.parent):
        return f"there is no directory {path.parent}; make it first"
    try:
        path.stat()
    except FileNotFoundError:
        if not os.access(path.parent, os.W_OK | os.X_OK):
            return f"{_own_name()} may not make files in {path.parent}"
    except OSError as error:
        return f"cannot be opened: {error.strerror}"
    else:
        if not os.access(path, os.W_OK):
            return f"{_own_name()} may not write to it"
    return ""


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # nothing that we can get at
        return False


def _check_accounts(values: dict[str, Any], origins: Origins, problems: list[Problem]) -> None:
    """Only root can become somebody else; to name the user and group that one is does no harm."""
    if os.geteuid() == 0:
        return
    for field, own in (("user", _own_user()), ("group", _own_group())):
        name = values.get(field)
        if name and name not in own:
            complaint = "only root can change it; start as root or leave it out"
            problems.append(Problem(field, name, complaint, origins[field].where))


def _own_name() -> str:
    uid = os.geteuid()
    return next((entry.pw_name for entry in pwd.getpwall() if entry.pw_uid == uid), f"uid {uid}")


def _own_user() -> set[str]:
    uid = os.geteuid()
    return {str(uid), *(entry.pw_name for entry in pwd.getpwall() if entry.pw_uid == uid)}


def _own_group() -> set[str]:
    gid = os.getegid()
    return {str(gid), *(entry.gr_name for entry in grp.getgrall() if entry.gr_gid == gid)}
