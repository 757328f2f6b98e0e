"""Cases: what is kept of a capture, twice the same, two with the same flows, cut off, interrupted, and never mixed."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from egress.config import Config
from egress.errors import EgressError, InputError
from egress.model import Action, Rule
from egress.records.shape import FlowRecord, Record
from egress.store.cases import cases
from egress.store.cases.caseimport import BATCH, CaptureWriter, begin, examine
from egress.store.database import tables
from egress.store.database.database import open_database, writing
from egress.store.policy.ruleset import rule_at
from egress.store.query.reader import Filter, flows
from egress.store.query.story import files_of
from egress.store.recording.evidence import read
from egress.store.recording.writer import store
from tests.store import samples


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(state_dir=tmp_path)


@pytest.fixture(scope="module")
def new_case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a case without captures, of which each test takes a copy."""
    config = Config(state_dir=tmp_path_factory.mktemp("new"))
    engine, there = cases.make_case(config, "incident")
    assert not there
    engine.dispose()
    return config.cases_dir


@pytest.fixture
def case(config: Config, new_case: Path) -> Iterator[Engine]:
    shutil.copytree(new_case, config.cases_dir)
    engine, there = cases.make_case(config, "incident")
    assert there
    yield engine
    engine.dispose()


def capture(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def keep(case: Engine, path: Path, records: list[Record], *rules: Rule, finish: bool = True) -> int:
    """Store records of a capture; returns the number of flows that other captures have as well."""
    source = examine(path)
    begun = begin(case, source, rules, [])
    assert not begun.stored
    writer = CaptureWriter(case, begun)
    writer.add(records)
    return writer.finish(source, packets=9, flows=1, unread=2, truncated="") if finish else 0


def stored(case: Engine) -> list[FlowRecord]:
    return list(flows(case, Filter()))


def test_a_case_is_a_file_of_its_own_that_only_its_owner_and_group_read(config: Config, case: Engine) -> None:
    path = cases.case_path(config, "incident")
    assert path == config.state_dir / "cases" / "incident.db"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o640, 0o750)
    assert cases.list_cases(config) == ["incident"]
    assert not (config.state_dir / "egress.db").exists()


