"""Other servers: the pages *Coming from uvicorn, gunicorn, hypercorn, daphne, granian* have every
option of their `--help` and no other, with their defaults and names in file and environment.

Nothing is served here. The newest of each is asked, so that what they add shows up as a failure.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.compatibility.serving import PYTHON
from tests.pages import PEERS, Row, coming_from, commands, rows, spans

# What their --help does not say is asked of themselves.
GUNICORN = """
from gunicorn.config import KNOWN_SETTINGS
found = {each.name: each.cli or [] for each in KNOWN_SETTINGS}
"""
HYPERCORN = """
from hypercorn.config import Config
config = Config()
config.application_path = None
found = {}
for name in [*dir(Config), "application_path"]:
    kind = getattr(Config, name, None)
    if name.startswith("_") or name == "log" or callable(kind) and not isinstance(kind, type):
        continue
    if isinstance(kind, property):
        if kind.fset is None:
            continue
        if kind.fget is None:
            found[name] = "None"
            continue
    found[name] = str(getattr(config, name))
"""
DAPHNE = """
from daphne.cli import CommandLineInterface
parser = CommandLineInterface().parser
found = {option: str(each.default) for each in parser._actions for option in each.option_strings}
"""
NOTHING = {"", "None", "[]", "False"}
SHOWN = {
    "uvicorn": re.compile(r"\[default: ?(.*?)\]"),
    "granian": re.compile(r"default: \(?(.*?)\)?[;\]]"),
    "gunicorn": re.compile(r"\[(\[.*\]|[^\[\]]*)\]$"),
}
DEPENDS = {"--bind", "--chdir", "--user", "--group", "--control-socket"}
"""Of gunicorn: who asks it, and where, is in the default."""


class Option(NamedTuple):
    """A paragraph of a ``--help``."""

    names: tuple[str, ...]
    text: str


@functools.cache
def asked(*words: str) -> str:
    """What the command says."""
    result = subprocess.run(
        words,
        cwd="/",
        env={**os.environ, "COLUMNS": "200", "TERM": "dumb"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return result.stdout


@functools.cache
def options(peer: str) -> tuple[Option, ...]:
    found = []
    for part in re.split(r"\n(?=  -)", asked(str(Path(PYTHON).parent / peer), "--help"))[1:]:
        paragraph = part.partition("\n\n")[0].strip()
        head = re.split(r"\s{2,}|\n", paragraph, maxsplit=1)[0]
        names = re.findall(r"(?:^|[\s,/])(-{1,2}[a-zA-Z][\w-]*)", head)
        found.append(Option(tuple(names), " ".join(paragraph.split())))
    return tuple(found)


@functools.cache
def known(script: str) -> dict[str, Any]:
    """What ``script`` found."""
    answer = asked(PYTHON, "-c", f"{script}\nimport json; print(json.dumps(found))")
    result: dict[str, Any] = json.loads(answer)
    return result


def row_of(peer: str, name: str) -> Row:
    return next(row for row in rows(peer) if name in row.options)


def exact(default: str) -> str:
    """A default that is written as code; empty for one that is told in words."""
    found = re.fullmatch(r"`(.*)`", default)
    return found[1].replace("\\|", "|") if found else ""


@pytest.mark.parametrize("peer", PEERS)
def test_the_table_has_every_option_and_no_other(peer: str) -> None:
    real = options(peer)
    assert len(real) > 20
    written = [row.options for row in rows(peer) if row.options]
    assert sorted(map(sorted, written)) == sorted(sorted(option.names) for option in real)


@pytest.mark.parametrize("peer", SHOWN)
def test_the_defaults_are_those_that_are_shown(peer: str) -> None:
    compared = 0
    for option in options(peer):
        found = SHOWN[peer].search(option.text)
        shown = found[1] if found else ""
        default = row_of(peer, option.names[-1]).default
        if peer == "gunicorn" and option.names[-1] in DEPENDS:
            assert default != "–"
        elif shown in NOTHING:
            assert default == "–" or not exact(default) or exact(default) == shown, option
        else:
            assert exact(default) == shown, option
            compared += 1
    assert compared > 10


def test_the_defaults_of_daphne() -> None:
    for name, default in known(DAPHNE).items():
        row = row_of("daphne", name)
        if default in NOTHING or "SUPPRESS" in default or name == "--no-server-name":
            assert not exact(row.default), name
        else:
            assert exact(row.default) == default, name


def test_gunicorn_s_settings_and_their_options() -> None:
    written = {row.setting: row.options for row in rows("gunicorn") if row.setting}
    assert {name: sorted(flags) for name, flags in written.items()} == {
        name: sorted(flags) for name, flags in known(GUNICORN).items()
    }


def test_hypercorn_s_settings_and_their_defaults() -> None:
    real = known(HYPERCORN)
    written = {row.setting: row.default for row in rows("hypercorn") if row.setting}
    assert written.keys() == real.keys()
    for name, default in written.items():
        if real[name] in NOTHING or real[name].startswith("<"):
            assert default == "–", name
        else:
            assert exact(default) == real[name], name


def test_granian_s_variables() -> None:
    for option in options("granian"):
        found = re.search(r"\[envvar:(\w+)[;\]]", option.text.replace(" ", ""))
        assert row_of("granian", option.names[-1]).setting == (found[1] if found else "")


@pytest.mark.parametrize("peer", PEERS)
def test_the_command_lines_to_be_replaced_are_such(peer: str) -> None:
    real = {name for option in options(peer) for name in option.names}
    found = list(commands(coming_from(peer), peer))
    assert found
    for words in found:
        named = re.findall(r"(?<!\S)(--?[a-zA-Z][\w-]*)", " ".join(words))
        assert not {*named} - real, words


@pytest.mark.parametrize("name", ["UVICORN_PORT", "GRANIAN_PORT"])
def test_their_variables_have_that_prefix(name: str) -> None:
    peer = name.partition("_")[0].lower()
    result = subprocess.run(
        [str(Path(PYTHON).parent / peer), "nothing:app"],
        env={**os.environ, name: "none"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 2
    assert "'--port'" in result.stderr
    assert name.removesuffix("PORT") in " ".join(spans(coming_from(peer)))
