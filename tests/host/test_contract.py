from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.host.contract import SCENARIOS, on_fake_host
from tests.host.fake import FakeHost

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_fake_host_keeps_the_contract(scenario: str) -> None:
    stage = on_fake_host()
    SCENARIOS[scenario](stage)
    assert isinstance(stage.host, FakeHost)
    assert stage.host.violations == []


@pytest.mark.process
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_posix_host_keeps_the_contract(scenario: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.host.contract", scenario],
        cwd=ROOT,
        env={"PYTHONPATH": "supervisor:workers:.", "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
