"""asgi-lifespan: ``LifespanManager`` around a mounted application, and in a request as tests use
it; in the order in which lives are nested.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.compatibility.serving import WORKERS, Site, serving

pytestmark = pytest.mark.process


@pytest.fixture
def site(files: Path) -> Iterator[Site]:
    with serving("asgi_lifespan_site:app", files, "--lifespan", "on") as found:
        assert [found.witness.next() for _ in range(WORKERS)] == ["inner begins"] * WORKERS
        yield found
        found.stop()
        said = [found.witness.next() for _ in range(2 * WORKERS)]
        assert sorted(said) == ["inner ends"] * WORKERS + ["outer ends"] * WORKERS
        assert (said[0], said[-1]) == ("outer ends", "inner ends")


def test_a_mounted_application_has_its_life(site: Site) -> None:
    assert httpx.get(f"{site.url}/inner/number").json() == {"number": 42}


def test_a_whole_life_within_a_request(site: Site) -> None:
    assert httpx.get(f"{site.url}/check").json() == {"number": 42, "own": "outer"}
    assert [site.witness.next(), site.witness.next()] == ["inner begins", "inner ends"]


def test_a_start_that_fails(site: Site) -> None:
    assert httpx.get(f"{site.url}/fails").json() == {"error": "no start"}
