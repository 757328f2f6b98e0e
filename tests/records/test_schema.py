"""The published schema: every valid record validates, nothing else does, and docs/records.md lists its keys."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator
from dataclasses import replace
from enum import StrEnum
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress import capture
from egress.capture.link import ip_packet
from egress.model import Action, Direction, Effect, Mode, Reason, Severity, protocol_name
from egress.records import schema
from egress.records.eve import EVENTS, line, to_eve
from egress.records.shape import FLOW_STATES, JournalLine, ProcessStatus, Record, SealRecord
from egress.wire.community import community_id
from signatures import load
from tests.store import samples
from tests.traffic import START, agent, engine, udp

DOCS = Path(__file__).parents[2] / "docs" / "records.md"
SAMPLES: tuple[JournalLine, ...] = (
    *(samples.FLOW, samples.FINDING, samples.ANOMALY, samples.EVIDENCE, samples.PROCESS),
    *(samples.FOLDED, samples.SEAL),
)
CAPTURES = Path(__file__).parents[1] / "captures"


VALIDATOR = jsonschema_rs.Draft202012Validator(schema.schema(), validate_formats=True)


def document(record: JournalLine) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(line(record))
    return found


def complaints(instance: object) -> list[str]:
    return [f"{error.instance_path}: {error.message}" for error in VALIDATOR.iter_errors(instance)]


# --- Valid records -----------------------------------------------------------------------------------

ids = st.integers(0, (1 << 64) - 1).map(lambda number: f"{number:016x}")
addresses = st.ip_addresses().map(str)
protocols = st.integers(0, 255).map(protocol_name)
techniques = st.sampled_from(sorted({signature.technique for signature in load()}))
signatures = st.sampled_from(sorted(signature.id for signature in load()))
communities = st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)).map(
    lambda pair: community_id(6, pair[0].packed, pair[1].packed, 1, 2)
)
_ends = {"src": addresses, "dst": addresses, "proto": protocols, "community_id": communities}
records = st.one_of(
    st.builds(replace, samples.flows, flow_id=ids, **_ends),
    st.builds(
        replace, samples.findings, finding_id=ids, flow_id=ids, technique=techniques, signature=signatures, **_ends
    ),
    st.builds(
        replace,
        samples.anomalies,
        src=addresses | st.just(""),
        dst=addresses | st.just(""),
        proto=protocols | st.just(""),
    ),
    st.builds(replace, samples.evidence, finding_id=ids, flow_id=ids),
    st.builds(replace, samples.processes, flow_id=ids),
    st.builds(replace, samples.folded, dst=addresses | st.just(""), proto=protocols | st.just("")),
)


def test_the_schema_is_valid() -> None:
    assert schema.schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert jsonschema_rs.meta.is_valid(schema.schema())


@given(records)
def test_every_valid_record_validates(record: Record) -> None:
    assert complaints(document(record)) == []


def _made() -> Iterator[Record]:
    """Records of the engine: from the golden captures, from malformed packets, and at the end of all flows."""
    judge, who = engine(), agent(networks=("10.99.1.0/24", "fd99:1::/64"))
    ts = START
    for path in sorted(CAPTURES.glob("*/capture.pcapng")):
        with path.open("rb") as stream:
            for frame in capture.frames(stream):
                raw, ts = ip_packet(frame.link, frame.data), max(ts, frame.ts)
                if raw is not None:
                    source = raw[12:16] if raw[0] >> 4 == 4 else raw[8:24]
                    own = any(ip_address(source) in network for network in map(ip_network, who.networks))
                    yield from judge.packet(raw, ts, who, Direction.OUT if own else Direction.IN).records
    for raw in (b"", b"\x45", udp("192.0.2.9", "192.0.2.1", 1, 2, b"x")):
        yield from judge.packet(raw, ts, who, Direction.OUT).records
    yield from (*judge.tick(ts + 1e6), *judge.shutdown(ts + 2e6))


def test_the_records_of_the_engine_validate() -> None:
    made = list(_made())
    assert {to_eve(record)["event_type"] for record in made} == set(EVENTS) - {"process", "folded", "seal"}
    assert [complaint for record in made for complaint in complaints(document(record))] == []


# --- Invalid documents -------------------------------------------------------------------------------------------


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """List the paths of all keys."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key)
            yield from _places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _places(inner, (*path, index))


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


