"""What a reload leaves as it was, and how the difference is told."""

from __future__ import annotations

import msgspec

from asgi_supervise.settings.entry import declared
from asgi_supervise.settings.restart import at_restart, without_restart
from asgi_supervise.settings.schema import Settings

OLD = Settings(app="a:b", workers=2, log_file="/x")
NEW = Settings(
    app="a:c",
    workers=4,
    bind=("127.0.0.1:1", "unix:/s"),
    uds_mode=0o660,
    pid="/run/x.pid",
    bake_time_s=1.0,
    user="nobody",
    chdir="/srv",
)


def test_what_only_a_restart_changes_is_named_with_both_values() -> None:
    assert set(at_restart(OLD, NEW)) == {
        "workers 2 → 4",
        "bind 127.0.0.1:8000 → 127.0.0.1:1, unix:/s",
        "uds-mode 666 → 660",
        "pid none → /run/x.pid",
        "log-file /x → none",
    }
    assert at_restart(NEW, NEW) == ()
    assert at_restart(OLD, Settings(app="c:d", workers=2, log_file="/x", loop="asyncio")) == ()


def test_everything_else_is_new() -> None:
    adopted = without_restart(OLD, NEW)
    kept = {entry.field for entry in declared(Settings) if entry.setting.restart}
    assert kept == {
        *("bind", "backlog", "uds_mode", "workers", "pid", "log_file", "access_log_file")
    }
    for field in Settings.__struct_fields__:
        assert getattr(adopted, field) == getattr(OLD if field in kept else NEW, field), field
    assert at_restart(OLD, adopted) == ()


def test_a_restart_is_needed_for_as_long_as_the_file_says_so() -> None:
    adopted = without_restart(OLD, NEW)
    assert at_restart(adopted, NEW) == at_restart(OLD, NEW)
    assert without_restart(adopted, OLD) == OLD
    assert msgspec.structs.asdict(without_restart(OLD, OLD)) == msgspec.structs.asdict(OLD)
