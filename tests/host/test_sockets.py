from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asgi_supervise.host.privileges import Identity
from asgi_supervise.host.sockets import BindError, Listeners, listen
from tests.host.test_contract import ROOT

Listen = Callable[..., Listeners]


@pytest.fixture
def listening() -> Iterator[Listen]:
    """``listen`` with defaults; what it opened is closed."""
    opened: list[Listeners] = []

    def make(*binds: str, slots: int = 2, mode: int = 0o600) -> Listeners:
        listeners = listen(binds, slots=slots, backlog=128, uds_mode=mode, owner=None)
        opened.append(listeners)
        return listeners

    yield make
    for listeners in opened:
        listeners.close()
        listeners.remove_files()


def port_of(listeners: Listeners) -> int:
    return int(listeners.by_slot[0][0].getsockname()[1])


def test_a_socket_for_each_slot_and_all_on_the_port_the_first_one_got(listening: Listen) -> None:
    listeners = listening("127.0.0.1:0", slots=4)
    addresses = {s.getsockname() for sockets in listeners.by_slot for s in sockets}
    assert len(addresses) == 1
    assert listeners.addresses == [f"http://127.0.0.1:{port_of(listeners)}"]
    assert all(len(listeners.of_slot(slot)) == 1 for slot in range(4))
    assert not any(s.getblocking() or s.get_inheritable() for s in listeners.of_slot(0))


def test_the_kernel_spreads_connections_over_all_slots(listening: Listen) -> None:
    listeners = listening("127.0.0.1:0", slots=3)
    clients = [socket.create_connection(("127.0.0.1", port_of(listeners))) for _ in range(45)]
    accepted = []
    for slot in range(3):
        listener, queue = listeners.by_slot[slot][0], []
        try:
            while True:
                queue.append(listener.accept()[0])
        except BlockingIOError:
            accepted.append(queue)
    assert sum(map(len, accepted)) == 45
    assert all(accepted), "the first socket, made exclusive, belongs to the group like the others"
    for open_socket in (*clients, *(s for queue in accepted for s in queue)):
        open_socket.close()


def test_a_second_instance_is_refused_and_told_who_holds_the_port(listening: Listen) -> None:
    port = port_of(listening("127.0.0.1:0"))
    with pytest.raises(BindError) as refusal:
        listening(f"127.0.0.1:{port}")
    said = str(refusal.value)
    assert said.startswith(f"cannot bind 127.0.0.1:{port}: address already in use by pid ")
    assert f"pid {os.getpid()} (" in said
    assert "choose another with --bind" in said


TITLED = """
import setproctitle, socket
setproctitle.setproctitle("a title")
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
input()
"""


def test_a_holder_is_named_by_its_title_without_what_was_there_before(listening: Listen) -> None:
    words = [sys.executable, "-c", TITLED, "x" * 100]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        port = int(holder.stdout.readline())
        with pytest.raises(BindError) as refusal:
            listening(f"127.0.0.1:{port}")
        holder.communicate(b"\n")
    assert f"in use by pid {holder.pid} (a title); stop it" in str(refusal.value)


