"""What a reload makes of the settings it reads."""

from __future__ import annotations

from pathlib import Path

import msgspec

from asgi_supervise.host.sockets import Listeners
from asgi_supervise.host.template import Blueprint
from asgi_supervise.plans import Plans, rules_of
from asgi_supervise.policy import vocabulary as v
from asgi_supervise.settings.schema import Settings
from asgi_supervise.settings.sources import Loaded
from asgi_worker.inbox import Inboxes
from asgi_worker.scoreboard import Scoreboard

OLD = Settings(app="fruitshop:app", workers=2)


def plans(new: Settings) -> Plans:
    blueprint = Blueprint(
        settings=OLD.worker_settings(),
        listeners=Listeners([]),
        scoreboard=Scoreboard(1),
        inboxes=Inboxes(0),
    )
    return Plans(OLD, lambda: Loaded(new, {}, Path()), blueprint)


def test_how_connections_are_balanced_changes_with_a_reload() -> None:
    made = plans(msgspec.structs.replace(OLD, balance="kernel", canary_weight=0.25, workers=3))
    read = made.read(2, {1})
    assert isinstance(read, v.SettingsRead)
    assert (read.rules.balance, read.rules.canary_weight) == ("kernel", 0.25)
    assert read.rules.workers == 2
    assert read.at_restart == ("workers 2 → 3",)
    assert made.blueprint(2).settings.balance == "kernel"
    assert made.blueprint(1).settings.balance == "exact", "its workers still are what they were"


def test_by_default_a_canary_gets_as_much_as_any_other() -> None:
    assert rules_of(OLD).canary_share == 1 / 3
    assert rules_of(msgspec.structs.replace(OLD, canary_weight=0.1)).canary_share == 0.1
    assert rules_of(msgspec.structs.replace(OLD, balance="off")).canary_share is None
