"""`egress check` and `egress simulate`: the answer is the exit code too."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Engine

from egress.model import Reason
from egress.store.database.database import writing
from egress.store.recording.writer import store
from tests.cli.conftest import Cli
from tests.whatif.recording import tls


def test_check(cli: Cli) -> None:
    cli.ok("allow", "example.org", "--port", "443", "--id", "web")
    done = cli("check", "example.org:443", "--agent", "rome-7")
    assert done.code == 0 and done.out.startswith("allowed: rome-7 may reach example.org, tcp port 443: rule web")
    done = cli("check", "example.org:80", "--agent", "rome-7")
    assert done.code == 3 and done.out.startswith("refused: ")
    done = cli("check", "[2001:db8::7]:53/udp", "--agent", "rome-7", "--app", "dns", "-o", "json")
    assert (done.code, done.json["allowed"], done.json["reason"]) == (3, False, "default")
    for words, field in (
        (["example.org"], "port"), (["a..b:1"], "destination"), (["x:1", "--app", "T T"], "app"), (["x:99999"], "port"),
        (["x:1", "--address", "y"], "address"),
    ):  # fmt: skip
        done = cli("check", *words, "--agent", "rome-7")
        assert (done.code, field in done.err) == (2, True), done
    done = cli("check", "x:1", "--agent", "a b")
    assert (done.code, done.err.startswith("agent: ")) == (2, True)


def test_simulate(cli: Cli, database: Engine, tmp_path: Path) -> None:
    ago: dict[str, Any] = {"start": time.time() - 60, "updated": time.time() - 59, "reason": Reason.RULE}
    with writing(database) as connection:
        store(connection, [tls("a.example", **ago), tls("b\x1b.example", "198.51.100.8", **ago)])
    file = tmp_path / "new.yaml"
    file.write_text("rules:\n- {action: allow, destination: a.example}\n")
    done = cli("simulate", str(file))
    assert done.code == 3
    assert "2 flows: 1 that passed would be refused" in done.out and "\x1b" not in done.out
    found = cli("simulate", "-", "-o", "json", stdin=file.read_text())
    assert (found.code, found.json["newly_refused"], found.json["same"]) == (3, 1, 1)
    file.write_text("{rules: [{action: allow}]}")
    assert cli("simulate", str(file)).code == 0
    assert cli("simulate", str(file), "--since", "2d", "--until", "1d").out.startswith("0 flows")
    file.write_text("rules:\n- {action: allow}\n- {action: permit}\n- {action: deny, ports: x}\n")
    bad = cli("simulate", str(file))
    assert (bad.code, bad.out) == (2, "")
    assert "rule 2: action: " in bad.err and "rule 3: ports: " in bad.err
    assert cli("simulate", str(tmp_path / "none")).code == 2
    file.write_text("rules: []")
    bad = cli("simulate", str(file), "--since", "x")
    assert (bad.code, bad.err.startswith("since: ")) == (2, True)
