"""EVE: written records are read back unchanged; any other text is MalformedError and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from egress.records.eve import line, to_eve
from egress.records.read import from_eve, parse_line
from egress.records.shape import Record
from tests.store import samples

LINES = Path(__file__).with_name("lines.jsonl")


@given(samples.records)
def test_every_record_comes_back_as_it_was(record: Record) -> None:
    assert from_eve(to_eve(record)) == record
    raw = line(record)
    assert raw.isascii() and raw.endswith(b"\n") and raw.count(b"\n") == 1
    assert parse_line(raw) == record


@given(st.floats(0, 4_294_967_295))
def test_times_keep_their_microseconds(ts: float) -> None:
    record = replace(samples.ANOMALY, time=ts)
    again = from_eve(to_eve(record))
    assert abs(again.time - ts) < 1e-6  # type: ignore[union-attr]
    assert from_eve(to_eve(again)) == again


def test_the_bytes_of_a_line_are_pinned() -> None:
    records = (samples.FLOW, samples.FINDING, samples.ANOMALY, samples.EVIDENCE, samples.PROCESS)
    assert b"".join(line(record) for record in records) == LINES.read_bytes()


@given(samples.records)
def test_a_line_is_the_json_of_the_mapping(record: Record) -> None:
    assert line(record) == json.dumps(to_eve(record), separators=(",", ":")).encode() + b"\n"


def test_the_shape_is_eves() -> None:
    document = to_eve(samples.FINDING)
    assert document["event_type"] == "alert"
    assert document["timestamp"] == "2026-11-23T15:06:03.123456Z"
    assert (document["src_ip"], document["dest_port"]) == ("10.77.0.2", 443)
    assert document["agent"] == {"name": "train-1"}
    assert document["verdict"] == {
        "action": "reject",
        "reason": "finding",
        "rule_id": "",
        "policy_version": 1,
        "mode": "enforce",
    }
    kinds = [
        to_eve(record)["event_type"] for record in (samples.FLOW, samples.ANOMALY, samples.EVIDENCE, samples.PROCESS)
    ]
    assert kinds == ["flow", "anomaly", "evidence", "process"]
