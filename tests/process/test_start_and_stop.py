from __future__ import annotations

import ast
import grp
import json
import os
import pwd
import signal
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from tests.process.service import Service, answer, connected, request, send, until

pytestmark = pytest.mark.process


def test_it_says_where_it_serves_and_stops_as_asked() -> None:
    with Service("-w", "3") as service:
        address = service.serving()
        answers = [json.loads(request(address)) for _ in range(20)]
        assert {a["pid"] for a in answers} <= set(service.workers().values())
        service.process.send_signal(signal.SIGTERM)
        assert service.ended() == 0
    assert "with 3 workers (pid " in service.log
    assert service.log.count("lifespan is shut down") == 3
    with socket.create_server(address):
        pass  # the port is free


def test_connections_wait_while_workers_boot() -> None:
    with Service("-w", "2", environment={"SLOW_IMPORT_S": "1"}) as service:
        until(service.listening, "it listens")
        (address,) = service.listening()
        assert json.loads(request(address))["slot"] in (0, 1)
        service.serving()


def test_a_request_in_flight_is_finished_and_the_port_refuses_meanwhile() -> None:
    with Service("-w", "2") as service:
        address = service.serving()
        with connected(address) as client:
            send(client, "/slow/1")
            service.wait_line("slow request begins")
            service.process.send_signal(signal.SIGTERM)
            service.wait_line(r"stopping \(SIGTERM\)")
            until(lambda: refused(address), "the port refuses while the last request runs")
            assert json.loads(answer(client))["slot"] in (0, 1)
        assert service.ended() == 0


def refused(address: tuple[str, int]) -> bool:
    try:
        connected(address).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGQUIT])
def test_a_second_interrupt_or_quit_stops_at_once(second: signal.Signals) -> None:
    with Service("-w", "2") as service:
        address = service.serving()
        with connected(address) as client:
            send(client, "/slow/1000")
            service.wait_line("slow request begins")
            service.process.send_signal(signal.SIGINT)
            service.wait_line(r"stopping \(SIGINT\)")
            service.process.send_signal(second)
            assert service.ended(within_s=10) == 0


def test_ctrl_c_reaches_the_whole_group_and_is_judged_by_the_master_alone() -> None:
    with Service("-w", "2") as service:
        address = service.serving()
        with connected(address) as client:
            send(client, "/slow/0.5")
            service.wait_line("slow request begins")
            os.killpg(service.process.pid, signal.SIGINT)
            assert json.loads(answer(client))["slot"] in (0, 1)
        assert service.ended() == 0


def test_what_does_not_stop_is_killed_after_its_time() -> None:
    with Service("-w", "2", "--graceful-timeout", "1") as service:
        address = service.serving()
        with connected(address) as client:
            send(client, "/block/1000")
            service.wait_line("blocked")
            service.process.send_signal(signal.SIGTERM)
            service.wait_line(r"did not stop within 1 s \(graceful-timeout\); killing it")
            assert service.ended(within_s=5) == 0


@pytest.mark.parametrize("number", ["SIGUSR2", "SIGTTIN", "SIGTTOU"])
def test_signals_of_later_versions_are_answered_and_survived(number: str) -> None:
    with Service() as service:
        address = service.serving()
        service.process.send_signal(signal.Signals[number])
        service.wait_line(f"WARNING {number}: .* is not available in this version$")
        assert request(address)


def test_a_resized_terminal_is_nothing() -> None:
    with Service() as service:
        address = service.serving()
        service.process.send_signal(signal.SIGWINCH)
        assert request(address)


@pytest.mark.parametrize("preload", [False, True])
@pytest.mark.parametrize(
    ("app", "reason"),
    [
        ("tests.process.broken:at_import", "RuntimeError: this application is broken"),
        ("tests.process.broken:raises_at_startup", "ZeroDivisionError"),
        ("nowhere:app", "nowhere"),
    ],
)
def test_an_application_that_cannot_start_says_so_once(
    app: str, reason: str, preload: bool
) -> None:
    words = ["-w", "4", "--lifespan", "on", *(["--preload"] if preload else [])]
    with Service(*words, app=app, errors_expected=True) as service:
        assert service.ended() == 3
    assert service.log.count("Traceback (most recent call last)") == (app != "nowhere:app")
    assert reason in service.log
    assert "stopping at once: the application cannot start" in service.log
    assert "serving on" not in service.log


def test_a_failed_startup_message_is_shown() -> None:
    with Service("-w", "2", app="tests.process.broken:at_startup", errors_expected=True) as service:
        assert service.ended() == 3
    assert "no database today" in service.log


