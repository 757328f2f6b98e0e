"""Any bit, line, row, seal or segment that is changed, removed or added is found, and named."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from egress.config import SEGMENT_BYTES, Config
from egress.config import Journal as Settings
from egress.gateway.journal import sealing
from egress.gateway.journal.journal import JournalWriter
from egress.records.eve import line
from egress.records.seals import CUT_OFF
from egress.records.shape import Record
from egress.store.database import tables
from egress.store.database.database import open_database, storing
from egress.store.query.verifying import Verification, verify, verify_segments
from egress.store.recording import retention, writer
from egress.store.recording.recorder import Recorder
from tests.store import samples

NOW = time.time()
LATER = NOW + 1000


def lines(number: int) -> list[Record]:
    """Records of several kinds: a flow that changes, and others of the same time."""
    at = NOW + number
    flow = samples.numbered(number, start=at, updated=at)
    others: list[Record] = []
    if number % 5 == 0:
        name = f"{number:016x}"
        finding = replace(samples.FINDING, finding_id=name, flow_id=name, time=at)
        others += [finding, replace(samples.EVIDENCE, finding_id=name, flow_id=name, time=at)]
        others += [replace(samples.ANOMALY, time=at), replace(samples.FOLDED, time=at, start=at)]
        others += [replace(samples.PROCESS, flow_id=name, time=at)]
    return [
        flow,
        *others,
        replace(flow, updated=at + 0.5, server_name="ä\0" if number % 4 == 0 else "ä", packets_out=9),
    ]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    made = Config(host="gate", state_dir=tmp_path)
    made.journal_dir.mkdir()
    return made


def write(config: Config, numbers: range, *, stop: bool = True, **settings: float) -> JournalWriter:
    journal = JournalWriter(config.journal_dir, 0, Settings(**settings), host="gate")  # type: ignore[arg-type]
    for number in numbers:
        assert journal.append(lines(number), NOW + number)
        journal.poll(NOW + number)
    if stop:
        journal.close(NOW + numbers.stop)
    return journal


def record(config: Config) -> Engine:
    recorder = Recorder(config)
    recorder.run_once()
    recorder.close()
    return open_database(config.database_url, create=False)


def checked(engine: Engine, *heads: str) -> Verification:
    return verify(engine, heads=heads, now=LATER)


def test_what_was_recorded_is_whole(config: Config) -> None:
    journal = write(config, range(60))
    engine = record(config)
    found = checked(engine, journal.sealing.head)
    assert (found.faults, found.gaps) == ([], [])
    assert found.counts["matched"] == found.counts["rows"] == 60 + 12 * 5
    assert found.counts["lines"] == 120 + 12 * 5 and found.counts["seals"] >= 6
    segments = verify_segments(config.journal_dir)
    assert (segments.faults, segments.gaps) == ([], []) and segments.counts["lines"] == found.counts["lines"]
    engine.dispose()


def _rows(table: sa.Table, change: Callable[[sa.Table], sa.Executable]) -> Callable[[Engine], None]:
    def tamper(engine: Engine) -> None:
        with engine.begin() as connection:
            connection.execute(change(table))

    return tamper


OTHERS = (tables.findings, tables.anomalies, tables.evidence, tables.processes, tables.folded)
_third = tables.seals.c.number == 3
_late = tables.flows.c.flow_id == f"{7:016x}"
TAMPERINGS: list[tuple[str, Callable[[Engine], None], str]] = [
    ("a flow is changed", _rows(tables.flows, lambda t: t.update().where(_late).values(dst="192.0.2.1")),
     f"flow {7:016x} was changed"),
    ("a flow is removed", _rows(tables.flows, lambda t: t.delete().where(_late)), f"flow {7:016x} is missing"),
    ("a flow is added", _rows(tables.flows, lambda t: t.insert().from_select(
        [c.name for c in t.c], sa.select(sa.literal("00000000000000ff"), *list(t.c)[1:]).where(_late))),
     "flow 00000000000000ff was added or changed: no seal covers it"),
    ("a flow is rolled back", _rows(tables.flows, lambda t: t.update().where(_late).values(
        updated=NOW + 7, server_name=samples.FLOW.server_name, packets_out=samples.FLOW.packets_out)),
     f"flow {7:016x} shows an earlier record"),
    ("a seal is changed", _rows(tables.seals, lambda t: t.update().where(_third).values(lost=9)),
     "was changed: it does not match"),
    ("a seal is removed", _rows(tables.seals, lambda t: t.delete().where(_third)), "seal 3 is missing"),
    ("the first seals are removed", _rows(tables.seals, lambda t: t.delete().where(t.c.number < 3)), "seals 1 to 2"),
    ("leaves are cut", _rows(tables.seals, lambda t: t.update().where(_third).values(leaves=b"")), "was changed"),
    *((f"{table.name}: one is removed", _rows(table, lambda t: t.delete().where(t.c.time < NOW + 1)),
       f"a record of {table.name} is missing")
      for table in OTHERS),
    *((f"{table.name}: one is changed", _rows(table, lambda t: t.update().where(t.c.time < NOW + 1).values(agent="x")),
       f"a record of {table.name}")
      for table in OTHERS),
]  # fmt: skip


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without a fault, to be copied."""
    config = Config(host="gate", state_dir=tmp_path_factory.mktemp("recorded"))
    config.journal_dir.mkdir()
    write(config, range(30))
    engine = record(config)
    assert not checked(engine).faults
    with engine.begin() as connection:
        connection.execute(sa.text("PRAGMA wal_checkpoint(TRUNCATE)"))
    engine.dispose()
    return config.state_dir / "egress.db"


