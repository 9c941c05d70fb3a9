"""`python -m tests.benchmarks`: measure this server and its peers, print tables.

All servers of a round stand ready at the same time, idle but for the one that is measured, so
that one case follows the next server within seconds: a machine that slows down for a minute slows
all of them. Each round starts new processes (no two have the same memory layout, which alone is
worth some per cent) and begins with another server.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import os
import signal
import sys
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

from tests.benchmarks import environment, fleet, machine, profiling, report
from tests.benchmarks.cases import CASES, Case
from tests.benchmarks.load import Failed, measure
from tests.benchmarks.servers import OURS, SERVERS, CannotServe, Running, Server
from tests.benchmarks.trials import TRIALS, trial_aims, trial_table


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    cases = [case.name for case in CASES]
    trials = [trial.name for trial in TRIALS]
    servers = list(dict.fromkeys(server.name for server in (*SERVERS, *fleet.FLEETS)))
    add = parser.add_argument
    add("--case", action="append", choices=cases + trials, help="only this case (repeatable)")
    add("--server", action="append", choices=servers, help="only this server (repeatable)")
    add("--rounds", type=int, default=4, help="measurements of each (default: 4)")
    add("--seconds", type=int, default=1, help="length of each measurement (default: 1)")
    add("--write", action="store_true", help="keep the tables in docs/benchmarks.md")
    add("--fresh", action="store_true", help="make .bench/env anew, with the newest peers")
    add(
        "--profile",
        metavar="CASE",
        choices=cases,
        help="show where our worker (or that of --server) spends its time in CASE",
    )
    chosen = parser.parse_args(words)
    if chosen.rounds < 1 or chosen.seconds < 1:
        parser.error("--rounds and --seconds must be at least 1")
    if chosen.write and (chosen.case or chosen.server or chosen.profile):
        parser.error("--write keeps whole runs only: leave out --case, --server and --profile")
    return chosen


def main() -> int:
    chosen = arguments()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        with environment.alone():
            environment.need_tools()
            environment.build(fresh=chosen.fresh)
            cores = os.sched_getaffinity(0)
            server_core, load_core = machine.two_cores()
            os.sched_setaffinity(0, {load_core})
            with tempfile.TemporaryDirectory(dir=environment.HERE) as directory:
                if chosen.profile:
                    lines = _profile(chosen, server_core, Path(directory))
                else:
                    lines = _measure_all(chosen, server_core, Path(directory))
                    lines += _measure_fleets(chosen, cores, Path(directory))
    except (machine.CannotMeasure, CannotServe, Failed) as reason:
        print(f"benchmark: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print("\n".join(lines))
    if chosen.write:
        report.write(environment.PAGE, lines)
    return 0


def _measure_all(chosen: argparse.Namespace, core: int, directory: Path) -> list[str]:
    cases = [case for case in CASES if not chosen.case or case.name in chosen.case]
    servers = [server for server in SERVERS if not chosen.server or server.name in chosen.server]
    if not environment.tool("nginx"):
        servers = [server for server in servers if server.name != "nginx"]
    results = report.Results(servers)
    for number in range(chosen.rounds if cases and servers else 0):
        start = number % len(servers)
        order = [*servers[start:], *servers[:start]]
        for access_log in (False, True):
            group = [case for case in cases if case.access_log is access_log]
            with contextlib.ExitStack() as stack:
                ready = {
                    server: stack.enter_context(
                        Running(
                            server,
                            access_log=access_log,
                            cores={core},
                            directory=directory / f"{number}-{access_log:d}-{index}",
                        )
                    )
                    for index, server in enumerate(order)
                    if any(_takes_part(server, case) for case in group)
                }
                for case in group:
                    for server, running in ready.items():
                        if _takes_part(server, case):
                            _measure_one(case, running, number, chosen.seconds, results)
    lines = _preamble(chosen, [*servers, *fleet.FLEETS])
    for case in cases:
        lines += report.case_table(case, results)
    return [*lines, *report.aims_table(cases, results), *report.losses(cases, results)]


def _measure_fleets(
    chosen: argparse.Namespace, cores: Collection[int], directory: Path
) -> list[str]:
    trials = [trial for trial in TRIALS if not chosen.case or trial.name in chosen.case]
    servers = [one for one in fleet.FLEETS if not chosen.server or one.name in chosen.server]
    if not trials or not servers:
        return []
    rounds = (chosen.rounds + 1) // 2
    findings = fleet.measure_all(trials, servers, rounds, cores, directory)
    lines = []
    for trial in trials:
        lines += trial_table(trial, servers, findings)
    return [*lines, *trial_aims(trials, servers, findings)]


def _profile(chosen: argparse.Namespace, core: int, directory: Path) -> list[str]:
    case = next(case for case in CASES if case.name == chosen.profile)
    name = (chosen.server or [OURS])[0]
    server = next(server for server in SERVERS if server.name == name)
    return profiling.profile(case, server, core, directory, max(4, chosen.seconds))


def _takes_part(server: Server, case: Case) -> bool:
    return server.kind != "floor" or server.name in case.floors


def _measure_one(
    case: Case, running: Running, number: int, seconds: int, results: report.Results
) -> None:
    name = running.server.name
    key = (case.name, name)
    try:
        running.wait_until_listening()
        sample = measure(case, running, seconds)
    except (Failed, CannotServe) as reason:
        results.failures.setdefault(key, {})[number] = str(reason)
        outcome = f"failed: {reason}"
        if isinstance(reason, CannotServe):
            running.restart()
    else:
        results.samples.setdefault(key, {})[number] = sample
        outcome = f"{sample.cpu_us:10,.1f} µs CPU {sample.rate:12,.0f}/s"
    print(f"round {number + 1}  {case.name:14} {name:14}  {outcome}", file=sys.stderr, flush=True)


def _preamble(chosen: argparse.Namespace, servers: Sequence[Server]) -> list[str]:
    found = environment.versions()
    names = dict.fromkeys(name for server in servers for name in server.versions)
    today = dt.datetime.now(dt.UTC).date()
    measured = (
        f"Measured on {today:%d %B %Y}: Python {found['python']}, {machine.description()};"
        f" {chosen.rounds} rounds of {chosen.seconds} s; wrk {found.get('wrk', '?')}."
    )
    return [
        measured,
        "",
        ", ".join(f"{name} {found[name]}" for name in names if name in found) + ".",
        "",
    ]


if __name__ == "__main__":
    sys.exit(main())
