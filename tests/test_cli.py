"""``asgi-supervise`` as people meet it: a process with words, two streams and an exit status."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from asgi_supervise import __version__
from asgi_supervise.cli import refuse
from asgi_supervise.settings.schema import TABLE

pytestmark = pytest.mark.process
ROOT = Path(__file__).parents[1]


def environment(**variables: str) -> dict[str, str]:
    """Ours without settings of whoever runs the tests."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("ASGI_SUPERVISE_")}
    inherited.pop("WEB_CONCURRENCY", None)
    return inherited | {"PYTHONPATH": f"{ROOT / 'supervisor'}:{ROOT / 'workers'}"} | variables


def run(directory: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the program in ``directory`` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "asgi_supervise", *words],
        cwd=directory,
        env=environment(**variables),
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
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result.stdout == "[]\n"


APPLICATION = """
import asyncio, json, os

def create_app():
    async def app(scope, receive, send):
        if scope["type"] == "http":
            umask = os.umask(0)
            os.umask(umask)
            facts = {
                "cwd": os.getcwd(),
                "umask": umask,
                "fruit": os.environ.get("FRUIT"),
                "root_path": scope["root_path"],
                "loop": type(asyncio.get_running_loop()).__module__,
                "workers": scope["extensions"]["asgi_supervise"]["workers"],
            }
            fields = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 200, "headers": fields})
            await send({"type": "http.response.body", "body": json.dumps(facts).encode()})
        else:
            assert scope["type"] == "lifespan", "lifespan is off"
    return app
"""


def test_what_is_set_reaches_the_application(tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "code").mkdir(parents=True)
    (site / "code/fruitshop.py").write_text(APPLICATION)
    (tmp_path / "vars").write_text("FRUIT=apple\nASGI_SUPERVISE_HEADER=X-Fruit: pear\n")
    (tmp_path / "asgi-supervise.toml").write_text('root-path = "/shop"\numask = "027"\n')
    words = (
        "fruitshop:create_app --factory --lifespan off --loop asyncio --port 0 -w 2 --pid our.pid"
    )
    more = "--chdir site --app-dir code --env-file vars --no-server-header --no-date-header"
    with subprocess.Popen(
        [sys.executable, "-m", "asgi_supervise", *f"{words} {more} --no-date-header".split()],
        cwd=tmp_path,
        env=environment(ASGI_SUPERVISE_ACCESS_LOG="no"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            serving = next(line for line in process.stderr if "serving on" in line)
            url = re.search(r"http://\S+", serving)
            assert url, serving
            answer = httpx.get(url[0], trust_env=False)
            assert (site / "our.pid").read_text().strip() == str(process.pid)
        finally:
            process.terminate()
            out, rest = process.communicate(timeout=60)
    assert process.returncode == 0, rest
    assert out == ""
    assert not (site / "our.pid").exists()
    assert answer.json() == {
        "cwd": str(site),
        "umask": 0o027,
        "fruit": "apple",
        "root_path": "/shop",
        "loop": "asyncio.unix_events",
        "workers": 2,
    }
    assert answer.headers["x-fruit"] == "pear"
    assert not {"server", "date"} & set(answer.headers)