def test_all_of_a_capture_is_kept_and_what_it_was(config: Config, case: Engine, tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcap", "aaaa")
    rule = Rule("ssh", Action.ACCEPT, protocol="tcp", ports=((22, 22),), comment="lab")
    keep(case, path, [samples.FLOW, samples.FINDING, samples.ANOMALY, samples.EVIDENCE], rule)
    with case.connect() as connection:
        held = cases.contents(connection)
        assert read(connection, samples.FINDING.finding_id) == samples.EVIDENCE
        known = rule_at(connection, "ssh", 1)
        assert files_of(connection, samples.FLOW.flow_id) == (str(path),)
    assert known is not None and known.rule.comment == "lab"
    (made,) = held.captures
    assert (made.file, made.size, made.sha256) == (str(path), 4, hashlib.sha256(b"aaaa").hexdigest())
    assert (made.packets, made.flows, made.findings, made.unread, made.policy_version) == (9, 1, 1, 2, 1)
    assert made.finished is not None and made.added <= made.finished
    assert (held.flows, held.findings, held.anomalies, held.shared) == (1, 1, samples.ANOMALY.count, 0)
    assert (held.begin, held.end) == (samples.FLOW.start, samples.FLOW.updated)


def test_the_same_file_is_known_again_by_its_bytes(case: Engine, tmp_path: Path) -> None:
    keep(case, capture(tmp_path / "a.pcap", "aaaa"), [samples.FLOW])
    again = begin(case, examine(capture(tmp_path / "copy.pcap", "aaaa")), [], [])
    assert again.stored and again.capture.file == str(tmp_path / "a.pcap")
    for rules, networks in (([Rule("r", Action.REJECT)], []), ([], ["10.0.0.0/8"])):
        with pytest.raises(EgressError, match=r"judged by another policy.*give it another case"):
            begin(case, examine(tmp_path / "a.pcap"), rules, networks)


def test_each_capture_names_the_policy_it_was_judged_by(case: Engine, tmp_path: Path) -> None:
    def version(text: str, *rules: Rule) -> int:
        return begin(case, examine(capture(tmp_path / text, text)), rules, []).policy.version

    deny = Rule("d", Action.REJECT, destination="10.0.0.0/8")
    assert [version("a"), version("b", deny), version("c", deny), version("d")] == [0, 1, 1, 2]
    again = begin(case, examine(tmp_path / "b"), [deny], [])
    assert not again.stored, "it was never finished"
    assert (again.policy.version, [rule.id for rule in again.policy.rules]) == (1, ["d"])


def test_of_a_flow_in_two_captures_the_record_that_saw_more_stays(case: Engine, tmp_path: Path) -> None:
    whole = samples.numbered(1, updated=samples.START + 50, packets_out=80, state="closed", end=samples.START + 50)
    part = samples.numbered(1, updated=samples.START + 90, packets_out=3, state="shutdown", end=samples.START + 90)
    assert keep(case, capture(tmp_path / "a", "a"), [part]) == 0
    early = replace(whole, packets_out=1, updated=samples.START, state="new", end=None)
    assert keep(case, capture(tmp_path / "b", "b"), [early, whole]) == 1
    assert stored(case) == [whole], "however early it ended"
    assert keep(case, capture(tmp_path / "c", "c"), [replace(part, updated=samples.START + 99)]) == 1
    assert stored(case) == [whole], "however late the other ended"
    with case.connect() as connection:
        assert cases.contents(connection).shared == 1
        assert files_of(connection, whole.flow_id) == tuple(str(tmp_path / name) for name in "abc")


def test_records_are_stored_as_they_come_in_batches(case: Engine, tmp_path: Path) -> None:
    path = capture(tmp_path / "a", "a")
    made: list[Record] = [samples.numbered(number) for number in range(BATCH + 1)]
    keep(case, path, made[:BATCH], finish=False)
    assert len(stored(case)) == BATCH
    with case.connect() as connection:
        assert cases.contents(connection).captures[0].finished is None, "and is said to be incomplete"
    keep(case, path, made)
    assert len(stored(case)) == BATCH + 1


def test_a_file_that_changes_while_it_is_read_is_not_finished(case: Engine, tmp_path: Path) -> None:
    path = capture(tmp_path / "a", "a")
    source = examine(path)
    writer = CaptureWriter(case, begin(case, source, [], []))
    os.utime(path, (1, 1))
    with pytest.raises(EgressError, match="changed while it was read"):
        writer.finish(source, packets=1, flows=1, unread=0, truncated="")


def test_what_cannot_be_read_again_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        examine(tmp_path / "pipe")
    with pytest.raises(EgressError, match="cannot read"):
        examine(tmp_path / "absent")


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".hidden", "a b", "x" * 64, "-rf", "a\n", "ä"])
def test_names_are_plain(config: Config, name: str) -> None:
    with pytest.raises(InputError, match="is not a valid case name"):
        cases.case_path(config, name)


def test_a_path_is_a_case_anywhere(config: Config, tmp_path: Path) -> None:
    path = str(tmp_path / "some?where #1%41" / "x.db")
    Path(path).parent.mkdir()
    engine, _ = cases.make_case(config, path)
    keep(engine, capture(tmp_path / "a", "a"), [samples.FLOW])
    cases.close_case(engine)
    assert [each.name for each in Path(path).parent.iterdir()] == ["x.db"], "one file, without a log beside it"
    engine = cases.open_case(config, path)
    assert stored(engine) == [samples.FLOW]
    engine.dispose()
    again, there = cases.make_case(config, path)
    again.dispose()
    assert there


