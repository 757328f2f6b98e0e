"""`egress doctor`: a check passes only if its fact is known, on a fresh host and on one that has lost its database."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from sqlalchemy.engine import Engine

from egress.cli import doctor
from egress.config import Config, Retention
from egress.gateway.supervisor.checks import Check
from egress.store.database.clock import clock
from egress.store.database.database import open_database, storing
from egress.store.recording.writer import store
from tests.ports import free_port
from tests.store import samples

WHY = "no gateway runs"
DAY = 86400.0


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(state_dir=tmp_path, run_dir=tmp_path)


def both(config: Config) -> list[Check]:
    """The first check of each part that opens the database itself."""
    return [doctor._unguarded(config, WHY)[0], doctor._database(config)[0]]


def test_a_fresh_host_is_well(config: Config) -> None:
    assert [(each.name, each.ok) for each in both(config)] == [("gateway", True), ("database", True)]
    assert "none yet" in doctor._database(config)[0].text
    assert not list(config.state_dir.iterdir()), "a check creates nothing"


@pytest.mark.parametrize("trace", ["policy.json", "journal/worker-0.jsonl"])
def test_a_database_that_is_gone_fails(config: Config, trace: str) -> None:
    """A gateway has run here: agents may be attached that no check can name."""
    path = config.state_dir / trace
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    gateway, database = both(config)
    assert (gateway.ok, database.ok) == (False, False)
    assert "cannot tell which agents are unguarded: the database" in gateway.text and "is missing" in database.text
    open_database(config.database_url).dispose()
    assert all(each.ok for each in both(config)), "it is back, and no agent is attached"


def test_a_file_that_is_no_database_fails(config: Config) -> None:
    (config.state_dir / "egress.db").write_bytes(b"not a database" * 1000)
    for each in both(config):
        assert not each.ok and "not a database" in each.text and "\n" not in each.text


def test_an_unreachable_server_fails(tmp_path: Path) -> None:
    """Without a journal or a snapshot too: another host may have made the database."""
    url = f"postgresql://egress:secret@127.0.0.1:{free_port()}/egress"
    gateway, database = both(Config(state_dir=tmp_path, run_dir=tmp_path, database=url))
    assert (gateway.ok, database.ok) == (False, False)
    assert "cannot tell" in gateway.text and "cannot use database" in database.text
    assert "secret" not in gateway.text + database.text


def snapshot_check(config: Config, **saved: object) -> Check:
    facts = {"version": 4, "time": time.time() - 3600, "error": "", **saved}
    return doctor._snapshot(config, {"snapshot": facts, "policy_version": 5})


def test_a_snapshot_has_a_minute_from_the_edit_to_be_written(config: Config) -> None:
    config.policy_snapshot.write_text("")
    assert snapshot_check(config, unsaved_since=time.time() - 1).ok, "an hour without an edit does not count"
    late = snapshot_check(config, unsaved_since=time.time() - 75)
    assert not late.ok and "lacks edits made 75 s ago: it has version 4, 5 is in force" in late.text
    assert snapshot_check(config, unsaved_since=None, version=5).ok
    assert not snapshot_check(config).ok, "an older gateway reports only the time of the last write"
    assert snapshot_check(config, time=time.time()).ok
    assert "cannot be written: disk full" in snapshot_check(config, error="disk full").text
    config.policy_snapshot.unlink()
    assert "is missing" in snapshot_check(config, unsaved_since=None).text


def test_retention_is_judged_by_the_databases_clock(
    database: Engine, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    with storing(database) as connection:
        store(connection, [samples.numbered(1, start=time.time() - DAY, updated=time.time() - DAY, state="closed")])
    week = Config(state_dir=config.state_dir, retention=Retention(days=7))
    with database.connect() as connection:
        assert doctor._retention(week, connection).ok
        now = clock(connection)[0]
        monkeypatch.setattr("egress.cli.doctor.clock", lambda _: (now + 10 * DAY, 0.0))
        late = doctor._retention(week, connection)
    assert not late.ok and "long past their retention" in late.text
