"""``docs/on-call.md`` quotes the log as it is: every line in it is one that something writes, and
every sentence that the policies can say is in it.

Lines of the policies are made by playing what leads to them. Those of other modules are held
against the text in the sources. Numbers and places are not compared.
"""

from __future__ import annotations

import ast
import errno
import os
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeGuard

import pytest

from asgi_supervise.host import preload
from asgi_supervise.host.logs import RecordStream
from asgi_supervise.policy import vocabulary as v
from asgi_supervise.settings.problems import SettingsError
from asgi_supervise.settings.restart import at_restart
from asgi_supervise.settings.schema import Settings
from asgi_supervise.settings.sources import load
from tests.host import fake
from tests.host.fake import Script
from tests.policy.stage import Stage

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/on-call.md").read_text(encoding="utf-8")
POLICY = sorted((ROOT / "supervisor/asgi_supervise/policy").glob("*.py"))
OTHERS = [
    ROOT / "supervisor/asgi_supervise/master.py",
    *sorted((ROOT / "supervisor/asgi_supervise/host").glob("*.py")),
    *sorted((ROOT / "workers/asgi_worker").rglob("*.py")),
]
RECORD = re.compile(r"^\d{4}(?:-\d\d){2} \d\d:\d\d:\d\d\.\d{3} \[\d+\] (?P<said>[A-Z]+ .*)$")

LEVELS = {"INFO", "WARNING", "ERROR"}
UNTOLD = {
    "signal 7": "it has no name that Python knows",
    "the service stops": "only shown in the status",
}
"""What the policies can say and the page need not have, and why."""

IMPORT = (
    "cannot import \"myproject.main\": ModuleNotFoundError: No module named 'myproject.billing'"
)
STARTUP = "the application failed at lifespan startup: cannot connect to database db.internal:5432"
SLOW_STARTUP = (
    "the application did not complete lifespan startup within 57.9 s (see --startup-timeout)"
)
SICK = "GET /healthz was answered 503"
TERMINATED = "it got SIGTERM, and not from the master"
SICK_AT_START = f"the application is not healthy after 58 s: {SICK} (see --health-path)"
FORK = f"fork: {os.strerror(errno.EAGAIN)}"
TRACEBACK = """\
Traceback (most recent call last):
  File "/srv/myproject/main.py", line 1, in <module>
ModuleNotFoundError: No module named 'myproject.billing'
"""


# --- what is compared ----------------------------------------------------------------------------


def masked(line: str) -> str:
    """``line`` without what differs from one time to the next."""
    line = re.sub(r'File "[^"]+", line \d+,? in \S+', "FRAME", line)
    line = re.sub(r"/[\w./-]+:\d+( in \w+)?", "PLACE", line)
    line = re.sub(r"/[\w./-]+\.(toml|log)\b", "FILE", line)
    line = re.sub(r"pid=(\d+|-)", "pid=#", line)
    return re.sub(r"0x[0-9a-f]+|\d+(\.\d+)?", "#", line)


def blocks() -> list[list[str]]:
    """The lines of each block of log on the page."""
    found = re.findall(r"^```log\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [block.splitlines() for block in found]


DOCUMENTED = list(dict.fromkeys(line for block in blocks() for line in block))
PATTERNS = re.findall(r"^\| `([^`]+)` \|", PAGE.split("## Is it serving?")[0], re.MULTILINE)


class Text(NamedTuple):
    """A sentence in the sources: its parts, between which something is filled in."""

    parts: tuple[str, ...]
    where: str

    def pattern(self) -> str:
        return ".*".join(re.escape(part) for part in self.parts)

    def filled(self) -> str:
        return "7".join(self.parts)

    def tells(self) -> bool:
        """Whether it is more than punctuation between two other texts."""
        said = " ".join(self.parts).removeprefix(f"{self.level()} ")
        return sum(character.isalpha() for character in said) > 3

    def level(self) -> str:
        """With which it is logged; "" if that is said elsewhere."""
        word = self.parts[0].partition(" ")[0]
        return word if word in LEVELS else ""


def parts_of(node: ast.expr) -> tuple[str, ...]:
    """Of the first line."""
    values = node.values if isinstance(node, ast.JoinedStr) else [node]
    parts = [""]
    for value in values:
        if not isinstance(value, ast.Constant):
            parts.append("")
            continue
        head, more, _ = str(value.value).partition("\n")
        parts[-1] += head
        if more:
            break
    return tuple(parts)


def _is_text(node: ast.expr | None) -> TypeGuard[ast.Constant]:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


@cache
def texts(path: Path) -> tuple[Text, ...]:
    """What is put together in ``path``: f-strings, and what is logged with arguments."""
    return tuple(text for text in _texts(path) if text.tells())


def _texts(path: Path) -> Iterator[Text]:
    module = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(module):
        where = f"{path.name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.JoinedStr):
            yield Text(parts_of(node), where)
        elif isinstance(node, ast.Return) and _is_text(node.value):
            yield Text(parts_of(node.value), where)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith((".say", "._turn")):
            if _is_text(node.args[-1]):
                yield Text(parts_of(node.args[-1]), where)
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and ast.unparse(node.func.value) == "log"
            and node.args
            and _is_text(node.args[0])
        ):
            (text,) = parts_of(node.args[0])
            level = {"EXCEPTION": "ERROR"}.get(node.func.attr.upper(), node.func.attr.upper())
            yield Text(tuple(re.split(r"%\.?\d*[a-z]", f"{level} {text}")), where)


