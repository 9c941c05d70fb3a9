"""The judge is not to be lenient by mistake."""

from __future__ import annotations

from typing import Any

import pytest

from tests.autobahn.__main__ import CASES, NON_STRICT_MAX, judge


def results(*behaviours: str, closing: str = "OK") -> dict[str, Any]:
    return {
        f"1.{number}": {"behavior": word, "behaviorClose": closing, "remoteCloseCode": 1000}
        for number, word in enumerate(behaviours)
    }


@pytest.mark.parametrize(
    ("cases", "good"),
    [
        (results("OK", "INFORMATIONAL"), True),
        (results("OK", *["NON-STRICT"] * NON_STRICT_MAX), True),
        (results("OK", *["NON-STRICT"] * (NON_STRICT_MAX + 1)), False),
        (results("OK", "FAILED"), False),
        (results("OK", "UNIMPLEMENTED"), False),
        (results("OK", "OK", closing="UNCLEAN"), False),
        (results("OK", "OK", closing="FAILED BY CLIENT"), False),
        (results("OK"), False),
    ],
    ids=["fine", "few non-strict", "many", "failed", "missing", "unclean", "client", "incomplete"],
)
def test_verdict(cases: dict[str, Any], good: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert judge(cases, expected=2) is good
    said = capsys.readouterr().out
    for name, case in cases.items():
        fine = case["behavior"] in {"OK", "INFORMATIONAL"} and case["behaviorClose"] == "OK"
        assert (f"  {name}: " in said) is not fine


def test_profiles() -> None:
    assert {name: count for name, (count, _, _) in CASES.items()} == {
        "full": 517,
        "ci": 361,
        "smoke": 247,
    }
