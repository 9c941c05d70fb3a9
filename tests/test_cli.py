"""``asgi-supervise`` as people meet it: a process with words, two streams and an exit status."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
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
        "  app = nothing: must be module:attribute, for example nothing:app (on the command line)",
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
asgi_supervise.master.run = lambda loaded, reread: 0
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


def test_all_sources_are_read_again_from_where_they_were_at_the_start(tmp_path: Path) -> None:
    code = """
import json, os, pathlib, sys
import asgi_supervise.master
from asgi_supervise.settings.problems import SettingsError

def told(loaded):
    s = loaded.settings
    print(json.dumps([s.workers, s.root_path, s.backlog, loaded.variables, str(loaded.directory)]))

def run(loaded, reread):
    print(os.getcwd())
    told(loaded)
    assert "FRUIT" not in os.environ
    os.environ["ASGI_SUPERVISE_ROOT_PATH"] = "/changed"
    start = pathlib.Path(os.environ["PWD"])
    (start / "vars").write_text("FRUIT=pear")
    (start / "asgi-supervise.toml").write_text("chdir = 'two'")
    told(reread())
    (start / "asgi-supervise.toml").write_text("chdir = 'nowhere'; nonsense")
    (start / "vars").unlink()
    try:
        reread()
    except SettingsError as error:
        print(*(problem.name for problem in error.problems))
    (start / "asgi-supervise.toml").unlink()
    (start / "vars").write_text("ASGI_SUPERVISE_BACKLOG=8")
    told(reread())
    return 0

asgi_supervise.master.run = run
sys.argv = ["asgi-supervise", "demo:app", "-w", "3", "--env-file", "vars"]
from asgi_supervise.cli import main
main()
"""
    start = tmp_path / "start"
    for name in ("one", "two"):
        (tmp_path / "real" / name).mkdir(parents=True)
    start.symlink_to("real")
    (start / "vars").write_text("FRUIT=apple\nTREE=yes\nFIXED=no\n")
    (start / "asgi-supervise.toml").write_text("chdir = 'one'\nbacklog = 7")
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=start,
        env=environment(PWD=str(start), FIXED="yes", ASGI_SUPERVISE_ROOT_PATH="/kept"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        str(tmp_path / "real/one"),
        json.dumps([3, "/kept", 7, {"FRUIT": "apple", "TREE": "yes"}, f"{start}/one"]),
        json.dumps([3, "/kept", 2048, {"FRUIT": "pear"}, f"{start}/two"]),
        "config env-file",
        json.dumps([3, "/kept", 8, {"ASGI_SUPERVISE_BACKLOG": "8"}, str(start)]),
    ]


def test_a_wrong_name_for_the_directory_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "asgi-supervise.toml").write_text("workers = 0")
    for name in (str(tmp_path / "there"), str(tmp_path / "nowhere"), ".", ""):
        result = run(tmp_path, "a:b", PWD=name)
        assert "workers = 0" in result.stderr, name


APPLICATION = """
import asyncio, json, os, time

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
                "generation": scope["extensions"]["asgi_supervise"]["generation"],
                "tree": os.environ.get("TREE"),
                "zone": time.tzname[0],
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
    (tmp_path / "vars").write_text("FRUIT=apple\nTZ=AAA-3\nASGI_SUPERVISE_HEADER=X-Fruit: pear\n")
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
        "generation": 1,
        "tree": None,
        "zone": "AAA",
    }
    assert answer.headers["x-fruit"] == "pear"
    assert not {"server", "date"} & set(answer.headers)


