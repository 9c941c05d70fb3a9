"""Where the service listens: bind, adopt, keep and close listeners.

* **TCP**: one ``SO_REUSEPORT`` socket per slot and address, all bound and listening before the
  first fork. The kernel spreads new connections over them; a slot's queue outlives its worker.
* **unix sockets and inherited descriptors** cannot be split so and are shared by all workers.

``SO_REUSEPORT`` would also let a second instance of the same user join in silently. So the first
socket of a group is bound *and listens* without it and gets it only then: of two who try at the
same time the kernel refuses one, whoever it is. (Probing with a socket that is closed again leaves
a moment in between, and a socket bound but not listening refuses nobody.) ``SO_REUSEADDR`` is set
so that connections of a former master in TIME_WAIT do not count as a holder; a listening one does.

``[::]`` takes IPv4 too, as the system's own default says (net.ipv6.bindv6only), except where
``0.0.0.0`` with the same port is asked for as well: then each takes its own.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from asgi_supervise.host import descriptors, reuseport
from asgi_supervise.host.privileges import Identity

NEIGHBOURS = 7
"""In the queues of so many other slots a worker helps out. Up to one slot more, one queue would do
for all workers; beyond, each more helps little, and all of them are asked at a connection for which
nobody has time."""
LOCK_TRIES = 100
LOCK_PAUSE_MS = 20
"""Two seconds for another master, which needs milliseconds."""


class BindError(Exception):
    """*cannot bind ADDRESS: reason; what to do*, in one line."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"cannot bind {address}: {reason}")


@dataclass(slots=True)
class Listeners:
    """Every listening socket, sorted by who accepts on it."""

    by_slot: list[list[socket.socket]]
    shared: list[socket.socket] = field(default_factory=list)
    """All workers accept on these: unix sockets, and what was inherited."""
    unix: list[socket.socket] = field(default_factory=list)
    """Those of the shared that were made by us."""
    addresses: list[str] = field(default_factory=list)
    """As people and browsers write them, with the port that was really taken."""
    files: list[tuple[str, os.stat_result]] = field(default_factory=list)
    """Unix sockets made by us: path, and what was there when we made it."""

    def of_slot(self, slot: int) -> list[socket.socket]:
        """What only the worker in ``slot`` accepts on."""
        return self.by_slot[slot]

    def neighbours(self, slot: int) -> list[socket.socket]:
        """The queues of other slots in which the worker in ``slot`` helps out."""
        return [listener for other in self._neighbours(slot) for listener in self.by_slot[other]]

    def _neighbours(self, slot: int) -> list[int]:
        slots = len(self.by_slot)
        return [(slot + step) % slots for step in range(1, min(slots, NEIGHBOURS + 1))]

    def keep_only(self, slot: int, *, helps_out: bool) -> None:
        """In a worker: close what belongs to other slots, save those in which it helps out."""
        kept = {slot, *(self._neighbours(slot) if helps_out else ())}
        for number, sockets in enumerate(self.by_slot):
            if number not in kept:
                _close(sockets)

    def steer(self, weights: Sequence[int]) -> None:
        """Weigh the slots of every TCP address for new connections. Raises ``OSError``."""
        for first in self.by_slot[0]:  # any socket of a group stands for it
            reuseport.attach(first, weights)

    def close(self) -> None:
        """Close this process's copies. The last one closed resets what waits in the queue."""
        for sockets in (*self.by_slot, self.shared):
            _close(sockets)
        self.unix.clear()

    def refuse(self) -> None:
        """Let nobody join the queues of our unix sockets; who is in them can still be accepted.

        For all processes that hold them: the service stops. TCP sockets lose their queue by that,
        so it is the workers who end those, and inherited ones are not ours to end.
        """
        for listener in self.unix:
            listener.shutdown(socket.SHUT_RD)

    def remove_files(self) -> None:
        """Remove our unix sockets, except where somebody has put something else in their place."""
        for path, ours in self.files:
            with contextlib.suppress(OSError):
                if os.path.samestat(os.lstat(path), ours):
                    os.unlink(path)
        self.files.clear()


