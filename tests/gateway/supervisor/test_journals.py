"""The journals' bound: flows refused from 7/8 on, passed below 3/4, shares granted; and segments of dead workers."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any, cast

import pytest

from egress.config import SEGMENT_BYTES, Config, Journal
from egress.errors import InputError
from egress.gateway.pipe.messages import JournalGrant
from egress.gateway.supervisor.journals import Journals, fitted
from egress.gateway.supervisor.processes.pool import Pool

MAX = 8 * 1024 * 1024


class TwoWorkers:
    """A pool as the journals see it: two workers with reports, and the orders that they get."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = [{"index": index, "pid": 70 + index, "counters": {}} for index in range(2)]
        self.orders: list[tuple[int, str, dict[str, object]]] = []

    def status(self) -> list[dict[str, Any]]:
        return self.entries

    def post(self, index: int, op: str, fields: dict[str, object]) -> None:
        self.orders.append((index, op, fields))

    def says(self, index: int, *, healthy: bool = True, lost: int = 0, waiting: int = 0, written: int = 0) -> None:
        journal = {"healthy": healthy, "error": "" if healthy else "disk", "lost": lost, "waiting": waiting}
        self.entries[index] |= {"counters": {"journal": journal | {"bytes": written}}}


def _config(directory: Path, on_full: str = "refuse") -> Config:
    config = Config(state_dir=directory, journal=Journal(max_bytes=MAX, on_full=on_full))
    config.journal_dir.mkdir(exist_ok=True)
    return config


def _fill(config: Config, size: int) -> None:
    with (config.journal_dir / "worker-0-1.jsonl").open("wb") as file:
        file.truncate(size)


def _look(journals: Journals, pool: TwoWorkers) -> JournalGrant:
    asyncio.run(journals.measure(cast(Pool, pool)))
    return journals.grant()


