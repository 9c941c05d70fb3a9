"""The environment of the benchmark: the peers and the project in `.bench/`, wrk and nginx outside.

The peers are kept away from the project's own environment, so that neither chooses versions for
the other. What is there is reused until Python, this list or pyproject.toml changes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.machine import CannotMeasure

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / ".bench"
ENVIRONMENT = HERE / "env"
BIN = ENVIRONMENT / "bin"
PAGE = ROOT / "docs" / "benchmarks.md"

# With the extra, pip takes the newest gunicorn whose C parser the index has. (Installed apart, a
# newer gunicorn runs with an older parser, too, but breaks connections on larger bodies.)
PEERS = (
    "uvicorn[standard]",
    "zttp",
    "gunicorn[fast]",
    "hypercorn",
    "granian",
    "daphne",
    "uvicorn-worker",
    "fastapi",
    "uvloop",
    "websockets",
    "py-spy",
)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """No two benchmarks at a time."""
    HERE.mkdir(exist_ok=True)
    with (HERE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotMeasure("another benchmark is running; wait for it") from None
        yield


def build(*, fresh: bool) -> None:
    """Make the environment, or bring it up to date; ``fresh``: anew, with the newest versions."""
    peers, project = HERE / "peers.stamp", HERE / "project.stamp"
    wanted = f"{sys.version} {' '.join(PEERS)}"
    if fresh or _read(peers) != wanted:
        print("benchmark: making .bench/env with the peers …", file=sys.stderr)
        for stamp in (peers, project):
            stamp.unlink(missing_ok=True)
        venv.create(ENVIRONMENT, clear=True, with_pip=True)
        _pip("--upgrade", "pip", *PEERS)
        peers.write_text(wanted)
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if _read(project) != wanted:
        print("benchmark: installing the project into .bench/env …", file=sys.stderr)
        _pip("--editable", str(ROOT))
        project.write_text(wanted)


def _read(stamp: Path) -> str:
    return stamp.read_text() if stamp.exists() else ""


def _pip(*words: str) -> None:
    command = [str(BIN / "python"), "-m", "pip", "install", "--quiet", *words]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise CannotMeasure(f"cannot install {' '.join(words)}: {result.stderr.strip()}")


def need_tools() -> None:
    """wrk and nginx, from the distribution where we may."""
    missing = [name for name in ("wrk", "nginx") if not tool(name)]
    if not missing:
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if os.geteuid() == 0 and tool("apt-get"):
        print(f"benchmark: {' '.join(command)} …", file=sys.stderr)
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if not result.returncode:
            return
    if not tool("wrk"):
        raise CannotMeasure(f"cannot make load: wrk is not installed; run {' '.join(command)}")
    print(f"benchmark: no nginx; to see it as a floor run {' '.join(command)}", file=sys.stderr)


def versions() -> dict[str, str]:
    """What is installed that matters: name and version."""
    script = (
        "import importlib.metadata as m, json, platform;"
        "found = {d.name.lower().replace('-', '_'): d.version for d in m.distributions()};"
        "print(json.dumps(found | {'python': platform.python_version()}))"
    )
    command = [str(BIN / "python"), "-c", script]
    found: dict[str, str] = json.loads(subprocess.check_output(command, text=True))
    for name, option, sign in (("wrk", "-v", "wrk "), ("nginx", "-v", "nginx/")):
        if path := tool(name):
            said = subprocess.run([path, option], capture_output=True, text=True, check=False)
            text = (said.stdout + said.stderr).partition(sign)[2]
            found[name] = text.split()[0] if text else "?"
    return found


def tool(name: str) -> str | None:
    """Where a program of the system is; Debian keeps nginx where a user's PATH does not look."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
