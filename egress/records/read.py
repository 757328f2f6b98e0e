"""Records read back from the JSON that `egress.records.eve` makes of them; anything else is MalformedError."""

from __future__ import annotations

import binascii
import json
from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar

from egress.errors import MalformedError
from egress.model import EVIDENCE_BYTES, Action, Direction, Effect, Mode, Reason, Severity
from egress.records.eve import MAX_LINE
from egress.records.shape import (
    DIRECTIONS,
    FLOW_STATES,
    PROCESS_CMDLINE,
    PROCESS_PATH,
    RECORD_NAMES,
    AnomalyRecord,
    EvidencePacket,
    EvidenceRecord,
    FindingRecord,
    FlowRecord,
    ProcessRecord,
    ProcessStatus,
    Record,
)
from egress.records.times import from_iso

MAX_COUNT = (1 << 63) - 1  # what a database's BIGINT holds
TIME_BYTES = len('{"timestamp":"2026-11-23T15:06:02.123456Z"')  # how each line begins
_MAX_ID = (1 << 32) - 1  # of processes and users
# Bytes of text that records are looked up by: of all in one key PostgreSQL's indexes hold 2,704.
_KEY_BYTES, _DETAIL_BYTES = 256, 1200

_Document = dict[str, object]
_E = TypeVar("_E", bound=StrEnum)


def parse_line(raw: bytes) -> Record:
    """The record in one journal line. Raises MalformedError for anything `line` would not have written."""
    if len(raw) > MAX_LINE:
        raise MalformedError(f"line of {len(raw)} bytes")
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        raise MalformedError("not JSON") from None
    return from_eve(document)


def record_time(beginning: bytes) -> float:
    """The time of a record from the first TIME_BYTES of its line. Raises MalformedError."""
    try:
        document = json.loads(beginning[:TIME_BYTES] + b"}")
    except ValueError:
        raise MalformedError("no line begins like this") from None
    return _time(document, "timestamp")


def from_eve(document: object) -> Record:
    """The record `to_eve` made this of; keys it does not know are passed over. Raises MalformedError."""
    if not isinstance(document, dict):
        raise MalformedError("not an object")
    read = _READERS.get(_text(document, "event_type"))
    if read is None:
        raise MalformedError("unknown event_type")
    return read(document)


def _read_flow(document: _Document) -> FlowRecord:
    flow, verdict = _part(document, "flow"), _part(document, "verdict")
    return FlowRecord(
        flow_id=_key(document, "flow_id"),
        agent=_key(_part(document, "agent"), "name"),
        start=_time(flow, "start"),
        updated=_time(document, "timestamp"),
        end=None if flow.get("end", "") is None else _time(flow, "end"),
        state=_one_of(FLOW_STATES, flow, "state"),
        direction=_one_of(DIRECTIONS, flow, "direction"),
        proto=_key(document, "proto"),
        src=_key(document, "src_ip"),
        sport=_count(document, "src_port", 65535),
        dst=_key(document, "dest_ip"),
        dport=_count(document, "dest_port", 65535),
        community_id=_text(document, "community_id"),
        app_proto=_text(document, "app_proto"),
        server_name=_text(flow, "server_name"),
        action=_enum(Action, verdict, "action"),
        reason=_enum(Reason, verdict, "reason"),
        rule_id=_key(verdict, "rule_id"),
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
        finding_id=_key(alert, "finding_id"),
        flow_id=_key(document, "flow_id"),
        agent=_key(_part(document, "agent"), "name"),
        time=_time(document, "timestamp"),
        signature=_key(alert, "signature"),
        severity=_enum(Severity, alert, "severity"),
        technique=_text(alert, "technique"),
        summary=_text(alert, "summary"),
        evidence=_base64(alert, "evidence"),
        effect=_enum(Effect, alert, "effect"),
        action=_enum(Action, verdict, "action"),
        mode=_enum(Mode, verdict, "mode"),
        proto=_key(document, "proto"),
        src=_key(document, "src_ip"),
        sport=_count(document, "src_port", 65535),
        dst=_key(document, "dest_ip"),
        dport=_count(document, "dest_port", 65535),
        community_id=_text(document, "community_id"),
        rule_id=_key(verdict, "rule_id"),
        policy_version=_count(verdict, "policy_version"),
    )


