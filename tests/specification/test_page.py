"""The page ``docs/asgi.md`` says what the tests prove, no more and no less."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.specification import page


@pytest.mark.parametrize("name", page.FILES)
def test_every_test_says_what_it_proves(name: str) -> None:
    rows = list(page.rows(name))
    assert rows
    for row in rows:
        assert all(row), f"{row.test}: 'section: statement' and how it is done are wanted"
        assert len(row.section) < 50, f"{row.test}: 'section: statement' is wanted"
        assert row.statement.endswith("."), row.test
        assert row.here.endswith("."), row.test
    assert len({row[:2] for row in rows}) == len(rows), "two tests of one statement"


def test_all_files_are_in_it() -> None:
    found = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert found - {"page"} == set(page.FILES)


def test_the_page_is_what_the_tests_say() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.page(), (
        "write it anew: python -m tests.specification.page"
    )
