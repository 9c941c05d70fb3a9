"""Mangum: the application that it wraps is served as ever, beside the handler in the same module;
naming the handler is an error that says so.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.compatibility.serving import PATIENCE_S, PYTHON, SITES, Site, serving, sources

pytestmark = pytest.mark.process


@pytest.fixture(scope="module", params=["app", "handler.app"])
def site(files: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    with serving(f"mangum_site:{request.param}", files) as found:
        yield found


def test_the_application(site: Site) -> None:
    answer = httpx.get(f"{site.url}/path", timeout=PATIENCE_S)
    assert answer.json() == {"path": "/path", "aws": False, "started": True}


def test_the_handler_in_the_same_process(site: Site) -> None:
    answer = httpx.get(f"{site.url}/lambda", timeout=PATIENCE_S)
    assert answer.json() == {"path": "/from/lambda", "aws": True, "started": True}


def test_the_handler_is_no_application(files: Path) -> None:
    command = (PYTHON, "-m", "asgi_supervise", "mangum_site:handler", "--app-dir", str(SITES))
    done = subprocess.run(
        [*command, "--port", "0"],
        env={**os.environ, **sources()},
        cwd=files,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 3
    assert 'cannot use "mangum_site:handler" as an ASGI application: it is an' in done.stdout
    assert "a handler of AWS Lambda it seems: name the application that it wraps" in done.stdout
    assert "Traceback" not in done.stdout
