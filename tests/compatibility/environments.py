"""Virtual environments of the compatibility suite, in ``.compatibility/``: one for each system.

What is there is reused until Python, the requirements or pyproject.toml change.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.compatibility.systems import System

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / ".compatibility"


class CannotBuild(Exception):
    """An environment that cannot be made; the message says why."""


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """No two runs at a time: one would replace what the other uses. Raises CannotBuild."""
    HERE.mkdir(exist_ok=True)
    with (HERE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotBuild("another run is going on; wait for it") from None
        yield


def python_of(system: System) -> Path:
    return HERE / system.name / "bin" / "python"


def build(system: System, *, fresh: bool = False) -> None:
    """Make the environment of ``system``, or bring it up to date; ``fresh``: anew.

    Raises :class:`CannotBuild`.
    """
    interpreter = _interpreter(system)
    stamp = HERE / system.name / "stamp"
    project = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    wanted = json.dumps([interpreter, system.alone, system.requires, system.extras, project])
    if not fresh and stamp.exists() and stamp.read_text() == wanted:
        return
    _run(interpreter, "-m", "venv", "--clear", str(HERE / system.name))
    pip = (str(python_of(system)), "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    if system.alone:
        _run(*pip, "--no-deps", *system.alone)
    extras = f"[{','.join(system.extras)}]" if system.extras else ""
    _run(*pip, "--editable", f"{ROOT}{extras}", *system.requires)
    stamp.write_text(wanted)


def version(system: System) -> str:
    """Of what is first required, with its name where the title is another; else of Python."""
    packages = (*system.alone, *system.requires)
    if not packages:
        script = "import platform; print('Python', platform.python_version())"
        return _run(str(python_of(system)), "-c", script).strip()
    name = re.split(r"[\[=<>!~; ]", packages[0])[0]
    script = f"import importlib.metadata as m; print(m.version({name!r}))"
    number = _run(str(python_of(system)), "-c", script).strip()
    return number if _plain(name) in _plain(system.title) else f"{name} {number}"


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def need_tools(systems: list[System]) -> None:
    """Install the Debian packages that are missing. Raises :class:`CannotBuild`."""
    wanted = {package for system in systems for package in system.debian}
    missing = sorted(package for package in wanted if not _is_installed(package))
    if not missing:
        return
    if os.geteuid() or not shutil.which("apt-get"):
        raise CannotBuild(f"missing on this machine: {' '.join(missing)}")
    print(f"compatibility: apt-get install {' '.join(missing)} …", file=sys.stderr)
    command = ("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing)
    try:
        _run(*command)
    except CannotBuild:
        _run("apt-get", "update", "-qq")
        _run(*command)


def _is_installed(package: str) -> bool:
    command = ("dpkg-query", "--show", "--showformat=${db:Status-Status}", package)
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout == "installed"


def _interpreter(system: System) -> str:
    """The tests' own, or the version that the system needs, from PATH or from pyenv."""
    if system.python is None:
        return os.path.realpath(sys.executable)
    if found := shutil.which(f"python{system.python}"):
        return found
    versions = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    for place in sorted(versions.glob(f"{system.python}.*")):
        return str(place / "bin" / "python")
    raise CannotBuild(f"{system.title} needs Python {system.python}, which is not here")


def _run(*command: str) -> str:
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if result.returncode:
        said = "\n".join(result.stdout.strip().splitlines()[-20:])
        raise CannotBuild(f"{' '.join(command)} failed:\n{said}")
    return result.stdout
