"""`egress audit`: what was changed, and a chain that shows where it was broken."""

from __future__ import annotations

import sqlite3

from tests.cli.conftest import Cli


def test_changes_are_listed(cli: Cli) -> None:
    assert cli.ok("audit").err == "no recorded change matches\n"
    cli.ok("allow", "example.org", "--id", "web")
    cli.ok("allowlist", "rm", "web")
    lines = cli.ok("audit").out.splitlines()
    assert lines[0].split() == ["seq", "time", "actor", "action", "target", "request_id"]
    assert "rule.delete" in lines[1] and "rule.create" in lines[2]
    found = cli.ok("audit", "--action", "rule.create", "-o", "json").json
    assert [(each["after"]["destination"], each["before"], each["actor"]) for each in found] == [
        ("example.org", None, "uid:0 (root)")
    ]
    assert (
        cli.ok("audit", "list", "--since", "1h", "--actor", "uid:*", "--limit", "1", "-o", "json").json[0]["seq"] == 2
    )
    assert cli.ok("audit", "list", "--until", "1h", "-o", "json").json == []
    bad = cli("audit", "--since", "then")
    assert (bad.code, bad.err.startswith("since: ")) == (2, True)


def test_a_broken_chain_is_found(cli: Cli) -> None:
    for name in "abc":
        cli.ok("allow", f"{name}.example", "--id", name)
    whole = cli.ok("audit", "verify", "-o", "json").json
    assert (whole["count"], whole["broken"]) == (3, None)
    assert cli.ok("audit", "verify").out == f"3 entries, unbroken; head {whole['head']}\n"
    with sqlite3.connect(cli.directory / "egress.db") as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'audit'")
        for (trigger,) in names.fetchall():
            connection.execute(f"DROP TRIGGER {trigger}")
        connection.execute("UPDATE audit SET actor = 'nobody' WHERE seq = 2")
    connection.close()
    broken = cli("audit", "verify")
    assert (broken.code, broken.err) == (3, "BROKEN at entry 2: entry 2 was changed: its hash does not match\n")
    found = cli("audit", "verify", "-o", "json")
    assert (found.code, found.json["broken"], found.json["count"]) == (3, 2, 1)