def test_a_second_instance_that_was_quicker_with_bind_is_refused_by_listen() -> None:
    """Both have bound, neither listens: only one may go on."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        listeners = listen([f"127.0.0.1:{port}"], slots=2, backlog=1, uds_mode=0o600, owner=None)
        with pytest.raises(OSError, match="Address already in use"):
            other.listen()
        listeners.close()


def test_connections_of_a_former_master_do_not_hold_the_port(listening: Listen) -> None:
    first = listening("127.0.0.1:0", slots=1)
    port = port_of(first)
    with socket.create_connection(("127.0.0.1", port)) as client:
        accepted, _ = first.by_slot[0][0].accept()
        accepted.close()  # the side that closes first keeps the port in TIME_WAIT
        assert client.recv(1) == b""
    first.close()
    assert port_of(listening(f"127.0.0.1:{port}")) == port


def test_a_failure_leaves_nothing_open(listening: Listen, tmp_path: Path) -> None:
    taken = port_of(listening("127.0.0.1:0"))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
    with pytest.raises(BindError):
        listening(f"unix:{tmp_path}/s", f"127.0.0.1:{free}", f"127.0.0.1:{taken}")
    assert not (tmp_path / "s").exists()
    assert port_of(listening(f"127.0.0.1:{free}")) == free


@pytest.mark.parametrize(
    ("bind", "reason"),
    [
        ("192.0.2.1:8000", "this machine has no such address"),
        ("no.such.host.invalid:80", "the host is not known"),
        ("unix:/no/such/directory/s", "the directory /no/such/directory does not exist"),
        ("unix:/etc/hostname", "the path exists and is not a socket"),
        ("fd://199", "descriptor 199: Bad file descriptor; was it passed on"),
    ],
)
def test_what_cannot_be_bound(listening: Listen, bind: str, reason: str) -> None:
    with pytest.raises(BindError) as refusal:
        listening(bind)
    assert str(refusal.value).startswith(f"cannot bind {bind}: {reason}")


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
def test_ipv6_wildcard_takes_ipv4_too_unless_that_is_asked_for_as_well(listening: Listen) -> None:
    both = listening("[::]:0")
    assert both.addresses == [f"http://[::]:{port_of(both)}"]
    socket.create_connection(("127.0.0.1", port_of(both))).close()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
    each = listening(f"[::]:{free}", f"0.0.0.0:{free}")
    assert each.addresses == [f"http://[::]:{free}", f"http://0.0.0.0:{free}"]
    assert len(each.of_slot(1)) == 2
    assert each.shared == []


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
def test_ipv6_address(listening: Listen) -> None:
    listeners = listening("[::1]:0")
    assert listeners.addresses == [f"http://[::1]:{port_of(listeners)}"]
    socket.create_connection(("::1", port_of(listeners))).close()


def test_a_name_is_all_its_addresses_and_the_same_one_is_bound_once(listening: Listen) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
    listeners = listening(f"localhost:{free}", f"127.0.0.1:{free}")
    assert f"http://127.0.0.1:{free}" in listeners.addresses
    assert len(set(listeners.addresses)) == len(listeners.addresses)


def test_unix_socket_has_its_mode_from_the_first_moment(listening: Listen, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        listeners = listening(f"unix:{tmp_path}/s", mode=0o666)
        assert os.umask(0o077) == 0o077, "the umask is as it was"
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o666
    assert listeners.of_slot(0) == listeners.of_slot(1) == []
    assert listeners.shared == listeners.unix != []
    assert listeners.addresses == [f"unix:{tmp_path}/s"]
    listeners.remove_files()
    assert not (tmp_path / "s").exists()


def test_a_stale_unix_socket_is_replaced_and_a_living_one_is_not(
    listening: Listen, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    first = listening(f"unix:{path}")
    with pytest.raises(BindError, match="address already in use"):
        listening(f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))  # the first one is as it was
    first.close()


def test_nobody_joins_the_queue_of_a_unix_socket_at_the_end(
    listening: Listen, tmp_path: Path
) -> None:
    paths = [str(tmp_path / name) for name in ("ours", "inherited")]
    with socket.socket(socket.AF_UNIX) as given:
        given.bind(paths[1])
        given.listen()
        listeners = listening(f"unix:{paths[0]}", f"fd://{os.dup(given.fileno())}", "127.0.0.1:0")
        with contextlib.ExitStack() as stack:
            early, late, other = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in "123")
            early.connect(paths[0])
            listeners.refuse()
            with pytest.raises(ConnectionRefusedError):
                late.connect(paths[0])
            (ours,) = listeners.unix
            ours.accept()[0].close()
            other.connect(paths[1])
            socket.create_connection(("127.0.0.1", port_of(listeners))).close()


def test_a_busy_unix_socket_is_not_taken_for_a_stale_one(listening: Listen, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as client:
        busy.bind(path)
        busy.listen(0)
        client.connect(path)  # now its queue is full
        with pytest.raises(BindError, match="address already in use"):
            listening(f"unix:{path}")


def test_somebody_elses_unix_socket_is_not_removed(listening: Listen, tmp_path: Path) -> None:
    path = tmp_path / "s"
    listeners = listening(f"unix:{path}")
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        listeners.remove_files()
        assert path.exists()


PATHS = {"PYTHONPATH": "supervisor:workers"}
RIVAL = """
import sys
from asgi_supervise.host.sockets import BindError, listen
print("here", flush=True)
sys.stdin.readline()
try:
    listeners = listen([sys.argv[1]], slots=1, backlog=8, uds_mode=0o600, owner=None)
except BindError:
    print("refused", flush=True)
else:
    print("listening", flush=True)
    sys.stdin.readline()
