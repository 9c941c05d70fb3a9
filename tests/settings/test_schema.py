"""The table is complete, agrees with what workers are told, and cannot be changed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import get_type_hints

import msgspec
import pytest

from asgi_supervise.settings.entry import PANELS, Entry
from asgi_supervise.settings.schema import TABLE, Settings
from asgi_supervise.settings.shorthand import Shorthand
from asgi_supervise.settings.sources import load
from asgi_worker.contract import WorkerSettings

WITH_DEFAULT = [entry for entry in TABLE if entry.default is not msgspec.NODEFAULT]


def name(entry: Entry) -> str:
    return entry.word


@pytest.mark.parametrize("entry", TABLE, ids=name)
def test_every_setting_is_described(entry: Entry) -> None:
    assert entry.setting.help.endswith(".")
    assert entry.setting.panel in PANELS
    assert entry.shown_default
    assert entry.variables[0].startswith("ASGI_SUPERVISE_")


@pytest.mark.parametrize("names", ["flags", "variables"])
def test_no_name_means_two_things(names: str) -> None:
    count = Counter(each for entry in TABLE for each in getattr(entry, names))
    assert [each for each, times in count.items() if times > 1] == []


@pytest.mark.parametrize("entry", [e for e in WITH_DEFAULT if not e.setting.default], ids=name)
def test_a_default_is_a_value_that_could_be_given(entry: Entry) -> None:
    kind, shown = entry.setting.kind, entry.shown_default
    if shown == "none":
        assert entry.default is None
    elif kind.is_list:
        parts = shown.split(kind.separator)
        assert tuple(kind.parse(part) for part in parts) == entry.default
    else:
        assert kind.parse(shown) == entry.default


def test_what_workers_are_told_has_the_same_names_types_and_defaults() -> None:
    ours, theirs = get_type_hints(Settings), get_type_hints(WorkerSettings)
    theirs["log_level"] = ours["log_level"]  # to them any name will do, it is checked here
    assert {field: ours.get(field) for field in theirs} == theirs
    defaults = {field.name: field.default for field in msgspec.structs.fields(Settings)}
    for field in msgspec.structs.fields(WorkerSettings):
        assert defaults[field.name] == field.default, field.name


def test_workers_are_told_what_was_set() -> None:
    settings = Settings(app="a:b", workers=3, ws_max_bytes=5, user="nobody", access_log=False)
    assert settings.worker_settings() == WorkerSettings(
        app="a:b", workers=3, ws_max_bytes=5, access_log=False
    )


def test_settings_do_not_change() -> None:
    settings = Settings(app="a:b")
    with pytest.raises(AttributeError):
        settings.workers = 2  # type: ignore[misc]


def test_what_leads_to_a_setting_is_none() -> None:
    assert not set(Shorthand.__struct_fields__) & set(Settings.__struct_fields__)


# What people who come from elsewhere have in their scripts.
UVICORN = """
    --host --port --uds --fd --app-dir --factory --lifespan --loop --root-path --backlog --workers
    --log-level --access-log --proxy-headers --forwarded-allow-ips --server-header --date-header
    --header --limit-concurrency --timeout-keep-alive --timeout-graceful-shutdown --ws-max-size
    --ws-max-queue --ws-ping-interval --ws-ping-timeout --ws-per-message-deflate --env-file
    --timeout-worker-healthcheck
"""
GUNICORN = """
    -w --workers -b --bind --backlog --chdir --preload --user --group --umask --pid
    --graceful-timeout --timeout --access-logfile --error-logfile --log-file --log-level
    --forwarded-allow-ips
"""


@pytest.mark.parametrize("flag", sorted({*UVICORN.split(), *GUNICORN.split()}))
def test_words_of_uvicorn_and_gunicorn_are_understood(flag: str) -> None:
    assert [entry.word for entry in TABLE if flag in entry.flags]


def test_loading_nothing_equals_the_defaults_of_the_struct(tmp_path: Path) -> None:
    assert load({"app": "a:b"}, {}, tmp_path).settings == Settings(app="a:b")
