"""Records as EVE-style JSON (Suricata's eve.json vocabulary), one object a line; and back again, without loss.

This is the journal's format as well as a sink's. Times are ISO-8601 UTC with microseconds, evidence is base64.
Shapes, beside `timestamp` and `event_type`:

- `flow`, `alert`: flow_id, community_id, src_ip, src_port, dest_ip, dest_port, proto, agent{name},
  verdict{action, reason, rule_id, policy_version, mode}; `flow` adds app_proto and flow{...}, `alert` adds alert{...}
- `anomaly`: src_ip, dest_ip, proto, agent{name}, anomaly{reason, detail, count}
- `evidence`: flow_id, agent{name}, evidence{finding_id, packets[{timestamp, direction, length, data}]}
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import TypeVar

from egress.errors import Malformed
from egress.model import (
    EVIDENCE_BYTES,
    RECORD_NAMES,
    Action,
    AnomalyRecord,
    Direction,
    Effect,
    EvidencePacket,
    EvidenceRecord,
    FindingRecord,
    FlowRecord,
    Mode,
    Reason,
    Record,
    Severity,
)

FLOW_STATES = ("new", "established", "closed", "timeout", "evicted", "shutdown")
DIRECTIONS = ("out", "in")

MAX_LINE = 64 * 1024  # bytes of one line; ours stay far below
# Up to here (the year 2106) a float of seconds names each microsecond; a hostile capture's later times are cut to it.
MAX_MICROS = (1 << 32) * 1_000_000 - 1
MAX_COUNT = (1 << 63) - 1  # what a database's BIGINT holds

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_Document = dict[str, object]
_E = TypeVar("_E", bound=StrEnum)
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False, allow_nan=False).encode


def micros(ts: float) -> int:
    """Seconds since the epoch as whole microseconds, cut to 1970..2106 (NaN is 1970)."""
    if 0.0 <= ts < 4294967296.0:
        return min(round(ts * 1e6), MAX_MICROS)
    return MAX_MICROS if ts > 0 else 0


def iso(ts: float) -> str:
    """`2026-11-23T15:06:02.123456Z` for seconds since the epoch."""
    second, rest = divmod(micros(ts), 1_000_000)
    return f"{_second(second)}.{rest:06d}Z"


@lru_cache(maxsize=256)  # a busy journal writes thousands of records a second
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


# --- out ---------------------------------------------------------------------------------------------------


def to_eve(record: Record) -> dict[str, object]:
    """The record as one JSON-ready mapping."""
    if isinstance(record, FlowRecord):
        return _flow(record)
    if isinstance(record, FindingRecord):
        return _alert(record)
    if isinstance(record, AnomalyRecord):
        return _anomaly(record)
    return _evidence(record)


def line(record: Record) -> bytes:
    """The record as one line of ASCII JSON, with its newline."""
    return _encode(to_eve(record)).encode("ascii") + b"\n"


def _flow(record: FlowRecord) -> _Document:
    return {
        "timestamp": iso(record.updated),
        "event_type": "flow",
        "flow_id": record.flow_id,
        "community_id": record.community_id,
        "src_ip": record.src,
        "src_port": record.sport,
        "dest_ip": record.dst,
        "dest_port": record.dport,
        "proto": record.proto,
        "app_proto": record.app_proto,
        "agent": {"name": record.agent},
        "verdict": _verdict(record, record.reason),
        "flow": {
            "start": iso(record.start),
            "end": None if record.end is None else iso(record.end),
            "state": record.state,
            "direction": record.direction,
            "server_name": record.server_name,
            "names": list(record.names),
            "packets_out": record.packets_out,
            "packets_in": record.packets_in,
            "bytes_out": record.bytes_out,
            "bytes_in": record.bytes_in,
            "unseen_bytes": record.unseen_bytes,
        },
    }


def _alert(record: FindingRecord) -> _Document:
    return {
        "timestamp": iso(record.time),
        "event_type": "alert",
        "flow_id": record.flow_id,
        "community_id": record.community_id,
        "src_ip": record.src,
        "src_port": record.sport,
        "dest_ip": record.dst,
        "dest_port": record.dport,
        "proto": record.proto,
        "agent": {"name": record.agent},
        "verdict": _verdict(record, Reason.FINDING),
        "alert": {
            "finding_id": record.finding_id,
            "signature": record.signature,
            "severity": record.severity,
            "technique": record.technique,
            "summary": record.summary,
            "evidence": binascii.b2a_base64(record.evidence, newline=False).decode("ascii"),
            "effect": record.effect,
        },
    }


def _verdict(record: FlowRecord | FindingRecord, reason: Reason) -> _Document:
    return {
        "action": record.action,
        "reason": reason,
        "rule_id": record.rule_id,
        "policy_version": record.policy_version,
        "mode": record.mode,
    }


def _anomaly(record: AnomalyRecord) -> _Document:
    return {
        "timestamp": iso(record.time),
        "event_type": "anomaly",
        "src_ip": record.src,
        "dest_ip": record.dst,
        "proto": record.proto,
        "agent": {"name": record.agent},
        "anomaly": {"reason": record.reason, "detail": record.detail, "count": record.count},
    }


def _evidence(record: EvidenceRecord) -> _Document:
    packets = [
        {
            "timestamp": iso(packet.time),
            "direction": DIRECTIONS[packet.direction],
            "length": packet.length,
            "data": binascii.b2a_base64(packet.data, newline=False).decode("ascii"),
        }
        for packet in record.packets
    ]
    return {
        "timestamp": iso(record.time),
        "event_type": "evidence",
        "flow_id": record.flow_id,
        "agent": {"name": record.agent},
        "evidence": {"finding_id": record.finding_id, "packets": packets},
    }


# --- back --------------------------------------------------------------------------------------------------


def parse_line(raw: bytes) -> Record:
    """The record in one journal line. Raises Malformed for anything `line` would not have written."""
    if len(raw) > MAX_LINE:
        raise Malformed(f"line of {len(raw)} bytes")
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        raise Malformed("not JSON") from None
    return from_eve(document)


def from_eve(document: object) -> Record:
    """The record `to_eve` made this of; keys it does not know are passed over. Raises Malformed."""
    if not isinstance(document, dict):
        raise Malformed("not an object")
    read = _READERS.get(_text(document, "event_type"))
    if read is None:
        raise Malformed("unknown event_type")
    return read(document)


def _read_flow(document: _Document) -> FlowRecord:
    flow, verdict = _part(document, "flow"), _part(document, "verdict")
    return FlowRecord(
        flow_id=_text(document, "flow_id"),
        agent=_text(_part(document, "agent"), "name"),
        start=_time(flow, "start"),
        updated=_time(document, "timestamp"),
        end=None if flow.get("end", "") is None else _time(flow, "end"),
        state=_one_of(FLOW_STATES, flow, "state"),
        direction=_one_of(DIRECTIONS, flow, "direction"),
        proto=_text(document, "proto"),
        src=_text(document, "src_ip"),
        sport=_count(document, "src_port", 65535),
        dst=_text(document, "dest_ip"),
        dport=_count(document, "dest_port", 65535),
        community_id=_text(document, "community_id"),
        app_proto=_text(document, "app_proto"),
        server_name=_text(flow, "server_name"),
        action=_enum(Action, verdict, "action"),
        reason=_enum(Reason, verdict, "reason"),
        rule_id=_text(verdict, "rule_id"),
        policy_version=_count(verdict, "policy_version"),
        mode=_enum(Mode, verdict, "mode"),
        packets_out=_count(flow, "packets_out"),
        packets_in=_count(flow, "packets_in"),
        bytes_out=_count(flow, "bytes_out"),
        bytes_in=_count(flow, "bytes_in"),
        unseen_bytes=_count(flow, "unseen_bytes"),
        names=_names(flow),
    )


def _read_alert(document: _Document) -> FindingRecord:
    alert, verdict = _part(document, "alert"), _part(document, "verdict")
    return FindingRecord(
        finding_id=_text(alert, "finding_id"),
        flow_id=_text(document, "flow_id"),
        agent=_text(_part(document, "agent"), "name"),
        time=_time(document, "timestamp"),
        signature=_text(alert, "signature"),
        severity=_enum(Severity, alert, "severity"),
        technique=_text(alert, "technique"),
        summary=_text(alert, "summary"),
        evidence=_base64(alert, "evidence"),
        effect=_enum(Effect, alert, "effect"),
        action=_enum(Action, verdict, "action"),
        mode=_enum(Mode, verdict, "mode"),
        proto=_text(document, "proto"),
        src=_text(document, "src_ip"),
        sport=_count(document, "src_port", 65535),
        dst=_text(document, "dest_ip"),
        dport=_count(document, "dest_port", 65535),
        community_id=_text(document, "community_id"),
        rule_id=_text(verdict, "rule_id"),
        policy_version=_count(verdict, "policy_version"),
    )


def _read_anomaly(document: _Document) -> AnomalyRecord:
    anomaly = _part(document, "anomaly")
    return AnomalyRecord(
        agent=_text(_part(document, "agent"), "name"),
        time=_time(document, "timestamp"),
        reason=_enum(Reason, anomaly, "reason"),
        detail=_text(anomaly, "detail"),
        count=_count(anomaly, "count"),
        src=_text(document, "src_ip"),
        dst=_text(document, "dest_ip"),
        proto=_text(document, "proto"),
    )


def _read_evidence(document: _Document) -> EvidenceRecord:
    evidence = _part(document, "evidence")
    packets = evidence.get("packets")
    if not isinstance(packets, list) or not all(isinstance(packet, dict) for packet in packets):
        raise Malformed("packets is not a list of objects")
    return EvidenceRecord(
        finding_id=_text(evidence, "finding_id"),
        flow_id=_text(document, "flow_id"),
        agent=_text(_part(document, "agent"), "name"),
        time=_time(document, "timestamp"),
        packets=tuple(map(_read_packet, packets)),
    )


def _read_packet(packet: _Document) -> EvidencePacket:
    return EvidencePacket(
        time=_time(packet, "timestamp"),
        direction=Direction(DIRECTIONS.index(_one_of(DIRECTIONS, packet, "direction"))),
        length=_count(packet, "length", 0xFFFFFFFF),
        data=_base64(packet, "data", MAX_LINE),
    )


_READERS: dict[str, Callable[[_Document], Record]] = {
    "flow": _read_flow,
    "alert": _read_alert,
    "anomaly": _read_anomaly,
    "evidence": _read_evidence,
}


def _part(document: _Document, key: str) -> _Document:
    value = document.get(key)
    if not isinstance(value, dict):
        raise Malformed(f"{key} is not an object")
    return value


def _text(document: _Document, key: str) -> str:
    value = document.get(key)
    if not isinstance(value, str):
        raise Malformed(f"{key} is not text")
    return value


def _count(document: _Document, key: str, most: int = MAX_COUNT) -> int:
    value = document.get(key)
    if type(value) is not int or not 0 <= value <= most:  # bool is an int; JSON's true is not a count
        raise Malformed(f"{key} is not a number from 0 to {most}")
    return value


def _one_of(known: tuple[str, ...], document: _Document, key: str) -> str:
    value = _text(document, key)
    if value not in known:
        raise Malformed(f"{key} is none of {', '.join(known)}")
    return value


def _enum(known: type[_E], document: _Document, key: str) -> _E:
    try:
        return known(_text(document, key))
    except ValueError:
        raise Malformed(f"{key} is no {known.__name__}") from None


def _time(document: _Document, key: str) -> float:
    value = _text(document, key)
    if len(value) != len("2026-11-23T15:06:02.123456Z") or value[10] != "T" or value[-1] != "Z":
        raise Malformed(f"{key} is not a UTC time with microseconds")
    try:
        count = (datetime.fromisoformat(value) - _EPOCH) // _MICROSECOND
    except ValueError:
        raise Malformed(f"{key} is not a UTC time with microseconds") from None
    if not 0 <= count <= MAX_MICROS:
        raise Malformed(f"{key} is outside 1970..2106")
    return count / 1_000_000


def _names(document: _Document) -> tuple[str, ...]:
    """Lines of an older gateway have none."""
    names = document.get("names", [])
    if not isinstance(names, list) or len(names) > RECORD_NAMES or not all(isinstance(name, str) for name in names):
        raise Malformed(f"names is not a list of at most {RECORD_NAMES} texts")
    return tuple(names)


def _base64(document: _Document, key: str, most: int = EVIDENCE_BYTES) -> bytes:
    try:
        value = binascii.a2b_base64(_text(document, key), strict_mode=True)
    except ValueError:  # non-ASCII text, or binascii.Error
        raise Malformed(f"{key} is not base64") from None
    if len(value) > most:
        raise Malformed(f"{key} is longer than {most} bytes")
    return value
