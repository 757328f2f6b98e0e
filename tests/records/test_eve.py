"""EVE: what goes out comes back; what never went out is MalformedError and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.errors import MalformedError
from egress.records.eve import MAX_LINE, line, to_eve
from egress.records.read import from_eve, parse_line
from egress.records.shape import PROCESS_CMDLINE, PROCESS_PATH, Record
from tests.store import samples

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)


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


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_garbage_is_malformed(raw: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_line(raw)


@given(samples.records, st.data())
def test_a_record_with_one_value_changed_is_read_or_malformed(record: Record, data: st.DataObject) -> None:
    document = json.loads(line(record))
    part = data.draw(st.sampled_from([document, *(value for value in document.values() if isinstance(value, dict))]))
    part[data.draw(st.sampled_from(sorted(part)))] = data.draw(json_values)
    try:
        again = parse_line(json.dumps(document).encode())
    except MalformedError:
        return
    assert from_eve(to_eve(again)) == again


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * 60000,
        b'{"event_type": ' + b"9" * 6000 + b"}",
        b" " * (MAX_LINE + 1),
        b'{"event_type": "stats"}',
        line(samples.FLOW)[:-20],
        line(samples.FLOW).replace(b'"src_port":40000', b'"src_port":true'),
        line(samples.FLOW).replace(b'"src_port":40000', b'"src_port":65536'),
        line(samples.FLOW).replace(b'"bytes_in":300', b'"bytes_in":9223372036854775808'),
        line(samples.FLOW).replace(b'"bytes_in":300', b'"bytes_in":-1'),
        line(samples.FLOW).replace(b'"state":"established"', b'"state":"open"'),
        line(samples.FLOW).replace(b".123456Z", b".123456+"),
        line(samples.FINDING).replace(b'"evidence":"', b'"evidence":"="'),
        line(samples.PROCESS).replace(b'"uid":1000', b'"uid":4294967296'),
        line(samples.PROCESS).replace(b'"status":"found"', b'"status":"lost"'),
        line(replace(samples.PROCESS, cmdline="x" * (PROCESS_CMDLINE + 1))),
    ],
)
def test_what_line_would_not_have_written_is_malformed(raw: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_line(raw)


def test_the_longest_process_fits_into_a_line() -> None:
    """Whatever it consists of: the widest character takes twelve bytes."""
    path = "\U0001f600" * PROCESS_PATH
    record = replace(samples.PROCESS, reason=path, exe=path, cgroup=path, cmdline="\x01" * PROCESS_CMDLINE)
    assert parse_line(line(record)) == record


def test_keys_of_tomorrow_are_passed_over() -> None:
    document = {**to_eve(samples.FLOW), "host": "gw1", "agent": {"name": "train-1", "episode": "7"}}
    assert from_eve(document) == samples.FLOW
