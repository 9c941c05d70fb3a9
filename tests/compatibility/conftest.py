"""Fixtures for all systems: files to serve, a witness, large bodies.

Without ``COMPATIBILITY_PYTHON`` this is the default run, which has only some systems.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compatibility.serving import Witness, witnessing
from tests.compatibility.systems import SYSTEMS

MIB = 1024 * 1024

collect_ignore = [
    f"test_{system.name}.py"
    for system in SYSTEMS
    if not (system.default or os.environ.get("COMPATIBILITY_PYTHON"))
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of 3 MiB and some small ones."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "large.bin").write_bytes(random.Random(1).randbytes(3 * MIB + 17))
    (folder / "page.html").write_text("<h1>Page</h1>")
    (folder / "index.html").write_text("<h1>Index</h1>")
    (folder / "style.css").write_text("h1 { color: teal }\n" * 100)
    (folder / "empty.txt").write_bytes(b"")
    return folder


@pytest.fixture(scope="session")
def twenty_mib() -> bytes:
    return random.Random(2).randbytes(20 * MIB)


@pytest.fixture
def witness() -> Iterator[Witness]:
    with witnessing() as found:
        yield found
