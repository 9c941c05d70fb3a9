"""`python -m tests.benchmarks.balance`: how load is shared among workers, ours and those of peers.

All on this machine: mixes of cheap and dear requests (mix-new, mix-kept), the evenness of kept
connections (spread), a worker that hangs (blocked), reloads under load (reload), and what our
balancing costs the requests that do not need it (price). Takes six minutes.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks import environment, machine, report
from tests.benchmarks.contest import KERNEL, NAMES, OFF, ONE_QUEUE, contestants
from tests.benchmarks.load import Failed
from tests.benchmarks.mix import MIXES, WORKERS, measure_mixes, mix_aims, mix_table
from tests.benchmarks.moves import MOVES, RELOAD_WORKERS, SPREAD_WORKERS, measure_moves
from tests.benchmarks.price import measure_price, price_aims, price_table
from tests.benchmarks.servers import OURS, CannotServe

PRICE = "price"
_MIXED = (OURS, KERNEL, OFF, ONE_QUEUE, "uvicorn", "granian")
_MOVED = (OURS, OFF, "uvicorn", "granian", "gunicorn")
_RELOADED = (OURS, OFF, "uvicorn", "granian", "gunicorn")


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.balance", description=__doc__)
    cases = [*(mix.name for mix in MIXES), *(move.name for move in MOVES), PRICE]
    add = parser.add_argument
    add("--case", action="append", choices=cases, help="only this case (repeatable)")
    add("--server", action="append", choices=NAMES, help="only this server (repeatable)")
    add("--rounds", type=int, default=3, help="of the mixes (default: 3)")
    add("--seconds", type=float, default=5.0, help="length of each mix (default: 5)")
    add("--load", type=float, default=0.6, help="of the workers in the mixes (default: 0.6)")
    add("--price-rounds", type=int, default=6, help="of the price, 2 s each (default: 6)")
    add("--write", action="store_true", help="keep the tables in docs/benchmarks.md")
    chosen = parser.parse_args(words)
    if chosen.rounds < 1 or chosen.price_rounds < 1 or chosen.seconds <= 0:
        parser.error("--rounds, --price-rounds and --seconds must be positive")
    if not 0 < chosen.load < 1:
        parser.error("--load must be between 0 and 1")
    if chosen.write and (chosen.case or chosen.server):
        parser.error("--write keeps whole runs only: leave out --case and --server")
    return chosen


def main() -> int:
    chosen = arguments()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        with environment.alone():
            environment.need_tools()
            environment.build(fresh=False)
            with tempfile.TemporaryDirectory(dir=environment.HERE) as directory:
                lines = measure(chosen, Path(directory))
    except (machine.CannotMeasure, CannotServe, Failed) as reason:
        print(f"benchmark: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print("\n".join(lines))
    if chosen.write:
        report.write(environment.PAGE, lines, "balance")
    return 0


def measure(chosen: argparse.Namespace, directory: Path) -> list[str]:
    cores = os.sched_getaffinity(0)
    core, load_core = machine.two_cores()
    wanted = set(chosen.case or (*(one.name for one in (*MIXES, *MOVES)), PRICE))
    lines, aims = _preamble(chosen), []
    mixes = [mix for mix in MIXES if mix.name in wanted]
    if mixes:
        servers = contestants(chosen.server or _MIXED, WORKERS)
        found = measure_mixes(
            mixes, servers, chosen.rounds, chosen.seconds, chosen.load, cores, directory
        )
        for mix in mixes:
            lines += mix_table(mix, servers, found, chosen.load)
        aims += mix_aims(mixes, servers, found)
    moves = [move for move in MOVES if move.name in wanted]
    if moves:
        lines += measure_moves(
            moves,
            contestants(chosen.server or _MOVED, SPREAD_WORKERS),
            contestants(chosen.server or _RELOADED, RELOAD_WORKERS),
            cores,
            directory,
        )
    if PRICE in wanted:
        os.sched_setaffinity(0, {load_core})
        costs = measure_price(chosen.price_rounds, 2, core, directory)
        lines += price_table(costs)
        aims += price_aims(costs)
    if aims:
        head = ["what", "aim ≤", "measured", "met"]
        lines += ["### Aims of balancing", "", *report.table([head, *aims]), ""]
    return lines


def _preamble(chosen: argparse.Namespace) -> list[str]:
    found = environment.versions()
    today = dt.datetime.now(dt.UTC).date()
    names = ("asgi_supervise", "uvloop", "uvicorn", "granian", "gunicorn", "hypercorn")
    return [
        f"Measured on {today:%d %B %Y}: Python {found['python']}, {machine.description()};"
        f" mixes: {chosen.rounds} rounds of {chosen.seconds:g} s.",
        "",
        ", ".join(f"{name} {found[name]}" for name in names if name in found) + ".",
        "",
    ]


if __name__ == "__main__":
    sys.exit(main())
