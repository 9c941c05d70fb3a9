"""The introductory examples: raw callables that raise on unknown scopes or do not look at them, a
lone response, timing middleware, WebSocket echoes, first pages of frameworks, and fifty mistakes.

Each works as it was typed, or what is logged says what to change.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.compatibility.serving import PATIENCE_S, PYTHON, SITES, Site, serving, sources

pytestmark = pytest.mark.process

_below_info = re.compile(r"\[\d+\] (?!INFO )[A-Z]+ ")


def calm(site: Site) -> None:
    """Nothing in the log that anybody could take for a failure."""
    assert not [line for line in site.lines if _below_info.search(line)], site.log
    assert "Traceback" not in site.log
    assert "Warning" not in site.log


def get(site: Site, path: str = "/", **options: object) -> httpx.Response:
    with httpx.Client(base_url=site.url, timeout=PATIENCE_S) as client:
        return client.request("GET", path, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("raw:app", "Hello, world!"),
        ("unasserted:app", "Hello, world!"),
        ("refusing:exception", "hello"),
        ("refusing:notimplemented", "hello"),
        ("refusing:valueerror", "hello"),
        ("refusing:by_key", "You asked for /"),
        ("refusing:returning", "hello"),
        ("reading:app", ""),
        ("reading:asserting", ""),
        ("reading:answering", ""),
        ("lone:app", "Hello"),
        ("lone:json", '{"hello":"world"}'),
        ("lone:streaming", "0\n1\n2\n"),
        ("timing:closure", "Hello"),
        ("frameworks:starlette", '{"hello":"world"}'),
        ("wsgi:application", "Hello World\n"),
    ],
)
def test_works_as_typed(word: str, text: str, files: Path) -> None:
    with serving(f"introductions.{word}", files) as site:
        assert [get(site).text for _ in range(3)] == [text] * 3
        calm(site)


def test_a_body_that_is_read(files: Path) -> None:
    with serving("introductions.reading:app", files) as site:
        answer = httpx.post(site.url, content=b"a" * 100_000, timeout=PATIENCE_S)
        assert answer.text == "a" * 100_000
        said = [line for line in site.lines if "lifespan" in line]
        assert len(said) == 1, "once for all workers"
        assert "knows nothing of lifespan and is run without it (KeyError: 'body')" in said[0]
        calm(site)


def test_a_middleware_that_times_each_request(files: Path) -> None:
    with serving("introductions.timing:app", files) as site:
        assert get(site).text == "Hello"
        site.wait_for(re.compile(r"^http took 0\.\d+ seconds$"))
        calm(site)
    with serving("introductions.timing:headers", files) as site:
        assert float(get(site).headers["x-process-time"]) < PATIENCE_S
        calm(site)


@pytest.mark.parametrize("word", ["app", "EchoServer"])
def test_an_echo_over_websocket(word: str, files: Path) -> None:
    with serving(f"introductions.websockets:{word}", files) as site:
        for _ in range(2):
            with connect(f"{site.ws_url}/") as websocket:
                websocket.send("hello")
                assert websocket.recv(PATIENCE_S) == "hello"
        calm(site)


def test_an_echo_that_looks_at_nothing(files: Path) -> None:
    with serving("introductions.websockets:unasserted", files) as site:
        with connect(f"{site.ws_url}/") as websocket:
            assert websocket.recv(PATIENCE_S) == "welcome"
            websocket.send("hello")
            assert websocket.recv(PATIENCE_S) == "hello"
        calm(site)


def test_an_echo_that_takes_every_event(files: Path) -> None:
    """It answers no lifespan.startup, and waits for more; that could mean anything."""
    hint = (
        "The application asks for a second lifespan event and has not answered lifespan.startup. "
        "If it knows nothing of lifespan, say --lifespan off"
    )
    result = asgi_supervise("introductions.websockets:looping", "--startup-timeout", "5")
    assert result.returncode == 3
    assert hint in result.stdout
    with serving("introductions.websockets:looping", files, "--lifespan", "off") as site:
        with connect(f"{site.ws_url}/") as websocket:
            websocket.send("hello")
            assert websocket.recv(PATIENCE_S) == "hello"
        calm(site)


def test_fastapi(files: Path) -> None:
    with serving("introductions.frameworks:fastapi", files) as site:
        assert get(site).json() == {"message": "Hello World"}
        assert get(site, "/items/5?q=somequery").json() == {"item_id": 5, "q": "somequery"}
        assert get(site, "/items/x").status_code == 422
        assert "swagger" in get(site, "/docs").text
        with connect(f"{site.ws_url}/ws") as websocket:
            websocket.send("hi")
            assert websocket.recv(PATIENCE_S) == "Message text was: hi"
        calm(site)
    with serving("introductions.frameworks:create_app", files, "--factory") as site:
        assert get(site).json() == {"message": "Hello World"}


def test_http_only_is_asked_for_a_websocket(files: Path) -> None:
    """As the assertion says, the application refuses; the client is told, and the log."""
    with serving("introductions.raw:app", files) as site:
        with pytest.raises(InvalidStatus) as refused, connect(f"{site.ws_url}/"):
            pass
        assert refused.value.response.status_code == 500
        assert get(site).text == "Hello, world!"
        site.expected.append('assert scope["type"] == "http"')


@pytest.fixture(scope="module")
def mistaken(files: Path) -> Iterator[Site]:
    """Without the checks of its log: each of its requests goes wrong."""
    with serving("introductions.mistakes:app", files) as site:
        yield site
        site.stop()
        site.lines.clear()


AWAITED = "(is each send awaited?)"
INCOMPLETE = "the application returned without completing its response: "


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("forgotten_await", f"{INCOMPLETE}http.response.start was not sent {AWAITED}"),
        ("second_await_forgotten", f"{INCOMPLETE}http.response.body was not sent {AWAITED}"),
        ("text_headers", "header 'content-type': the name must be bytes, not str"),
        ("text_value", "header b'content-type': the value must be bytes, not str"),
        (
            "dict_headers",
            "headers is an iterable of pairs, [(b'name', b'value')]: 'content-type' is none",
        ),
        (
            "dict_of_bytes",
            "headers is an iterable of pairs, [(b'name', b'value')]: b'content-type' is none",
        ),
        ("number_for_length", "header b'content-length': the value must be bytes, not int"),
        ("wrong_length", "the body ends 45 bytes short of what content-length says"),
        ("text_body", "http.response.body: 'body' must be bytes, not str; encode it"),
        ("text_body_with_more", "http.response.body: 'body' must be bytes, not str; encode it"),
        ("json_body", "http.response.body: 'body' must be bytes, not dict"),
        (
            "body_first",
            "unexpected ASGI message 'http.response.body': expected 'http.response.start' here",
        ),
        (
            "two_starts",
            "unexpected ASGI message 'http.response.start': expected 'http.response.body' here",
        ),
        ("no_answer", f"{INCOMPLETE}http.response.start was not sent {AWAITED}"),
        ("start_only", f"{INCOMPLETE}http.response.body was not sent {AWAITED}"),
        ("returned", f"{INCOMPLETE}http.response.start was not sent {AWAITED}"),
        ("no_status", "http.response.start: 'status' is None, no int from 200 to 999"),
        ("text_status", "http.response.start: 'status' is '200 OK', no int from 200 to 999"),
        ("no_type", "a message is a dict with a 'type', not {'status': 200, 'headers': []}"),
        (
            "misspelt",
            "unexpected ASGI message 'http.response.begin': expected 'http.response.start' here",
        ),
        ("text_sent", "a message is a dict with a 'type', not 'Hello, world!'"),
        (
            "websocket_kind",
            "unexpected ASGI message 'websocket.accept': expected 'http.response.start' here",
        ),
    ],
)
def test_a_mistake_is_500_and_says_what_to_change(mistaken: Site, name: str, said: str) -> None:
    answer = get(mistaken, f"/{name}")
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    mistaken.wait_for(re.compile(re.escape(f'"GET /{name} HTTP/1.1" 500')))
    assert said in mistaken.log
    assert "During handling" not in mistaken.log


@pytest.mark.parametrize(("name", "text"), [("no_headers", "hello"), ("no_body_key", "")])
def test_what_may_be_left_out(mistaken: Site, name: str, text: str) -> None:
    assert get(mistaken, f"/{name}").text == text


def test_a_forgotten_more_body(mistaken: Site) -> None:
    assert get(mistaken, "/missing_more_body").text == "0\n"
    said = (
        "GET '/missing_more_body': the application sent more of the body after the last of it, "
        "which is ignored: each http.response.body but the last has to have more_body=True"
    )
    mistaken.wait_for(re.compile(re.escape(said)))
    assert mistaken.log.count(said) == 1


def test_a_body_without_end(mistaken: Site) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        get(mistaken, "/never_ending")
    mistaken.wait_for(re.compile(f"{INCOMPLETE}its last http.response.body has more_body=True"))


ANSWERS = "'websocket.accept', 'websocket.close' or 'websocket.http.response.start'"


def test_mistakes_in_a_websocket(files: Path) -> None:
    refused = [
        ("no_accept", f"unexpected ASGI message 'websocket.send': expected {ANSWERS} here"),
        ("http_kind", f"unexpected ASGI message 'http.response.start': expected {ANSWERS} here"),
        ("no_type", f"ASGI message without a 'type': expected {ANSWERS} here"),
    ]
    closed = [
        (
            "accepted_twice",
            "unexpected ASGI message 'websocket.accept': "
            "expected 'websocket.send' or 'websocket.close' here",
        ),
        ("number_for_text", "websocket.send: 'text' must be str, not int"),
        ("nothing_sent", "websocket.send: exactly one of 'text' and 'bytes' must be given"),
    ]
    with serving("introductions.websockets:mistaken", files) as site:
        for name, said in refused:
            with pytest.raises(InvalidStatus), connect(f"{site.ws_url}/{name}"):
                pass
            site.expected.append(f"RuntimeError: {said}")
        for name, said in closed:
            with connect(f"{site.ws_url}/{name}") as websocket, pytest.raises(ConnectionClosed):
                websocket.recv(PATIENCE_S)
            assert websocket.close_code == 1011
            site.expected.append(f"RuntimeError: {said}")
        with pytest.raises(InvalidStatus), connect(f"{site.ws_url}/forgotten_await"):
            pass
        site.expected_lines.append(
            "the application returned without accepting or refusing (is each send awaited?)"
        )


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("app", "the application returned NoneType, nothing to wait for: it is no async def"),
        ("returning", "the application returned str, nothing to wait for: it is no async def"),
        (
            "generating",
            "the application returned async_generator, nothing to wait for: it has a yield in it",
        ),
    ],
)
def test_no_async_def(word: str, said: str, files: Path) -> None:
    with serving(f"introductions.synchronous:{word}", files) as site:
        assert get(site).status_code == 500
        site.expected.append(said)


def asgi_supervise(*words: str) -> subprocess.CompletedProcess[str]:
    """To its end, as it cannot start."""
    return subprocess.run(
        [
            *(PYTHON, "-m", "asgi_supervise", *words, "--app-dir", str(SITES)),
            *("--workers", "1", "--port", "0"),
        ],
        env={**os.environ, **sources()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (
            ["introductions.unfinished:Class"],
            3,
            "it is the class FastAPI, not an instance of it: name an instance, or add --factory",
        ),
        (
            ["introductions.unfinished:create_app"],
            3,
            "it is a function that can be called without arguments, a factory it seems: "
            "add --factory",
        ),
        (
            ["introductions.unfinished:create_later"],
            3,
            "it is a function that is asynchronous and takes no arguments: "
            "a factory has to be a plain one",
        ),
        (
            ["introductions.unfinished:create_with"],
            3,
            "it is a function that takes (settings), not (scope, receive, send)",
        ),
        (
            ["introductions.raw:app", "--factory"],
            3,
            "it takes (scope, receive, send), so it is the application itself: leave --factory out",
        ),
        (["introductions.unfinished:text"], 3, "it is an instance of str"),
        (
            ["introductions.calling:app"],
            3,
            "TypeError: application() missing 3 required positional arguments",
        ),
        (["introductions.raw:ap"], 3, 'module "introductions.raw" has no "ap"; near it: app'),
        (
            ["introductions.ray:app"],
            3,
            'no module "introductions.ray" in package "introductions"',
        ),
        (["raw:app"], 3, "but there is one in introductions: try --app-dir introductions"),
        (["introductions/raw.py"], 2, "not a file: try introductions.raw:app"),
        (["introductions.raw"], 2, "must be module:attribute, for example introductions.raw:app"),
        (
            ["introductions.unfinished:create_app()"],
            2,
            "if it has to be called: --factory introductions.unfinished:create_app",
        ),
        ([], 2, "say which application to run, for example: asgi-supervise myproject.main:app"),
    ],
)
def test_what_cannot_be_served_says_what_to_change(
    words: list[str], status: int, said: str
) -> None:
    result = asgi_supervise(*words)
    assert result.returncode == status, result.stdout
    assert said in result.stdout
    assert "asgi_worker" not in result.stdout
