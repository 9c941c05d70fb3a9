"""Who the workers run as. The master stays what it was: it may have to bind and to reap.

Names are looked up before anything is started, so that a wrong one is a wrong setting and not a
worker that cannot boot. Dropping is done once, in the template; workers are forked from it.
"""

from __future__ import annotations

import grp
import os
import pwd

import msgspec


class PrivilegeError(Exception):
    """The user or group asked for cannot be taken on; one line that says what to do."""


class Identity(msgspec.Struct, frozen=True):
    """A resolved user and group; ``None``: stays as it is."""

    user: int | None
    group: int | None
    name: str | None
    """The user's name, for the supplementary groups; ``None`` where the user has no entry."""


def resolve(user: str | None, group: str | None) -> Identity | None:
    """Look up ``--user`` and ``--group`` (names or numbers); ``None`` if neither was given.

    Without a group the user's own is taken. Raises :class:`PrivilegeError`.
    """
    if user is None and group is None:
        return None
    entry = _user_entry(user) if user is not None else None
    uid = None if user is None else entry.pw_uid if entry else int(user)
    gid = _group_number(group) if group is not None else entry.pw_gid if entry else None
    if user is not None and gid is None:
        raise PrivilegeError(f"user {user} has no group of its own: give one with --group")
    if os.geteuid() != 0 and (uid not in (None, os.geteuid()) or gid not in (None, os.getegid())):
        raise PrivilegeError("only root can switch to another user or group: start as root")
    return Identity(uid, gid, entry.pw_name if entry else None)


def take_on(identity: Identity) -> None:
    """Become ``identity`` for good, supplementary groups included (as initgroups(3) does)."""
    if os.geteuid() != 0:  # it is what we are already: see resolve
        return
    if identity.group is not None:
        if identity.name is not None:
            os.initgroups(identity.name, identity.group)
        else:
            os.setgroups([identity.group])
        os.setgid(identity.group)
    if identity.user is not None:
        os.setuid(identity.user)


def _user_entry(user: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(user)
    except KeyError:
        pass
    if not user.isdecimal():
        raise PrivilegeError(f"there is no user {user}")
    try:
        return pwd.getpwuid(int(user))
    except KeyError:
        return None


def _group_number(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        if group.isdecimal():
            return int(group)
        raise PrivilegeError(f"there is no group {group}") from None