@pytest.mark.parametrize(("tamper", "text"), [each[1:] for each in TAMPERINGS], ids=[each[0] for each in TAMPERINGS])
def test_every_tampering_with_the_database_is_found(
    recorded: Path, tmp_path: Path, tamper: Callable[[Engine], None], text: str
) -> None:
    shutil.copyfile(recorded, tmp_path / "egress.db")
    engine = open_database(f"sqlite:///{tmp_path / 'egress.db'}", create=False)
    tamper(engine)
    found = checked(engine)
    assert any(text in fault for fault in found.faults), found.faults
    engine.dispose()


def test_a_cut_off_end_is_found_by_a_head_that_was_seen(config: Config) -> None:
    head = write(config, range(30)).sealing.head
    engine = record(config)
    with engine.begin() as connection:
        connection.execute(tables.seals.delete().where(tables.seals.c.number > 2))
        for table in (
            tables.flows,
            tables.findings,
            tables.evidence,
            tables.anomalies,
            tables.processes,
            tables.folded,
        ):
            column = tables.flows.c.start if table is tables.flows else table.c.time
            connection.execute(table.delete().where(column > NOW + 9.9))
    assert [fault for fault in checked(engine).faults if "seal" not in fault] == []
    assert any(f"no seal has the digest {head}" in fault for fault in checked(engine, head).faults)
    engine.dispose()


def test_any_flipped_bit_and_any_removed_line_of_a_segment_is_found(config: Config, tmp_path: Path) -> None:
    write(config, range(12))
    (path,) = config.journal_dir.iterdir()
    whole, copies, chance = path.read_bytes(), tmp_path / "copies", random.Random(7)
    copies.mkdir()
    copy = copies / path.name
    for _ in range(150):
        at = chance.randrange(len(whole))
        copy.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :])
        found = verify_segments(copies)
        assert found.faults or found.gaps, f"bit in byte {at}"
    listed = whole.splitlines(keepends=True)
    for number in range(len(listed) - 1):  # that the last one, a seal, is gone shows by the lines before it
        copy.write_bytes(b"".join(listed[:number] + listed[number + 1 :]))
        found = verify_segments(copies)
        assert found.faults or found.gaps, f"line {number}"
        if 0 < number < 5:
            assert f"{path.name}, lines 2 to " in found.faults[0]


def test_a_removed_segment_is_found(config: Config) -> None:
    write(config, range(200), segment_bytes=SEGMENT_BYTES)
    listed = sorted(config.journal_dir.iterdir())
    assert len(listed) > 3 and not verify_segments(config.journal_dir).faults
    listed[1].unlink()
    (fault,) = verify_segments(config.journal_dir).faults
    assert "does not follow seal" in fault and listed[2].name in fault