def test_a_reload_gives_new_workers_what_was_changed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "fruitshop.py").write_text(APPLICATION)
    (tmp_path / "current").symlink_to("one")
    (tmp_path / "vars").write_text("FRUIT=apple\nTREE=yes\n")
    (tmp_path / "asgi-supervise.toml").write_text('chdir = "current"\nworkers = 1\n')
    words = "fruitshop:create_app --factory --lifespan off --port 0 --env-file vars --bake-time 0"
    with subprocess.Popen(
        [sys.executable, "-m", "asgi_supervise", *words.split()],
        cwd=tmp_path,
        env=environment(ASGI_SUPERVISE_ACCESS_LOG="no"),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        patience = threading.Timer(60, process.kill)  # ends whatever is waited for below
        patience.start()
        try:
            assert process.stderr is not None
            serving = next(line for line in process.stderr if "serving on" in line)
            url = re.search(r"http://\S+", serving)
            assert url, serving
            before = httpx.get(url[0], trust_env=False).json()
            (tmp_path / "vars").write_text("FRUIT=pear\n")
            (tmp_path / "current").unlink()
            (tmp_path / "current").symlink_to("two")
            (tmp_path / "asgi-supervise.toml").write_text(
                'chdir = "current"\nworkers = 2\nroot-path = "/shop"\n'
            )
            process.send_signal(signal.SIGHUP)
            while (after := httpx.get(url[0], trust_env=False).json())["generation"] == 1:
                pass
            (tmp_path / "asgi-supervise.toml").write_text("workers = 0")
            process.send_signal(signal.SIGHUP)
            refused = next(line for line in process.stderr if "workers = 0" in line)
            assert httpx.get(url[0], trust_env=False).json()["generation"] == 2
        finally:
            patience.cancel()
            process.terminate()
            _, rest = process.communicate(timeout=60)
    assert process.returncode == 0, rest
    assert (before["fruit"], before["tree"]) == ("apple", "yes")
    assert (after["fruit"], after["tree"]) == ("pear", None)
    assert (before["root_path"], after["root_path"]) == ("", "/shop")
    assert (before["cwd"], after["cwd"]) == (str(tmp_path / "one"), str(tmp_path / "two"))
    assert after["workers"] == 1
    assert "(in asgi-supervise.toml)" in refused


def reload_outcome(directory: Path, words: str, change: Callable[[], None], **more: str) -> str:
    """How a reload ended, after ``change`` was made to a service that is started so; its log."""
    with subprocess.Popen(
        [sys.executable, "-m", "asgi_supervise", *words.split()],
        cwd=directory,
        env=environment(ASGI_SUPERVISE_ACCESS_LOG="no", **more),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        patience = threading.Timer(60, process.kill)  # ends whatever is waited for below
        patience.start()
        try:
            assert process.stderr is not None
            next(line for line in process.stderr if "serving on" in line)
            change()
            process.send_signal(signal.SIGHUP)
            outcome = next(line for line in process.stderr if re.search("reload [cf]", line))
        finally:
            patience.cancel()
            process.terminate()
            _, rest = process.communicate(timeout=60)
    return outcome + rest


def test_a_release_that_was_removed_does_not_keep_the_next_from_service(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "current").symlink_to("one")

    def release() -> None:
        (tmp_path / "current").unlink()
        (tmp_path / "current").symlink_to("two")
        (tmp_path / "one").rmdir()

    words = "asgi_supervise.demo:app --workers 1 --port 0 --chdir current --bake-time 0"
    assert "reload complete: generation 2" in reload_outcome(tmp_path, words, release)


def test_what_a_release_has_no_more_is_not_found_in_the_former(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "shop.py").write_text(
            "import fruit\nfrom asgi_supervise.demo import app"
        )
    (tmp_path / "one" / "fruit.py").touch()
    (tmp_path / "current").symlink_to("one")

    def release() -> None:
        (tmp_path / "current").unlink()
        (tmp_path / "current").symlink_to("two")

    here = tmp_path / "current"
    words = "shop:app --workers 1 --port 0 --bake-time 0"
    outcome = reload_outcome(here, words, release, PWD=str(here))
    assert "reload failed, generation 1 serves on" in outcome
    assert "No module named 'fruit'" in outcome


def test_it_may_be_started_by_who_ignores_its_children(tmp_path: Path) -> None:
    result = subprocess.run(
        [
            *("sh", "-c", 'trap "" CHLD; exec "$@"', "sh"),
            *(sys.executable, "-m", "asgi_supervise", "asgi_supervise.demo:app", "-w", "none"),
        ],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 2
    assert "workers = none" in result.stderr


@pytest.mark.parametrize(
    ("limit", "said"), [(10, "cannot bind "), (60, "cannot hold the sockets ")]
)
def test_what_there_are_too_few_descriptors_for_is_said_at_once(
    tmp_path: Path, limit: int, said: str
) -> None:
    result = subprocess.run(
        [
            *("sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh", sys.executable, "-m"),
            *("asgi_supervise", "asgi_supervise.demo:app", "-w", "16", "--port", "0"),
        ],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 4
    assert result.stderr.count("\n") == 1
    assert said in result.stderr
    assert f"raise the limit of open files, which is {limit} (ulimit -n" in result.stderr


def test_a_log_file_that_cannot_be_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    result = run(tmp_path, "fruitshop:app", "--access-log-file", "pipe")
    assert result.returncode == 2
    assert f"cannot open {tmp_path}/pipe: No such device or address" in result.stderr
