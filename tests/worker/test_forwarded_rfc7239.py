"""``Forwarded`` (RFC 7239), and what holds of both families of fields whatever is sent."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_worker.protocols.forwarded import MOST_HOPS
from tests.worker.proxied import LOCAL, PEER, applied, client_of, host_of

FORWARDED = [
    ("for=192.0.2.1", {"client": ("192.0.2.1", 0)}),
    ("For=192.0.2.1;PROTO=https", {"client": ("192.0.2.1", 0), "scheme": "https"}),
    ('for="192.0.2.1:55"', {"client": ("192.0.2.1", 55)}),
    ('for="[2001:db8:cafe::17]:4711"', {"client": ("2001:db8:cafe::17", 4711)}),
    ('for="[2001:db8:cafe::17]"', {"client": ("2001:db8:cafe::17", 0)}),
    ("for=unknown", {"client": ("unknown", 0)}),
    ("for=_gazonk", {"client": ("_gazonk", 0)}),
    ('for="_SEVKISEK:_port"', {"client": ("_SEVKISEK", 0)}),
    ('for="\\1\\92.0.2.1"', {"client": ("192.0.2.1", 0)}),
    (
        "by=203.0.113.43;for=192.0.2.1 ; proto=https",
        {"client": ("192.0.2.1", 0), "scheme": "https"},
    ),
    (";;for=192.0.2.1;", {"client": ("192.0.2.1", 0)}),
    ("for=192.0.2.1;secret=x;unheard-of=y", {"client": ("192.0.2.1", 0)}),
    ('for=192.0.2.1;x="a, for=192.0.2.9"', {"client": ("192.0.2.1", 0)}),
    ('for=192.0.2.1;x="\\", for=192.0.2.9"', {"client": ("192.0.2.1", 0)}),
    # the chain
    ('for=192.0.2.1, for=192.0.2.2;x="\\""', {"client": ("192.0.2.2", 0)}),
    ("for=192.0.2.1, for=192.0.2.2", {"client": ("192.0.2.2", 0)}),
    ("for=192.0.2.1, for=10.0.0.1", {"client": ("192.0.2.1", 0)}),
    ('for=192.0.2.1;proto=https, for="10.0.0.1";proto=http', {"scheme": "https"}),
    ("for=192.0.2.1, for=10.0.0.1;proto=https", {"client": ("192.0.2.1", 0), "scheme": "https"}),
    ("for=192.0.2.1;proto=https, for=192.0.2.2", {"scheme": "http"}),
    ("for=10.0.0.3, , for=10.0.0.2", {"client": ("10.0.0.3", 0)}),
    # an element that does not say for whom it speaks: nobody before it can be believed
    ("for=192.0.2.1, proto=https", {"client": PEER, "scheme": "https"}),
    ("for=192.0.2.1, proto=https, for=10.0.0.1", {"client": ("10.0.0.1", 0), "scheme": "https"}),
    # a quote on the left must not swallow what a proxy appended
    ('for=", for=192.0.2.1', {"client": ("192.0.2.1", 0)}),
    ('for=", for="[2001:db8::1]:80"', {"client": ("2001:db8::1", 80)}),
    ('for="\\, for="[2001:db8::1]:80"', {"client": ("2001:db8::1", 80)}),
    ('for="a;x=", for="_b";proto=https', {"client": ("_b", 0), "scheme": "https"}),
    # host
    (
        "for=192.0.2.1;host=example.com;proto=https",
        {"host": "example.com", "server": ("example.com", 443)},
    ),
    ('host="example.com:81"', {"host": "example.com:81", "server": ("example.com", 81)}),
    ('host="[::1]:81"', {"host": "[::1]:81", "server": ("::1", 81)}),
    # malformed: nothing, or what was found right of it
    ("", {}),
    (" ", {}),
    (",", {}),
    ("192.0.2.1", {}),
    ("for", {}),
    ("for=", {}),
    ("for =192.0.2.1", {}),
    ("for= 192.0.2.1", {}),
    ("for=192.0.2.1;for=192.0.2.1", {}),
    ("for=192.0.2.1;proto=https;Proto=http", {}),
    ("for=[2001:db8::1]", {}),
    ('for="192.0.2.1', {}),
    ('for="192.0.2.1\\"', {}),
    ('for=192.0.2.1"', {}),
    ('for="192.0.2.1"x', {}),
    ("for=garbage;proto=https", {}),
    ("for=192.0.2.1 proto=https", {}),
    ("for=192.0.2.1, for=garbage, for=10.0.0.1;proto=https", {"client": ("10.0.0.1", 0)}),
    ("for=192.0.2.1, ???, for=10.0.0.1", {"client": ("10.0.0.1", 0)}),
]


@pytest.mark.parametrize(("value", "changes"), FORWARDED)
def test_rfc_7239(value: str, changes: dict[str, Any]) -> None:
    scope, headers = applied({"forwarded": value})
    if "host" in changes or not changes:
        assert host_of(headers) == changes.get("host", "inner:8000")
    if not changes:
        changes = {"client": PEER, "scheme": "http", "server": ("127.0.0.1", 8000)}
    assert {name: scope[name] for name in changes if name != "host"} == {
        name: value for name, value in changes.items() if name != "host"
    }


@pytest.mark.parametrize(
    "field", ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"]
)
def test_forwarded_is_not_read_beside_x_forwarded(field: str) -> None:
    """A proxy that writes one family passes the other one on as the client wrote it."""
    value = {"x-forwarded-for": "192.0.2.1", "x-forwarded-port": "80"}.get(field, "http")
    forged = "for=203.0.113.66;proto=https;host=evil.example"
    for lines in ([(field, value), ("forwarded", forged)], [("forwarded", forged), (field, value)]):
        scope, headers = applied(lines)
        assert scope == applied([(field, value)])[0]
        assert host_of(headers) == host_of(applied([(field, value)])[1])


def test_a_websocket_gets_its_own_schemes() -> None:
    scope, _ = applied({"forwarded": "for=192.0.2.1;proto=https"}, scope_type="websocket")
    assert scope["scheme"] == "wss"


TEXT = st.text(alphabet='for=pth:s;,"\\[]_.0127 \tabx%é', max_size=60)
ADDRESSES = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
    st.sampled_from(["unknown", "_x", "127.0.0.1", "10.1.1.1"]),
)
NAMES = st.sampled_from(
    ["forwarded", *(f"x-forwarded-{name}" for name in ("for", "proto", "host", "port"))]
)


@given(
    fields=st.lists(st.tuples(NAMES, st.one_of(TEXT, ADDRESSES)), max_size=6),
    allow=st.sampled_from([("127.0.0.1",), ("10.0.0.0/8", "::1"), ("*",)]),
    host=st.one_of(st.none(), TEXT),
    scope_type=st.sampled_from(["http", "websocket"]),
)
def test_nothing_raises_and_what_results_is_clean(
    fields: list[tuple[str, str]], allow: tuple[str, ...], host: str | None, scope_type: str
) -> None:
    scope, headers = applied(fields, allow=allow, host=host, scope_type=scope_type)
    address, port = scope["client"]
    assert address.isascii()
    assert not set(address) & set(' ",;\\\t%[]')
    assert 0 <= port <= 65535
    assert scope["scheme"] in {"http": ("http", "https"), "websocket": ("ws", "wss")}[scope_type]
    assert 0 < scope["server"][1] <= 65535
    shown = host_of(headers)
    if shown != host:
        assert shown is not None
        assert not set(shown) & set(' ",;\\\t%/')


@given(
    forged=st.lists(st.one_of(TEXT, ADDRESSES), max_size=4),
    client=st.ip_addresses(v=4).filter(
        lambda address: not str(address).startswith(("10.", "127."))
    ),
    proxies=st.lists(st.integers(0, 255).map(lambda number: f"10.0.0.{number}"), max_size=4),
    family=st.sampled_from(["x-forwarded-for", "forwarded"]),
)
def test_whatever_a_client_writes_the_proxies_are_believed(
    forged: list[str], client: Any, proxies: list[str], family: str
) -> None:
    """The first trusted proxy appends the client's address, the others their predecessors'."""
    appended = [str(client), *proxies]
    if family == "forwarded":
        appended = [f'for="{address}"' for address in appended]
    value = ", ".join([*forged, *appended])
    assert client_of({family: value}) == (str(client), 0)


@pytest.mark.parametrize("allow", [LOCAL, ("*",)])
@pytest.mark.parametrize(
    "value",
    [
        "10.0.0.1," * 7000,
        "for=10.0.0.1," * 5000,
        'for="' * 13000,
        "for=10.0.0.1" + " " * 65000 + "x",
        "for=a;" * 10000 + "x",
        "for=a;" + " " * 65000 + "?",
        '"' * 65000,
        "\\" * 65000,
        "," * 65000,
        "x" * 65000,
        "[" + ":" * 65000 + "]",
    ],
)
def test_no_field_takes_long(value: str, allow: tuple[str, ...]) -> None:
    for name in ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded"):
        begin = time.process_time()
        applied({name: value}, allow=allow)
        assert time.process_time() - begin < 0.5


@pytest.mark.parametrize("more", [1, 5])
def test_a_chain_is_followed_for_so_many_hops(more: int) -> None:
    chain = [f"10.0.{number >> 8}.{number & 255}" for number in range(MOST_HOPS + more)]
    assert client_of({"x-forwarded-for": ", ".join(chain)}) == (chain[-MOST_HOPS], 0)
    value = ", ".join(f"for={address}" for address in chain)
    assert client_of({"forwarded": value}) == (chain[-MOST_HOPS], 0)