# --- what the policies say -----------------------------------------------------------------------


def full(**rules: Any) -> Stage:
    stage = Stage(**rules)
    stage.until(stage.full)
    return stage


def until_said(stage: Stage, *words: str) -> Stage:
    stage.until(lambda: bool(stage.said_with(*words)))
    return stage


def newest(stage: Stage) -> int:
    """The worker asked for last, once it is forked."""
    number = stage.supervisor.fleet.asked + 1
    stage.until(lambda: number in stage.host.workers and bool(stage.host.workers[number].pid))
    return number


def reloading(script: Script, **rules: Any) -> tuple[Stage, int]:
    """A service whose new generation is like ``script``; its canary is there."""
    stage = full(**rules)
    stage.script(script, script)
    stage.ask(v.Intent.RELOAD, "SIGHUP")
    return stage, newest(stage)


def cannot_start(stage: Stage, worker: int, reason: str, traceback: str = "") -> Stage:
    stage.host.happens(v.WorkerBootFailed(worker, reason, traceback))
    stage.host.crash_worker(worker, 3, 0.01)
    until_said(stage, "cannot start")
    stage.turn()
    return stage


def good_reload() -> Iterator[Stage]:
    stage = full()
    stage.generations.at_restart = at_restart(
        Settings(app="a:b", backlog=2048, workers=2), Settings(app="a:b", backlog=100, workers=4)
    )
    stage.ask(v.Intent.RELOAD, "SIGHUP")
    until_said(stage, "watched for")
    stage.ask(v.Intent.RELOAD, "SIGHUP")
    yield until_said(stage, "reload complete")


def new_versions_that_cannot_start() -> Iterator[Stage]:
    for reason in (IMPORT, STARTUP, SLOW_STARTUP):
        stage, canary = reloading(Script.HANGS)
        yield cannot_start(stage, canary, reason, TRACEBACK)
    stage, _ = reloading(Script.HANGS)
    stage.host.kill_worker = lambda worker: None  # type: ignore[method-assign] # SIGTERM was sooner
    yield until_said(stage, "was killed by SIGTERM")
    stage = full(preload=True)
    stage.host.template_script = Script.HANGS
    stage.ask(v.Intent.RELOAD, "SIGHUP")
    stage.until(lambda: 2 in stage.host.templates)
    stage.host.happens(v.TemplateBootFailed(2, IMPORT, TRACEBACK))
    yield until_said(stage, "reload failed")


def new_versions_that_fail_later() -> Iterator[Stage]:
    stage, canary = reloading(Script.OBEDIENT)
    until_said(stage, "watched for")
    stage.host.crash_worker(canary, 1, 1.0)
    yield until_said(stage, "reload failed")
    stage, canary = reloading(Script.OBEDIENT)
    until_said(stage, "watched for")
    stage.host.change_health(canary, SICK)
    yield until_said(stage, "reload failed")
    stage, canary = reloading(Script.OBEDIENT, startup_timeout_s=10.0)
    until_said(stage, "watched for")
    stage.host.hang(canary)
    yield until_said(stage, "reload failed")
    stage, _ = reloading(Script.OBEDIENT)
    stage.script(Script.OBEDIENT, Script.CRASHES)
    yield until_said(stage, "died young")


