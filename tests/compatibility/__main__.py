"""``python -m tests.compatibility [system …]``: run the suite and print the table.

Each system is installed in an environment of its own; the tests drive it from the environment this
runs in. With ``--write`` the table goes into docs/compatibility.md; the whole suite must have run.
"""

from __future__ import annotations

import argparse
import ast
import concurrent.futures
import os
import platform
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from tests.compatibility import environments
from tests.compatibility.environments import HERE, ROOT, CannotBuild, python_of
from tests.compatibility.systems import SYSTEMS, System

PAGE = ROOT / "docs" / "compatibility.md"
BEGIN, END = "<!-- table -->", "<!-- end of table -->"
AT_A_TIME = 2


@dataclass(frozen=True)
class Row:
    system: System
    version: str
    result: str
    good: bool
    """Nothing failed, or it is outside our reach."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make compatibility", description=__doc__)
    names = [system.name for system in SYSTEMS]
    parser.add_argument("system", nargs="*", choices=[*names, []], help="default: all")
    parser.add_argument("--fresh", action="store_true", help="install everything anew")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    words = parser.parse_args()
    wanted = [system for system in SYSTEMS if not words.system or system.name in words.system]
    if words.write and len(wanted) < len(SYSTEMS):
        parser.error("--write needs a run of the whole suite: name no system")
    try:
        with environments.alone(), concurrent.futures.ThreadPoolExecutor(AT_A_TIME) as pool:
            environments.need_tools([system for system in wanted if not system.outside])
            rows = list(pool.map(lambda system: run(system, fresh=words.fresh), wanted))
    except CannotBuild as error:
        print(f"compatibility: {error}", file=sys.stderr)
        return 1
    lines = table(rows)
    print("\n".join(lines))
    if words.write:
        write(lines)
    return 0 if all(row.good for row in rows) else 1


def run(system: System, *, fresh: bool) -> Row:
    """Install ``system`` and run its tests."""
    if system.outside:
        return Row(system, "–", system.outside, good=True)
    print(f"compatibility: {system.title} …", file=sys.stderr, flush=True)
    try:
        environments.build(system, fresh=fresh)
    except CannotBuild as error:
        print(f"compatibility: {system.title}: {error}", file=sys.stderr)
        return Row(system, "–", "could not be installed", good=False)
    report = HERE / f"{system.name}.xml"
    report.unlink(missing_ok=True)
    tests = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *(str(module_of(system)), f"--junitxml={report}"),
        ],
        cwd=ROOT,
        env={**os.environ, "COMPATIBILITY_PYTHON": str(python_of(system))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if tests.returncode:
        print(tests.stdout, file=sys.stderr)
    result, good = judged(report)
    version = environments.version(system)
    print(f"compatibility: {system.title} {version}: {result}", file=sys.stderr, flush=True)
    return Row(system, version, result, good and not tests.returncode)


def module_of(system: System) -> Path:
    return Path(__file__).parent / f"test_{system.name}.py"


def judged(report: Path) -> tuple[str, bool]:
    """What the tests' report says, and whether all is well: expected failures give their reason."""
    if not report.exists():
        return "its tests could not be run", False
    cases = list(ET.parse(report).getroot().iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None]
    failed += [case for case in cases if case.find("error") is not None]
    skipped = [found for case in cases if (found := case.find("skipped")) is not None]
    passed = len(cases) - len(failed) - len(skipped)
    said = [f"{passed} passed"] if passed else []
    if failed:
        names = ", ".join(case.get("name", "?") for case in failed)
        said.append(f"**{len(failed)} failed** ({names})")
    said += sorted({f"but: {found.get('message', '?')}" for found in skipped})
    return "; ".join(said) or "no test was run", bool(passed) and not failed


def exercised(system: System) -> str:
    """The first paragraph of the docstring of its tests, without the name."""
    if system.outside:
        return "–"
    said = ast.get_docstring(ast.parse(module_of(system).read_text())) or ""
    return " ".join(re.sub(r"^[^:]*: ", "", said.partition("\n\n")[0]).split()).rstrip(".")


def table(rows: list[Row]) -> list[str]:
    return [
        "| system | version | what was exercised | result |",
        "|---|---|---|---|",
        *(
            f"| {row.system.title} | {row.version} | {exercised(row.system)} | {row.result} |"
            for row in rows
        ),
    ]


def write(lines: list[str]) -> None:
    """Put the table in the page, between its marks."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    ran = f"Run on {time.strftime('%-d %B %Y')} with Python {platform.python_version()}."
    page = [before + BEGIN, "", ran, "", *lines, "", END + rest.partition(END)[2]]
    PAGE.write_text("\n".join(page))


if __name__ == "__main__":
    sys.exit(main())
