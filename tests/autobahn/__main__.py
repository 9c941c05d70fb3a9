"""Run the Autobahn fuzzing client against one worker that echoes.

    python -m tests.autobahn [full|ci|smoke]

``full`` is everything (517 cases, ten minutes); ``ci`` leaves out most of the compression cases,
which differ in sizes only; ``smoke`` has neither them nor the cases of large messages. Exit status
1 for any case that failed or is not implemented, for a connection not closed cleanly, and for more
than a few that are right only by a generous reading of the RFC.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.autobahn.wstest import NoPython2, install

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".autobahn"
AGENT = "asgi-supervise"
NON_STRICT_MAX = 7
LIMIT_S = 3600.0

COMPRESSION = {12: 5, 13: 7}
"""Sections of the compression cases, and how many subsections of 18 cases each has."""
CASES: dict[str, tuple[int, list[str], list[str]]] = {
    "full": (517, ["*"], []),
    "ci": (
        361,
        [
            *(f"{section}.*" for section in (1, 2, 3, 4, 5, 6, 7, 9, 10)),
            *(
                f"{section}.{part}.{case}"
                for section, parts in COMPRESSION.items()
                for part in range(1, parts + 1)
                for case in (1, 3, 6, 11, 14)
            ),
        ],
        [],
    ),
    "smoke": (247, ["*"], ["9.*", "12.*", "13.*"]),
}
"""Profile: how many cases there are, patterns of those to run, of those to leave out."""


@contextmanager
def served() -> Iterator[int]:
    """One worker with the echo application; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [
            *(sys.executable, "-m", "asgi_supervise", "--workers", "1", "--lifespan", "off"),
            *("--no-access-log", "--log-level", "warning"),
            *("--bind", f"fd://{listener.fileno()}", "tests.autobahn.echo:app"),
        ]
        server = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}/supervisor:{ROOT}/workers"},
            pass_fds=(listener.fileno(),),
        )
        try:
            yield listener.getsockname()[1]
        finally:
            server.send_signal(signal.SIGTERM)
            status = server.wait(60)
    if status:
        sys.exit(f"the server ended with status {status}")


def fuzz(wstest: Path, profile: str, port: int, report: Path) -> None:
    """Run the cases of ``profile``; what became of them is in ``report`` then."""
    _, cases, excluded = CASES[profile]
    report.mkdir(parents=True, exist_ok=True)
    (report / "index.json").unlink(missing_ok=True)
    specification = report / "specification.json"
    specification.write_text(
        json.dumps(
            {
                "outdir": str(report),
                "servers": [{"agent": AGENT, "url": f"ws://127.0.0.1:{port}/"}],
                "cases": cases,
                "exclude-cases": excluded,
                "exclude-agent-cases": {},
            }
        )
    )
    with (report / "wstest.log").open("wb") as log:
        client = subprocess.run(
            [wstest, "-m", "fuzzingclient", "-s", specification],
            stdout=log,
            stderr=log,
            timeout=LIMIT_S,
            check=False,
        )
    if client.returncode or not (report / "index.json").exists():
        sys.exit(f"the fuzzing client failed ({client.returncode}), see {log.name}")


def judge(results: dict[str, Any], expected: int) -> bool:
    """Print what came out; whether it is good enough."""
    behaviour = collections.Counter(case["behavior"] for case in results.values())
    closing = collections.Counter(case["behaviorClose"] for case in results.values())
    print(f"{len(results)} cases: {_counts(behaviour)}; closing: {_counts(closing)}")
    fine = {"OK", "INFORMATIONAL"}
    good = True
    for name, case in sorted(results.items(), key=lambda item: _numbers(item[0])):
        verdict = case["behavior"], case["behaviorClose"]
        if not fine.issuperset(verdict):
            print(f"  {name}: {verdict[0]}, closing {verdict[1]} ({case['remoteCloseCode']})")
            good = good and verdict[0] in {*fine, "NON-STRICT"} and verdict[1] in fine
    if len(results) < expected:
        print(f"  {expected - len(results)} cases did not run")
        good = False
    if behaviour["NON-STRICT"] > NON_STRICT_MAX:
        print(f"  more than {NON_STRICT_MAX} are NON-STRICT")
        good = False
    return good


def _counts(counter: collections.Counter[str]) -> str:
    return ", ".join(f"{count} {word}" for word, count in counter.most_common()) or "none"


def _numbers(name: str) -> list[int]:
    return [int(word) for word in name.split(".")]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.autobahn", description=__doc__)
    parser.add_argument("profile", nargs="?", choices=CASES, default="full")
    profile: str = parser.parse_args().profile
    try:
        wstest = install(FOLDER)
    except NoPython2 as error:
        print(f"SKIPPED: the Autobahn test suite needs Python 2.7: {error}", file=sys.stderr)
        return 0
    report = FOLDER / profile
    began = time.monotonic()
    with served() as port:
        fuzz(wstest, profile, port, report)
    print(f"profile {profile}: {time.monotonic() - began:.0f} s, report in {report}/index.html")
    results: dict[str, Any] = json.loads((report / "index.json").read_text())[AGENT]
    return 0 if judge(results, CASES[profile][0]) else 1


if __name__ == "__main__":
    sys.exit(main())
