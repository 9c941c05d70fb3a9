"""The pages *Coming from …*: what they say of us is so, and what is typed elsewhere is answered.

Whether they say what the others really have is asked by the compatibility suite, which has them.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer.main

from asgi_supervise.settings.elsewhere import _ADVICE, advice
from asgi_supervise.settings.entry import Entry
from asgi_supervise.settings.schema import TABLE
from asgi_supervise.settings.sources import load
from asgi_supervise.words import program
from tests.pages import (
    PEERS,
    ROOT,
    Row,
    anchors,
    blocks,
    coming_from,
    commands,
    links,
    prose,
    rows,
    spans,
)

OURS = {
    **{flag: entry for entry in TABLE for flag in entry.flags},
    **{f"--no-{entry.word}": entry for entry in TABLE if entry.setting.kind.is_flag},
    **{entry.word: entry for entry in TABLE},
}
GENERAL = {"--help", "-h", "--version"}
EVERY = {peer: rows(peer) for peer in PEERS}
ROWS = [
    pytest.param(row, id=f"{peer} {(row.options or [row.setting])[-1]}")
    for peer in PEERS
    for row in EVERY[peer]
]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
}
ELSEWHERE = sorted({option for peer in PEERS for row in EVERY[peer] for option in row.options})
OPTION = re.compile(r"(?<![\w-])(?:--[a-zA-Z][\w-]*|-[a-zA-Z](?![\w-]))")
WITH_DEFAULT = re.compile(r"`(?:--)?([a-z-]+)[^`]*`\s\(([^()]*)\)")
COMMAND = re.compile(rf"-|(asgi-supervise|{'|'.join(PEERS)}) ")


def first(row: Row) -> Entry | None:
    """Our setting in whose place the cell begins, unless it is one that is turned off."""
    if not row.here.startswith("`"):
        return None
    return OURS.get(spans(row.here)[0].split()[0])


@pytest.mark.parametrize("peer", PEERS)
def test_there_are_tables(peer: str) -> None:
    assert len(EVERY[peer]) > 20


@pytest.mark.parametrize("row", ROWS)
def test_a_row_says_what_to_write_or_that_it_is_not_needed_or_not_there(row: Row) -> None:
    if row.here.startswith("`"):
        assert spans(row.here)[0].split()[0] in {*OURS, *GENERAL}
    else:
        assert re.match("(not needed|not there): .", row.here)
    same = {*row.options} & {*OURS}
    assert not [option for option in same if option.startswith("--") and option not in row.here]


@pytest.mark.parametrize("row", ROWS)
def test_our_default_is_said_where_it_is_another(row: Row) -> None:
    entry = first(row)
    if entry is None or spans(row.here)[0].startswith("--no-") or entry.word in ("config", "app"):
        return
    if not row.default and not row.options:
        return  # this table does not state defaults
    theirs = spans(row.default)[0] if row.default.startswith("`") else row.default
    if not is_ours(theirs, entry):
        assert f" ({entry.shown_default})" in row.here


def is_ours(theirs: str, entry: Entry) -> bool:
    """Whether a peer's default, as its ``--help`` shows it, is what we have."""
    if theirs == "–":
        return entry.default in (None, "", (), False, msgspec.NODEFAULT)
    if theirs == entry.shown_default:
        return True
    word = {"enabled": "on", "disabled": "off"}.get(theirs, theirs)
    items: list[Any] = [word]
    if word.startswith("["):
        items = ast.literal_eval(word)
    elif entry.setting.kind.is_list:
        items = word.split(entry.setting.kind.separator)
    try:
        values = tuple(entry.setting.kind.parse(item) for item in items)
    except ValueError:
        return False
    return bool((values if entry.setting.kind.is_list else values[0]) == entry.default)


@pytest.mark.parametrize("peer", PEERS)
def test_what_is_named_exists_and_has_the_default_that_is_said(peer: str) -> None:
    text = coming_from(peer)
    theirs = {option for row in EVERY[peer] for option in row.options}
    for span in spans(prose(text)):
        if COMMAND.match(span):
            unknown = {*OPTION.findall(span)} - {*OURS} - theirs - GENERAL
            assert not unknown, span
    found = [(word, default) for word, default in WITH_DEFAULT.findall(text) if word in OURS]
    assert found
    for word, default in found:
        assert OURS[word].shown_default == " ".join(default.split()), word


@pytest.mark.parametrize("option", ELSEWHERE)
def test_what_other_servers_have_is_taken_or_answered(option: str) -> None:
    answers = list(advice([option]))
    if option in OURS or option in GENERAL:
        assert answers == []
    else:
        assert len(answers) == 1
        assert answers[0].startswith(f"there is no {option}: ")


