"""What can be checked in pages written in Markdown: tables, blocks, links, command lines."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PEERS = ("uvicorn", "gunicorn", "hypercorn", "daphne", "granian")
_CELL = re.compile(r"(?<!\\)\|")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


class Table(NamedTuple):
    """A table as rows of cells, by the words of its head."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def column(self, word: str) -> int:
        """Which column is called ``word``."""
        return self.head.index(word)


class Row(NamedTuple):
    """One of a peer's options or settings, and what it is here."""

    options: tuple[str, ...]
    """All its names; empty for what only a file may say."""
    setting: str
    """Its name in the peer's file or environment, or an empty text."""
    default: str
    here: str


def coming_from(peer: str) -> str:
    return (ROOT / "docs" / f"coming-from-{peer}.md").read_text(encoding="utf-8")


def prose(text: str) -> str:
    """Without its blocks of code."""
    return _FENCE.sub("", text)


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and contents of each block of code."""
    yield from ((found[1], found[2]) for found in _FENCE.finditer(text))


def spans(text: str) -> list[str]:
    """Code within lines; where a table needs a backslash there is none."""
    return [span.replace("\\|", "|") for span in _SPAN.findall(text)]


def tables(text: str) -> Iterator[Table]:
    """Every table, without the line below its head."""
    for chunk in re.findall(r"(?:^\|.*\|\n)+", prose(text) + "\n", re.MULTILINE):
        lines = [_CELL.split(line)[1:-1] for line in chunk.splitlines()]
        rows = [tuple(cell.strip() for cell in line) for line in lines]
        assert all(len(row) == len(rows[0]) for row in rows), chunk
        assert set("".join(rows[1])) <= set("-:"), chunk
        yield Table(rows[0], tuple(rows[2:]))


def rows(peer: str) -> list[Row]:
    """All that the page says of the peer's options, and of settings that are none."""
    found = []
    for table in tables(coming_from(peer)):
        first, *others = table.head
        if first not in ("option", "setting"):
            continue
        for row in table.rows:
            cells = dict(zip(table.head, row, strict=True))
            names = tuple(spans(cells[first]))
            named = [cells[word] for word in others if word not in ("default", "here")]
            setting = names[0] if first == "setting" else "".join(spans("".join(named)))
            options = names if first == "option" else ()
            found.append(Row(options, setting, cells.get("default", ""), cells["here"]))
    return found


def links(text: str) -> list[str]:
    return _LINK.findall(prose(text))


def anchors(text: str) -> set[str]:
    """Of the headings, as GitHub makes them."""
    titles = re.findall(r"^#+ +(.*)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


def commands(text: str, program: str) -> Iterator[list[str]]:
    """The words after ``program`` of every command line that runs it, wherever it is written."""
    lines = list(spans(prose(text)))
    for language, content in blocks(text):
        if language == "console":
            whole = content.replace("\\\n", " ")
            lines += [line[2:] for line in whole.splitlines() if line.startswith("$ ")]
        elif language == "dockerfile":
            said = re.findall(r"^(?:# was: )?CMD \[(.*)\]$", content, re.MULTILINE)
            lines += [shlex.join(re.findall(r'"([^"]*)"', line)) for line in said]
        elif language == "ini":
            lines += re.findall(r"^(?:# was: )?(?:ExecStart|command)=(.*)$", content, re.MULTILINE)
        elif language == "yaml":
            said = re.findall(r"command: \[(.*)\]", content)
            lines += [shlex.join(re.findall(r'"([^"]*)"', line)) for line in said]
    for line in lines:
        for part in re.split(r" && ", line):
            if words := _after(part, program):
                yield words[1:]


def _after(line: str, program: str) -> list[str]:
    """``program`` and its words, if that is what ``line`` runs."""
    if not re.search(rf"\b{program} ", line) or re.search(r"…|\bAPP\b", line):
        return []
    words = shlex.split(line)
    while words and (re.fullmatch(r"\w+=\S*", words[0]) or words[0] == "exec"):
        del words[0]
    if words and words[0] == "watchfiles":
        words = next(shlex.split(word) for word in words if program in word)
    return words if words and words[0].rpartition("/")[2] == program else []