def test_live_records_are_never_mixed_with_a_case(config: Config) -> None:
    for number, row in enumerate(
        (
            lambda connection: store(connection, [samples.FLOW]),
            lambda connection: connection.execute(
                tables.journal_checkpoints.insert(), {"segment": "worker-0-1.jsonl", "offset": 5, "updated": 5.0}
            ),
        )
    ):
        path = str(config.state_dir / f"live{number}.db")
        live = open_database(f"sqlite:///{path}")
        with writing(live) as connection:
            row(connection)
        live.dispose()
        for refused in (cases.make_case, cases.remove_case):
            with pytest.raises(EgressError, match="is not a case: it holds other records"):
                refused(config, path)
        assert Path(path).exists()


def test_the_gateway_s_database_is_no_case_even_while_it_is_empty(config: Config) -> None:
    open_database(config.database_url).dispose()
    with pytest.raises(InputError, match="is the database of the gateway"):
        cases.make_case(config, str(config.state_dir / "cases" / ".." / "egress.db"))
    linked = config.cases_dir / "linked.db"
    linked.parent.mkdir()
    linked.hardlink_to(config.state_dir / "egress.db")
    for call in (cases.make_case, cases.open_case, cases.remove_case):
        for wanted in (str(config.state_dir / "egress.db"), "linked"):
            with pytest.raises(InputError, match="is the database of the gateway"):
                call(config, wanted)
    assert linked.exists() and (config.state_dir / "egress.db").exists()


@pytest.mark.parametrize(
    "schema",
    [
        "CREATE VIEW made_up AS WITH RECURSIVE x (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM x) SELECT n FROM x",
        "CREATE TRIGGER made_up AFTER INSERT ON findings BEGIN DELETE FROM captures; END",
        "CREATE VIRTUAL TABLE made_up USING fts5(x)",
    ],
    ids=["view", "trigger", "virtual table"],
)
def test_what_is_no_plain_table_of_ours_is_not_read(config: Config, case: Engine, schema: str) -> None:
    """A view that never ends may stand in for a table; the triggers that keep our audit chain are as they must be."""
    with writing(case) as connection:
        connection.execute(sa.text(schema))
        connection.execute(sa.text("PRAGMA writable_schema = ON"))
        connection.execute(sa.text("UPDATE sqlite_master SET type = upper(type) WHERE name = 'made_up'"))
    case.dispose()
    for call in (cases.make_case, cases.open_case):
        with pytest.raises(EgressError, match=r"has the .* 'made_up', which egress never makes"):
            call(config, "incident")
    assert not cases.remove_case(config, "incident").exists()


def test_a_case_is_a_file_whatever_the_live_database_is(tmp_path: Path) -> None:
    config = Config(state_dir=tmp_path, database="postgresql://egress:secret@db.example/egress")
    engine, _ = cases.make_case(config, "incident")
    keep(engine, capture(tmp_path / "a", "a"), [samples.FLOW])
    cases.close_case(engine)
    assert cases.list_cases(config) == ["incident"]


def test_a_damaged_case_can_be_deleted(config: Config) -> None:
    config.cases_dir.mkdir()
    path = config.cases_dir / "broken.db"
    path.write_text("this is not a database, however long one looks at it" * 20)
    assert cases.remove_case(config, "broken") == path and not path.exists()
    elsewhere = config.state_dir / "letter.db"
    elsewhere.write_text("Dear Sir, this is no database, and nobody should delete it" * 20)
    with pytest.raises(EgressError, match="not a database"):
        cases.remove_case(config, str(elsewhere))
    assert elsewhere.exists()


def test_a_case_is_deleted_with_all_that_belongs_to_it(config: Config, case: Engine) -> None:
    with writing(case) as connection:
        connection.execute(sa.text("CREATE TABLE x (y)"))  # so that there is a log
    case.dispose()
    path = cases.remove_case(config, "incident")
    assert list(path.parent.iterdir()) == []
    for call in (cases.remove_case, cases.open_case):
        with pytest.raises(EgressError, match="there is no case incident"):
            call(config, "incident")


def test_the_gateway_s_own_database_has_no_captures(engine: Engine) -> None:
    """On every database: the tables are there, and empty."""
    with engine.connect() as connection:
        held = cases.contents(connection)
        assert (held.captures, held.begin, held.shared) == ((), None, 0)
        assert files_of(connection, "00") == ()
