"""The loop itself: that it does all that was decided, and survives its own errors."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import Container
from pathlib import Path

import pytest

from asgi_supervise import master
from asgi_supervise.control.status import WorkerStatus
from asgi_supervise.host.signals import INTENTS
from asgi_supervise.host.template import Blueprint
from asgi_supervise.master import Master
from asgi_supervise.policy import vocabulary as v
from asgi_supervise.policy.health import Rules
from asgi_supervise.policy.supervisor import Supervisor
from asgi_worker.scoreboard import Scoreboard, State, Word
from tests.host.fake import FakeGenerations, FakeHost, FakeOutput, Script

ROOT = Path(__file__).parents[1]


def made(host: FakeHost, workers: int = 2) -> Master:
    rules = Rules(workers=workers, graceful_timeout_s=5.0)
    return Master(
        host,
        Supervisor(rules, lambda: 1.0),
        FakeGenerations(rules),
        FakeOutput(),
        Scoreboard(workers + 1),
        ["http://127.0.0.1:8000", "unix:/s"],
    )


def test_from_start_to_exit_status(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    host = FakeHost()
    host.happens(v.Asked(v.Intent.STOP, "SIGTERM"), in_s=10.0)
    loop = made(host)
    assert loop.run() == 0
    assert not host.workers
    assert not host.templates
    assert not host.listening
    serving = "serving on http://127.0.0.1:8000, unix:/s with 2 workers (pid "
    assert [line for line in caplog.messages if line.startswith(serving)]
    assert caplog.messages[-1] == "stopped"
    assert loop.failures == 0


def test_one_worker_is_singular_and_a_missing_one_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    for workers, words in ((1, "with 1 worker (pid"), (2, "with 1 of 2 workers (pid")):
        host = FakeHost()
        host.scripts = lambda slot: Script.BOOT_FAILS if slot else Script.OBEDIENT
        host.happens(v.Asked(v.Intent.QUIT, "SIGQUIT"), in_s=10.0)
        made(host, workers).run()
        assert words in caplog.text


class Clumsy(FakeHost):
    """Fails at the verbs in ``fails``, as a bug of ours would."""

    def __init__(self, *fails: str) -> None:
        super().__init__()
        self.fails = list(fails)

    def stumble(self, verb: str) -> None:
        if verb in self.fails:
            self.fails.remove(verb)
            raise RuntimeError(f"a bug in {verb}")

    def wait(self, deadline: float) -> list[v.Event]:
        self.stumble("wait")
        return super().wait(deadline)

    def drain_worker(self, worker: int, budget_s: float, *, successor: bool) -> None:
        self.stumble("drain_worker")
        super().drain_worker(worker, budget_s, successor=successor)

    def start_template(self, generation: int, blueprint: Blueprint) -> None:
        self.stumble("start_template")
        super().start_template(generation, blueprint)

    def close_listeners(self) -> None:
        self.stumble("close_listeners")
        super().close_listeners()


def test_a_bug_in_one_deed_is_logged_counted_and_survived(
    caplog: pytest.LogCaptureFixture,
) -> None:
    host = Clumsy("wait", "wait", "drain_worker", "close_listeners")
    host.happens(v.Asked(v.Intent.STOP, "SIGTERM"), in_s=10.0)
    loop = made(host)
    assert loop.run() == 0
    assert loop.failures == 4
    assert not host.workers
    assert not host.templates
    assert caplog.text.count("[BUG] the master failed at something") == 4
    assert caplog.text.count("RuntimeError: a bug in") == 4


def test_a_template_that_was_not_started_by_a_bug_is_asked_for_again() -> None:
    host = Clumsy("start_template")
    host.happens(v.Asked(v.Intent.STOP, "SIGTERM"), in_s=200.0)
    assert made(host).run() == 0
    assert host.reaped


def test_a_master_that_only_fails_ends(caplog: pytest.LogCaptureFixture) -> None:
    host = Clumsy(*["wait"] * 1000)
    loop = made(host)
    assert loop.run() == 70
    assert loop.failures == master.MOST_FAILED_TURNS
    assert "every turn of the master fails" in caplog.text


def test_status() -> None:
    host = FakeHost()
    loop = made(host)
    while not host.ready_slots():
        loop.turn()
    words = loop._scoreboard.writer(0)
    words[Word.STATE], words[Word.REQUESTS], words[Word.CONNECTIONS] = State.READY, 7, 2
    words[Word.SHARE], words[Word.BUSY] = 333, 750
    for figure, word in enumerate(range(Word.GIVEN_FRESH, Word.HELPED + 1), 11):
        words[word] = figure
    status = loop.status()
    assert (status.service, status.generation, status.wanted) == ("booting", 1, 2)
    assert status.ready == 2
    assert status.workers == (
        WorkerStatus(0, 1, 101, "ready", "", True, 2, 0, 7, 0, 0, 0.75, 11, 12, 13, 14, 15, 16),
        WorkerStatus(1, 1, 102, "ready", "", False, 0, 0, 0, 0, 0, 0.0, *[0] * 6),
    )
    assert status.reload is None


def test_status_of_a_reload() -> None:
    host = FakeHost()
    loop = made(host)
    while loop.status().service != "serving":
        loop.turn()
    host.generation_scripts[2] = Script.BOOT_FAILS
    host.happens(v.Asked(v.Intent.RELOAD, "SIGHUP"))
    while (reload := loop.status().reload) is None:
        loop.turn()
    assert (reload.generation, reload.former, reload.step) == (2, 1, "starting its first worker")
    while reload.step != "abandoned":
        loop.turn()
        reload = loop.status().reload
        assert reload is not None
    assert "no such module" in reload.reason
    assert reload.traceback.startswith("Traceback: ")
    assert loop.status().generation == 1


class Unreadable(FakeGenerations):
    """Settings whose reading is a bug of ours, once."""

    fails = True

    def read(self, generation: int, in_use: Container[int]) -> v.SettingsRead | v.SettingsRefused:
        if self.fails:
            self.fails = False
            raise RuntimeError("a bug in read")
        return super().read(generation, in_use)


def test_a_bug_while_settings_are_read_ends_that_reload_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    host = FakeHost()
    loop = made(host)
    loop._generations = Unreadable(loop.supervisor.rules)
    host.happens(v.Asked(v.Intent.RELOAD, "SIGHUP"), in_s=5.0)
    host.happens(v.Asked(v.Intent.RELOAD, "SIGHUP"), in_s=10.0)
    host.happens(v.Asked(v.Intent.STOP, "SIGTERM"), in_s=60.0)
    assert loop.run() == 0
    assert caplog.text.count("RuntimeError: a bug in read") == 1
    assert "reload failed, generation 1 serves on: they cannot be read" in caplog.text
    assert loop.supervisor.reloads.generation == 3


def test_the_master_imports_neither_loop_nor_application() -> None:
    program = (
        "import asgi_supervise.cli, asgi_supervise.master, sys;"
        "print(*{'asyncio', 'uvloop', 'asgi_worker.main', 'httptools'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": f"{ROOT / 'supervisor'}:{ROOT / 'workers'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ""


def test_every_signal_has_a_sentence_for_people() -> None:
    assert set(INTENTS) >= {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
    assert all(sentence.endswith(".") for _, sentence in INTENTS.values())
