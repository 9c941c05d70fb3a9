"""Storms: whatever happens in whatever order, the fleet is whole again, and every stop ends.

What must hold after each single turn is in :meth:`Stage.check`.
"""

from __future__ import annotations

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from asgi_supervise.policy import vocabulary as v
from tests.host.fake import Script
from tests.policy.stage import Stage

GRACEFUL_S = 5.0
SLOTS = st.integers(0, 3)
HARMLESS = [intent for intent in v.Intent if intent.name not in ("STOP", "INTERRUPT", "QUIT")]


class Storm(RuleBasedStateMachine):
    @initialize(
        workers=st.integers(1, 4),
        seed=st.integers(0, 2**16),
        preload=st.booleans(),
        max_restarts=st.sampled_from([1, 5, 1000]),
        calm=st.booleans(),
        bake_s=st.sampled_from([0.0, 0.5, 5.0]),
        worker_timeout_s=st.sampled_from([None, 1.0]),
        shutdown_delay_s=st.sampled_from([0.0, 2.0]),
    )
    def start(
        self,
        *,
        workers: int,
        seed: int,
        preload: bool,
        max_restarts: int,
        calm: bool,
        bake_s: float,
        worker_timeout_s: float | None,
        shutdown_delay_s: float,
    ) -> None:
        self.stage = Stage(
            random.Random(seed).random,
            workers=workers,
            preload=preload,
            max_restarts=max_restarts,
            graceful_timeout_s=GRACEFUL_S,
            startup_timeout_s=10.0,
            bake_s=bake_s,
            worker_timeout_s=worker_timeout_s,
            shutdown_delay_s=shutdown_delay_s,
        )
        if calm:
            self.stage.until(self.stage.full)

    @rule(turns=st.integers(1, 6))
    def time_passes(self, turns: int) -> None:
        for _ in range(turns):
            if not self.stage.done():
                self.stage.turn()

    @rule(scripts=st.lists(st.sampled_from(Script), max_size=4))
    def next_workers_are(self, scripts: list[Script]) -> None:
        self.stage.script(*scripts)

    @rule(script=st.sampled_from(Script))
    def next_template_is(self, script: Script) -> None:
        self.stage.host.template_script = script

    @rule(script=st.sampled_from(Script), ahead=st.integers(1, 2))
    def a_generation_will_be(self, script: Script, ahead: int) -> None:
        newest = self.stage.supervisor.reloads.generation
        self.stage.host.generation_scripts[newest + ahead] = script

    @rule(times=st.integers(1, 3))
    def reload(self, times: int) -> None:
        for _ in range(times):
            self.stage.ask(v.Intent.RELOAD)

    @rule(refusal=st.sampled_from(["", "workers = x: not a number"]))
    def settings_are(self, refusal: str) -> None:
        self.stage.generations.refusal = refusal

    @rule(slot=SLOTS, seconds=st.sampled_from([0.3, 3.0, 100.0]))
    def loop_hangs(self, slot: int, seconds: float) -> None:
        for number, child in self.stage.host.workers.items():
            if child.slot == slot and child.ready:
                self.stage.host.hang(number, seconds)

    @rule(slot=SLOTS, sick=st.booleans())
    def health_changes(self, slot: int, sick: bool) -> None:
        for number, child in self.stage.host.workers.items():
            if child.slot == slot and child.ready:
                self.stage.host.change_health(number, "/healthz answered 500" if sick else "")

    @rule(refused=st.booleans())
    def forks_are_refused(self, refused: bool) -> None:
        self.stage.host.forks_refused = refused

    @rule(slot=SLOTS, status=st.sampled_from([0, 1, 3, -6, -9, -11]))
    def worker_dies(self, slot: int, status: int) -> None:
        for number, child in self.stage.host.workers.items():
            if child.slot == slot and child.pid is not None:
                self.stage.host.crash_worker(number, status)

    @rule(status=st.sampled_from([0, 70, -9]))
    def template_dies(self, status: int) -> None:
        for generation in self.stage.host.templates:
            self.stage.host.crash_template(generation, status)

    @rule()
    def template_hangs(self) -> None:
        for template in self.stage.host.templates.values():
            template.hung = True

    @rule(intent=st.sampled_from(HARMLESS))
    def somebody_asks(self, intent: v.Intent) -> None:
        self.stage.ask(intent)

    @rule(seconds=st.floats(0.0, 100.0))
    def the_master_is_late(self, seconds: float) -> None:
        self.stage.host.clock += seconds

    @precondition(lambda self: not self.stage.done())
    @rule(
        intents=st.lists(
            st.sampled_from([v.Intent.STOP, v.Intent.INTERRUPT, v.Intent.QUIT]), min_size=1
        )
    )
    def told_to_stop(self, intents: list[v.Intent]) -> None:
        for intent in intents:
            self.stage.ask(intent)

    def teardown(self) -> None:
        if not hasattr(self, "stage"):
            return
        stage = self.stage
        self.next_workers_are([])
        self.next_template_is(Script.OBEDIENT)
        self.forks_are_refused(False)
        self.settings_are("")
        stage.host.generation_scripts.clear()
        # What was broken before may still end the service; if not, it is whole again.
        stage.until(lambda: stage.done() or (stage.full() and not stage.host.busy))
        if not stage.done():
            assert stage.stop() < GRACEFUL_S + 5 + stage.rules.shutdown_delay_s
            assert stage.supervisor.verdict == 0
        stage.check_empty()


Storm.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestStorms = Storm.TestCase
