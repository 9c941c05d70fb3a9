"""Socket.IO: its own client: polling with upgrade to WebSocket (one worker), WebSocket alone (two
workers), rooms, also over all workers by Redis, acknowledgements, binary data, namespaces,
disconnects, coming back after a reload; why polling needs a single worker.
"""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.compatibility.serving import PATIENCE_S, PYTHON, SITES, WORKERS, Site, serving

pytestmark = pytest.mark.process

OPEN = "/socket.io/?EIO=4&transport=polling"


@pytest.fixture(scope="module")
def site(files: Path) -> Iterator[Site]:
    with serving("socketio_site:app", files) as found:
        yield found


@pytest.fixture(scope="module")
def single(files: Path) -> Iterator[Site]:
    with serving("socketio_site:app", files, "--workers", "1") as found:
        yield found


def talking(site: Site, transports: str, talk: str) -> subprocess.Popen[str]:
    command = [PYTHON, str(SITES / "socketio_talk.py"), site.url, transports, talk]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def said(site: Site, transports: str, talk: str) -> Any:
    with talking(site, transports, talk) as client:
        out, _ = client.communicate(timeout=PATIENCE_S)
    assert client.returncode == 0
    return json.loads(out)


def check_features(site: Site, transports: str, transport: str) -> None:
    facts = said(site, transports, "features")
    assert facts["who"]["name"] == "one"
    assert facts["echo"] == {"a": [1, None, "é"]}
    assert facts["binary"] is True
    assert facts["nested"] is True
    assert facts["admin"] == 5
    assert facts["counted"] == list(range(50))
    assert facts["transport"] == transport
    assert site.witness.next() == "one left: server disconnect"


@pytest.mark.parametrize(
    ("transports", "transport"),
    [("polling,websocket", "websocket"), ("polling", "polling"), ("websocket", "websocket")],
)
def test_features_on_one_worker(single: Site, transports: str, transport: str) -> None:
    check_features(single, transports, transport)


def test_rooms_on_one_worker(single: Site) -> None:
    heard = [{"room": "red", "text": "hello"}] * 2
    facts = said(single, "polling,websocket", "rooms")
    assert facts == {"heard": heard, "rest": 0, "workers": 1}


def test_features_over_websocket_alone(site: Site) -> None:
    check_features(site, "websocket", "websocket")


def test_refused(site: Site) -> None:
    assert said(site, "websocket", "refused") == [{"message": "not today"}]


def test_many_clients_on_all_workers(site: Site) -> None:
    assert said(site, "websocket", "many") == {"workers": WORKERS}


def test_rooms_over_all_workers_by_redis(files: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="asgi-", dir="/tmp") as folder:
        path = Path(folder, "redis")
        words = ("--port", "0", "--unixsocket", str(path), "--save", "", "--dir", folder)
        with subprocess.Popen(["redis-server", *words], stdout=subprocess.PIPE, text=True) as redis:
            assert redis.stdout is not None
            assert any("eady to accept connections" in line for line in redis.stdout)
            try:
                with serving("socketio_site:app", files, SITE_REDIS=f"unix://{path}") as site:
                    facts = said(site, "websocket", "rooms")
            finally:
                redis.terminate()
    heard = [{"room": "red", "text": "hello"}] * 2
    assert facts == {"heard": heard, "rest": 0, "workers": WORKERS}


def test_the_application_beside(site: Site) -> None:
    assert httpx.get(f"{site.url}/other").text == "beside Socket.IO"


def test_a_polling_session_is_known_to_one_worker_only(site: Site) -> None:
    """It lives in the memory of a worker, and the next request may reach another one."""
    answer = httpx.get(f"{site.url}{OPEN}")
    sid = json.loads(answer.text.removeprefix("0"))["sid"]
    statuses: list[int] = []
    while len(set(statuses)) < 2 and len(statuses) < 200:  # each on a connection of its own
        answer = httpx.post(f"{site.url}{OPEN}&sid={sid}", content="3")
        statuses.append(answer.status_code)
        assert answer.status_code == 200 or "Invalid session" in answer.text
    assert set(statuses) == {200, 400}


def test_a_reload_sends_clients_to_new_workers(files: Path) -> None:
    with serving("socketio_site:app", files, "--bake-time", "0") as site:
        with talking(site, "websocket", "returning") as client:
            assert client.stdout is not None
            assert json.loads(client.stdout.readline()) == "connected"
            site.process.send_signal(signal.SIGHUP)
            out, _ = client.communicate(timeout=PATIENCE_S)
        assert json.loads(out) == {"other worker": True}


def test_stop_with_open_sessions(files: Path) -> None:
    with (
        serving("socketio_site:app", files) as site,
        talking(site, "websocket", "returning") as client,
    ):
        assert client.stdout is not None
        assert json.loads(client.stdout.readline()) == "connected"
        site.stop()
        client.kill()
