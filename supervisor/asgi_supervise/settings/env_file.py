"""``--env-file``: variables for the application, one ``NAME=value`` a line.

Blank lines and lines that begin with ``#`` count for nothing; ``export`` before a name is allowed.
A value in single quotes is taken as it is; in double quotes a backslash makes ``n`` a line end,
``t`` a tab and ``"``, ``$`` and itself plain; without quotes the value ends at the line's end or
before a space and ``#``. There is no substitution and no value of several lines: what cannot be
read in two ways needs no dialect.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_LINE = re.compile(r"(?:export\s+)?(?P<name>[^\W\d]\w*)\s*=\s*(?P<value>.*)", re.ASCII)
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"\s*(?:#.*)?')
_SINGLE = re.compile(r"'([^']*)'\s*(?:#.*)?")
_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\", "$": "$"}


class Variable(NamedTuple):
    """A value and the line it stands in."""

    value: str
    line: int


class Mistake(NamedTuple):
    """A line that cannot be read."""

    line: int
    text: str
    complaint: str


def parse(content: str) -> tuple[dict[str, Variable], list[Mistake]]:
    """Variables by name (the last of a name counts) and every line that is none."""
    variables: dict[str, Variable] = {}
    mistakes: list[Mistake] = []
    for number, line in enumerate(content.split("\n"), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            mistakes.append(Mistake(number, text, "must be NAME=value"))
            continue
        try:
            variables[match["name"]] = Variable(_value(match["value"]), number)
        except ValueError as problem:
            mistakes.append(Mistake(number, text, str(problem)))
    return variables, mistakes


def _value(text: str) -> str:
    if "\0" in text:
        raise ValueError("contains a NUL character")
    if text.startswith("'"):
        match = _SINGLE.fullmatch(text)
        if match is None:
            raise ValueError("the single quote is not closed at the end of the line")
        return match[1]
    if text.startswith('"'):
        match = _DOUBLE.fullmatch(text)
        if match is None:
            raise ValueError("the double quote is not closed at the end of the line")
        return re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[0]), match[1])
    return re.split(r"(?:^|\s)#", text, maxsplit=1)[0].strip()
