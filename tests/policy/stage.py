"""The real loop on the fake host, turn by turn, with what must be true after every turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asgi_supervise.master import Master
from asgi_supervise.policy import vocabulary as v
from asgi_supervise.policy.health import Rules
from asgi_supervise.policy.lifecycle import Phase, Service
from asgi_supervise.policy.sizing import SURGE, most_workers
from asgi_supervise.policy.supervisor import Supervisor
from asgi_worker.scoreboard import Scoreboard
from tests.host.fake import Deadlock, FakeGenerations, FakeHost, FakeOutput, Script

MOST_TURNS = 3000


class Stage:
    def __init__(self, roll: Callable[[], float] = lambda: 1.0, **rules: Any) -> None:
        self.rules = Rules(**{"workers": 2, **rules})
        self.host = FakeHost()
        self.supervisor = Supervisor(self.rules, roll)
        self.generations = FakeGenerations(self.rules)
        self.output = FakeOutput()
        self.master = Master(
            self.host,
            self.supervisor,
            self.generations,
            self.output,
            Scoreboard(most_workers(self.rules)),
            ["http://test"],
        )
        self.acts: list[v.Act] = []
        self.events: list[v.Event] = []
        self.bugs_expected = False

    @property
    def said(self) -> list[str]:
        """Every line of the log."""
        return [f"{act.level}: {act.text}" for act in self.acts if isinstance(act, v.Say)]

    def said_with(self, *words: str) -> list[str]:
        return [line for line in self.said if all(word in line for word in words)]

    def script(self, *scripts: Script) -> None:
        """What the next workers are like, by slot; slots beyond are obedient."""
        self.host.scripts = lambda slot: scripts[slot] if slot < len(scripts) else Script.OBEDIENT

    def turn(self) -> None:
        """One turn, as :meth:`Master.turn` takes it."""
        now = self.host.now()
        acts = self.supervisor.decide(now)
        deadline = self.supervisor.deadline()
        self.supervisor._has_news = True
        again = self.supervisor.decide(now)
        assert again == [], f"made once, and nothing is left out though nothing is new: {acts}"
        assert self.supervisor.deadline() == deadline, "it would come too late"
        for act in acts:
            self.check_act(act)
            self.acts.append(act)
            self.master.perform(act)
        if not self.supervisor.done:
            deadline = self.supervisor.deadline()
            read = any(isinstance(act, v.ReadSettings) for act in acts)  # then more is wished
            assert deadline > now or read, "what is due was not done: the loop would spin"
            try:
                happened = self.host.wait(deadline)
            except Deadlock:
                assert self.full(), "it waits for ever for something that will not happen"
                return
            for event in happened:
                self.events.append(event)
                self.supervisor.observe(event, self.host.now())
        self.check()

    def check_act(self, act: v.Act) -> None:
        reloads, workers = self.supervisor.reloads, self.supervisor.fleet.workers
        match act:
            case v.DrainWorker(worker=number, successor=True):
                worker = workers[number]
                others = [
                    other
                    for other in workers.values()
                    if other.slot == worker.slot
                    and (other.generation == reloads.generation or worker.unhealthy)
                    and other.life.phase is Phase.READY
                ]
                accepted = worker.generation <= reloads.generation
                makes_room = worker.life.retired  # and has not said first that it cannot start
                assert others or not (accepted and makes_room), (
                    "who makes room is succeeded, or was never accepted"
                )
            case v.AdoptSettings(generation=generation):
                ready = [
                    event.worker for event in self.events if isinstance(event, v.WorkerBecameReady)
                ]
                spawned = [act for act in self.acts if isinstance(act, v.SpawnWorker)]
                assert any(a.generation == generation and a.worker in ready for a in spawned), (
                    "a generation never ready is never accepted"
                )
            case v.Steer(weights=weights):
                assert len(weights) == self.rules.workers
                assert sum(weights) > 0, "somebody gets it"
            case v.PromoteWorker(worker=number):
                assert workers[number].generation == reloads.generation, "who was accepted"
            case v.SpawnWorker(generation=generation):
                assert generation in (reloads.generation, reloads.candidate)
            case _:
                pass

    def check(self) -> None:
        assert self.host.violations == []
        fleet = self.supervisor.fleet
        workers = fleet.workers.values()
        assert len(workers) <= self.rules.workers + SURGE, "never more than wanted and surge"
        seats = [worker.seat for worker in workers]
        assert len(set(seats)) == len(seats), "one worker a seat"
        assert set(seats) <= set(range(self.rules.workers + SURGE))
        assert {worker.slot for worker in workers} <= set(range(self.rules.workers))
        exited = [event.worker for event in self.events if isinstance(event, v.WorkerExited)]
        assert len(set(exited)) == len(exited), "each worker is reaped once"
        assert set(self.host.workers) <= set(fleet.workers), "no worker is forgotten"
        assert set(self.host.templates) <= set(fleet.templates), "no template is forgotten"
        self.check_rescue()
        if not self.bugs_expected:
            assert self.said_with("[BUG]") == []

    def check_rescue(self) -> None:
        slots, seats, takers = self.host.rescued
        known = {number: self.supervisor.fleet.workers.get(number) for number in takers}
        alive = [worker for worker in known.values() if worker is not None]
        assert not {worker.seat for worker in alive} & set(seats), "who takes empties its own inbox"
        accepting = {w.slot for w in alive if w.generation != self.supervisor.reloads.candidate}
        assert takers or not (slots or seats)
        if self.supervisor.rules.balance == "off":
            assert not slots
        elif len(alive) == len(known):  # else it is put right with the next decision
            assert accepting | set(slots) == set(range(self.rules.workers)) or not takers

    def until(self, condition: Callable[[], bool], most_turns: int = MOST_TURNS) -> None:
        for _ in range(most_turns):
            if condition():
                return
            self.turn()
        raise AssertionError(f"in vain; the last that was said: {self.said[-5:]}")

    def pass_time(self, seconds: float) -> None:
        end = self.host.now() + seconds
        self.host.later(seconds, lambda: None)
        self.until(lambda: self.host.now() >= end)

    def serving(self) -> bool:
        return self.supervisor.service is Service.SERVING

    def full(self) -> bool:
        """Everything wanted is there, serves, is of the generation wanted; nothing is replaced."""
        return (
            self.serving()
            and self.supervisor.reloads.current is None
            and self.host.ready_slots() == list(range(self.rules.workers))
            and len(self.host.workers) == self.rules.workers
            and self.generations_serving() == {self.supervisor.reloads.generation}
            and len(self.host.templates) <= 1
            and not any(worker.unhealthy for worker in self.supervisor.fleet.workers.values())
        )

    def generations_serving(self) -> set[int]:
        """Generations of those that serve."""
        return {worker.generation for worker in self.host.serving()}

    def reload(self) -> None:
        """Ask for a reload, and wait until it is over one way or the other."""
        last = self.supervisor.reloads.last
        self.ask(v.Intent.RELOAD, "SIGHUP")
        self.until(lambda: self.supervisor.reloads.last is not last)
        self.turn()

    def done(self) -> bool:
        return self.supervisor.done

    def ask(self, intent: v.Intent, by: str = "test") -> None:
        self.host.happens(v.Asked(intent, by))

    def stop(self) -> float:
        """Stop gracefully and check that nothing is left; how long it took."""
        began = self.host.now()
        self.ask(v.Intent.STOP)
        self.until(self.done)
        self.check_empty()
        return self.host.now() - began

    def check_empty(self) -> None:
        assert (self.host.workers, self.host.templates) == ({}, {})
        assert self.supervisor.fleet.empty()
        assert not self.host.listening


def serving(**rules: Any) -> Stage:
    """A stage with two workers that have been serving for a minute, and are watched."""
    stage = Stage(workers=2, **rules)
    stage.until(stage.full)
    stage.host.clock += 60
    for _ in range(4):
        stage.turn()
    return stage
