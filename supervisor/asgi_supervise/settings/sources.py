"""Where settings come from: command line, then environment, then file, then default.

The only place that knows the order. The strongest source that sets a setting decides; what weaker
ones say about it is not even looked at. Problems are collected, never raised one by one, because
who has to fix three lines wants to be told three lines.

An empty environment variable counts as not set (``X=${Y:-}`` is how people write that). Variables
of the ``--env-file`` count as environment, weaker than the real one.
"""

from __future__ import annotations

import enum
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from asgi_supervise.settings import env_file
from asgi_supervise.settings.checks import settle
from asgi_supervise.settings.entry import ENVIRONMENT_PREFIX, Entry
from asgi_supervise.settings.problems import Problem, SettingsError, unknown
from asgi_supervise.settings.schema import TABLE, Settings

FILE_NAME = "asgi-supervise.toml"
TOML_TABLE = "[tool.asgi-supervise]"

_BY_FIELD = {entry.field: entry for entry in TABLE}
_BY_KEY = {entry.key: entry for entry in TABLE if entry.key is not None}
_OURS = [variable for entry in TABLE for variable in entry.variables[:1]]
_NOT_SETTINGS = re.compile(
    # What our workers find in their environment, and what Kubernetes tells every container about
    # a service that is called asgi-supervise.
    rf"{ENVIRONMENT_PREFIX}(SLOT|GENERATION|SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)\w*)"
)
_SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://")


class Rank(enum.IntEnum):
    """Sources, the strongest first."""

    COMMAND_LINE = 0
    ENVIRONMENT = 1
    ENV_FILE = 2
    FILE = 3


class Given(NamedTuple):
    """What the strongest source that knows a setting says about it."""

    raw: Any
    where: str
    rank: Rank


class Loaded(NamedTuple):
    """All that was found out by reading the settings."""

    settings: Settings
    variables: dict[str, str]
    """Of the ``--env-file``, without those that the environment has: for the workers."""
    directory: Path
    """Where the workers run, if that where we were started is absolute."""


def load(arguments: Mapping[str, Any], environment: Mapping[str, str], directory: Path) -> Loaded:
    """Settings from the command line's ``arguments`` (by field) and everything else.

    Relative paths are looked up in ``directory``. Raises :class:`SettingsError` with every problem.
    Nothing is changed, so that it can be read again, with the same arguments and environment.
    """
    given: dict[str, Given] = {
        field: Given(raw, "on the command line", Rank.COMMAND_LINE)
        for field, raw in arguments.items()
        if raw is not None
    }
    problems: list[Problem] = []

    def value(field: str) -> Any:
        return _parse(_BY_FIELD[field], given[field], problems) if field in given else None

    _add_variables(given, environment, problems)
    _add_file(given, value("config"), directory, problems)
    variables = _add_env_file(given, value("env_file"), environment, directory, problems)
    before = len(problems)
    values = {entry.field: value(entry.field) for entry in TABLE if entry.field in given}
    settings = settle(values, given, directory, problems)
    if problems or settings is None:
        raise SettingsError(problems[before:] + problems[:before])
    return Loaded(settings, variables, directory / (settings.chdir or ""))


def _parse(entry: Entry, given: Given, problems: list[Problem]) -> Any:
    """The value, or ``None`` with the problem noted."""
    kind = entry.setting.kind
    items = given.raw if isinstance(given.raw, list) else [given.raw]
    if kind.is_list:
        items = [part for item in items for part in _split(item, kind.separator)]
    elif isinstance(given.raw, list):
        problems.append(Problem(entry.word, given.raw, "takes a single value", given.where))
        return None
    values = []
    for item in items:
        try:
            values.append(kind.parse(item))
        except ValueError as problem:
            problems.append(Problem(entry.word, item, str(problem), given.where))
    if len(values) < len(items):
        return None
    return tuple(values) if kind.is_list else values[0]


def _split(item: Any, separator: str) -> list[Any]:
    if not isinstance(item, str):
        return [item]
    return [part for piece in item.split(separator) if (part := piece.strip())]


def _add_variables(
    given: dict[str, Given], environment: Mapping[str, str], problems: list[Problem]
) -> None:
    for entry in TABLE:
        for variable in entry.variables:
            raw = environment.get(variable)
            if raw and not (entry.field == "port" and _SERVICE_LINK.match(raw)):
                where = f"in the environment, {variable}"
                given.setdefault(entry.field, Given(raw, where, Rank.ENVIRONMENT))
                break
    for variable, raw in environment.items():
        if _is_unknown(variable):
            problems.append(unknown(variable, raw, _OURS, "in the environment"))


def _is_unknown(variable: str) -> bool:
    return (
        variable.startswith(ENVIRONMENT_PREFIX)
        and variable not in _OURS
        and not _NOT_SETTINGS.fullmatch(variable)
    )


def _add_file(
    given: dict[str, Given], config: str | None, directory: Path, problems: list[Problem]
) -> None:
    """Settings of the file that was asked for, else of the one that lies in ``directory``."""
    if "config" in given:
        name, asked = config, given["config"].where
    else:
        there = (name for name in (FILE_NAME, "pyproject.toml") if (directory / name).exists())
        name, asked = next(there, None), ""
    if name is None:  # there is none, or what was asked for is no path, which is noted already
        return
    table: Any = _read_toml(directory / name, name, asked, problems)
    where = f"in {name}"
    if Path(name).name == "pyproject.toml":
        where += f", {TOML_TABLE}"
        tool = table.get("tool")
        table = tool.get("asgi-supervise", {}) if isinstance(tool, dict) else {}
        if not isinstance(table, dict):
            problems.append(Problem("tool.asgi-supervise", table, "must be a table", where))
            return
    seen = set()
    for key, raw in table.items():
        entry = _BY_KEY.get(key.replace("_", "-"))
        if entry is None:
            problems.append(unknown(key, raw, _BY_KEY, where))
        elif entry.field in seen:
            problems.append(Problem(key, raw, "is set twice", where))
        else:
            seen.add(entry.field)
            given.setdefault(entry.field, Given(raw, where, Rank.FILE))


def _read_toml(path: Path, name: str, asked: str, problems: list[Problem]) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(Problem("config", name, f"cannot be read: {error.strerror}", asked))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(Problem("config", name, f"is not valid TOML: {error}", asked))
    return {}


def _add_env_file(
    given: dict[str, Given],
    name: str | None,
    environment: Mapping[str, str],
    directory: Path,
    problems: list[Problem],
) -> dict[str, str]:
    """Every variable of the file that the environment does not have."""
    if name is None:
        return {}
    try:
        content = (directory / name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        where = given["env_file"].where
        problems.append(Problem("env-file", name, f"cannot be read: {reason}", where))
        return {}
    variables, mistakes = env_file.parse(content)
    problems += [Problem(f"{name}, line {m.line}", None, m.complaint, "") for m in mistakes]
    for entry in TABLE:
        for variable in entry.variables:
            found = variables.get(variable)
            if not found or not found.value or environment.get(variable):
                continue
            where = f"in {name}, line {found.line}"
            if entry.field in ("config", "env_file"):
                problems.append(Problem(variable, found.value, "cannot be set here", where))
            elif entry.field not in given or given[entry.field].rank > Rank.ENV_FILE:
                given[entry.field] = Given(found.value, where, Rank.ENV_FILE)
            break
    for variable, found in variables.items():
        if _is_unknown(variable):
            where = f"in {name}, line {found.line}"
            problems.append(unknown(variable, found.value, _OURS, where))
    return {name: found.value for name, found in variables.items() if name not in environment}
