from __future__ import annotations

import grp
import os
import pwd

import pytest

from asgi_supervise.host.privileges import Identity, PrivilegeError, resolve

NOBODY = pwd.getpwnam("nobody")
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can switch users")


def test_nothing_asked_for() -> None:
    assert resolve(None, None) is None


def test_ourselves_is_always_allowed() -> None:
    me = pwd.getpwuid(os.geteuid())
    assert resolve(str(me.pw_uid), str(os.getegid())) == Identity(
        me.pw_uid, os.getegid(), me.pw_name
    )


@root_only
def test_a_user_brings_its_group() -> None:
    expected = Identity(NOBODY.pw_uid, NOBODY.pw_gid, "nobody")
    assert resolve("nobody", None) == expected
    assert resolve(str(NOBODY.pw_uid), None) == expected


@root_only
def test_a_group_alone() -> None:
    assert resolve(None, "daemon") == Identity(None, grp.getgrnam("daemon").gr_gid, None)
    assert resolve(None, "4321") == Identity(None, 4321, None)


@root_only
def test_a_number_without_an_entry_needs_a_group() -> None:
    assert resolve("54321", "54321") == Identity(54321, 54321, None)
    with pytest.raises(PrivilegeError, match="give one with --group"):
        resolve("54321", None)


@pytest.mark.parametrize(
    ("user", "group", "reason"),
    [
        ("no such user", None, "there is no user no such user"),
        (None, "no such group", "there is no group no such group"),
    ],
)
def test_nobody_of_that_name(user: str | None, group: str | None, reason: str) -> None:
    with pytest.raises(PrivilegeError, match=reason):
        resolve(user, group)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may")
def test_others_may_not_switch() -> None:
    with pytest.raises(PrivilegeError, match="only root can switch"):
        resolve("root", None)
