"""X-Forwarded-For, -Proto, -Host, -Port: who is believed, which element counts."""

from __future__ import annotations

import pytest

from asgi_worker.protocols.forwarded import REMEMBERED, TrustedProxies
from tests.worker.proxied import PEER, applied, client_of, host_of

UNUSUAL_HOSTS = (
    "evil/",
    "a b",
    "a,b",
    "a\r\nx: y",
    "[::1",
    "[1.2.3.4]",
    "a:b",
    "a:99999",
    "a:0",
    "é",
)


class TestTrust:
    @pytest.mark.parametrize(
        ("allow", "trusted", "others"),
        [
            ((), [], ["127.0.0.1", None, "unix:", ""]),
            (("127.0.0.1",), ["127.0.0.1", "::ffff:127.0.0.1", None], ["127.0.0.2", "::1"]),
            (("::1",), ["::1", "0:0::1", None], ["127.0.0.1", "::2"]),
            (("10.0.0.0/8",), ["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"], ["11.0.0.0"]),
            (("fd00::/8",), ["fd12::1", "FD12::1"], ["fe80::1", "10.0.0.1"]),
            (("fe80::/10",), ["fe80::1%eth0"], ["fe00::1%eth0"]),
            (("::ffff:10.0.0.1",), ["10.0.0.1", "::ffff:10.0.0.1"], ["10.0.0.2"]),
            (("::ffff:10.0.0.0/104",), ["10.9.9.9"], ["11.0.0.0"]),
            (("unix:",), [None], ["127.0.0.1", "unix:"]),
            (("*",), ["1.2.3.4", "::1", "unknown", "_x", "garbage", None], []),
            (("10.0.0.1", "*"), ["1.2.3.4"], []),
            (("0.0.0.0/0",), ["1.2.3.4", None], ["::1", "unknown", "1.2.3", "_x", ""]),
        ],
    )
    def test_table(
        self, allow: tuple[str, ...], trusted: list[str | None], others: list[str | None]
    ) -> None:
        proxies = TrustedProxies(allow)
        for _ in range(2):  # the second time from memory
            assert [host for host in trusted + others if proxies.trusts(host)] == trusted

    @pytest.mark.parametrize(
        ("entry", "said"),
        [
            ("", '"" is not an address'),
            ("localhost", '"localhost" is not an address, a network such as 10.0.0.0/8'),
            ("10.0.0.1/8", '"10.0.0.1/8" is an address within a network: did you mean 10.0.0.0/8?'),
            ("10.0.0.0/33", '"10.0.0.0/33" is not'),
            ("127.0.0.1:80", '"127.0.0.1:80" is not'),
            ("[::1]", r'"\[::1\]" is not'),
            (" 127.0.0.1", '" 127.0.0.1" is not'),
            ("127.0.0.1,::1", '"127.0.0.1,::1" is not'),
            ("**", r'"\*\*" is not'),
        ],
    )
    def test_an_entry_that_is_none(self, entry: str, said: str) -> None:
        with pytest.raises(ValueError, match=said):
            TrustedProxies(["127.0.0.1", entry])

    def test_memory_is_bounded(self) -> None:
        proxies = TrustedProxies(["10.0.0.0/8"])
        for number in range(3 * REMEMBERED):
            address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
            assert proxies.trusts(address)
            headers = [(b"x-forwarded-for", address.encode())]
            proxies.apply({"type": "http", "scheme": "http", "client": PEER}, headers)
        assert len(proxies._known) <= REMEMBERED
        assert len(proxies._understood) <= REMEMBERED

    def test_long_fields_are_understood_but_not_remembered(self) -> None:
        proxies = TrustedProxies(["10.0.0.0/8"])
        scope = {"type": "http", "scheme": "http", "client": PEER}
        proxies.apply(scope, [(b"x-forwarded-for", b"x" * 300 + b", 192.0.2.1")])
        assert scope["client"] == ("192.0.2.1", 0)
        assert not proxies._understood


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("192.0.2.1", ("192.0.2.1", 0)),
        ("192.0.2.1:55", ("192.0.2.1", 55)),
        (" \t192.0.2.1 ", ("192.0.2.1", 0)),
        ("2001:db8::1", ("2001:db8::1", 0)),
        ("2001:DB8:0:0::1", ("2001:db8::1", 0)),
        ("[2001:db8::1]", ("2001:db8::1", 0)),
        ("[2001:db8::1]:443", ("2001:db8::1", 443)),
        ("::ffff:192.0.2.1", ("192.0.2.1", 0)),
        ("[::ffff:192.0.2.1]:9", ("192.0.2.1", 9)),
        ("unknown", ("unknown", 0)),
        ("_hidden.one-2", ("_hidden.one-2", 0)),
        ("192.0.2.1:_port", ("192.0.2.1", 0)),
        # the right-most that is not trusted
        ("192.0.2.1, 192.0.2.2", ("192.0.2.2", 0)),
        ("192.0.2.1, 192.0.2.2, 10.0.0.1", ("192.0.2.2", 0)),
        ("192.0.2.1,192.0.2.2,10.0.0.1,::1,127.0.0.1:80", ("192.0.2.2", 0)),
        ("192.0.2.1, unknown", ("unknown", 0)),
        ("192.0.2.1, _secret, 10.0.0.1", ("_secret", 0)),
        # all trusted: the left-most
        ("10.0.0.3, 10.0.0.2", ("10.0.0.3", 0)),
        # empty elements do not count
        (", ,192.0.2.1,,10.0.0.1, ,", ("192.0.2.1", 0)),
        # garbage ends the walk; what was found right of it holds
        ("192.0.2.1, what is this, 10.0.0.1", ("10.0.0.1", 0)),
        ("10.0.0.3, 300.1.1.1, 10.0.0.1", ("10.0.0.1", 0)),
        ("192.0.2.1, garbage", PEER),
        ("", PEER),
        (" , ,", PEER),
        ("192.0.2.01", PEER),
        ("192.0.2", PEER),
        ("192.0.2.1:", PEER),
        ("192.0.2.1:123456", PEER),
        ("192.0.2.1:8 0", PEER),
        ("[192.0.2.1]", PEER),
        ("[2001:db8::1", PEER),
        ("2001:db8::1]:80", PEER),
        ("fe80::1%eth0", PEER),
        ('fe80::1%" 200 0B\t', PEER),
        ("for=192.0.2.1", PEER),
        ("_" + "x" * 61, PEER),
        ("_", PEER),
        ("_a b", PEER),
        ('"192.0.2.1"', PEER),
        ("localhost", PEER),
        ("\xff\x00", PEER),
    ],
)
def test_the_client(value: str, client: tuple[str, int]) -> None:
    assert client_of({"x-forwarded-for": value}) == client


