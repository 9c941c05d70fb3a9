"""A headless Chromium, driven over its DevTools protocol with what the tests have anyway.

Considered and refused: playwright, which brings a browser and a Node.js of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.compatibility.serving import PATIENCE_S

_listening = re.compile(r"DevTools listening on (ws://\S+)")


class Page:
    """A tab. ``complaints``: what the console and the network had to complain of."""

    def __init__(self, connection: ClientConnection) -> None:
        self.complaints: list[str] = []
        self._connection = connection
        self._numbers = itertools.count(1)
        self._session = ""
        self._loaded = False
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")

    def go(self, url: str) -> None:
        """Open ``url`` and wait until everything on the page has been loaded."""
        self._loaded = False
        failed = self._ask("Page.navigate", url=url).get("errorText")
        assert not failed, f"{url}: {failed}"
        self._wait_until_loaded()

    def follow(self, selector: str) -> None:
        """Click what ``selector`` finds and wait for the page that it leads to."""
        self._loaded = False
        self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")
        self._wait_until_loaded()

    def evaluate(self, script: str) -> Any:
        """What ``script`` results in; a promise is awaited."""
        said = self._ask(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def _ask(self, method: str, **parameters: Any) -> Any:
        number = next(self._numbers)
        words = {"id": number, "method": method, "params": parameters}
        if self._session:
            words["sessionId"] = self._session
        self._connection.send(json.dumps(words))
        while (said := self._next()).get("id") != number:
            pass
        assert "error" not in said, f"{method}: {said['error']}"
        return said["result"]

    def _wait_until_loaded(self) -> None:
        while not self._loaded:
            self._next()

    def _next(self) -> Any:
        said = json.loads(self._connection.recv(PATIENCE_S))
        match said.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Runtime.exceptionThrown" | "Network.loadingFailed":
                self.complaints.append(json.dumps(said["params"]))
            case "Runtime.consoleAPICalled" if said["params"]["type"] in ("error", "warning"):
                self.complaints.append(json.dumps(said["params"]["args"]))
            case "Log.entryAdded" if said["params"]["entry"]["level"] in ("error", "warning"):
                self.complaints.append(json.dumps(said["params"]["entry"]))
        return said


@contextlib.contextmanager
def browsing() -> Iterator[Page]:
    """A page in a browser of its own, which ends with the block."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    assert found, "no chromium on this machine: apt-get install chromium"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                *(found, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
                *("--disable-dev-shm-usage", "--disable-background-networking"),
                *("--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        rest = threading.Thread(target=process.stderr.read, daemon=True)  # or it would block
        with process:
            try:
                found_in = (_listening.search(line) for line in process.stderr)
                address = next((match[1] for match in found_in if match), "")
                assert address, "chromium ended before it listened"
                rest.start()
                with connect(address, max_size=None, compression=None) as connection:
                    yield Page(connection)
            finally:
                process.terminate()
                if rest.is_alive():
                    rest.join(PATIENCE_S)
