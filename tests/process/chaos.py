"""Everything at once, at random: two minutes of it must leave the service as it was.

``python -m tests.process.chaos [--seconds 120] [--seed N]`` reloads good and broken releases,
kills, stops and blocks processes, rotates logs and changes settings under a crowd, in an order that
the seed decides. In the end there have to be the wanted workers and nobody else, the master has to
have the descriptors and the memory it had, its log no error that was not provoked, and the crowd
only failures, and only closed connections, that the death of a worker explains. Exit status 1, the
story and the seed if not.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import psutil

from tests.process.crowd import Crowd
from tests.process.releases import BROKEN, Releases
from tests.process.service import Service, connected, send, state, until
from tests.process.tally import Plan, Result

WORKERS = 3
CROWD = Plan(host="", port=0, rate=500, kept=50, fresh=8, slow=2, uploaders=4, websockets=6)
PATIENCE_S = 75.0
"""A slot whose workers die young waits for up to 30 s, and so does who is in its queue."""
SENT_AWAY = CROWD.kept // WORKERS
"""Kept-alive connections outlive reloads. But all others may hang for as long as one worker leaves,
and then those that it has are told to come again."""
WARM_UP = 0.25
GROWTH_BYTES = 1024 * 1024
LONG_ENOUGH_S = 100.0
"""For memory, and for how many reloads there were, to be judged."""
SETTINGS = """
workers = {workers}
bake-time = "0.2 s"
startup-timeout = "2 s"
graceful-timeout = "6 s"
shutdown-reserve = "1 s"
stall-warn = "0.5 s"
worker-timeout = "3 s"
max-restarts = 1000
health-path = "/healthz"
health-interval = "0.5 s"
health-timeout = "1 s"
health-failures = 2
preload = {preload}
access-log-file = "{access_log}"
header = ["x-settings: {number}"]
"""
BROKEN_SETTINGS = ("workers = [", "nonsense = 1\n", 'bake-time = "often"\n')
RECORD = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) \[\d+\] (\w+) ", re.MULTILINE)
PROVOKED = re.compile(
    r"reload failed, generation \d+ serves on: |\(worker-timeout\)|does not fork what it is asked"
    r"|ERROR (worker|template) .* cannot start: "  # without preload it finds what is on the disk
)
DEATH = re.compile(r"pid=(\d+) (was killed|crashed|exited with status [1-9])")


class Chaos:
    """One run. ``events`` are its verbs; each does one thing and returns at once."""

    def __init__(self, service: Service, crowd: Crowd, releases: Releases, seed: int) -> None:
        self.service = service
        self.crowd = crowd
        self.releases = releases
        self.random = random.Random(seed)
        self.story: list[str] = []
        self.began_at = time.monotonic()
        self.version = 1
        self._later: list[tuple[float, Callable[[], object]]] = []
        self._clients: list[socket.socket] = []
        self.events: dict[Callable[[], str], int] = {
            self.good_reload: 12,
            self.broken_reload: 8,
            self.good_settings: 3,
            self.broken_settings: 3,
            self.kill_worker: 3,
            self.kill_template: 2,
            self.kill_newest: 2,
            self.stop_process: 4,
            self.block_loop: 3,
            self.sicken: 1,
            self.rotate: 4,
            self.storm: 2,
        }

    def run(self, seconds: float) -> None:
        """Let things happen for this time."""
        deadline = time.monotonic() + seconds
        names, weights = list(self.events), list(self.events.values())
        while (now := time.monotonic()) < deadline:
            for due in [entry for entry in self._later if entry[0] <= now]:
                self._later.remove(due)
                due[1]()
            (event,) = self.random.choices(names, weights)
            self.tell(f"{event.__name__}: {event()}")
            self.service.read_on(self.random.uniform(0.05, 0.7))

    def calm_down(self) -> None:
        """End what lasts, and wait until a good release is served by all."""
        for _, undo in self._later:
            undo()
        self._later.clear()
        for client in self._clients:
            client.close()
        self._clients.clear()
        write_settings(self.releases.path, self.version)
        self.tell(f"calm_down: {self.good_reload()}")
        version = f"v{self.version}"
        self.crowd.until(lambda seen: version in seen.versions, f"{version} serves", PATIENCE_S)
        until(self._is_calm, "only the wanted processes are left", PATIENCE_S)

    def _is_calm(self) -> bool:
        self.service.read_on(0.05)
        crew = self.service.crew()
        children = psutil.Process(self.service.process.pid).children(recursive=True)
        wanted = {(slot, crew[0].generation) for slot in range(WORKERS)} if crew else {()}
        there = {(one.slot, one.generation) for one in crew}
        return there == wanted and len(crew) == WORKERS and len(children) == WORKERS + 1

    def tell(self, text: str) -> None:
        self.story.append(f"{time.monotonic() - self.began_at:7.2f} s  {text}")

    # What can happen.

    def good_reload(self) -> str:
        self.version += 1
        self.releases.install(f"v{self.version}")
        self.service.hang_up()
        return f"v{self.version}"

    def broken_reload(self) -> str:
        self.version += 1
        fault = self.random.choice(list(BROKEN))
        self.releases.install(f"v{self.version}", fault)
        self.service.hang_up()
        return f"v{self.version} with {fault}"

    def good_settings(self) -> str:
        write_settings(self.releases.path, self.version)
        self.service.hang_up()
        return ""

    def broken_settings(self) -> str:
        text = self.random.choice(BROKEN_SETTINGS)
        (self.releases.path / "settings.toml").write_text(text)
        self.service.hang_up()
        self._soon(0.2, lambda: write_settings(self.releases.path, self.version))
        return text.strip()

    def kill_worker(self) -> str:
        return self._signal([one.pid for one in self.service.crew()], signal.SIGKILL)

    def kill_newest(self) -> str:
        """While a reload is under way, that is its canary."""
        crew = sorted(self.service.crew(), key=lambda one: one.generation)
        return self._signal([one.pid for one in crew[-1:]], signal.SIGKILL)

    def kill_template(self) -> str:
        return self._signal(self._others(), signal.SIGKILL)

    def stop_process(self) -> str:
        everybody = [one.pid for one in self.service.crew()] + self._others()
        told = self._signal(everybody, signal.SIGSTOP)
        pid = int(told.partition(" ")[0] or 0)
        seconds = self.random.choice((0.3, 1.0, 2.0, 5.0))
        if pid:
            self._soon(seconds, lambda: send_signal(pid, signal.SIGCONT))
        return f"{told} for {seconds} s"

    def block_loop(self) -> str:
        how = self.random.choice(("sleep", "c", "regex", "lock"))
        return f"{how} {self._ask(f'/block/{how}')}"

    def sicken(self) -> str:
        return self._ask("/sick")

    def rotate(self) -> str:
        path = self.releases.path / "access.log"
        with contextlib.suppress(FileNotFoundError):
            path.rename(path.with_suffix(".old"))
        self.service.process.send_signal(signal.SIGUSR1)
        return ""

    def storm(self) -> str:
        for _ in range(30):
            self.service.hang_up()
        return "30 times"

    def _soon(self, seconds: float, undo: Callable[[], object]) -> None:
        self._later.append((time.monotonic() + seconds, undo))

    def _others(self) -> list[int]:
        workers = {one.pid for one in self.service.crew()}
        children = psutil.Process(self.service.process.pid).children()
        return sorted(child.pid for child in children if child.pid not in workers)

    def _signal(self, pids: list[int], number: signal.Signals) -> str:
        if not pids:
            return "nobody is there"
        pid = self.random.choice(sorted(pids))
        send_signal(pid, number)
        return f"{pid} {number.name}"

    def _ask(self, path: str) -> str:
        """Send a request and do not wait for the answer."""
        client = connected((self.crowd.plan.host, self.crowd.plan.port))
        send(client, path)
        self._clients.append(client)
        return path


def send_signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def write_settings(directory: Path, number: int) -> Path:
    path = directory / "settings.toml"
    text = SETTINGS.format(
        workers=WORKERS,
        access_log=directory / "access.log",
        number=number,
        preload=str(number % 2 == 1).lower(),
    )
    fresh = directory / "settings.fresh"
    fresh.write_text(text)
    fresh.replace(path)
    return path


class Gauge:
    """What must not grow in the master: descriptors, and memory that it has written to.

    Also what it shares with its children, which is less with each that dies; so no USS here.
    """

    def __init__(self, pid: int) -> None:
        self.descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        status = Path(f"/proc/{pid}/status").read_text()
        (kilobytes,) = re.findall(r"^RssAnon:\s+(\d+)", status, re.MULTILINE)
        self.memory = 1024 * int(kilobytes)


def run(seconds: float, seed: int) -> list[str]:
    """What was wrong in the end. The story is printed when something was."""
    print(f"chaos for {seconds:g} s with seed {seed}")
    with Releases() as releases:
        words = [*releases.words, "--config", str(write_settings(releases.path, 0))]
        with Service(
            *words, app=releases.app, errors_expected=True, environment={"PYTHONDEVMODE": ""}
        ) as service:
            host, port = service.serving()
            plan = CROWD.at(host, port, may_close=(1012,), stops=False).patient(PATIENCE_S)
            with Crowd(plan, f"chaos, seed {seed}") as crowd:
                chaos = Chaos(service, crowd, releases, seed)
                try:
                    wrong = storm_and_judge(chaos, seconds)
                except AssertionError as error:
                    wrong = [str(error)]
            if wrong:
                print("\n".join(chaos.story), service.log, sep="\n--- log\n")
        if not wrong and (left := [pid for pid in descendants(service.log) if state(pid)]):
            wrong.append(f"orphans: {left}")
    for text in wrong:
        print(f"WRONG: {text}")
    print(f"chaos with seed {seed}: {'failed' if wrong else 'nothing is wrong'}")
    return wrong


def storm_and_judge(chaos: Chaos, seconds: float) -> list[str]:
    service, crowd = chaos.service, chaos.crowd
    chaos.calm_down()
    chaos.run(seconds * WARM_UP)
    chaos.calm_down()
    warm = Gauge(service.process.pid)
    chaos.run(seconds * (1 - WARM_UP))
    chaos.calm_down()
    end = Gauge(service.process.pid)
    result = crowd.stop()
    generation = service.crew()[0].generation
    growth = end.memory - warm.memory
    print(
        f"{len(chaos.story)} events, generation {generation}, descriptors of the master "
        f"{warm.descriptors} -> {end.descriptors}, memory {growth / 1024:+.0f} KiB"
    )
    wrong = [*wrong_in_log(service.log), *wrong_for_the_crowd(service.log, result)]
    if end.descriptors != warm.descriptors:
        wrong.append(f"descriptors of the master: {warm.descriptors} -> {end.descriptors}")
    if seconds >= LONG_ENOUGH_S:
        if growth > GROWTH_BYTES:
            wrong.append(f"memory of the master grew by {growth} bytes")
        if generation < 50:
            wrong.append(f"only {generation} generations")
    return wrong


def records(log: str) -> list[str]:
    """The log, record by record; what others write to it belongs to the record before."""
    starts = [match.start() for match in RECORD.finditer(log)]
    return [log[start:end] for start, end in zip(starts, [*starts[1:], len(log)], strict=True)]


def wrong_in_log(log: str) -> list[str]:
    """Records of errors that nothing has provoked, and tracebacks that belong to none."""
    return [
        record
        for record in records(log)
        if re.search(r"\[BUG\]|Traceback|Exception ignored|^\S+ \S+ \S+ (ERROR|CRITICAL) ", record)
        and not PROVOKED.search(record)
    ]


def wrong_for_the_crowd(log: str, result: Result) -> list[str]:
    ahead = time.time() - time.monotonic()
    deaths = {
        int(found[1]): datetime.fromisoformat(record[:23]).timestamp() - ahead
        for record in records(log)
        if (found := DEATH.search(record))
    }
    wrong = [str(one) for one in result.beyond(deaths)]
    sent_away = result.reconnected_beyond(deaths)
    print(f"{result.reconnects} reconnects, {len(sent_away)} of them without a death")
    if len(sent_away) > SENT_AWAY:
        wrong.append(f"kept-alive connections were closed though nobody died: {sent_away}")
    return wrong


def descendants(log: str) -> set[int]:
    """Every process that the log names."""
    return {int(pid) for pid in re.findall(r"pid=(\d+)", log)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if given.seed is None else given.seed
    wrong = run(given.seconds, seed)
    if wrong:
        print(f"again: python -m tests.process.chaos --seconds {given.seconds:g} --seed {seed}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