def test_lines_of_one_field_are_one_list() -> None:
    lines = [
        ("x-forwarded-for", "192.0.2.1"),
        ("x-forwarded-for", "192.0.2.2, 10.0.0.1"),
        ("x-forwarded-for", "10.0.0.2"),
    ]
    assert client_of(lines) == ("192.0.2.2", 0)


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("192.0.2.1, 192.0.2.2", ("192.0.2.1", 0)),
        ("unknown, 192.0.2.2", ("unknown", 0)),
        ("garbage, 192.0.2.2", ("192.0.2.2", 0)),
    ],
)
def test_if_everybody_is_trusted_it_is_the_left_most(value: str, client: tuple[str, int]) -> None:
    assert client_of({"x-forwarded-for": value}, ("*",)) == client


@pytest.mark.parametrize(
    ("proto", "http", "websocket"),
    [
        ("https", "https", "wss"),
        ("HTTPS", "https", "wss"),
        ("wss", "https", "wss"),
        ("http", "http", "ws"),
        ("ws", "http", "ws"),
        ("ftp", "http", "ws"),
        ("https;", "http", "ws"),
        ("", "http", "ws"),
        ("http, https", "https", "wss"),  # of a list what the nearest proxy has appended
        ("https, http", "http", "ws"),
    ],
)
def test_the_scheme(proto: str, http: str, websocket: str) -> None:
    for scope_type, scheme in (("http", http), ("websocket", websocket)):
        scope, _ = applied({"x-forwarded-proto": proto}, scope_type=scope_type)
        assert scope["scheme"] == scheme
        assert scope["client"] == PEER


@pytest.mark.parametrize(
    ("chain", "proto", "scheme"),
    [
        # The second proxy is trusted as well: what it heard from the client counts.
        ("192.0.2.1, 10.0.0.1", "https, http", "https"),
        ("192.0.2.1, 10.0.0.1", "http, https", "http"),
        ("192.0.2.1, 10.0.0.1", "ftp, https, http", "https"),
        ("192.0.2.1, 10.0.0.1", "https", "https"),
        # What stands left of it is the client's own.
        ("192.0.2.1", "https, http", "http"),
        ("10.9.9.9, 192.0.2.1, 10.0.0.1", "https, http, http", "http"),
        # More hops than values: the left-most there is.
        ("192.0.2.1, 10.0.0.1, 10.0.0.2", "https, http", "https"),
        ("garbage", "https, http", "http"),
    ],
)
def test_the_scheme_is_that_of_the_clients_hop(chain: str, proto: str, scheme: str) -> None:
    scope, _ = applied({"x-forwarded-for": chain, "x-forwarded-proto": proto})
    assert scope["scheme"] == scheme


