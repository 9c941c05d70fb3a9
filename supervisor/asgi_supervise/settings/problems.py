"""What is wrong with the settings: every problem at once, each with where the value was set."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NamedTuple


class Problem(NamedTuple):
    """One line for the operator: *name = value: what is wrong (where it was set)*."""

    name: str
    value: object
    complaint: str
    where: str

    def __str__(self) -> str:
        line = self.name
        if self.value is not None:
            shown = str(self.value)
            line += f" = {shown if shown.isprintable() and shown else repr(shown)}"
        line += f": {self.complaint}"
        return f"{line} ({self.where})" if self.where else line


class SettingsError(Exception):
    """Nothing can be started with these settings. The operator's fault, never ours."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple({str(problem): problem for problem in problems}.values())
        super().__init__("\n".join(map(str, self.problems)))


def unknown(name: str, value: object, known: Iterable[str], where: str) -> Problem:
    """A name that is none of ``known``, with the nearest that is."""
    nearest = difflib.get_close_matches(name, list(known), 1)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return Problem(name, value, f"there is no such setting{hint}", where)