@pytest.mark.parametrize("pattern", _ADVICE)
def test_advice_is_for_what_somebody_has_and_names_what_we_have(pattern: str) -> None:
    stem = pattern.removesuffix("*")
    found = [
        each for each in ELSEWHERE if each == pattern or (stem != pattern and each.startswith(stem))
    ]
    assert [each for each in found if each not in OURS]
    ours = _ADVICE[pattern].replace("watchfiles --filter", "")
    assert {*re.findall(r"--[a-z][\w-]*", ours)} <= {*OURS, *GENERAL}


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("--access-log - a:b", "--access-log"),
        ("--access-log /var/log/access.log a:b", "--access-log"),
        ("--ws-per-message-deflate false a:b", "--ws-per-message-deflate"),
        ("--access-log=- a:b", "--access-log"),
        ("--preload=true --workers 4 a:b", "--preload"),
        ("--preload true", "--preload"),
        ("--preload localhost:8000 a:b", "--preload"),
    ],
)
def test_a_switch_that_takes_a_value_elsewhere(words: str, option: str) -> None:
    expected = f"{option} takes no value: write {option} or --no-{option.removeprefix('--')}"
    assert list(advice(words.split())) == [expected]


@pytest.mark.parametrize(
    "words",
    [
        "asgi-supervise --access-log a:b --workers 4 -b x:1 --preload --port 1",
        "--preload mysite.asgi",  # the application, as for gunicorn
        "--header X:y --factory mysite.asgi:create_app()",
        "--header -v --app-dir -c a:b",
        "--name --preload x a:b",
        "a:b -- --preload x -k y",
    ],
)
def test_what_is_ours_needs_no_advice(words: str) -> None:
    assert list(advice(words.split())) == []


def test_an_application_that_is_misspelled_is_no_value_of_the_switch_before_it() -> None:
    words = "-k uvicorn.workers.UvicornWorker --preload mysite.asgi"
    assert [line.partition(":")[0] for line in advice(words.split())] == ["there is no -k"]


@pytest.mark.process
def test_all_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    words = "-k uvicorn.workers.UvicornWorker --ssl-keyfile=key.pem --workers 4 a:b"
    result = subprocess.run(
        [sys.executable, "-m", "asgi_supervise", *words.split()],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{ROOT / 'supervisor'}:{ROOT / 'workers'}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 2
    said = [line for line in result.stderr.splitlines() if line.startswith("asgi-supervise: ")]
    assert said == [f"asgi-supervise: {line}" for line in advice(words.split())]
    assert len(said) == 2


def moved(text: str, place: Path) -> str:
    """``text`` with the directories of the examples in ``place``, where they are made."""
    for name in ("srv", "var/log", "run"):
        text = re.sub(rf"(?<![\w./]){re.escape('/' + name)}/", f"{place}/{name}/", text)
    for found in re.findall(rf"{re.escape(str(place))}/[\w./-]*", text):
        path = Path(found)
        (path.parent if "." in path.name else path).mkdir(parents=True, exist_ok=True)
    for name in (".env", "myproject.env"):
        (place / name).touch()
    return text


WRONG_ON_PURPOSE = ("docs/settings.md",)
COMMANDS = [
    pytest.param(words, id=f"{page} {' '.join(words)}")
    for page in PAGES
    if page not in WRONG_ON_PURPOSE
    for words in commands(PAGES[page], "asgi-supervise")
]


def test_there_are_command_lines() -> None:
    assert len(COMMANDS) > 50


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_line_is_understood(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "asgi-supervise.toml").write_text("workers = 2\n")
    said: list[dict[str, Any]] = []
    command = typer.main.get_command(program(said.append))
    command.main([moved(word, tmp_path) for word in words], standalone_mode=False)
    for given in said:  # not after --help
        load(given, {}, tmp_path)


SETTINGS_FILES = [
    pytest.param(content, id=page)
    for page in PAGES
    for language, content in blocks(PAGES[page])
    if language == "toml"
]


@pytest.mark.parametrize("content", SETTINGS_FILES)
def test_every_settings_file_is_understood(content: str, tmp_path: Path) -> None:
    (tmp_path / "asgi-supervise.toml").write_text(moved(content, tmp_path))
    load({}, {}, tmp_path)


@pytest.mark.parametrize(("peer", "language"), [("gunicorn", "python"), ("hypercorn", "text")])
def test_their_settings_files_have_what_is_in_the_table(peer: str, language: str) -> None:
    theirs = [content for kind, content in blocks(coming_from(peer)) if kind == language]
    names = re.findall(r"^(\w+) = ", "".join(theirs), re.MULTILINE)
    assert len(names) > 5
    assert {*names} <= {row.setting for row in EVERY[peer]}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    for link in links(PAGES[page]):
        if re.match(r"https?:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


def test_every_page_is_in_the_index() -> None:
    named = {link.partition("#")[0] for link in links(PAGES["docs/index.md"])}
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - named == {"index.md"}
