from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.host import contract, faults, posix
from tests.host.fake import FakeHost

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("scenario", contract.SCENARIOS)
def test_fake_host_keeps_the_contract(scenario: str) -> None:
    stage = contract.on_fake_host()
    contract.SCENARIOS[scenario](stage)
    assert isinstance(stage.host, FakeHost)
    assert stage.host.violations == []


@pytest.mark.process
@pytest.mark.parametrize("scenario", contract.SCENARIOS)
def test_posix_host_keeps_the_contract(scenario: str) -> None:
    run("tests.host.contract", scenario)


@pytest.mark.process
@pytest.mark.parametrize("scenario", posix.SCENARIOS)
def test_posix_host(scenario: str) -> None:
    run("tests.host.posix", scenario)


@pytest.mark.process
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("scenario", faults.SCENARIOS)
def test_posix_host_under_faults(scenario: str) -> None:
    run("tests.host.faults", scenario)


def run(module: str, scenario: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, scenario],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": "supervisor:workers:.",
            "PYTHONWARNINGS": "error",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = done.stdout + done.stderr
    assert said == "", said
    assert done.returncode == 0