def _read_anomaly(document: _Document) -> AnomalyRecord:
    anomaly = _part(document, "anomaly")
    return AnomalyRecord(
        agent=_key(_part(document, "agent"), "name"),
        time=_time(document, "timestamp"),
        reason=_enum(Reason, anomaly, "reason"),
        detail=_key(anomaly, "detail", _DETAIL_BYTES),
        count=_count(anomaly, "count"),
        src=_key(document, "src_ip"),
        dst=_key(document, "dest_ip"),
        proto=_key(document, "proto"),
    )


def _read_evidence(document: _Document) -> EvidenceRecord:
    evidence = _part(document, "evidence")
    packets = evidence.get("packets")
    if not isinstance(packets, list) or not all(isinstance(packet, dict) for packet in packets):
        raise MalformedError("packets is not a list of objects")
    return EvidenceRecord(
        finding_id=_key(evidence, "finding_id"),
        flow_id=_key(document, "flow_id"),
        agent=_key(_part(document, "agent"), "name"),
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


def _read_process(document: _Document) -> ProcessRecord:
    process = _part(document, "process")
    return ProcessRecord(
        flow_id=_key(document, "flow_id"),
        agent=_key(_part(document, "agent"), "name"),
        time=_time(document, "timestamp"),
        status=_enum(ProcessStatus, process, "status"),
        reason=_text(process, "reason", PROCESS_PATH),
        pid=_count(process, "pid", _MAX_ID),
        inner_pid=_count(process, "inner_pid", _MAX_ID),
        uid=None if process.get("uid", 0) is None else _count(process, "uid", _MAX_ID),
        exe=_text(process, "exe", PROCESS_PATH),
        cmdline=_text(process, "cmdline", PROCESS_CMDLINE),
        cgroup=_text(process, "cgroup", PROCESS_PATH),
        runtime=_text(process, "runtime", PROCESS_PATH),
        container=_text(process, "container", PROCESS_PATH),
        started=None if process.get("started", "") is None else _time(process, "started"),
    )


_READERS: dict[str, Callable[[_Document], Record]] = {
    "flow": _read_flow,
    "alert": _read_alert,
    "anomaly": _read_anomaly,
    "evidence": _read_evidence,
    "process": _read_process,
}


def _part(document: _Document, key: str) -> _Document:
    value = document.get(key)
    if not isinstance(value, dict):
        raise MalformedError(f"{key} is not an object")
    return value


def _text(document: _Document, key: str, most: int = MAX_LINE) -> str:
    value = document.get(key)
    if not isinstance(value, str):
        raise MalformedError(f"{key} is not text")
    if len(value) > most:
        raise MalformedError(f"{key} is longer than {most} characters")
    return value


def _key(document: _Document, key: str, most: int = _KEY_BYTES) -> str:
    """Text that is in an index, where NUL and lone surrogates take more bytes (egress.store.database.columns.Plain)."""
    value = _text(document, key)
    if 6 * len(value) > most and len(value.encode("utf-8", "backslashreplace")) + 3 * value.count("\0") > most:
        raise MalformedError(f"{key} is longer than {most} bytes")
    return value


def _count(document: _Document, key: str, most: int = MAX_COUNT) -> int:
    value = document.get(key)
    if type(value) is not int or not 0 <= value <= most:  # bool is an int; JSON's true is not a count
        raise MalformedError(f"{key} is not a number from 0 to {most}")
    return value


def _one_of(known: tuple[str, ...], document: _Document, key: str) -> str:
    value = _text(document, key)
    if value not in known:
        raise MalformedError(f"{key} is none of {', '.join(known)}")
    return value


def _enum(known: type[_E], document: _Document, key: str) -> _E:
    try:
        return known(_text(document, key))
    except ValueError:
        raise MalformedError(f"{key} is no {known.__name__}") from None


def _time(document: _Document, key: str) -> float:
    try:
        return from_iso(_text(document, key))
    except MalformedError as error:
        raise MalformedError(f"{key} {error}") from None


def _names(document: _Document) -> tuple[str, ...]:
    """Lines of an older gateway have none."""
    names = document.get("names", [])
    if not isinstance(names, list) or len(names) > RECORD_NAMES or not all(isinstance(name, str) for name in names):
        raise MalformedError(f"names is not a list of at most {RECORD_NAMES} texts")
    return tuple(names)


def _base64(document: _Document, key: str, most: int = EVIDENCE_BYTES) -> bytes:
    try:
        value = binascii.a2b_base64(_text(document, key), strict_mode=True)
    except ValueError:  # non-ASCII text, or binascii.Error
        raise MalformedError(f"{key} is not base64") from None
    if len(value) > most:
        raise MalformedError(f"{key} is longer than {most} bytes")
    return value
