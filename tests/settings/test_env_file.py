"""The lines of an ``--env-file``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_supervise.settings.env_file import Variable, parse


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("NAME=value", "value"),
        ("  NAME = value  ", "value"),
        ("export NAME=value", "value"),
        ("NAME=", ""),
        ("NAME=a b", "a b"),
        ("NAME=a#b", "a#b"),
        ("NAME=a # why", "a"),
        ("NAME=# why", ""),
        ("NAME=a=b", "a=b"),
        ("NAME='a # b\\n'", "a # b\\n"),
        ("NAME='a' # why", "a"),
        ('NAME="a\\tb\\n"', "a\tb\n"),
        ('NAME="say \\"so\\" \\\\ \\$HOME"', 'say "so" \\ $HOME'),
        ('NAME="\\d"', "\\d"),
        ("NAME=it's", "it's"),
        ("NAME=$HOME", "$HOME"),
        ("NAME=value\r", "value"),
    ],
)
def test_takes(line: str, value: str) -> None:
    assert parse(line) == ({"NAME": Variable(value, 1)}, [])


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("NAME", "must be NAME=value"),
        ("1NAME=x", "must be NAME=value"),
        ("A-B=x", "must be NAME=value"),
        ("=x", "must be NAME=value"),
        ("NAME='a", "the single quote is not closed"),
        ("NAME='a' b", "the single quote is not closed"),
        ('NAME="a', "the double quote is not closed"),
        ('NAME="a\\"', "the double quote is not closed"),
        ("NAME=a\0", "NUL"),
    ],
)
def test_refuses(line: str, complaint: str) -> None:
    variables, mistakes = parse(f"# first\n{line}\nLAST=1")
    assert variables == {"LAST": Variable("1", 3)}
    assert [(m.line, complaint in m.complaint) for m in mistakes] == [(2, True)]


def test_blank_lines_and_comments_count_for_nothing_and_the_last_value_counts() -> None:
    assert parse("\n# A=1\nA=2\n   \nA=3\n") == ({"A": Variable("3", 5)}, [])


@given(st.text())
def test_every_line_is_a_variable_a_mistake_or_nothing(content: str) -> None:
    variables, mistakes = parse(content)
    lines = content.count("\n") + 1
    numbers = [v.line for v in variables.values()] + [m.line for m in mistakes]
    assert all(1 <= number <= lines for number in numbers)


@given(st.text(st.characters(exclude_characters="\0'\n", exclude_categories=["Cs"])))
def test_single_quotes_keep_everything(value: str) -> None:
    assert parse(f"NAME='{value}'")[0] == {"NAME": Variable(value, 1)}