def listen(
    binds: Sequence[str], *, slots: int, backlog: int, uds_mode: int, owner: Identity | None
) -> Listeners:
    """Listen on ``binds`` (``host:port``, ``[v6]:port``, ``unix:path``, ``unix:@name``, ``fd://N``).

    Unix sockets get ``uds_mode`` and, if there is one, the ``owner``. Raises :class:`BindError`,
    after which nothing is left open.
    """
    listeners = Listeners([[] for _ in range(slots)])
    try:
        for bind in binds:
            if bind.startswith("unix:"):
                _listen_unix(listeners, bind, backlog, uds_mode, owner)
            elif bind.startswith("fd://"):
                _adopt(listeners, bind)
        _listen_tcp(listeners, [b for b in binds if not b.startswith(("unix:", "fd://"))], backlog)
    except BaseException:
        listeners.close()
        listeners.remove_files()
        raise
    return listeners


# --- TCP -----------------------------------------------------------------------------------------

IpAddress = tuple[str, int] | tuple[str, int, int, int]
Target = tuple[socket.AddressFamily, IpAddress]


def _listen_tcp(listeners: Listeners, binds: Sequence[str], backlog: int) -> None:
    resolved = {bind: _resolve(bind) for bind in binds}
    v4_ports = {
        address[1]
        for targets in resolved.values()
        for _, address in targets
        if address[0] == "0.0.0.0"
    }
    done: set[Target] = set()
    for bind, targets in resolved.items():
        absent: OSError | None = None
        bound = False
        for family, address in targets:
            if (family, address) in done:
                bound = True
                continue
            done.add((family, address))
            v6_only = address[0] == "::" and address[1] in v4_ports
            try:
                _listen_group(listeners, family, address, backlog, v6_only=v6_only)
            except OSError as error:
                # `localhost` is two addresses, and a container often has only one of them.
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise BindError(bind, _tcp_reason(error, address[1])) from None
                absent = error
            else:
                bound = True
        if not bound and absent is not None:
            raise BindError(bind, _tcp_reason(absent, 0)) from None


def _listen_group(
    listeners: Listeners,
    family: socket.AddressFamily,
    address: IpAddress,
    backlog: int,
    *,
    v6_only: bool,
) -> None:
    for slot, sockets in enumerate(listeners.by_slot):
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if v6_only:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if slot > 0:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(address)
            listener.listen(backlog)
            if slot == 0:  # see the head of this module
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                address = listener.getsockname()  # the port, where any was asked for
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
        sockets.append(listener)
    listeners.addresses.append(_url(address))


def _resolve(bind: str) -> list[Target]:
    host, _, port = bind.rpartition(":")
    try:
        found = socket.getaddrinfo(
            host.strip("[]") or "0.0.0.0", int(port), type=socket.SOCK_STREAM
        )
    except socket.gaierror as error:
        raise BindError(bind, f"the host is not known ({error.strerror})") from None
    # A name may be found twice. The rest is what the types say of a Python without IPv6.
    return list(
        dict.fromkeys((family, address) for family, _, _, _, address in found if _is_ip(address))
    )


def _is_ip(address: tuple[Any, ...]) -> TypeGuard[IpAddress]:
    return isinstance(address[0], str)


def _url(address: Sequence[str | int]) -> str:
    host, port = address[0], address[1]
    return f"http://[{host}]:{port}" if ":" in str(host) else f"http://{host}:{port}"