def reloads_the_system_or_the_settings_prevent() -> Iterator[Stage]:
    stage = full()
    stage.host.start_template = lambda generation, blueprint: stage.host.happens(  # type: ignore[method-assign]
        v.TemplateRefused(generation, FORK)
    )
    stage.ask(v.Intent.RELOAD, "SIGHUP")
    yield until_said(stage, "reload failed")
    stage = full()
    stage.ask(v.Intent.RELOAD, "SIGHUP")
    stage.until(lambda: 2 in stage.host.templates)
    stage.host.templates[2].hung = True
    stage.until(lambda: 3 in stage.host.workers)
    stage.host.crash_template(2, -9)
    yield until_said(stage, "reload failed")
    with TemporaryDirectory() as directory:
        file = Path(directory, "settings.toml")
        file.write_text('app = "a:b"\nworkers = "two"\n')
        with pytest.raises(SettingsError) as refused:
            load({"config": str(file)}, {}, Path(directory))
    stage = full()
    stage.generations.refusal = f"the settings are wrong\n{refused.value}"
    stage.ask(v.Intent.RELOAD, "SIGHUP")
    yield until_said(stage, "reload failed")


def stops() -> Iterator[Stage]:
    stage = full(shutdown_delay_s=10.0)
    stage.ask(v.Intent.RELOAD, "SIGHUP")
    until_said(stage, "watched for")
    stage.ask(v.Intent.STOP, "SIGTERM")
    stage.turn()
    stage.ask(v.Intent.RELOAD, "SIGHUP")
    yield until_said(stage, "info: stopped")
    stage = full()
    stage.ask(v.Intent.MORE, "SIGTTIN")
    stage.ask(v.Intent.STOP, "SIGTERM")
    stage.turn()
    stage.ask(v.Intent.QUIT, "SIGQUIT")
    yield until_said(stage, "info: stopped")
    stage = Stage()
    stage.script(Script.DEAF)
    stage.until(stage.full)
    stage.ask(v.Intent.STOP, "SIGTERM")
    yield until_said(stage, "info: stopped")


def gives_up() -> Iterator[Stage]:
    stage = Stage()
    stage.script(Script.BOOT_FAILS, Script.BOOT_FAILS)
    yield until_said(stage, "info: stopped")
    stage = Stage()
    stage.until(stage.full)
    stage.script(Script.BOOT_FAILS, Script.BOOT_FAILS)
    for worker in list(stage.host.workers):
        stage.host.crash_worker(worker, 1)
    yield until_said(stage, "info: stopped")


def deaths() -> Iterator[Stage]:
    stage = Stage()
    stage.until(stage.full)
    stage.host.change_health(stage.host.in_slot(1), TERMINATED)
    yield until_said(stage, "is unhealthy")
    for status, out_of_memory in ((1, False), (-9, False), (-9, True), (-11, False)):
        stage = full()
        worker = stage.host.in_slot(0)
        del stage.host.workers[worker]  # so that what is reported of it is as told here
        stacks = fake.STACKS if status == -11 else ""
        stage.host.happens(v.WorkerExited(worker, status, out_of_memory, stacks))
        yield until_said(stage, "replacing it")
    stage = full()
    stage.script(Script.HANGS)
    stage.host.crash_worker(stage.host.in_slot(0), 1)
    cannot_start(stage, newest(stage), IMPORT)
    cannot_start(stage, newest(stage), IMPORT)
    stage.host.crash_worker(newest(stage), -9)
    yield until_said(stage, "before it was ready")


def templates() -> Iterator[Stage]:
    stage = full()
    stage.host.crash_template(1, -9)
    yield until_said(stage, "next try for the template")
    stage = full()
    stage.host.templates[1].hung = True
    stage.host.crash_worker(stage.host.in_slot(0), 1)
    yield until_said(stage, "does not fork")
    stage = full()
    stage.host.spawn_worker = lambda worker, *_: stage.host.happens(  # type: ignore[method-assign]
        v.WorkerRefused(worker, FORK)
    )
    stage.host.crash_worker(stage.host.in_slot(0), 1)
    yield until_said(stage, "cannot fork")
    stage = Stage()
    stage.script(Script.BABBLES)
    yield until_said(stage, "not MessagePack")


