"""`egress audit`: what was changed, and a chain that shows where it was broken."""

from __future__ import annotations

import asyncio
import sqlite3

from egress.gateway.supervisor import snapshot
from egress.gateway.supervisor.snapshot import Snapshot
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


def _cut(cli: Cli, after: int) -> None:
    """Delete the end of the trail, as the owner of the database can."""
    with sqlite3.connect(cli.directory / "egress.db") as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'audit'")
        for (trigger,) in names.fetchall():
            connection.execute(f"DROP TRIGGER {trigger}")
        connection.execute("DELETE FROM audit WHERE seq > ?", (after,))
    connection.close()


def test_a_cut_off_end_is_found_by_an_entry_that_was_seen(cli: Cli) -> None:
    for name in "abcdef":
        cli.ok("allow", f"{name}.example", "--id", name)
    head = cli.ok("audit", "verify", "-o", "json").json["head"]
    assert cli.ok("audit", "verify", "--head", head).out == f"6 entries, unbroken; head {head}\n"
    cli.ok("audit", "verify", "--head", f"6:{head}")
    _cut(cli, 3)
    assert cli.ok("audit", "verify").out.startswith("3 entries, unbroken"), "the chain alone cannot know"
    cut = cli("audit", "verify", "--head", f"6:{head}")
    assert (cut.code, cut.err) == (3, "BROKEN at entry 4: entries 4 to 6 are missing: 6 entries were seen\n")
    unknown = cli("audit", "verify", "--head", head)
    assert unknown.code == 3 and "the end was cut off, or the trail rewritten" in unknown.err
    other = cli("audit", "verify", "--head", f"2:{head}")
    assert (other.code, other.err) == (
        3,
        "BROKEN at entry 2: entry 2 is not the one that was seen: the trail was rewritten\n",
    )
    assert cli("audit", "verify", "--head", "nonsense").code == 2


def test_a_gateways_snapshot_is_an_anchor(cli: Cli) -> None:
    for name in "abc":
        cli.ok("allow", f"{name}.example", "--id", name)
    head = cli.ok("audit", "verify", "-o", "json").json["head"]
    path = cli.directory / "policy.json"
    asyncio.run(snapshot.write(path, Snapshot(3, 3, host="h", head=head)))
    assert "3 entries, unbroken" in cli.ok("audit", "verify", "--snapshot", str(path)).out
    _cut(cli, 2)
    cut = cli("audit", "verify", "--snapshot", str(path))
    assert (cut.code, cut.err) == (3, "BROKEN at entry 3: entry 3 is missing: 3 entries were seen\n")
    asyncio.run(snapshot.write(path, Snapshot(3, 3)))
    old = cli("audit", "verify", "--snapshot", str(path))
    assert old.code == 1 and "has no head of the audit trail" in old.err
    assert cli("audit", "verify", "--snapshot", str(path), "--head", head).code == 2
