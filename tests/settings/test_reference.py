"""The page and the sample file say what the table says."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest

from asgi_supervise.settings.reference import PAGE, SAMPLE, help_text, main, page, sample
from asgi_supervise.settings.schema import TABLE, Settings
from asgi_supervise.settings.sources import load

ROOT = Path(__file__).parents[2]
LINES = [line[1:] for line in sample().splitlines() if re.match("#[a-z]", line)]


@pytest.mark.parametrize(("name", "text"), [(PAGE, page()), (SAMPLE, sample())])
def test_the_files_in_the_repository_are_fresh(name: str, text: str) -> None:
    assert (ROOT / name).read_text() == text, "make reference writes it anew"


def test_writing_them(tmp_path: Path) -> None:
    main(tmp_path)
    assert (tmp_path / PAGE).read_text() == page()
    assert (tmp_path / SAMPLE).read_text() == sample()


def test_every_setting_is_on_the_page_and_in_the_sample() -> None:
    keys = {line.split(" = ")[0] for line in LINES}
    for entry in TABLE:
        assert entry.setting.help in page(), entry.word
        assert entry.key is None or entry.key in keys, entry.word


@pytest.mark.parametrize("line", LINES)
def test_every_line_of_the_sample_can_be_used(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    key, value = next(iter(tomllib.loads(line).items()))
    if key in ("user", "group"):  # the example need not exist on this machine
        return
    (tmp_path / ".env").touch()
    (tmp_path / "asgi-supervise.toml").write_text(f"{line}\n")
    others = {} if key == "app" else {"app": "myproject.main:app"}
    default = Settings(app="myproject.main:app")
    if key.startswith("health-") and key != "health-path":  # says nothing without it
        others["health_path"] = "/healthz"
        default = Settings(app="myproject.main:app", health_path="/healthz")
    settings = load(others, {}, tmp_path).settings
    entry = next(entry for entry in TABLE if entry.key == key)
    if not entry.setting.example:
        assert settings == default, value


def test_the_sample_as_it_is_sets_nothing() -> None:
    assert tomllib.loads(sample()) == {}


@pytest.mark.parametrize("width", [72, 80, 100])
def test_help_names_everything_and_fits(width: int) -> None:
    text = help_text("asgi-supervise", width)
    words = text.split()
    for entry in TABLE:
        for flag in entry.flags:
            negatable = entry.setting.kind.is_flag and flag == f"--{entry.word}"
            wanted = f"--[no-]{entry.word}" if negatable else flag
            assert any(word.strip(",;]") == wanted for word in words), flag
        for variable in entry.setting.variables:
            assert f"${variable}" in text
    assert max(map(len, text.splitlines())) <= width
