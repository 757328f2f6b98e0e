"""The shapes of records: flows, findings, verdicts and processes."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, RootModel

from egress.model import Action
from egress.records.eve import LAYOUTS, process_part
from egress.records.shape import AnomalyRecord, FlowRecord, ProcessRecord
from egress.records.times import iso


class Eve(BaseModel):
    """A record as EVE JSON, as in the journal; docs/records.md describes its fields."""

    model_config = ConfigDict(extra="allow")

    timestamp: str
    event_type: str


class ProcessOut(RootModel[dict[str, Any]]):
    """The process that opened a flow, as it was then."""

    model_config = ConfigDict(json_schema_extra=LAYOUTS[ProcessRecord].schema()["properties"]["process"])


class FlowOut(Eve):
    """A flow as EVE JSON, with its findings and process."""

    findings: list[dict[str, Any]] = Field(description="EVE alerts")
    process: ProcessOut | None = Field(description="null: it was not looked up (a replay, another host)")


class VerdictOut(BaseModel):
    """A decision on a flow, or on packets that belong to no flow."""

    time: str = Field(description="Time of the flow's latest record, or of the packets")
    agent: str
    action: str
    reason: str
    detail: str
    mode: str | None
    rule_id: str
    policy_version: int | None
    flow_id: str | None = Field(description="null: packets without a flow")
    proto: str
    src: str
    dest: str
    port: int
    name: str
    packets: int
    process: ProcessOut | None = Field(description="null: no flow, or it was not looked up")


def flow_verdict(record: FlowRecord, process: ProcessRecord | None) -> dict[str, Any]:
    """Convert the decision on a flow to JSON types, as VerdictOut."""
    return {
        "time": iso(record.updated),
        "agent": record.agent,
        "action": record.action,
        "reason": record.reason,
        "detail": "",
        "mode": record.mode,
        "rule_id": record.rule_id,
        "policy_version": record.policy_version,
        "flow_id": record.flow_id,
        "proto": record.proto,
        "src": record.src,
        "dest": record.dst,
        "port": record.dport,
        "name": record.server_name or next(iter(record.names), ""),
        "packets": record.packets_out + record.packets_in,
        "process": process_part(process),
    }


def anomaly_verdict(record: AnomalyRecord) -> dict[str, Any]:
    """Convert the decision on packets without a flow to JSON types, as VerdictOut."""
    return {
        "time": iso(record.time),
        "agent": record.agent,
        "action": Action.DROP,
        "reason": record.reason,
        "detail": record.detail,
        "mode": None,
        "rule_id": "",
        "policy_version": None,
        "flow_id": None,
        "proto": record.proto,
        "src": record.src,
        "dest": record.dst,
        "port": 0,
        "name": "",
        "packets": record.count,
        "process": None,
    }
