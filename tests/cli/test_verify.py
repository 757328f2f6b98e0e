"""`egress verify`: what was changed is named, and the exit code says so."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from egress.config import Config
from egress.gateway.journal.journal import JournalWriter
from egress.store.recording.recorder import Recorder
from tests.cli.conftest import Cli
from tests.store import samples


def recorded(cli: Cli) -> tuple[Path, str]:
    """Record flows through a journal; returns its directory and the newest head."""
    now = time.time() - 1000
    config = Config(state_dir=cli.directory)
    config.journal_dir.mkdir(exist_ok=True)
    journal = JournalWriter(config.journal_dir, 0, host="gate-1")
    for number in range(5):
        journal.append([samples.numbered(number, start=now + number, updated=now + number)], now + number)
    journal.close(now + 9)
    recorder = Recorder(config)
    recorder.run_once()
    recorder.close()
    return config.journal_dir, journal.sealing.head


def test_records_are_verified_and_a_changed_one_is_named(cli: Cli) -> None:
    journal, head = recorded(cli)
    whole = cli.ok("verify", "--head", head).out
    assert f"head   worker-0 of gate-1: seal 2, {head}" in whole
    assert "5 records, 5 sealed lines in 2 seals: 5 matched" in whole and " 0 faults" in whole
    assert "5 sealed lines" in cli.ok("verify", "--journal", str(journal)).out
    document = cli.ok("verify", "-o", "json").json
    assert (document["faults"], document["counts"]["matched"]) == ([], 5)
    with sqlite3.connect(cli.directory / "egress.db") as connection:
        connection.execute("UPDATE flows SET bytes_out = 1 WHERE flow_id = ?", (f"{3:016x}",))
    connection.close()
    found = cli("verify")
    text = f"FAULT  flow {3:016x} was changed: it is not the line that was sealed\n"
    assert (found.code, found.err) == (3, text)
    cut = cli("verify", "--head", "0" * 64)
    assert cut.code == 3 and "which was seen before" in cut.err


def test_a_damaged_segment_is_named(cli: Cli) -> None:
    journal, _ = recorded(cli)
    (path,) = journal.iterdir()
    path.write_bytes(path.read_bytes().replace(b"pool.example", b"good.example", 1))
    found = cli("verify", "--journal", str(journal))
    assert found.code == 3
    assert f"FAULT  {path.name}, lines 2 to 6: the seal in line 7 does not match the lines before it" in found.err
