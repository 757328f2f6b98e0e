"""`egress db`: its output, its changes, and none at all from a command that only reads."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
import sqlalchemy as sa
from alembic import command
from sqlalchemy.engine import Engine

from egress.store.database import tables
from egress.store.database.database import HEAD, alembic_config, open_database, writing
from egress.store.database.sqlite import seal
from egress.store.recording.writer import store
from tests.cli.conftest import Cli
from tests.store import samples
from tests.store.conftest import postgresql_url, server  # noqa: F401 - fixtures
from tests.store.postgres import PASSWORD

DAY = 86400.0


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, cli: Cli) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{cli.directory / 'egress.db'}"
    address = str(request.getfixturevalue("postgresql_url"))
    document = json.loads(cli.config.read_text()) | {"database": address}
    cli.config.write_text(json.dumps(document))
    return address


def _engine(url: str) -> Engine:
    engine = open_database(url)
    now = time.time()
    with writing(engine) as connection:
        aged = [samples.numbered(age, start=now - age * DAY, updated=now - age * DAY) for age in (0, 20, 100)]
        store(connection, [*aged, replace(samples.FINDING, time=now - 40 * DAY)])
        store(connection, [replace(samples.EVIDENCE, time=now - 40 * DAY)])
    return engine


def _down(engine: Engine, revision: str) -> None:
    config = alembic_config()
    with writing(engine) as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)
    engine.dispose()


def test_upgrade_says_what_it_brings_and_brings_it(cli: Cli, url: str) -> None:
    _down(_engine(url), "0002")
    dry = cli.ok("db", "upgrade", "--dry-run").out
    assert "would go from 0002 to" in dry and "0003  " in dry and "0009  Partitions" in dry and PASSWORD not in dry
    old = cli("db", "status")
    assert old.code == 1 and "0002, old" in old.out and "egress db upgrade" in old.out
    assert json.loads(cli("db", "status", "-o", "json").out)["current"] is False
    done = cli.ok("db", "upgrade").out
    assert f"0002 to {HEAD} in" in done
    assert f"already at {HEAD}" in cli.ok("db", "upgrade").out
    assert cli.ok("db", "upgrade", "-o", "json").json["done"] is False
    assert f"{HEAD}, current" in cli.ok("db", "status").out


def test_status_of_none_makes_none(cli: Cli) -> None:
    (cli.directory / "egress.db").unlink()
    done = cli("db", "status")
    assert done.code == 1 and "none yet" in done.out
    assert not (cli.directory / "egress.db").exists()
    assert "would go from nothing" in cli.ok("db", "upgrade", "--dry-run").out
    assert not (cli.directory / "egress.db").exists()


def test_status_shows_what_is_there(cli: Cli, url: str) -> None:
    _engine(url).dispose()
    (cli.directory / "journal").mkdir()
    (cli.directory / "journal" / "worker-0-1.jsonl").write_bytes(b"x" * 100)
    said = cli.ok("db", "status").out
    for part in ("records 90 days", "evidence 30 days, at most 1.1 GB", "1 segments, 100 B not stored yet", "flows"):
        assert part in said, said
    assert PASSWORD not in said and "not%2Fa" not in said
    held = cli.ok("db", "status", "-o", "json").json
    assert held["revision"] == HEAD and held["holds"]["bytes"] > 10_000 and held["retention"]["days"] == 90
    rows = {each["table"]: each for each in held["holds"]["records"]}
    assert (rows["flows"]["rows"], rows["findings"]["rows"]) == (3, 1)
    assert rows["flows"]["newest"] - rows["flows"]["oldest"] == pytest.approx(100 * DAY, abs=60)
    assert bool(rows["flows"]["days"]) is url.startswith("postgresql")


def test_prune(cli: Cli, url: str) -> None:
    engine = _engine(url)
    assert "would delete: 1 flows, 1 evidence" in cli.ok("db", "prune", "--dry-run").out
    assert "deleted: 1 flows, 1 evidence" in cli.ok("db", "prune").out
    assert "deleted: nothing" in cli.ok("db", "prune").out
    assert cli.ok("db", "prune", "--older-than", "30d", "-o", "json").json["gone"]["findings"] == 1
    assert "1 flows" in cli.ok("db", "prune", "--before", "15d").out
    assert "100" not in cli.ok("db", "prune", "--older-than", "1d", "--dry-run").out
    assert cli("db", "prune", "--before", "1d", "--older-than", "1d").code == 2
    of_a_case = cli("db", "prune", "--case", "incident")
    assert of_a_case.code == 2 and "egress case rm incident" in of_a_case.err, "it worked on the live database"
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.flows)) == 1
    engine.dispose()
    assert "2, all before" in cli.ok("db", "status").out


def test_evidence_says_that_packets_were_pruned(cli: Cli, url: str) -> None:
    _engine(url).dispose()
    cli.ok("db", "prune")
    said = cli("evidence", "0", "-w", str(cli.directory / "x.pcapng"))
    assert said.code == 1 and "pruned" in said.err and "retention" in said.err
    assert "packets of that age were pruned" in cli.ok("show", "finding", "0").out


def test_prune_without_a_database(cli: Cli) -> None:
    (cli.directory / "egress.db").unlink()
    done = cli("db", "prune")
    assert done.code == 1 and "no database" in done.err


READERS = (
    ("query",),
    ("timeline",),
    ("observe",),
    ("episodes",),
    ("hunt",),
    ("hunt", "--dry-run"),
    ("learn", "a1", "--since", "24h"),
    ("approvals",),
    ("allowlist", "list"),
    ("check", "192.0.2.1:443", "--agent", "a1"),
    ("allow", "example.org"),
    ("db", "prune", "--dry-run"),
    ("db", "prune"),
)


def test_only_an_upgrade_rewrites_a_database_of_an_older_egress(cli: Cli) -> None:
    path = cli.directory / "egress.db"
    _down(_engine(f"sqlite:///{path}"), "0009")
    seal(path)
    before = path.read_bytes()
    for words in READERS:
        done = cli(*words)
        assert done.code == 1 and "schema 0009" in done.err and "egress db upgrade" in done.err, words
    assert "schema 0009" in cli("doctor").out
    assert "0009, old" in cli("db", "status").out
    assert path.read_bytes() == before
    cli.ok("db", "upgrade")
    assert cli("query").code == 0 and path.read_bytes() != before