@pytest.mark.parametrize(
    ("fields", "host", "shown", "server"),
    [
        # -Host
        ({"host": "example.com"}, "inner:8000", "example.com", ("example.com", 80)),
        ({"host": "example.com:8080"}, "inner", "example.com:8080", ("example.com", 8080)),
        ({"host": "[2001:db8::1]:81"}, "inner", "[2001:db8::1]:81", ("2001:db8::1", 81)),
        ({"host": "a.example, b.example"}, "inner", "b.example", ("b.example", 80)),
        ({"host": "example.com"}, None, "example.com", ("example.com", 80)),
        # with -Proto
        ({"host": "ex.org", "proto": "https"}, "inner", "ex.org", ("ex.org", 443)),
        ({"host": "ex.org:443", "proto": "https"}, "inner", "ex.org:443", ("ex.org", 443)),
        # with -Port: shown when it is not the usual one
        ({"host": "ex.org", "port": "8443"}, "inner", "ex.org:8443", ("ex.org", 8443)),
        ({"host": "ex.org", "port": "80"}, "inner", "ex.org", ("ex.org", 80)),
        (
            {"host": "ex.org", "port": "443", "proto": "https"},
            "inner",
            "ex.org",
            ("ex.org", 443),
        ),
        # a port in the name is the one the client used
        ({"host": "ex.org:81", "port": "8443"}, "inner", "ex.org:81", ("ex.org", 81)),
        # -Port alone completes what is there
        ({"port": "8443"}, "example.com", "example.com:8443", ("127.0.0.1", 8443)),
        ({"port": "80"}, "example.com", "example.com", ("127.0.0.1", 80)),
        ({"port": "8443"}, "example.com:81", "example.com:81", ("127.0.0.1", 8443)),
        ({"port": "443", "proto": "https"}, "example.com", "example.com", ("127.0.0.1", 443)),
        ({"port": "81"}, None, None, ("127.0.0.1", 81)),
        ({"port": "81"}, "not a host", "not a host", ("127.0.0.1", 81)),
        ({"port": "80, 8443"}, "example.com", "example.com:8443", ("127.0.0.1", 8443)),
        # and nonsense is not heard
        ({"port": "0"}, "inner", "inner", ("127.0.0.1", 8000)),
        ({"port": "65536"}, "inner", "inner", ("127.0.0.1", 8000)),
        ({"port": "-1"}, "inner", "inner", ("127.0.0.1", 8000)),
        ({"port": "8x"}, "inner", "inner", ("127.0.0.1", 8000)),
        ({"port": "\xb2"}, "inner", "inner", ("127.0.0.1", 8000)),
        ({"host": "ex.org", "port": "8x"}, "inner", "ex.org", ("ex.org", 80)),
    ],
)
def test_host_and_port(
    fields: dict[str, str], host: str | None, shown: str | None, server: tuple[str, int]
) -> None:
    named = {f"x-forwarded-{name}": value for name, value in fields.items()}
    scope, headers = applied(named, host=host)
    assert host_of(headers) == shown
    assert scope["server"] == server
    assert headers[0] == (b"accept", b"*/*")
    assert [value for name, value in headers if name.startswith(b"x-")] == [
        value.encode("latin-1") for value in fields.values()
    ]


@pytest.mark.parametrize("name", ["x-forwarded-host", "forwarded"])
@pytest.mark.parametrize("host", UNUSUAL_HOSTS)
def test_a_host_that_may_not_become_one(name: str, host: str) -> None:
    value = host.rpartition(",")[0] + "," + host if name == "x-forwarded-host" else f'host="{host}"'
    if host == "a,b":
        value = '"a,b"' if name == "x-forwarded-host" else value
    scope, headers = applied({name: value})
    assert host_of(headers) == "inner:8000"
    assert scope["server"] == ("127.0.0.1", 8000)


@pytest.mark.parametrize("server", [None, ("/run/app.sock", None)])
def test_a_server_without_port_does_not_get_one(server: tuple[str, None] | None) -> None:
    assert applied({"x-forwarded-port": "81"}, server=server)[0]["server"] == server
    scope, _ = applied({"x-forwarded-port": "81", "x-forwarded-host": "h"}, server=server)
    assert scope["server"] == ("h", 81)