def test_new_flows_are_refused_near_the_bound_and_pass_again_well_below_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = _config(tmp_path)
    journals, pool = Journals(config, 2), TwoWorkers()
    journals.start()
    course = [(MAX * 7 // 8 - 2, False), (MAX * 7 // 8, True), (MAX * 7 // 8 - 2, True), (MAX * 3 // 4, True)]
    course += [(MAX + 100, True), (MAX * 3 // 4 - 2, False), (MAX * 7 // 8 - 2, False)]
    for size, full in course:
        _fill(config, size)
        assert _look(journals, pool) == JournalGrant(max(MAX - size, 0) // 2, full)
        assert pool.orders[-2:] == [
            (index, "journal", {"limit": max(MAX - size, 0) // 2, "full": full}) for index in range(2)
        ]
    facts = journals.status()
    assert (facts["full"], facts["times_full"], facts["since"], facts["bytes"]) == (False, 1, None, MAX * 7 // 8 - 2)
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]


def test_a_share_is_counted_from_what_a_worker_had_written_before_the_measuring(tmp_path: Path) -> None:
    config, pool = _config(tmp_path), TwoWorkers()
    journals = Journals(config, 2)
    _fill(config, MAX // 2)
    pool.says(0, written=1000)
    _look(journals, pool)
    share = MAX // 2 // 2
    assert [(index, order["limit"]) for index, _, order in pool.orders] == [(0, 1000 + share), (1, share)]


def test_a_worker_that_was_replaced_meanwhile_has_heard_already(tmp_path: Path) -> None:
    config, pool = _config(tmp_path), TwoWorkers()
    pool.says(0, written=1 << 40)
    entries = [dict(pool.entries[0], pid=99), dict(pool.entries[1], pid=None)]
    course = iter([pool.entries, entries])
    pool.status = lambda: next(course)  # type: ignore[method-assign]
    _look(Journals(config, 2), pool)
    assert pool.orders == []


def test_who_goes_on_is_stopped_by_the_bound_alone_and_warned_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = _config(tmp_path, "continue")
    journals, pool = Journals(config, 2), TwoWorkers()
    journals.start()
    assert "new flows pass UNRECORDED" in caplog.text
    _fill(config, MAX * 98 // 100)
    assert not _look(journals, pool).full
    _fill(config, MAX)
    assert _look(journals, pool) == JournalGrant(0, full=True)
    assert "records past the bound are lost" in caplog.text


def test_a_gateway_that_starts_with_a_full_journal_refuses_from_the_first_packet_on(tmp_path: Path) -> None:
    config = _config(tmp_path)
    _fill(config, MAX)
    journals = Journals(config, 2)
    journals.start()
    assert journals.grant() == JournalGrant(0, full=True)


def test_torn_ends_are_taken_off_at_the_start_and_after_a_worker(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = _config(tmp_path)
    segments = [config.journal_dir / f"worker-{index}-5.jsonl" for index in range(2)]
    for segment in segments:
        segment.write_bytes(b"{}\n{")
    journals = Journals(config, 2)
    journals.start()
    segments[1].write_bytes(b"{}\n{}\n{")
    journals.worker_gone(0)
    assert journals.status()["healed"] == 2
    journals.worker_gone(1)
    assert [segment.read_bytes() for segment in segments] == [b"{}\n", b"{}\n{}\n"]
    assert journals.status()["healed"] == 3
    assert caplog.text.count("ended with 1 bytes of an unfinished record") == 3


def test_what_was_lost_is_remembered_when_the_worker_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journals, pool = Journals(_config(tmp_path), 2), TwoWorkers()
    pool.says(0, lost=2)
    pool.says(1, healthy=False, lost=3, waiting=4)
    _look(journals, pool)
    _look(journals, pool)
    assert journals.status()["lost"] == 5
    assert caplog.text.count("worker 1 cannot write its journal (disk)") == 1
    journals.worker_gone(1)
    pool.says(1, lost=1)
    _look(journals, pool)
    assert journals.status()["lost"] == 2 + 3 + 4 + 1
    pool.says(0, healthy=False)
    _look(journals, pool)
    pool.says(0, lost=7)
    _look(journals, pool)
    assert "worker 0 writes its journal again; 7 records" in caplog.text


def test_the_newest_seals_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    journals, pool = Journals(_config(tmp_path), 2), TwoWorkers()
    pool.says(0)
    pool.entries[0]["counters"]["journal"] |= {"seal": 7, "head": "ab" * 32}
    _look(journals, pool)
    assert "seal 7" not in caplog.text
    journals.stopped(cast(Pool, pool))
    assert f"records of worker 0: seal 7, head {'ab' * 32}" in caplog.text


def test_segments_fit_into_the_bound() -> None:
    config = Config(journal=Journal(max_bytes=MAX))
    assert fitted(config, 2).journal.segment_bytes == MAX // 16
    assert fitted(Config(), 4) == Config()
    with pytest.raises(InputError, match=f"max_bytes: {MAX} is too little for 17 writers"):
        fitted(config, MAX // 8 // SEGMENT_BYTES + 1)


def test_what_was_lost_at_the_very_end_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journals, pool = Journals(_config(tmp_path), 2), TwoWorkers()
    pool.says(0)
    _look(journals, pool)
    journals.stopped(cast(Pool, pool))
    assert "were lost" not in caplog.text
    pool.says(0, lost=3)
    journals.stopped(cast(Pool, pool))
    assert "3 records were lost since the gateway started" in caplog.text


def test_a_directory_that_was_made_again_is_counted_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journals = Journals(_config(tmp_path), 2)
    assert (journals.status()["restored"], journals.status()["restored_at"]) == (0, None)
    journals.note_restored("was deleted")
    assert journals.status()["restored"] == 1 and journals.status()["restored_at"] is not None
    assert f"the journal's directory {tmp_path / 'journal'} was deleted: it is as it was again" in caplog.text
