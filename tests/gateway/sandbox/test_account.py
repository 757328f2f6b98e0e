"""The account of a sandbox's command: as asked, else the one who called sudo."""

from __future__ import annotations

import pwd

import pytest

from egress.errors import InputError
from egress.gateway.sandbox.account import account, invoker

NOBODY = pwd.getpwnam("nobody")
FREE = 3_999_999_999  # no account has it


def test_an_account_by_name_and_by_number() -> None:
    assert account("nobody") == account(str(NOBODY.pw_uid))
    uid, gid, groups, environment = account("nobody")
    assert (uid, gid, environment["USER"], environment["HOME"]) == (
        NOBODY.pw_uid,
        NOBODY.pw_gid,
        "nobody",
        NOBODY.pw_dir,
    )
    assert gid in groups
    for absent in ("no-such-user-here", str(FREE), "99999999999999999999"):
        with pytest.raises(InputError, match="no user"):
            account(absent)


def test_the_one_who_called_sudo() -> None:
    ids = {"SUDO_UID": str(NOBODY.pw_uid), "SUDO_GID": str(NOBODY.pw_gid)}
    assert invoker(ids) == account("nobody")
    assert invoker({}) is None
    assert invoker({"SUDO_UID": "0", "SUDO_GID": "0"}) is None


def test_an_id_without_an_account_is_taken_as_it_is() -> None:
    found = invoker({"SUDO_UID": str(FREE), "SUDO_GID": "1234"})
    assert found is not None
    assert found[:3] == (FREE, 1234, (1234,))


@pytest.mark.parametrize("uid, gid", [("1000", ""), ("1000", "x"), ("-1", "1"), ("me", "1"), ("4294967295", "1")])
def test_ids_that_sudo_would_not_write_are_refused(uid: str, gid: str) -> None:
    """Running as root instead would be the wrong way round."""
    with pytest.raises(InputError, match="--user"):
        invoker({"SUDO_UID": uid, "SUDO_GID": gid})
