"""The reader of lines: any text that no gateway writes is malformed; lines of other versions are read."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.errors import MalformedError
from egress.records.eve import line, to_eve
from egress.records.kinds import MAX_LINE
from egress.records.read import TIME_BYTES, from_eve, parse_line, record_time
from egress.records.shape import PROCESS_CMDLINE, PROCESS_PATH, Record
from tests.store import samples

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_garbage_is_malformed(raw: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_line(raw)


@pytest.mark.slow
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
def test_a_text_that_no_gateway_writes_is_malformed(raw: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_line(raw)


def test_the_longest_process_fits_into_a_line() -> None:
    """The widest character takes twelve bytes."""
    path = "\U0001f600" * PROCESS_PATH
    record = replace(samples.PROCESS, reason=path, exe=path, cgroup=path, cmdline="\x01" * PROCESS_CMDLINE)
    assert parse_line(line(record)) == record


def test_unknown_keys_are_ignored() -> None:
    document = {**to_eve(samples.FLOW), "host": "gw1", "agent": {"name": "train-1", "episode": "7"}}
    assert from_eve(document) == samples.FLOW


def test_a_line_of_an_older_gateway_lacks_names() -> None:
    document = to_eve(replace(samples.FLOW, names=("pool.example",)))
    del document["flow"]["names"]
    assert from_eve(document) == samples.FLOW


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("flow", "bytes_in", -1, "flow.bytes_in is not a number from 0 to 9223372036854775807"),
        ("flow", "state", "open", "flow.state must be one of new, established, closed, timeout, evicted, shutdown"),
        ("agent", "name", "x" * 257, "agent.name is longer than 256 bytes"),
        ("", "timestamp", "today", "timestamp is not a UTC time with microseconds"),
        ("", "verdict", [], "verdict is not an object"),
    ],
)
def test_the_message_names_the_key(part: str, key: str, value: object, message: str) -> None:
    document = to_eve(samples.FLOW)
    (document[part] if part else document)[key] = value
    with pytest.raises(MalformedError) as found:
        from_eve(document)
    assert str(found.value) == message


@given(samples.records)
def test_the_time_of_a_record_is_at_the_beginning_of_its_line(record: Record) -> None:
    raw = line(record)
    again = parse_line(raw)
    assert record_time(raw[:TIME_BYTES]) == (again.updated if hasattr(again, "updated") else again.time)


@pytest.mark.parametrize("beginning", [b"", b"{", line(samples.FLOW)[: TIME_BYTES - 1], b'{"timestamp":1' + b" " * 40])
def test_other_beginnings_are_malformed(beginning: bytes) -> None:
    with pytest.raises(MalformedError):
        record_time(beginning)