@pytest.mark.parametrize("preload", [False, True])
def test_an_application_that_takes_the_process_with_it(preload: bool) -> None:
    words = ["--factory", *(["--preload"] if preload else [])]
    with Service(*words, app="tests.process.broken:dies", errors_expected=True) as service:
        assert service.ended() == 3
    assert "was killed by SIGABRT" in service.log


def test_a_worker_that_never_gets_ready_is_replaced() -> None:
    with Service(
        "-w", "2", "--startup-timeout", "4", app="tests.process.stuck:app", errors_expected=True
    ) as service:
        service.wait_line("slot=0 .* not ready within 4 s")
        service.wait_line("serving on .* with 1 of 2 workers")
        service.wait_line("stuck at import")


def test_a_second_instance_is_refused() -> None:
    with Service("-w", "2") as first:
        host, port = first.serving()
        with Service("-w", "2", bind=f"{host}:{port}", errors_expected=True) as second:
            assert second.ended() == 4
        assert f"cannot bind 127.0.0.1:{port}: address already in use by pid" in second.log
        assert request((host, port))


def test_unix_socket_has_its_mode_and_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with Service("-w", "2", "--uds-mode", "640", bind=f"unix:{path}") as service:
        service.serving()
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert json.loads(request(str(path)))["slot"] in (0, 1)
        with Service(bind=f"unix:{path}", errors_expected=True) as second:
            assert second.ended() == 4
    assert not path.exists()


def test_a_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with Service(bind=f"unix:{path}") as service:
        service.serving()
        assert request(str(path))


@pytest.mark.parametrize("reuse_port", [False, True])
def test_an_inherited_socket_is_served_and_left_alone(reuse_port: bool) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=reuse_port) as listener:
        number = listener.fileno()
        with Service("-w", "2", bind=f"fd://{number}", fds=[number]) as service:
            address = service.serving()
            assert address == listener.getsockname()
            assert request(address)
        connected(address).close()  # it still listens here


def test_the_pid_file_comes_and_goes(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text("1\n")  # stale, though such a process runs
    with Service("--pid", str(path)) as service:
        service.serving()
        assert path.read_text() == f"{service.process.pid}\n"
        with Service("--pid", str(path), errors_expected=True) as second:
            assert second.ended() == 4
        assert f"pid {service.process.pid} is running" in second.log
        assert path.exists()
    assert not path.exists()


def test_a_signal_is_heard_from_the_moment_there_is_a_pid_file(tmp_path: Path) -> None:
    for attempt in range(5):  # it is a matter of milliseconds
        path = tmp_path / f"pid{attempt}"
        with Service("--pid", str(path), "--bake-time", "0") as service:
            while not (path.exists() and path.read_text()):
                assert service.process.poll() is None
            service.process.send_signal(signal.SIGHUP)
            service.serving()
            service.wait_line("reload complete: generation 2")


WHO = """
import os  # nothing else: the user may not be able to read where Python is installed

async def app(scope, receive, send):
    mask = os.umask(0)
    body = repr([os.getresuid(), os.getresgid(), os.getgroups(), mask]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can switch users")
@pytest.mark.parametrize("preload", [False, True])
def test_workers_run_as_user_and_group(preload: bool) -> None:
    user, group = pwd.getpwnam("nobody").pw_uid, grp.getgrnam("daemon").gr_gid
    words = ["--user", "nobody", "--group", "daemon", "--umask", "027", "--lifespan", "off"]
    words += ["--preload"] if preload else []
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        Path(directory, "who.py").write_text(WHO)
        path = Path(directory, "app.sock")
        with Service(*words, "--app-dir", directory, app="who:app", bind=f"unix:{path}") as service:
            service.serving()
            found = ast.literal_eval(request(str(path)))
            assert owner(f"/proc/{service.process.pid}") == os.geteuid()
            assert owner(f"/proc/{service.template()}") == user
            assert owner(str(path)) == user
    assert found == [(user,) * 3, (group,) * 3, [group], 0o027]


def owner(path: str) -> int:
    return Path(path).stat().st_uid


def test_the_master_holds_nothing_that_is_the_application_s_to_choose() -> None:
    """Every generation is forked from it: one with a newer pydantic would get the old."""
    pytest.importorskip("pydantic_core")
    with Service() as service:
        service.serving()
        maps = Path(f"/proc/{service.process.pid}/maps").read_text()
    assert "msgspec" in maps
    assert "pydantic" not in maps
