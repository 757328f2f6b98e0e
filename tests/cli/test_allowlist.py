"""`egress allowlist`: listing, and documents that go in whole or not at all."""

from __future__ import annotations

import json
import time
from pathlib import Path

from sqlalchemy.engine import Engine

from egress.store.database.database import writing
from egress.store.policy.audit import Actor
from egress.store.policy.edits import Edit
from tests.cli.conftest import Cli
from tests.whatif.recording import allow


def test_rules_are_listed_shown_and_removed(cli: Cli) -> None:
    assert cli.ok("allowlist", "list").err.startswith("no rule matches")
    cli.ok("allow", "example.org", "--id", "web", "--port", "443", "--comment", "the\u202eweb")
    cli.ok("deny", "10.0.0.0/8", "--id", "inner", "--agent", "ci-*")
    table = cli.ok("allowlist", "list").out.splitlines()
    assert table[0].split()[:3] == ["id", "action", "destination"]
    assert [line.split()[:3] for line in table[1:]] == [
        ["inner", "deny", "10.0.0.0/8"],
        ["web", "allow", "example.org"],
    ]
    assert "\\u202e" in table[2]
    for words, ids in (
        (["--agent", "ci-*"], ["inner"]), (["--applies-to", "ci-1"], ["inner", "web"]),
        (["--applies-to", "x"], ["web"]),
        (["--destination", "example"], ["web"]), (["--action", "deny"], ["inner"]), (["--source", "file"], []),
        (["--search", "web"], ["web"]), (["--limit", "1"], ["inner"]),
    ):  # fmt: skip
        assert [each["id"] for each in cli.ok("allowlist", "list", *words, "-o", "json").json] == ids, words
    assert cli.ok("allowlist", "show", "web").out.startswith("rule web: allow example.org 443\n")
    assert cli.ok("allowlist", "show", "web", "-o", "json").json["ports"] == [443]
    assert cli.ok("allowlist", "rm", "web", "--dry-run").out == "would remove rule web\n"
    assert cli.ok("allowlist", "rm", "web", "inner").out == "removed rule web\nremoved rule inner\n"
    for verb in ("show", "rm"):
        gone = cli("allowlist", verb, "web")
        assert (gone.code, "web" in gone.err) == (1, True)
        for bad in ("a/b", "..", "", "a b"):
            assert cli("allowlist", verb, bad).code == 2


def test_what_is_exported_is_imported(cli: Cli, tmp_path: Path) -> None:
    cli.ok("allow", "*.example.org", "--port", "443", "--app", "tls", "--for", "2100-01-01T00:00:00Z", "--id", "a")
    cli.ok("deny", "2001:db8::/32", "--agent", "label:gpu", "--comment", "# no: \"yes\"", "--id", "b")  # fmt: skip
    before = cli.ok("allowlist", "list", "-o", "json").json
    for form in ("yaml", "json"):
        file = tmp_path / f"rules.{form}"
        cli.ok("allowlist", "export", "--format", form, "--write", str(file))
        assert cli.ok("allowlist", "export", "--format", form).out.rstrip() == file.read_text().rstrip()
        cli.ok("allowlist", "rm", "a", "b")
        assert cli.ok("allowlist", "import", str(file)).out.startswith("imported: 2 added; policy version ")
        after = cli.ok("allowlist", "list", "-o", "json").json
        kept = ("id", "action", "destination", "agent", "ports", "app", "expires", "comment", "author")
        assert [[each.get(key) for key in kept] for each in after] == [
            [each.get(key) for key in kept] for each in before
        ]
        again = cli.ok("allowlist", "import", "-", "--mode", "merge", "-o", "json", stdin=file.read_text()).json
        assert (again["added"], again["unchanged"]) == (0, 2)
    one = json.dumps({"rules": [{"action": "allow", "destination": "example.net"}]})
    assert "1 added, 2 removed" in cli.ok("allowlist", "import", "-", "--mode", "replace", "--dry-run", stdin=one).out
    assert len(cli.ok("allowlist", "list", "-o", "json").json) == 2
    assert cli("allowlist", "export", "--write", str(tmp_path / "none" / "x")).code == 2


def test_a_bad_document_changes_nothing_and_lists_every_mistake(cli: Cli, tmp_path: Path) -> None:
    cli.ok("allow", "example.org", "--id", "web")
    file = tmp_path / "rules.yaml"
    file.write_text(
        "rules:\n- {action: allow, destination: a..b}\n- {action: allow, destination: fine.example}\n"
        "- {action: permit}\n- {action: deny, ports: [0], colour: red}\n"
    )
    for words in ([], ["--dry-run"], ["--mode", "replace"]):
        done = cli("allowlist", "import", str(file), *words)
        assert done.code == 2
        assert all(text in done.err for text in ("rule 1: destination: ", "rule 3: action: ", "rule 4: ")), done.err
        assert "rule 2" not in done.err
    file.write_text("rules:\n- {action: deny, id: new}\n- {action: deny, port: 1, id: web}\n".replace("port: 1, ", ""))
    taken = cli("allowlist", "import", str(file))
    assert (taken.code, "rule 2: id: " in taken.err) == (1, True)
    for text in ("rules: [", "\x00", "[]", "- a", ""):
        assert cli("allowlist", "import", "-", stdin=text).code == 2, text
    for name in ("none.yaml", "."):
        assert cli("allowlist", "import", str(tmp_path / name)).code == 2
    assert [each["id"] for each in cli.ok("allowlist", "list", "-o", "json").json] == ["web"]


def test_unused_rules_are_pruned(cli: Cli, database: Engine) -> None:
    with writing(database) as connection:
        Edit(connection, Actor("gateway"), time.time() - 90 * 86400).add([allow("old.example", id="old")])
    cli.ok("allow", "new.example", "--id", "new")
    listed = cli.ok("allowlist", "prune", "--unused", "30d", "--dry-run").out
    assert listed == "would remove rule old: allow old.example\n"
    removed = cli.ok("allowlist", "prune", "--unused", "30d", "-o", "json").json["removed"]
    assert [each["id"] for each in removed] == ["old"]
    assert cli.ok("allowlist", "prune", "--unused", "30d").out == "no rule has been unused for 30d\n"
    bad = cli("allowlist", "prune", "--unused", "long")
    assert (bad.code, "unused_for" in bad.err) == (2, True)
