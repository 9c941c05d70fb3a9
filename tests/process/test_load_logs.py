"""Log files moved away under load: nothing is lost, and nothing is written twice."""

from __future__ import annotations

import signal
from pathlib import Path

import msgspec
import pytest

from tests.process.loaded import QUIET, spend, under_load

pytestmark = [pytest.mark.process, pytest.mark.slow]


def test_rotation_loses_no_line_of_the_access_log(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    plan = msgspec.structs.replace(QUIET, rate=1500, websockets=0)
    words = ["--access-log", "--access-log-file", str(path)]
    with under_load("USR1 x 5", *words, plan=plan) as (service, crowd, _):
        for number in range(5):
            path.rename(tmp_path / f"access.log.{number}")
            service.process.send_signal(signal.SIGUSR1)
            service.wait_line(f"reopened {path}")
            spend(0.3)
        result = crowd.stop()
    assert result.lost == 0
    files = sorted(tmp_path.iterdir())
    lines = [line for file in files for line in file.read_text().splitlines()]
    assert len(files) == 6
    assert all(file.stat().st_size for file in files)
    assert len(lines) == result.in_all
    assert all('HTTP/1.1" 200' in line for line in lines)
