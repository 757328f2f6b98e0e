"""Healing: a torn end is removed and kept, also while the recorder reads; all other bytes stay."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from egress.config import Config
from egress.records.eve import line
from egress.store.recording.healing import Healed, heal
from egress.store.recording.recorder import Recorder
from egress.store.recording.segments import BATCH_BYTES
from tests.examples import examples
from tests.store import samples


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "journal").mkdir()
    return Config(state_dir=tmp_path)


def _segment(config: Config, name: str, data: bytes) -> Path:
    path = config.journal_dir / name
    path.write_bytes(data)
    return path


def _aside(config: Config) -> list[bytes]:
    path = config.state_dir / "quarantine.jsonl"
    texts = path.read_text().splitlines() if path.exists() else []
    return [json.loads(text)["line"].encode("latin-1") for text in texts]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(50))
@given(st.binary(max_size=300))
def test_what_is_left_are_the_whole_lines_and_the_rest_is_kept_aside(config: Config, data: bytes) -> None:
    (config.state_dir / "quarantine.jsonl").unlink(missing_ok=True)
    path = _segment(config, "worker-0-1.jsonl", data)
    whole, torn = data[: data.rfind(b"\n") + 1], data[data.rfind(b"\n") + 1 :]
    assert heal(config) == ([Healed(path.name, len(torn))] if torn else [])
    assert path.read_bytes() == whole
    assert _aside(config) == ([torn] if torn else [])
    assert heal(config) == []


def test_a_record_that_lacks_only_its_newline_was_not_acted_on(config: Config) -> None:
    path = _segment(config, "worker-0-1.jsonl", line(samples.FLOW)[:-1])
    assert [each.torn for each in heal(config)] == [len(line(samples.FLOW)) - 1]
    assert path.read_bytes() == b""


def test_one_writer_is_healed_and_not_its_neighbours(config: Config) -> None:
    one, other = (_segment(config, f"worker-{each}-1.jsonl", b"torn") for each in (1, 10))
    assert [each.segment for each in heal(config, "worker-1")] == [one.name]
    assert other.read_bytes() == b"torn"


def test_a_line_longer_than_any_of_ours_is_left_to_the_recorder(config: Config) -> None:
    data = b"x" * (BATCH_BYTES + 1)
    path = _segment(config, "worker-0-1.jsonl", data)
    assert heal(config) == []
    assert path.stat().st_size == len(data)


def test_files_of_others_are_not_cut(config: Config, tmp_path: Path) -> None:
    """The directory belongs to unprivileged workers, and who heals is root."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"no newline at its end")
    (config.journal_dir / "worker-0-1.jsonl").symlink_to(secret)
    os.link(secret, config.journal_dir / "worker-0-2.jsonl")
    os.mkfifo(config.journal_dir / "worker-0-3.jsonl")
    (config.journal_dir / "worker-0-4.jsonl").mkdir()
    assert heal(config) == []
    assert secret.read_bytes() == b"no newline at its end"


def test_where_it_cannot_be_kept_aside_it_stays(config: Config) -> None:
    (config.state_dir / "quarantine.jsonl").mkdir()
    path = _segment(config, "worker-0-1.jsonl", b"torn")
    with pytest.raises(OSError):
        heal(config)
    assert path.read_bytes() == b"torn"


def test_a_recorder_that_reads_meanwhile_stores_each_whole_line_once(config: Config) -> None:
    """Before, while and after it has read up to the torn end; and when it has set the torn end aside itself."""
    records = [samples.numbered(number) for number in range(3)]
    recorder = Recorder(config, grace=3600.0)
    _segment(config, "worker-0-1.jsonl", b"".join(map(line, records)) + line(samples.FLOW)[:70])
    assert recorder.run_once() == 3
    heal(config)
    assert recorder.run_once() == 0
    again = _segment(config, "worker-0-2.jsonl", line(samples.numbered(4)) + b"torn")
    _segment(config, "worker-0-3.jsonl", line(samples.numbered(5)))
    assert recorder.run_once() == 2
    assert recorder.garbage == 1, "it has a successor: the recorder took it"
    heal(config)
    os.utime(again, (1, 1))
    assert recorder.run_once() == 0
    assert not again.exists()
    recorder.close()