def hangs() -> Iterator[Stage]:
    stage = full()
    worker = stage.host.in_slot(0)
    for _ in range(30):
        stage.host.hang(worker, 0.6)
        began = stage.host.now()
        stage.until(lambda began=began: stage.host.now() > began + 1.2)  # type: ignore[misc]
    until_said(stage, "more like it")
    stage.host.hang(worker)
    yield until_said(stage, "was killed by SIGABRT")
    header = "Current thread 0x00007f (most recent call first):\n"
    for state, dump in (("T", ""), ("D", ""), ("S", ""), ("R", header)):
        stage = full()
        read = lambda generation, worker, state=state, dump=dump, stage=stage: stage.host.happens(  # noqa: E731
            v.StacksRead(generation, worker, dump, state)
        )
        stage.host.read_stacks = read  # type: ignore[method-assign]
        stage.host.hang(stage.host.in_slot(0))
        yield until_said(stage, "is stuck")
    stage = Stage()
    stage.script(Script.DEAF)
    stage.until(stage.full)
    stage.host.hang(stage.host.in_slot(0))
    yield until_said(stage, "was killed by SIGKILL from the master")


def health() -> Iterator[Stage]:
    stage = full()
    worker = stage.host.in_slot(0)
    stage.host.clock += 60
    stage.script(Script.HANGS)
    stage.host.change_health(worker, SICK)
    cannot_start(stage, newest(stage), SICK_AT_START)
    stage.host.change_health(worker, "")
    yield until_said(stage, "is healthy again")


SCENES: list[Callable[[], Iterator[Stage]]] = [
    *(good_reload, new_versions_that_cannot_start, new_versions_that_fail_later),
    *(reloads_the_system_or_the_settings_prevent, stops, gives_up, deaths, templates, hangs),
    health,
]


@cache
def played() -> frozenset[str]:
    """Every line of every scene, masked."""
    lines = set()
    for scene in SCENES:
        for stage in scene():
            for said in stage.said:
                level, _, text = said.partition(": ")
                lines |= {masked(line) for line in f"{level.upper()} {text}".splitlines()}
    return frozenset(lines)


@cache
def written_by_others() -> frozenset[str]:
    """Lines that are made here by the code that makes them there."""
    stream = RecordStream()
    stream.lost, stream._why = 12, os.strerror(errno.ENOSPC)
    lost = RECORD.match(stream._confession().rstrip())
    assert lost
    thread = 'thread "metrics" running myproject.main.pump (/srv/myproject/main.py:2)'
    warning = f"WARNING {preload.warning('myproject.main:app', [thread])}"
    return frozenset(masked(line) for line in (lost["said"], *warning.splitlines()))


def is_written(line: str) -> bool:
    record = RECORD.match(line)
    said = record["said"] if record else line
    if masked(said) in played() | written_by_others():
        return True
    return record is not None and any(
        re.fullmatch(text.pattern(), said)
        for path in OTHERS
        for text in texts(path)
        if text.level()
    )


# --- the tests -----------------------------------------------------------------------------------


def test_the_page_is_found() -> None:
    assert len(DOCUMENTED) > 80
    assert len(PATTERNS) > 20


def test_every_line_on_the_page_is_one_that_is_written() -> None:
    wrong = [line for line in DOCUMENTED if not is_written(line)]
    assert wrong == [], "docs/on-call.md shows what nothing writes"


def test_every_pattern_to_be_looked_up_is_that_of_a_line() -> None:
    lines = played() | written_by_others()
    lines |= {text.filled().replace("7", "#") for path in OTHERS for text in texts(path)}
    lines |= {line.partition(" ")[2] for line in lines}  # what is logged has its level before it
    lines |= {text.filled() for path in POLICY for text in texts(path) if "[BUG]" in text.filled()}

    def is_a_line(pattern: str) -> bool:
        expected = re.compile(".*".join(re.escape(masked(part)) for part in pattern.split("…")))
        return any(expected.fullmatch(line) for line in lines)

    assert [pattern for pattern in PATTERNS if not is_a_line(pattern)] == []


@pytest.mark.parametrize(
    "reason", [IMPORT, STARTUP, SLOW_STARTUP, SICK, TERMINATED, SICK_AT_START, FORK]
)
def test_a_reason_is_one_that_the_code_gives(reason: str) -> None:
    assert any(
        f'"{reason}"' in path.read_text()
        or any(re.search(text.pattern(), reason) for text in texts(path))
        for path in OTHERS
    )


@pytest.mark.parametrize("path", POLICY, ids=lambda path: path.stem)
def test_what_the_policies_can_say_is_on_the_page(path: Path) -> None:
    page = [line for block in blocks() for line in block] + PATTERNS
    missing = [
        f"{text.where}: {text.filled()}"
        for text in texts(path)
        if "[BUG]" not in text.filled() and text.filled() not in UNTOLD
        if not any(re.search(text.pattern(), line) for line in page)
    ]
    assert missing == [], "docs/on-call.md does not have it"
