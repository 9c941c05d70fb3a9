"""What is meant to be copied to other machines is right, as far as this one can tell."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from asgi_supervise.settings.schema import Settings
from asgi_worker.contract import Exit

UNIT = Path(__file__).parents[1] / "systemd/asgi-supervise.service"


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNIT)
    return parser


def test_systemd_waits_longer_than_we_do() -> None:
    assert int(unit()["Service"]["TimeoutStopSec"]) > Settings(app="a:b").graceful_timeout_s


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
