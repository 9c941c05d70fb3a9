"""deploy/asgi-supervise.nginx does what it says, with the nginx of this machine."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from tests.process.service import Service

FILE = Path(__file__).parents[2] / "deploy/asgi-supervise.nginx"
NGINX, OPENSSL = (shutil.which(name, path="/usr/sbin:/usr/bin") for name in ("nginx", "openssl"))
APP = "tests.process.nginx_app:app"

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not (NGINX and OPENSSL), reason="no nginx or no openssl here"),
]


def certify(folder: Path) -> None:
    """A key and a certificate for our example."""
    words = "req -x509 -newkey rsa:2048 -nodes -keyout key -out crt -days 2 -subj /CN=example.org"
    subprocess.run([str(OPENSSL), *words.split()], cwd=folder, capture_output=True, check=True)


def configuration(folder: Path, secure: int, plain: int) -> Path:
    """The file, as it would be included, with what is marked there changed."""
    text = FILE.read_text()
    for old, new in (
        ("listen 443 ", f"listen 127.0.0.1:{secure} "),
        ("listen 80;", f"listen 127.0.0.1:{plain};"),
        ("/run/myproject/socket", f"{folder}/socket"),
        ("/etc/ssl/example.org.", f"{folder}/"),
    ):
        assert old in text
        text = text.replace(old, new)
    (folder / "site").write_text(text)
    user = "user root;" if os.geteuid() == 0 else ""  # others may not look into the folder
    (folder / "nginx.conf").write_text(
        f"{user} daemon off; pid {folder}/pid; error_log {folder}/errors; events {{}}\n"
        f"http {{ access_log off; include {folder}/site; }}\n"
    )
    return folder / "nginx.conf"


@contextlib.contextmanager
def nginx(folder: Path) -> Iterator[tuple[int, int]]:
    """The ports for TLS and without; the sockets are ours, so that no port is taken meanwhile."""
    certify(folder)
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        ports = one.getsockname()[1], two.getsockname()[1]
        words = [str(NGINX), "-p", str(folder), "-c", str(configuration(folder, *ports))]
        subprocess.run([*words, "-t", "-q"], check=True)
        fds = [one.fileno(), two.fileno()]
        with subprocess.Popen(
            words,
            pass_fds=fds,
            env={**os.environ, "NGINX": "".join(f"{fd};" for fd in fds)},
            stderr=subprocess.PIPE,
        ) as process:
            try:
                yield ports
            finally:
                process.terminate()
                process.communicate(timeout=40)


def test_a_service_behind_nginx(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("n")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        Service("-w", "2", app=APP, bind=f"unix:{folder}/socket") as service,
        nginx(folder) as (secure, plain),
        httpx.Client(verify=context, trust_env=False, timeout=40) as client,
    ):
        service.serving()
        forged = {
            "Host": "example.org",
            "X-Forwarded-For": "192.0.2.1",
            "X-Forwarded-Host": "evil.example",
            "X-Forwarded-Proto": "http",
            "X-Forwarded-Port": "1",
            "Forwarded": "for=192.0.2.1;host=evil.example;proto=http",
        }
        answer = client.get(f"https://127.0.0.1:{secure}/", headers=forged)
        host = f"example.org:{secure}"
        assert answer.json() == ["https", "127.0.0.1", ["example.org", secure], host]
        moved = client.get(f"http://127.0.0.1:{plain}/a?b", headers={"Host": "example.org"})
        assert moved.status_code == 301
        assert moved.headers["location"] == "https://example.org/a?b"
        with connect(f"wss://127.0.0.1:{secure}/", ssl=context, proxy=None) as websocket:
            websocket.send("hello")
            assert websocket.recv(40) == "hello"
    assert not re.findall(r"\[(?:warn|error|crit|alert|emerg)\].*", (folder / "errors").read_text())
