"""Records as EVE-style JSON (Suricata's eve.json vocabulary), one object a line; `egress.records.read` reads them back.

This is the journal's format as well as a sink's. Times are ISO-8601 UTC with microseconds, evidence is base64.
Shapes, beside `timestamp` and `event_type`:

- `flow`, `alert`: flow_id, community_id, src_ip, src_port, dest_ip, dest_port, proto, agent{name},
  verdict{action, reason, rule_id, policy_version, mode}; `flow` adds app_proto and flow{...}, `alert` adds alert{...}
- `anomaly`: src_ip, dest_ip, proto, agent{name}, anomaly{reason, detail, count}
- `evidence`: flow_id, agent{name}, evidence{finding_id, packets[{timestamp, direction, length, data}]}
- `process`: flow_id, agent{name}, process{status, reason, pid, inner_pid, uid, exe, cmdline, cgroup, runtime,
  container, started}
"""

from __future__ import annotations

import binascii
import json

from egress.model import Reason
from egress.records.shape import (
    DIRECTIONS,
    AnomalyRecord,
    EvidenceRecord,
    FindingRecord,
    FlowRecord,
    ProcessRecord,
    Record,
)
from egress.records.times import iso

MAX_LINE = 64 * 1024  # bytes of one line; ours stay far below

_Document = dict[str, object]
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False, allow_nan=False).encode


def to_eve(record: Record) -> dict[str, object]:
    """The record as one JSON-ready mapping."""
    if isinstance(record, FlowRecord):
        return _flow(record)
    if isinstance(record, FindingRecord):
        return _alert(record)
    if isinstance(record, AnomalyRecord):
        return _anomaly(record)
    if isinstance(record, ProcessRecord):
        return _process(record)
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


def _process(record: ProcessRecord) -> _Document:
    return {
        "timestamp": iso(record.time),
        "event_type": "process",
        "flow_id": record.flow_id,
        "agent": {"name": record.agent},
        "process": process_part(record),
    }


def process_part(record: ProcessRecord | None) -> _Document | None:
    """What is said of the process, without the flow; None where nothing is recorded."""
    if record is None:
        return None
    return {
        "status": record.status,
        "reason": record.reason,
        "pid": record.pid,
        "inner_pid": record.inner_pid,
        "uid": record.uid,
        "exe": record.exe,
        "cmdline": record.cmdline,
        "cgroup": record.cgroup,
        "runtime": record.runtime,
        "container": record.container,
        "started": None if record.started is None else iso(record.started),
    }
