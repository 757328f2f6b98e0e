"""Look up the account that a sandbox's command runs as."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from typing import NamedTuple

from egress.errors import InputError

MAX_ID = (1 << 32) - 2  # the last number means "unchanged" in system calls


class Account(NamedTuple):
    """The ids of an account, and the environment variables that belong to it (HOME, USER, LOGNAME)."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    environment: dict[str, str]


def account(user: str) -> Account:
    """Look up an account by its name or number. Raises InputError for one that does not exist."""
    try:
        found = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        raise InputError(f"there is no user {user!r}: give the name or number of a user") from None
    groups = tuple(os.getgrouplist(found.pw_name, found.pw_gid))
    names = {"HOME": found.pw_dir, "USER": found.pw_name, "LOGNAME": found.pw_name}
    return Account(found.pw_uid, found.pw_gid, groups, names)


def invoker(environment: Mapping[str, str]) -> Account | None:
    """Return the account that called sudo, by SUDO_UID and SUDO_GID. None: sudo was not used, or was called by root.

    A number that no account has is used as it is. Raises InputError for values that sudo would not write.
    """
    uid, gid = environment.get("SUDO_UID", ""), environment.get("SUDO_GID", "")
    if uid in ("", "0"):
        return None
    if not all(text.isdecimal() and len(text) <= 10 and int(text) <= MAX_ID for text in (uid, gid)):
        raise InputError(f"SUDO_UID={uid!r} and SUDO_GID={gid!r} are not ids of sudo: choose a user with --user")
    try:
        return account(uid)._replace(gid=int(gid))
    except InputError:
        return Account(int(uid), int(gid), (int(gid),), {"HOME": "/", "USER": uid, "LOGNAME": uid})
