"""Every kind of value: what it takes, and what it says about the rest."""

from __future__ import annotations

import grp
import os
import pwd
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_supervise.settings import values
from asgi_supervise.settings.schema import TABLE
from asgi_supervise.settings.values import Kind

DURATION = values.duration()
DURATION_OR_OFF = values.duration(off=True)
SIZE = values.size(256)
SIZE_OR_OFF = values.size(0, off=True)
COUNT = values.integer(1, 100)
COUNT_OR_OFF = values.integer(1, off=True)
SHARE = values.share()
WORKERS = values.workers(lambda: 7)
LOOP = values.choice("auto", "on", "off")
USER = pwd.getpwuid(os.geteuid()).pw_name
GROUP = grp.getgrgid(os.getegid()).gr_name


@pytest.mark.parametrize(
    ("kind", "raw", "value"),
    [
        (DURATION, "5", 5.0),
        (DURATION, "0.25", 0.25),
        (DURATION, ".5", 0.5),
        (DURATION, 5, 5.0),
        (DURATION, 2.5, 2.5),
        (DURATION, "500ms", 0.5),
        (DURATION, "5s", 5.0),
        (DURATION, "5 s", 5.0),
        (DURATION, "2m", 120.0),
        (DURATION, "1.5h", 5400.0),
        (DURATION_OR_OFF, "off", None),
        (DURATION_OR_OFF, False, None),
        (values.duration(zero=True), "0", 0.0),
        (SIZE, "65536", 65536),
        (SIZE, 256, 256),
        (SIZE, "64KiB", 65536),
        (SIZE, "64 kib", 65536),
        (SIZE, "16MiB", 16 * 2**20),
        (SIZE, "1GiB", 2**30),
        (SIZE, "300B", 300),
        (SIZE_OR_OFF, "off", None),
        (SIZE_OR_OFF, "0", 0),
        (COUNT, "1", 1),
        (COUNT, "100", 100),
        (COUNT, 3, 3),
        (COUNT_OR_OFF, "off", None),
        (values.HEALTH_PATH, "/", "/"),
        (values.HEALTH_PATH, "/up?a=%20&b", "/up?a=%20&b"),
        (values.HEALTH_PATH, "off", None),
        (values.HEALTH_PATH, False, None),
        (values.LOG_FILE, "a b", "a b"),
        (values.LOG_FILE, "-", None),
        (SHARE, "0.1", 0.1),
        (SHARE, ".5", 0.5),
        (SHARE, 1, 1.0),
        (SHARE, " 0.001 ", 0.001),
        (WORKERS, "4", 4),
        (WORKERS, "auto", 7),
        (LOOP, "auto", "auto"),
        (LOOP, False, "off"),
        (values.FLAG, "TRUE", True),
        (values.FLAG, "no", False),
        (values.FLAG, "1", True),
        (values.FLAG, False, False),
        (values.MODE, "660", 0o660),
        (values.MODE, "0o660", 0o660),
        (values.MODE, "0660", 0o660),
        (values.USER, USER, USER),
        (values.USER, "1234567", "1234567"),
        (values.USER, 1234567, "1234567"),
        (values.GROUP, GROUP, GROUP),
        (values.HEADERS, "X-Frame-Options: DENY", ("X-Frame-Options", "DENY")),
        (values.HEADERS, "x:", ("x", "")),
        (values.HEADERS, "x: a: b", ("x", "a: b")),
        (values.NETWORKS, "*", "*"),
        (values.NETWORKS, "10.0.0.0/8", "10.0.0.0/8"),
        (values.NETWORKS, "10.0.0.1/8", "10.0.0.1/8"),
        (values.NETWORKS, "::1", "::1"),
        (values.APPLICATION, "a.b_2:c.d", "a.b_2:c.d"),
        (values.ROOT_PATH, "", ""),
        (values.ROOT_PATH, "/api/v1", "/api/v1"),
    ],
)
def test_takes(kind: Kind, raw: Any, value: Any) -> None:
    parsed = kind.parse(raw)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("kind", "raw", "complaint"),
    [
        (DURATION, "", "not a duration"),
        (DURATION, "5x", "write seconds, or a number with ms, s, m or h"),
        (DURATION, "-1", "not a duration"),
        (DURATION, "0", "must be more than zero"),
        (DURATION, "inf", "not a duration"),
        (DURATION, "1e3", "not a duration"),
        (DURATION, True, "not a duration"),
        (DURATION, float("nan"), "not a duration"),
        (DURATION, [1], "not a duration"),
        (DURATION, "999999999", "at most 1e8"),
        (DURATION, "off", "not a duration"),
        (DURATION_OR_OFF, "0", "off turns it off"),
        (DURATION_OR_OFF, "soon", "or off"),
        (SIZE, "255", "must be at least 256 B"),
        (SIZE, "1.5MiB", "not a size"),
        (SIZE, "64KB", "not a size: write bytes, or a number with KiB, MiB or GiB"),
        (SIZE, "-1", "not a size"),
        (SIZE, True, "not a size"),
        (SIZE, "99999999999GiB", "more than any machine has"),
        (COUNT, "0", "must be at least 1"),
        (COUNT, "101", "must be at most 100"),
        (COUNT, "1.0", "not a whole number"),
        (COUNT, 1.0, "not a whole number"),
        (COUNT, True, "not a whole number"),
        (COUNT, "", "not a whole number"),
        (COUNT, "9" * 5000, "not a whole number"),
        (COUNT, "٣", "not a whole number"),
        (COUNT_OR_OFF, "none", "not a whole number (or off)"),
        (values.HEALTH_PATH, "healthz", "must begin with a slash"),
        (values.HEALTH_PATH, "/a b", "be written as in a request"),
        (values.HEALTH_PATH, "/a#b", "(or off)"),
        (values.HEALTH_PATH, "/gesundheitsprüfung", "be written as in a request"),
        (values.HEALTH_PATH, True, "must be text"),
        (values.LOG_FILE, "", "must name a path"),
        (values.LOG_FILE, "a\0b", "NUL"),
        (SHARE, "0", "must be at least 0.001 and at most 1"),
        (SHARE, 0.0009, "must be at least 0.001"),
        (SHARE, "1.01", "at most 1"),
        (SHARE, "10%", "not a part of 1: write a number like 0.1"),
        (SHARE, "-0.1", "not a part of 1"),
        (SHARE, "nan", "not a part of 1"),
        (SHARE, "1e-2", "not a part of 1"),
        (SHARE, True, "not a part of 1"),
        (SHARE, [0.1], "not a part of 1"),
        (WORKERS, "0", "must be at least 1 (or auto)"),
        (WORKERS, "all", "not a whole number (or auto)"),
        (LOOP, "never", "choose one of auto, on, off"),
        (LOOP, 3, "choose one of auto, on, off"),
        (values.FLAG, "maybe", "write true or false"),
        (values.FLAG, 1, "write true or false"),
        (values.MODE, 660, "in quotes"),
        (values.MODE, "668", "not an octal mode"),
        (values.MODE, "1777", "must be at most 777"),
        (values.USER, "nobody-of-that-name", "no such user"),
        (values.USER, True, "must be text"),
        (values.GROUP, "nobody-of-that-name", "no such group"),
        (values.HEADERS, "no colon", "must be 'Name: value'"),
        (values.HEADERS, "a b: c", "must be 'Name: value'"),
        (values.HEADERS, ": c", "must be 'Name: value'"),
        (values.HEADERS, "a: b\r\nc: d", "printable Latin-1"),
        (values.HEADERS, "a: \u20ac", "printable Latin-1"),
        (values.HEADERS, "Content-Length: 3", "decided for each response"),
        (values.NETWORKS, "10.0.0.0/33", "neither an address, nor a network"),
        (values.NETWORKS, "localhost", "neither an address, nor a network"),
        (values.APPLICATION, "main", "must be module:attribute, for example main:app"),
        (values.APPLICATION, "main.py", "must be module:attribute, not a file: try main:app"),
        (values.APPLICATION, "./web/main.py:site", "not a file: try web.main:site"),
        (values.APPLICATION, "main.py:", "for example myproject.main:app"),
        (values.APPLICATION, "web/main:site", "for example web.main:site"),
        (values.APPLICATION, "", "for example myproject.main:app"),
        (values.APPLICATION, "\n:\n", "for example myproject.main:app"),
        (values.APPLICATION, "a:b()", "if it has to be called: --factory a:b"),
        (values.APPLICATION, "a:b-c()", "for example myproject.main:app"),
        (values.APPLICATION, "my-project:app", "must be module:attribute"),
        (values.APPLICATION, 3, "must be text, in quotes"),
        (values.ROOT_PATH, "api", "must begin with a slash"),
        (values.ROOT_PATH, "/api/", "not end with one"),
        (values.NAME, "", "1 to 64 characters"),
        (values.NAME, "a\nb", "on one line"),
        (values.PATH, "", "must name a path"),
        (values.PATH, "a\0b", "NUL"),
    ],
)
def test_refuses(kind: Kind, raw: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        kind.parse(raw)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("number", "shown"), [(0, "0 B"), (1024, "1 KiB"), (1025, "1025 B"), (2**31, "2 GiB")]
)
def test_sizes_are_shown_without_fractions(number: int, shown: str) -> None:
    assert values.show_size(number) == shown


@given(st.integers(256, 2**62))
def test_what_is_shown_for_a_size_is_taken_back(number: int) -> None:
    assert SIZE.parse(SIZE.show(number)) == number


@given(st.floats(0.001, 1e6))
def test_what_is_shown_for_a_duration_is_taken_back(seconds: float) -> None:
    shown = DURATION.show(seconds)
    if "e" not in shown:
        assert DURATION.parse(shown) == pytest.approx(seconds, rel=1e-4)


ANYTHING = st.one_of(
    st.text(),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
)


KINDS = [entry.setting.kind for entry in TABLE]


@given(st.sampled_from(KINDS), ANYTHING)
def test_whatever_is_given_there_is_a_value_or_a_complaint(kind: Kind, raw: Any) -> None:
    try:
        value = kind.parse(raw)
    except ValueError as error:
        complaint = str(error)
    else:
        kind.show((value,) if kind.is_list else value)
        return
    assert complaint
    assert "\n" not in complaint