def test_a_killed_writer_leaves_a_gap_that_its_successor_names_and_its_lines_are_sealed(config: Config) -> None:
    os.close(write(config, range(15), stop=False)._file)  # killed: no last seal
    write(config, range(20, 30))
    engine = record(config)
    found = checked(engine)
    assert not found.faults
    assert any(CUT_OFF in gap for gap in found.gaps)
    assert found.counts["matched"] == found.counts["rows"] and found.counts["chains"] == 1
    engine.dispose()


def test_a_removed_journal_is_written_again_as_far_as_it_was_not_sealed(config: Config) -> None:
    journal = write(config, range(15), stop=False)
    shutil.rmtree(config.journal_dir)
    config.journal_dir.mkdir()
    for at in (16, 18, 20):
        journal.poll(NOW + at)
    assert journal.append(lines(30), NOW + 30)
    journal.close(NOW + 31)
    engine = record(config)
    found = checked(engine)
    # The sealed lines that nobody had stored are gone for good, and the seals before them, too.
    assert any("are missing" in text for text in [*found.faults, *found.gaps])
    assert found.counts["rows"] == found.counts["matched"] > 2
    engine.dispose()


def test_segments_of_an_older_version_are_recorded_and_are_older_than_the_seals(config: Config) -> None:
    old = b"".join(line(record) for number in range(5) for record in lines(number))
    (config.journal_dir / f"worker-0-{round(NOW * 1e6)}.jsonl").write_bytes(old)
    write(config, range(10, 20))
    engine = record(config)
    found = checked(engine)
    assert not found.faults and any(sealing.UNSEALED in gap for gap in found.gaps)
    assert found.counts["before seals"] == 5 + 5
    engine.dispose()


def test_what_retention_prunes_is_no_fault(config: Config) -> None:
    write(config, range(60))
    engine = record(config)
    list(retention.prune(engine, retention.older(NOW + 30)))
    found = checked(engine)
    assert not found.faults and any("pruned (retention)" in gap for gap in found.gaps)
    engine.dispose()


def test_a_recorder_that_is_replaced_goes_on_in_the_middle_of_a_segment(config: Config) -> None:
    journal = write(config, range(13), stop=False)
    record(config).dispose()
    for number in range(13, 40):
        assert journal.append(lines(number), NOW + number)
        journal.poll(NOW + number)
        if number % 9 == 0:
            record(config).dispose()
    journal.close(NOW + 40)
    engine = record(config)
    found = checked(engine)
    assert not found.faults and found.counts["matched"] == 40 + 8 * 5
    engine.dispose()


def test_text_that_the_database_stores_like_another_is_a_gap_and_no_fault(config: Config) -> None:
    journal = JournalWriter(config.journal_dir, 0)
    journal.append([samples.numbered(1, start=NOW, updated=NOW, server_name="\0 and \\x00")], NOW)
    journal.append([samples.numbered(2, start=NOW, updated=NOW, server_name="\ud800 or \\ud800")], NOW)
    journal.append([samples.numbered(3, start=NOW, updated=NOW, server_name="\\x00")], NOW)
    journal.close(NOW + 1)
    engine = record(config)
    found = checked(engine)
    assert not found.faults and len(found.gaps) == 2 and "has escaped characters" in found.gaps[0]
    engine.dispose()


def test_records_without_seals_are_only_counted(config: Config) -> None:
    engine = open_database(config.database_url)
    assert verify(engine).counts["rows"] == 0
    engine.dispose()


def test_records_of_a_gateway_that_was_upgraded_later_are_gaps_and_no_faults(config: Config) -> None:
    write(config, range(3))
    record(config).dispose()
    other = JournalWriter(config.journal_dir, 1, Settings(), host="later")
    assert other.append(lines(20), NOW + 20)
    other.close(NOW + 21)
    engine = record(config)
    with storing(engine) as connection:
        for number in (10, 30):  # before, and after it began to seal
            writer.store(connection, [samples.numbered(number, start=NOW + number, updated=NOW + number)])
    found = verify(engine, now=LATER)
    assert [text for text in found.faults if "no seal covers it" in text] == found.faults
    assert len(found.faults) == 1 and "flow 000000000000001e" in found.faults[0]
    assert len(found.gaps) == 1 and "flow 000000000000000a has no seal" in found.gaps[0]
