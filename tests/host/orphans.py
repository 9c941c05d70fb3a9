"""A master that will be killed; whoever reads its standard output knows when nobody is left."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys

import msgspec

from tests.host import contract
from tests.host.contract import Stage
from tests.host.fake import Script


def go_through_everything(stage: Stage) -> None:
    stage.with_template(1)
    stage.with_worker(1, 0, 1)
    stage.host.spawn_worker(2, 1, 1, 1)
    stage.host.start_template(2, stage.blueprint)
    stage.until(lambda events: len(events) == 4)
    stage.with_worker(3, 1, 2)
    stage.host.stop_template(1)
    stage.host.drain_worker(1, 5.0, successor=True)
    stage.until_exits(1)
    stage.host.kill_template(2)
    stage.until_template_exits()
    stage.host.start_template(2, stage.blueprint)  # which takes over a worker
    stage.until(lambda events: len(events) == 2)


def hang(stage: Stage) -> None:
    stage.set_scripts([Script.STUCK])
    settings = msgspec.structs.replace(stage.blueprint.settings, graceful_timeout_s=0.5)
    stage.blueprint = dataclasses.replace(stage.blueprint, settings=settings)
    stage.with_template()
    stage.with_workers(0)
    stage.until_stuck(1)
    if sys.argv[2] == "retired":
        stage.host.stop_template(1)
    if sys.argv[2] == "successor":
        stage.host.kill_template(1)
        stage.until_template_exits()
        stage.with_template()
    stage.nothing_happens()
    print("hanging", flush=True)


def import_for_ever(stage: Stage) -> None:
    settings = msgspec.structs.replace(
        stage.blueprint.settings, app="endless:app", app_dir=sys.argv[2]
    )
    stage.host.start_template(
        1, dataclasses.replace(stage.blueprint, settings=settings, preload=True)
    )
    sys.stdin.readline()


if __name__ == "__main__":
    stage = contract.on_posix_host()
    print("here", flush=True)
    sys.stdin.readline()
    globals()[sys.argv[1]](stage)
    os.kill(os.getpid(), signal.SIGKILL)
