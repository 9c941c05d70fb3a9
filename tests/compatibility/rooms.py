"""How to talk to the Channels project in ``sites/``, whatever layer its groups are on."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from tests.compatibility.managing import PASSWORD, SUPERUSER
from tests.compatibility.serving import PATIENCE_S, WORKERS, Site

APPLICATION = "channels_site.asgi:application"
SETTINGS = "channels_site.settings"
WORDS = {"username": SUPERUSER, "password": PASSWORD}


def open_ws(
    site: Site, path: str, cookie: str = "", origin: str | None = None, **more: Any
) -> ClientConnection:
    """Open a WebSocket as a page of the site does."""
    ws: ClientConnection = connect(
        f"{site.ws_url}{path}",
        origin=Origin(origin or site.url),
        additional_headers={"cookie": cookie} if cookie else None,
        open_timeout=PATIENCE_S,
        **more,
    )
    return ws


def ask(ws: ClientConnection, **words: Any) -> Any:
    ws.send(json.dumps(words))
    return json.loads(ws.recv(PATIENCE_S))


def logged_in(client: httpx.Client) -> str:
    """The cookie of a session."""
    assert client.post("/enter/", json=WORDS).json() == {"user": SUPERUSER}
    return f"sessionid={client.cookies['sessionid']}"


def in_each_worker(
    site: Site, stack: contextlib.ExitStack, room: str
) -> dict[int, list[ClientConnection]]:
    """Connections to ``room``, at least two in each worker, by its process."""
    found: dict[int, list[ClientConnection]] = {}
    for _ in range(200):
        ws = stack.enter_context(open_ws(site, f"/ws/room/{room}/"))
        found.setdefault(ask(ws, do="who")["pid"], []).append(ws)
        if len(found) == WORKERS and all(len(there) > 1 for there in found.values()):
            return found
    pytest.fail(f"200 connections all went to {list(found)}")
