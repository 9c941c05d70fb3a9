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
    _check_times(values, origins, problems)
    _check_directories(values, origins, directory, problems)
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


def _check_times(values: dict[str, Any], origins: Origins, problems: list[Problem]) -> None:
    """The reserve is a part of the graceful time; who shortens only the whole gets half of it."""
    whole = values.get("graceful_timeout_s") or _DEFAULTS["graceful_timeout_s"]
    reserve = values.get("shutdown_reserve_s")
    if "shutdown_reserve_s" not in values:
        values["shutdown_reserve_s"] = min(_DEFAULTS["shutdown_reserve_s"], whole / 2)
    elif reserve is not None and reserve >= whole:
        complaint = f"must be less than graceful-timeout, which is {whole:g} s"
        where = origins["shutdown_reserve_s"].where
        problems.append(Problem("shutdown-reserve", f"{reserve:g} s", complaint, where))


def _check_directories(
    values: dict[str, Any], origins: Origins, directory: Path, problems: list[Problem]
) -> None:
    for field, word in (("chdir", "chdir"), ("app_dir", "app-dir")):
        if values.get(field):
            directory /= values[field]
            if not directory.is_dir():
                complaint = "there is no such directory"
                problems.append(Problem(word, values[field], complaint, origins[field].where))
                return


def _check_accounts(values: dict[str, Any], origins: Origins, problems: list[Problem]) -> None:
    """Only root can become somebody else; to name the user and group that one is does no harm."""
    if os.geteuid() == 0:
        return
    for field, own in (("user", _own_user()), ("group", _own_group())):
        name = values.get(field)
        if name and name not in own:
            complaint = "only root can change it; start as root or leave it out"
            problems.append(Problem(field, name, complaint, origins[field].where))


def _own_user() -> set[str]:
    uid = os.geteuid()
    return {str(uid), *(entry.pw_name for entry in pwd.getpwall() if entry.pw_uid == uid)}


def _own_group() -> set[str]:
    gid = os.getegid()
    return {str(gid), *(entry.gr_name for entry in grp.getgrall() if entry.gr_gid == gid)}
