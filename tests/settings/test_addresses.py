"""Where to listen, in all spellings."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asgi_supervise.settings.addresses import parse_bind, parse_host


@pytest.mark.parametrize(
    ("raw", "address"),
    [
        ("127.0.0.1:8000", "127.0.0.1:8000"),
        ("localhost:0", "localhost:0"),
        ("localhost", "localhost:8000"),
        (":9000", "0.0.0.0:9000"),
        ("example.org.:80", "example.org.:80"),
        ("a_b:80", "a_b:80"),
        ("[::1]:8000", "[::1]:8000"),
        ("[::1]", "[::1]:8000"),
        ("[fe80::1%eth0]:80", "[fe80::1%eth0]:80"),
        ("[::]:65535", "[::]:65535"),
        ("unix:/run/app.sock", "unix:/run/app.sock"),
        ("unix:///run/app.sock", "unix:/run/app.sock"),
        ("unix:app.sock", "unix:app.sock"),
        ("unix:@name", "unix:@name"),
        ("fd://3", "fd://3"),
        ("fd:3", "fd://3"),
        ("fd://03", "fd://3"),
    ],
)
def test_takes(raw: str, address: str) -> None:
    assert parse_bind(raw) == address
    assert parse_bind(address) == address


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        ("", "must be host:port"),
        (8000, "must be host:port"),
        ("8000", "has no host: write 127.0.0.1:8000"),
        ("::1", "put an IPv6 address in brackets"),
        ("::1:8000", "put an IPv6 address in brackets"),
        ("http://localhost:8000", "must be host:port"),
        ("/run/app.sock", "must be host:port"),
        ("localhost:http", "the port must be a number"),
        ("localhost:65536", "the port must be a number"),
        ("localhost:-1", "the port must be a number"),
        ("localhost:", "the port must be a number"),
        ("-a:80", "neither a host name nor an address"),
        ("a b:80", "neither a host name nor an address"),
        ("[127.0.0.1]:80", "neither a host name nor an address"),
        ("[::g]:80", "neither a host name nor an address"),
        ("unix:", "must name a path"),
        ("unix:" + "x" * 108, "too long"),
        ("fd://", "must be fd://N"),
        ("fd://x", "must be fd://N"),
        ("fd://-1", "must be fd://N"),
        ("fd", "begins another kind of address; write fd. for such a host"),
        ("unix", "begins another kind of address; write unix. for such a host"),
    ],
)
def test_refuses(raw: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_bind(raw)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "host"), [("::1", "::1"), ("[::1]", "::1"), ("127.0.0.1", "127.0.0.1"), ("a.b", "a.b")]
)
def test_a_host_may_have_brackets(raw: str, host: str) -> None:
    assert parse_host(raw) == host


@example("fd")
@example("unix.")
@given(st.text(max_size=30))
def test_an_accepted_address_is_a_fixed_point(raw: str) -> None:
    try:
        address = parse_bind(raw)
    except ValueError:
        return
    assert parse_bind(address) == address