"""


def test_of_two_who_find_a_stale_unix_socket_one_listens(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    words = [sys.executable, "-c", RIVAL, f"unix:{path}"]
    pipe = subprocess.PIPE
    lock = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)  # as a third one who is about to take the place
    with (
        subprocess.Popen(words, cwd=ROOT, env=PATHS, stdin=pipe, stdout=pipe) as one,
        subprocess.Popen(words, cwd=ROOT, env=PATHS, stdin=pipe, stdout=pipe) as other,
    ):
        said = []
        for rival in (one, other):
            assert rival.stdin
            assert rival.stdout
            assert rival.stdout.readline() == b"here\n"
            rival.stdin.write(b"go\n")
            rival.stdin.flush()
        answers = [rival.stdout for rival in (one, other) if rival.stdout]
        assert select.select(answers, [], [], 0.3)[0] == [], "both wait"
        os.close(lock)
        for rival in (one, other):
            assert rival.stdout
            said.append(rival.stdout.readline())
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        for rival in (one, other):
            rival.communicate()
    assert sorted(said) == [b"listening\n", b"refused\n"]


def test_a_directory_that_somebody_else_has_locked_does_not_stop_us(
    listening: Listen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asgi_supervise.host.sockets.LOCK_TRIES", 2)
    lock = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert listening(f"unix:{tmp_path}/s").addresses == [f"unix:{tmp_path}/s"]
    os.close(lock)


def test_abstract_unix_socket(listening: Listen) -> None:
    name = f"asgi-supervise-test-{os.getpid()}"
    listeners = listening(f"unix:@{name}")
    assert listeners.addresses == [f"unix:@{name}"]
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"\0{name}")
    with pytest.raises(BindError, match="Address already in use"):
        listening(f"unix:@{name}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_unix_socket_belongs_to_the_user_of_the_workers(tmp_path: Path) -> None:
    listeners = listen(
        [f"unix:{tmp_path}/s"],
        slots=1,
        backlog=1,
        uds_mode=0o660,
        owner=Identity(65534, None, None),
    )
    assert (tmp_path / "s").stat().st_uid == 65534
    assert (tmp_path / "s").stat().st_gid == os.getegid()
    listeners.close()
    listeners.remove_files()


def test_an_inherited_socket_is_taken_as_it_is(listening: Listen) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as given:
        copy = os.dup(given.fileno())
        os.set_inheritable(copy, True)
        listeners = listening(f"fd://{copy}", slots=3)
        assert [s.fileno() for s in listeners.shared] == [copy]
        assert listeners.addresses == [f"http://127.0.0.1:{given.getsockname()[1]}"]
        assert not listeners.shared[0].get_inheritable()


def test_an_inherited_unix_socket(listening: Listen, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as given:
        given.bind(str(path))
        given.listen()
        listeners = listening(f"fd://{os.dup(given.fileno())}")
        assert listeners.addresses == [f"unix:{path}"]
        listeners.close()
        listeners.remove_files()
        assert path.exists(), "it was not ours to remove"


def test_an_inherited_socket_must_listen(listening: Listen) -> None:
    with socket.socket() as given, pytest.raises(BindError, match="does not listen"):
        listening(f"fd://{os.dup(given.fileno())}")


def test_an_inherited_descriptor_must_be_a_socket(listening: Listen, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, pytest.raises(BindError, match="non-socket"):
        listening(f"fd://{file.fileno()}")


@pytest.mark.parametrize(
    ("slots", "slot", "helps_in"),
    [
        (10, 0, [1, 2, 3, 4, 5, 6, 7]),
        (10, 8, [9, 0, 1, 2, 3, 4, 5]),
        (8, 7, [0, 1, 2, 3, 4, 5, 6]),
        (2, 1, [0]),
        (1, 0, []),
    ],
)
def test_a_worker_keeps_its_own_and_those_in_which_it_helps_out(
    listening: Listen, slots: int, slot: int, helps_in: list[int]
) -> None:
    listeners = listening("127.0.0.1:0", "[::1]:0", f"unix:@{os.getpid()}", slots=slots)
    before = [list(sockets) for sockets in listeners.by_slot]
    listeners.keep_only(slot, helps_out=True)
    kept = {number for number, (first, second) in enumerate(before) if first.fileno() >= 0}
    assert kept == {slot, *helps_in}
    assert all(
        first.fileno() == -1 == second.fileno()
        for first, second in map(before.__getitem__, set(range(slots)) - kept)
    )
    assert listeners.of_slot(slot) == before[slot]
    assert listeners.neighbours(slot) == [s for other in helps_in for s in before[other]]
    assert [s.fileno() >= 0 for s in listeners.shared] == [True]


def test_a_worker_that_helps_nobody_keeps_only_its_own(listening: Listen, tmp_path: Path) -> None:
    listeners = listening("127.0.0.1:0", f"unix:{tmp_path}/s", slots=3)
    mine = listeners.of_slot(1)
    others = [*listeners.by_slot[0], *listeners.by_slot[2]]
    listeners.keep_only(1, helps_out=False)
    assert all(s.fileno() >= 0 for s in (*mine, *listeners.shared))
    assert all(s.fileno() == -1 for s in others)
    assert listeners.neighbours(1) == []
