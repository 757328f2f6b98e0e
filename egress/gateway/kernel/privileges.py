"""Dropping privileges: a worker keeps only CAP_NET_ADMIN, which nfnetlink requires for every verdict.

`egress.gateway.attribution` keeps the capabilities that open other processes' namespaces and descriptors. The order of
the steps matters; `drop` has it.
"""

from __future__ import annotations

import os
import pwd
import signal
from typing import NamedTuple

from egress.errors import EgressError, InputError
from egress.gateway.kernel import linux

CAP_DAC_READ_SEARCH, CAP_NET_ADMIN, CAP_SYS_PTRACE, CAP_SYS_ADMIN = 2, 12, 19, 21  # linux/capability.h
WORKER = frozenset({CAP_NET_ADMIN})
WORKER_USER, ATTRIBUTION_USER = "egress-worker", "egress-attribution"  # packaging/egress.sysusers makes them
FALLBACK = "nobody"  # where no one made them; other programs may run as it, too


class Users(NamedTuple):
    """The names of the users that worker and attribution process become."""

    worker: str
    attribution: str


def users(worker: str, attribution: str) -> Users:
    """Choose the users of the two processes. An argument is the configured name; if empty, the user is chosen here.

    For the worker that is WORKER_USER, or FALLBACK if there is no such account; for attribution, ATTRIBUTION_USER, or
    the worker's user.
    """
    worker = worker or (WORKER_USER if _exists(WORKER_USER) else FALLBACK)
    return Users(worker, attribution or (ATTRIBUTION_USER if _exists(ATTRIBUTION_USER) else worker))


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def account(user: str) -> tuple[int, int]:
    """Look up the uid and gid of a user name. Raises InputError for an unknown name, and for root."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise InputError(f"user: there is no user {user!r}; name an unprivileged one in the config") from None
    if entry.pw_uid == 0:
        raise InputError(f"user: {user!r} is root; name an unprivileged user in the config")
    return entry.pw_uid, entry.pw_gid


def drop(user: str, parent: int, kept: frozenset[int] = WORKER) -> None:
    """Become `user` for good, with only the capabilities in `kept`; the kernel kills this process when `parent` ends.

    A change of credentials clears the death signal, so it is set last. Raises EgressError if this fails or the parent
    has ended already, InputError for an unknown user or root.
    """
    uid, gid = account(user)
    try:
        linux.limit_bounding(kept)
        linux.prctl(linux.PR_SET_KEEPCAPS, 1)
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        linux.limit_capabilities(kept)
        linux.prctl(linux.PR_SET_KEEPCAPS, 0)
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    except OSError as error:
        raise EgressError(f"cannot drop privileges: {error}; is /proc mounted and this Linux 4.3 or later?") from None
    die_with_parent(parent)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends. Raises EgressError if that has ended already."""
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise EgressError("the gateway ended while this process started; start the gateway again")
