"""`egress learn`: a file that can be imported unchanged; its header lists the omissions and their reasons."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy.engine import Engine

from egress.cli.learn import command
from egress.errors import EgressError
from egress.policy.file import parse_policy
from egress.records.shape import Record
from egress.store.database import tables
from egress.store.database.database import open_database, writing
from egress.store.recording.writer import store
from tests.whatif.recording import START, allow, finding, flow, tls

HOSTILE = "\x1b[2J\r\nrules: []\n"


@pytest.fixture
def engine(tmp_path: Path, empty_database: Path) -> Iterator[Engine]:
    opened = open_database(f"sqlite:///{shutil.copy(empty_database, tmp_path / 'egress.db')}")
    (tmp_path / "egress.yaml").write_text(f"state_dir: {tmp_path}\n")
    miner = flow(dst="203.0.113.9")
    records: list[Record] = [tls("a.example.org"), tls("b.example.org"), miner, finding(miner)]
    with writing(opened) as connection:
        store(connection, [*records, tls(HOSTILE, dst="203.0.113.9")])
        connection.execute(tables.policies.insert(), {"version": 1, "created": START, "actor": "gateway"})
        rule = dataclasses.asdict(allow("b.example.org", id="b"))
        connection.execute(tables.rules.insert(), rule | {"source": "allowlist", "added": 1})
    yield opened
    opened.dispose()


def _run(tmp_path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(command, [*arguments, "--config", str(tmp_path / "egress.yaml")])


def test_the_yaml_is_a_policy_document(engine: Engine, tmp_path: Path) -> None:
    result = _run(tmp_path, "trainer", "--since", "2026-11-01")
    assert result.exit_code == 0, result.output
    assert [rule.destination for rule in parse_policy(result.stdout, "learnt")] == ["a.example.org"]
    assert "\x1b" not in result.stdout
    head = [line for line in result.stdout.splitlines() if line.startswith("#")]
    assert "Flows: 1 need these rules, 1 are allowed already, 2 are left out." in head[1]
    assert "tcp 198.51.100.7:443" not in result.stdout
    assert any("tcp 203.0.113.9:443: mining.stratum objected (1)" in line for line in head)
    again = _run(tmp_path, "trainer", "--since", "2026-11-01", "--all")
    assert len(parse_policy(again.stdout, "learnt")) == 2


def test_it_writes_a_file_and_json(engine: Engine, tmp_path: Path) -> None:
    target = tmp_path / "learnt.yaml"
    result = _run(tmp_path, "trainer", "--since", "2026-11-01", "-w", str(target))
    assert (result.exit_code, result.stdout) == (0, "")
    assert len(parse_policy(target.read_bytes(), "learnt")) == 1
    document = json.loads(_run(tmp_path, "trainer", "--since", "2026-11-01", "-o", "json").stdout)
    assert document["flows"] == {"recorded": 4, "covered": 1, "already": 1}
    assert len(document["rules"]) == 1 and len(document["left_out"]) == 2
    failed = _run(tmp_path, "trainer", "--since", "2026-11-01", "-w", str(tmp_path))
    assert isinstance(failed.exception, EgressError) and "cannot write" in str(failed.exception)


def test_nothing_recorded_says_what_to_do(engine: Engine, tmp_path: Path) -> None:
    for arguments in (
        ("nobody", "--since", "2026-11-01"),
        ("trainer", "--since", "2026-11-01", "--until", "2026-11-02"),
    ):
        result = _run(tmp_path, *arguments)
        assert isinstance(result.exception, EgressError) and result.exception.exit_code == 1
        assert "widen --since" in str(result.exception) and "\n" not in str(result.exception)
    assert _run(tmp_path, "trainer").exit_code == 2
    assert _run(tmp_path, "trainer", "--since", "soon").exit_code == 2
