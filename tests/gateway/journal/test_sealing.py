"""A writer's chain: over segments, restarts, kills and segments that are gone."""

from __future__ import annotations

import os
from pathlib import Path

from egress.config import SEGMENT_BYTES
from egress.config import Journal as Settings
from egress.gateway.journal.journal import JournalWriter
from egress.gateway.journal.sealing import REMOVED, SEAL_BYTES, SEAL_SECONDS, UNSEALED
from egress.model import Reason
from egress.records.read import parse_line
from egress.records.seals import CUT_OFF, SegmentFollower
from egress.records.shape import AnomalyRecord, SealRecord


def record(number: int, detail: str = "x") -> AnomalyRecord:
    return AnomalyRecord("a", float(number), Reason.MALFORMED, detail, 1)


def seals(directory: Path) -> list[SealRecord]:
    """The seals of all segments in their order; all must fit."""
    found = []
    for path in sorted(directory.glob("*.jsonl"), key=lambda path: int(path.stem.rpartition("-")[2])):
        follower = SegmentFollower()
        for raw in path.read_bytes().splitlines():
            sealed = follower.line(raw)
            if sealed is not None:
                assert not sealed.wrong
                found.append(sealed.seal)
    return found


def states(directory: Path) -> list[str]:
    return [seal.state.value for seal in seals(directory)]


def test_lines_are_sealed_by_time_by_size_and_at_the_ends(tmp_path: Path) -> None:
    journal = JournalWriter(tmp_path, 0, Settings(segment_bytes=8 * SEAL_BYTES), host="gate")
    assert journal.append([record(1)], 100.0)
    journal.poll(100.0 + SEAL_SECONDS / 2)
    assert states(tmp_path) == ["opened"]
    journal.poll(101.0 + SEAL_SECONDS)
    journal.poll(150.0)
    assert states(tmp_path) == ["opened", "running"], "nothing more to seal"
    for number in range(7):
        journal.append([record(number, "d" * (SEAL_BYTES // 3))], 151.0)
    journal.close(152.0)
    found = seals(tmp_path)
    assert states(tmp_path)[:4] == ["opened", "running", "running", "running"] and found[-1].state == "stopped"
    assert [seal.number for seal in found] == list(range(1, len(found) + 1))
    assert {(seal.host, seal.writer, seal.chain) for seal in found} == {("gate", "worker-0", found[0].chain)}
    assert (journal.sealing.number, journal.sealing.head) == (found[-1].number, found[-1].digest)
    assert sum(seal.lines for seal in found) == 8 and journal.written == 8


def test_a_chain_goes_on_over_segments_and_clean_restarts(tmp_path: Path) -> None:
    for ts in (100.0, 200.0):
        journal = JournalWriter(tmp_path, 0, Settings(segment_bytes=SEGMENT_BYTES))
        for number in range(3):
            journal.append([record(number, "d" * (SEGMENT_BYTES // 2))], ts + number)
        journal.close(ts + 9)
    found = seals(tmp_path)
    assert [one.digest for one in found[:-1]] == [one.previous for one in found[1:]]
    assert {seal.gap for seal in found} == {""} and len({seal.chain for seal in found}) == 1


def test_a_successor_of_a_killed_writer_goes_on_behind_the_tail(tmp_path: Path) -> None:
    killed = JournalWriter(tmp_path, 0)
    killed.append([record(1)], 100.0)
    os.close(killed._file)
    follower = SegmentFollower()
    for raw in next(tmp_path.iterdir()).read_bytes().splitlines():
        follower.line(raw)
    tail = follower.tail()
    assert tail is not None
    JournalWriter(tmp_path, 0).append([record(2)], 200.0)
    last = seals(tmp_path)[-1]
    assert (last.number, last.previous, last.gap) == (tail.seal.number + 1, tail.seal.digest, CUT_OFF)


def test_after_a_removed_segment_unsealed_lines_come_again_and_the_gap_is_named(tmp_path: Path) -> None:
    journal = JournalWriter(tmp_path, 0)
    journal.append([record(1), record(2)], 1.0)
    next(tmp_path.iterdir()).unlink()
    journal.poll(2.0)
    journal.poll(3.1)
    journal.close(4.0)
    opened, stopped = seals(tmp_path)
    assert (opened.number, opened.gap, opened.lost) == (3, REMOVED, 0), "behind the tail of the segment that is gone"
    assert stopped.lines == 2 and journal.written == 2


def test_lost_records_are_counted_in_the_next_seal(tmp_path: Path) -> None:
    journal = JournalWriter(tmp_path, 0)
    journal.append([record(1)], 1.0)
    journal.grant(journal.bytes, full=False)
    for number in range(6):
        journal.append([record(number, "d" * 1_000_000)], 1.0)
    lost = journal.lost
    assert lost
    journal.grant(1 << 40, full=False)
    journal.poll(2.5)
    journal.close(20.0)
    assert sum(seal.lost for seal in seals(tmp_path)) == lost


def test_the_segments_of_an_older_version_are_named(tmp_path: Path) -> None:
    (tmp_path / "worker-0-5.jsonl").write_bytes(b"{}\n")
    journal = JournalWriter(tmp_path, 0)
    journal.append([record(1)], 1.0)
    (opened,) = seals(tmp_path)
    assert (opened.number, opened.gap) == (1, UNSEALED)
    assert isinstance(parse_line(next(iter(sorted(tmp_path.iterdir())[:1])).read_bytes().splitlines()[0]), SealRecord)
