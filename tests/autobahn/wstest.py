"""Where the test suite comes from: a Python 2.7 environment, made once.

The suite was never ported to Python 3. Its own dependencies are pinned to the last that know
Python 2.7; ``wsaccel`` makes a full run several times as fast.
"""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
from pathlib import Path

VIRTUALENV = "virtualenv==20.15.1"
REQUIREMENTS = (
    "setuptools==44.0.0",
    "autobahn==0.10.9",
    "cryptography==3.3.2",
    "incremental==16.10.1",
    "jinja2==2.11.3",
    "klein==17.10.0",
    "markupsafe==1.1.1",
    "pyOpenSSL==19.1.0",
    "service_identity==18.1.0",
    "six==1.16.0",
    "Twisted==19.10.0",
    "txaio==2.1.0",
    "unittest2==1.1.0",
    "Werkzeug==1.0.1",
    "wsaccel==0.6.2",
    "zope.interface==4.6.0",
)
SUITE = "autobahntestsuite==25.10.1"


class NoPython2(Exception):
    """There is no Python 2.7 here; the message says where it was looked for."""


def install(folder: Path) -> Path:
    """The ``wstest`` program, installed under ``folder`` unless it is there already.

    ``$WSTEST`` names one that exists elsewhere.
    """
    if given := os.environ.get("WSTEST"):
        return Path(given)
    wstest = folder / "py27" / "bin" / "wstest"
    if wstest.exists():
        return wstest
    python = _find_python2()
    print(f"installing the test suite with {python} ...", flush=True)
    tools = folder / "virtualenv"
    shutil.rmtree(folder / "py27", ignore_errors=True)
    _run(python, "-m", "pip", "install", "--quiet", "--target", str(tools), VIRTUALENV)
    _run(python, "-m", "virtualenv", "--quiet", str(folder / "py27"), PYTHONPATH=str(tools))
    pip = str(wstest.with_name("pip"))
    _run(pip, "install", "--quiet", *REQUIREMENTS)
    _run(pip, "install", "--quiet", "--no-deps", SUITE)
    return wstest


def _find_python2() -> str:
    root = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    candidates = [
        os.environ.get("PYTHON27", ""),
        *sorted(glob.glob(f"{root}/versions/2.7*/bin/python2.7"), reverse=True),
        shutil.which("python2.7") or "",
    ]
    for candidate in filter(shutil.which, candidates):
        version = subprocess.run(
            [candidate, "-c", "import sys, pip; print(sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        if version.stdout.strip() == "(2, 7)":
            return candidate
    raise NoPython2(f"no python2.7 with pip: not $PYTHON27, none in {root}, none on the path")


def _run(*command: str, **environment: str) -> None:
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONWARNINGS": "ignore"}
    subprocess.run(command, check=True, env={**os.environ, **quiet, **environment})