def _tcp_reason(error: OSError, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"address already in use{_holder(port)}; stop it, or choose another with --bind"
        case errno.EACCES:
            return "permission denied; ports below 1024 need root or CAP_NET_BIND_SERVICE"
        case errno.EMFILE:
            return f"{error.strerror}; {descriptors.advice()}"
        case errno.EADDRNOTAVAIL:
            return "this machine has no such address; 0.0.0.0 means all it has"
        case _:
            return error.strerror or str(error)


# --- unix sockets --------------------------------------------------------------------------------


def _listen_unix(
    listeners: Listeners, bind: str, backlog: int, mode: int, owner: Identity | None
) -> None:
    path = bind.removeprefix("unix:")
    if path.startswith("@"):  # the kernel refuses the second, and nothing is left behind
        _bind_unix(listeners, bind, "\0" + path[1:], backlog, mode, None)
    else:
        path = os.path.abspath(path)
        with _alone_in(os.path.dirname(path)):
            _remove_stale(bind, path)
            _bind_unix(listeners, bind, path, backlog, mode, owner)
    listeners.addresses.append(f"unix:{bind.removeprefix('unix:')}")


def _bind_unix(
    listeners: Listeners, bind: str, path: str, backlog: int, mode: int, owner: Identity | None
) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listeners.shared.append(listener)
    listeners.unix.append(listener)
    # The umask makes the file with its mode: there is no moment at which it has another one.
    before = os.umask(~mode & 0o777)
    try:
        listener.bind(path)
        if not path.startswith("\0"):
            listeners.files.append((path, os.lstat(path)))
            if owner is not None and os.geteuid() == 0:
                os.chown(path, _or_unchanged(owner.user), _or_unchanged(owner.group))
        listener.listen(backlog)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno == errno.EADDRINUSE:
            reason += f"{_holder(path)}; stop it, or choose another with --bind"
        elif error.errno == errno.ENOENT:
            reason = f"the directory {os.path.dirname(path)} does not exist; make it first"
        raise BindError(bind, reason) from None
    finally:
        os.umask(before)
    listener.setblocking(False)


@contextlib.contextmanager
def _alone_in(directory: str) -> Iterator[None]:
    """Of several masters that start at the same time one is in here: else a second one might find
    the stale socket, and remove the first one's new one in its place.

    Best effort: who may not read the directory, or finds it locked by something else for so long,
    goes on without.
    """
    try:
        lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        for _ in range(LOCK_TRIES):
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            select.poll().poll(LOCK_PAUSE_MS)
        yield
    finally:
        os.close(lock)


def _remove_stale(bind: str, path: str) -> None:
    """Remove a socket file that a dead master left; refuse one on which somebody answers."""
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise BindError(bind, error.strerror or str(error)) from None
    if not stat.S_ISSOCK(there.st_mode):
        raise BindError(bind, "the path exists and is not a socket; remove it or choose another")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except FileNotFoundError:
            return
        except BlockingIOError:
            pass  # a full queue: somebody is there, and busy
        except OSError as error:
            raise BindError(bind, error.strerror or str(error)) from None
    raise BindError(bind, f"address already in use{_holder(path)}; stop it, or choose another")


def _or_unchanged(number: int | None) -> int:
    return -1 if number is None else number


# --- inherited descriptors -----------------------------------------------------------------------


def _adopt(listeners: Listeners, bind: str) -> None:
    """Take an inherited listening socket as it is: not listened on again, its file not removed."""
    number = int(bind.removeprefix("fd://"))
    try:
        listener = socket.socket(fileno=number)
    except OSError as error:
        raise BindError(
            bind, f"descriptor {number}: {error.strerror}; was it passed on to this process?"
        ) from None
    listeners.shared.append(listener)
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise BindError(bind, f"descriptor {number} is a socket, but does not listen")
    listener.set_inheritable(False)  # what the application starts must not keep it open
    listener.setblocking(False)
    name = listener.getsockname()
    listeners.addresses.append(_url(name) if isinstance(name, tuple) else f"unix:{_text(name)}")


def _text(name: str | bytes) -> str:
    return os.fsdecode(name).replace("\0", "@")


# --- who is it? ----------------------------------------------------------------------------------


def _holder(where: int | str) -> str:
    """`` by pid 123 (name)`` for the process that holds a TCP port or unix path, if it shows."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        if isinstance(where, int):
            pids = {
                found.pid
                for found in psutil.net_connections("tcp")
                if found.status == psutil.CONN_LISTEN and found.laddr and found.laddr[1] == where
            }
        else:
            pids = {
                found.pid for found in psutil.net_connections("unix") if str(found.laddr) == where
            }
        known = sorted(pid for pid in pids if pid is not None)
        if known:
            # A title may be set where words were, and padded with blanks to their length.
            words = " ".join(psutil.Process(known[0]).cmdline()).split()
            return f" by pid {known[0]} ({' '.join(words)[:80]})"
    return ""


def _close(sockets: list[socket.socket]) -> None:
    for listener in sockets:
        listener.close()
    sockets.clear()
