"""What is meant to be copied to other machines is right, as far as this one can tell."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from signal import Signals

import httpx
import pytest

from asgi_supervise.host.signals import INTENTS
from asgi_supervise.policy.vocabulary import Intent
from asgi_supervise.settings.schema import Settings
from asgi_worker.contract import Exit

ROOT = Path(__file__).parents[1]
UNIT = ROOT / "systemd/asgi-supervise.service"
ROTATION = ROOT / "deploy/asgi-supervise.logrotate"


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNIT)
    return parser


def test_systemd_waits_longer_than_we_do() -> None:
    default = Settings(app="a:b")
    needed_s = default.shutdown_delay_s + default.graceful_timeout_s
    assert int(unit()["Service"]["TimeoutStopSec"]) > needed_s


def test_reload_and_stop_are_said_to_the_master_alone() -> None:
    service = unit()["Service"]
    assert service["KillMode"] == "mixed"
    program, number, pid = service["ExecReload"].split()
    assert Path(program).is_absolute()
    assert INTENTS[Signals[f"SIG{number.removeprefix('-')}"]][0] is Intent.RELOAD
    assert pid == "$MAINPID"


def test_only_wrong_settings_are_final() -> None:
    assert unit()["Service"]["RestartPreventExitStatus"] == str(int(Exit.USAGE))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    text = UNIT.read_text()
    program = unit()["Service"]["ExecStart"].split()[0]
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace(program, "/bin/true"))
    result = subprocess.run(
        ["systemd-analyze", "verify", copy], capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


APPLICATION = """
import sys

async def app(scope, receive, send):
    if scope["type"] == "http":
        print("printed", file=sys.stderr, flush=True)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})
    else:
        raise RuntimeError("no lifespan")
"""


def run_postrotate(directory: Path, rotation: Path) -> None:
    """What logrotate does with such a file, as far as it concerns us."""
    for name in ("error.log", "access.log"):
        (directory / name).rename(directory / f"{name}.1")
    _, _, rest = rotation.read_text().partition("postrotate\n")
    script = rest.partition("endscript")[0]
    subprocess.run(["/bin/sh", "-ec", script], timeout=60, check=True)


def run_logrotate(directory: Path, rotation: Path) -> None:
    program = shutil.which("logrotate", path=os.environ["PATH"] + ":/usr/sbin")
    if program is None:
        pytest.skip("no logrotate here")
    state = directory / "state"
    subprocess.run([program, "-v", "-f", "-s", state, rotation], timeout=60, check=True)


@pytest.mark.process
@pytest.mark.parametrize("rotate", [run_postrotate, run_logrotate])
def test_log_files_are_rotated(tmp_path: Path, rotate: Callable[[Path, Path], None]) -> None:
    (tmp_path / "printing.py").write_text(APPLICATION)
    rotation = tmp_path / "rotation"
    text = ROTATION.read_text().replace("/run/asgi-supervise.pid", f"{tmp_path}/our.pid")
    rotation.write_text(text.replace("/var/log/asgi-supervise", str(tmp_path)))
    words = "--workers 2 --pid our.pid --log-file error.log --access-log-file access.log"
    requests = 0
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        subprocess.Popen(
            [
                *(sys.executable, "-m", "asgi_supervise", "printing:app", *words.split()),
                *("--fd", str(listener.fileno())),
            ],
            cwd=tmp_path,
            env={"PYTHONPATH": f"{ROOT / 'supervisor'}:{ROOT / 'workers'}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=[listener.fileno()],
        ) as process,
    ):

        def ask() -> None:
            nonlocal requests
            requests += 1
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/{requests}"
            assert httpx.get(url, trust_env=False, timeout=20).status_code == 204

        patience = threading.Timer(60, process.kill)  # nobody answers then, which ends the loops
        patience.start()
        try:
            ask()
            rotate(tmp_path, rotation)
            while not all((tmp_path / name).exists() for name in ("access.log", "error.log")):
                ask()
            while len((tmp_path / "error.log").read_text().split("printed")) < 5:
                ask()
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
        finally:
            patience.cancel()
            process.kill()
    assert (out, err, process.returncode) == ("", "", 0)
    old, new = ((tmp_path / name).read_text() for name in ("error.log.1", "error.log"))
    assert "printed\n" in old
    assert "serving on" in old + new  # which comes when both workers are ready
    assert f"reopened {tmp_path}/access.log, {tmp_path}/error.log\n" in new
    assert new.endswith("stopped\n")
    assert (old + new).count("printed\n") == requests
    old, new = ((tmp_path / name).read_text() for name in ("access.log.1", "access.log"))
    lines = re.findall(r'"GET /(\d+) HTTP/1.1" 204', old + new)
    assert sorted(map(int, lines)) == list(range(1, requests + 1))
    assert old
    assert new