EVERYWHERE = [(record, path) for record in SAMPLES for path in _places(document(record))]


@pytest.mark.parametrize(("record", "path"), EVERYWHERE, ids=[".".join(map(str, path)) for _, path in EVERYWHERE])
def test_each_key_is_needed_and_has_its_kind(record: Record, path: tuple[Any, ...]) -> None:
    without = document(record)
    del _at(without, path[:-1])[path[-1]]
    assert not VALIDATOR.is_valid(without)
    for other in (True, 1.5, [None], {"x": 1}, -1):
        changed = document(record)
        _at(changed, path[:-1])[path[-1]] = other
        assert not VALIDATOR.is_valid(changed), f"{path} = {other!r}"


@given(records, st.data())
def test_another_key_or_another_name_of_a_key_is_invalid(record: Record, data: st.DataObject) -> None:
    changed = document(record)
    path = data.draw(st.sampled_from(sorted(_places(changed), key=str)))
    part = _at(changed, path[:-1])
    if data.draw(st.booleans()):
        part[f"{path[-1]}_"] = 1
    else:
        part[f"{path[-1]}_"] = part.pop(path[-1])
    assert not VALIDATOR.is_valid(changed)


@pytest.mark.parametrize(
    ("record", "path", "value"),
    [
        (samples.FLOW, ("event_type",), "alert"),
        (samples.FLOW, ("event_type",), "stats"),
        (samples.FLOW, ("timestamp",), "2026-11-23 15:06:02.123456Z"),
        (samples.FLOW, ("timestamp",), "2026-13-23T15:06:02.123456Z"),
        (samples.FLOW, ("flow_id",), "00000000000000A1"),
        (samples.FLOW, ("src_ip",), "10.77.0.256"),
        (samples.FLOW, ("src_ip",), "example.org"),
        (samples.FLOW, ("src_port",), 65536),
        (samples.FLOW, ("verdict", "action"), "allow"),
        (samples.FLOW, ("verdict", "reason"), "because"),
        (samples.FLOW, ("flow", "state"), "open"),
        (samples.FLOW, ("flow", "bytes_in"), 1 << 63),
        (samples.FLOW, ("flow", "names"), ["a"] * 9),
        (samples.FINDING, ("alert", "severity"), "urgent"),
        (samples.FINDING, ("alert", "technique"), "1496"),
        (samples.FINDING, ("alert", "evidence"), "a"),
        (samples.ANOMALY, ("src_ip",), "nowhere"),
        (samples.EVIDENCE, ("evidence", "packets"), {}),
    ],
)
def test_other_values_are_invalid(record: Record, path: tuple[Any, ...], value: object) -> None:
    changed = document(record)
    _at(changed, path[:-1])[path[-1]] = value
    assert not VALIDATOR.is_valid(changed)


# --- The lists of keys -----------------------------------------------------------------------------------


def test_every_kind_of_record_is_in_the_schema() -> None:
    assert {to_eve(record)["event_type"] for record in SAMPLES} == set(EVENTS)
    kinds = {*typing.get_args(Record), SealRecord}
    assert {type(record) for record in SAMPLES} == kinds, "a sample of each kind is needed above"


@pytest.mark.parametrize(
    ("known", "event", "path"),
    [
        (Action, "alert", "verdict.action"),
        (Reason, "alert", "verdict.reason"),
        (Mode, "alert", "verdict.mode"),
        (Severity, "alert", "alert.severity"),
        (Effect, "alert", "alert.effect"),
        (ProcessStatus, "process", "process.status"),
    ],
)
def test_the_words_are_those_of_the_model(known: type[StrEnum], event: str, path: str) -> None:
    kinds = {field.path: field.kind for field in schema.keys(EVENTS[event])}
    assert kinds[path] == ", ".join(f"`{value}`" for value in known)


def test_the_states_are_those_of_the_engine() -> None:
    kinds = {field.path: field.kind for field in schema.keys(EVENTS["flow"])}
    assert kinds["flow.state"] == ", ".join(f"`{state}`" for state in FLOW_STATES)


def test_the_page_lists_the_keys() -> None:
    assert DOCS.read_text().endswith("\n" + schema.markdown()), "run egress schema -o markdown"


def test_every_key_is_explained() -> None:
    silent = [f"{event}: {field.path}" for event in EVENTS for field in schema.keys(EVENTS[event]) if not field.meaning]
    assert silent == []
