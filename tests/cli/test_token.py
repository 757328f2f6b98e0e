"""`egress token`: shown once, listed without its secret, revoked at once."""

from __future__ import annotations

import re

from tests.cli.conftest import Cli


def test_a_token_lives_and_dies(cli: Cli) -> None:
    made = cli.ok("token", "create", "--name", "ci-bot", "--role", "editor", "--agent", "ci-*", "--for", "30d")
    assert re.fullmatch(r"egress_[0-9a-f]{8}_[A-Za-z0-9_-]{43}\n", made.out)
    token, token_id = made.out.strip(), made.out.split("_")[1]
    assert made.err == f"token {token_id} (ci-bot, editor); save it now, it is not shown again\n"
    listed = cli.ok("token", "list").out
    assert token_id in listed and "ci-*" in listed and token.split("_", 2)[2] not in listed
    (shown,) = cli.ok("token", "list", "-o", "json").json
    assert (shown["name"], shown["role"], shown["agents"], shown["revoked_at"]) == ("ci-bot", "editor", ["ci-*"], None)
    assert cli.ok("allowlist", "list", env={"EGRESS_TOKEN": token}).code == 0
    assert cli.ok("token", "revoke", token_id).out == f"token {token_id} is revoked\n"
    assert cli("allowlist", "list", env={"EGRESS_TOKEN": token}).err == "the token is unknown, expired or revoked"
    assert cli("token", "revoke", token_id).code == 1
    text = cli.ok("audit", "-o", "json").out
    assert '"token.revoke"' in text and token.split("_", 2)[2] not in text


def test_what_is_wrong_is_named(cli: Cli) -> None:
    assert cli.ok("token", "list").err.startswith("no tokens")
    for words, field in (
        (["--name", "x", "--role", "viewer", "--for", "soon"], "expires: "),
        (["--name", "x", "--role", "viewer", "--for", "once"], "expires: "),
        (["--name", "", "--role", "viewer"], "name: "),
        (["--name", "a\nb", "--role", "viewer"], "name"),
        (["--name", "x", "--role", "root"], "--role"),
    ):
        done = cli("token", "create", *words)
        assert (done.code, field in done.err) == (2, True), done
    assert cli("token", "revoke", "nonsense").code == 2
    assert cli("token", "revoke", "00000000").code == 1
    assert cli.ok("token", "list", "-o", "json").json == []
