"""``asgi-supervise`` as people meet it: a process with words, two streams and an exit status."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from asgi_supervise import __version__
from asgi_supervise.cli import refuse
from asgi_supervise.settings.schema import TABLE

pytestmark = pytest.mark.process
ROOT = Path(__file__).parents[1]


def run(
    directory: Path, *words: str, code: str = "-m asgi_supervise", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the program in ``directory`` without anything of ours in the environment."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("ASGI_SUPERVISE_")}
    inherited.pop("WEB_CONCURRENCY", None)
    path = {"PYTHONPATH": f"{ROOT / 'supervisor'}:{ROOT / 'workers'}"}
    return subprocess.run(
        [sys.executable, *code.split(" ", 1), *words],
        cwd=directory,
        env=inherited | path | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_version(tmp_path: Path) -> None:
    result = run(tmp_path, "--version")
    assert result.returncode == 0
    assert result.stdout == (
        f"asgi-supervise {__version__} (CPython {platform.python_version()}, {platform.system()})\n"
    )
    assert result.stderr == ""


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help(tmp_path: Path, word: str) -> None:
    result = run(tmp_path, word, COLUMNS="90")
    assert result.returncode == 0
    assert result.stderr == ""
    assert result.stdout.startswith("Usage: asgi-supervise [OPTIONS] APP\n")
    for entry in TABLE:
        assert entry.word in result.stdout or entry.field == "app"
    assert max(map(len, result.stdout.splitlines())) <= 90


def test_all_problems_are_reported_and_nothing_is_started(tmp_path: Path) -> None:
    (tmp_path / "asgi-supervise.toml").write_text('lifespan = "never"\n')
    result = run(tmp_path, "nothing", "--port", "80000", WEB_CONCURRENCY="many")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "asgi-supervise: cannot start: 4 settings are wrong",
        "  app = nothing: must be module:attribute, for example myproject.main:app "
        "(on the command line)",
        "  lifespan = never: choose one of auto, on, off (in asgi-supervise.toml)",
        "  port = 80000: must be at most 65535 (on the command line)",
        "  workers = many: not a whole number (or auto) (in the environment, WEB_CONCURRENCY)",
    ]


def test_one_problem(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        "asgi-supervise: cannot start: one setting is wrong",
        "  app: say which application to run, for example: asgi-supervise myproject.main:app",
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a:b", "--no-acces-log"], "--no-access-log"),
        (["a:b", "more"], "more"),
        (["a:b", "--workers"], "--workers"),
    ],
)
def test_wrong_words_are_wrong_usage(tmp_path: Path, words: list[str], said: str) -> None:
    result = run(tmp_path, *words)
    assert result.returncode == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_aliases_and_repeated_options_are_taken(tmp_path: Path) -> None:
    result = run(
        tmp_path, "a:b", "--timeout-keep-alive", "soon", "-b", "x:1", "--bind", "y:z", "-w", "0"
    )
    names = [line.split()[0] for line in result.stderr.splitlines()[1:]]
    assert names == ["bind", "workers", "keep-alive-timeout"]


def test_the_last_word_counts(tmp_path: Path) -> None:
    result = run(tmp_path, "a:b", "--workers", "0", "--workers", "2", "--port", "x")
    assert [line.split()[0] for line in result.stderr.splitlines()[1:]] == ["port"]


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_other_systems_are_refused_with_a_reason(system: str) -> None:
    assert refuse(system).startswith(f"cannot run on {system}: ")
    assert refuse("linux") == ""


def test_neither_loops_nor_rich_are_imported_before_the_service_starts(tmp_path: Path) -> None:
    code = """
import sys
sys.argv = ["asgi-supervise", "demo:app"]
import asgi_supervise.master
asgi_supervise.master.run = lambda settings: 0
from asgi_supervise.cli import main
try:
    main()
except SystemExit as end:
    assert end.code == 0, end.code
heavy = {"asyncio", "uvloop", "rich", "websockets", "httptools", "http", "ssl"}
print(sorted(heavy & set(sys.modules)))
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'supervisor'}:{ROOT / 'workers'}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result.stdout == "[]\n"
