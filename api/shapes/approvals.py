"""The shapes of approvals."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.times import instant
from egress.store.policy.approvals import Approval


class ApprovalOut(BaseModel):
    """A hold: a flow of an agent in mode `ask` that waits, or waited, for a decision."""

    id: str
    agent: str
    since: str
    until: str = Field(description="When it is refused, unless it is decided before")
    destination: str = Field(description="The destination of a rule that allows it: a name or an address")
    address: str = Field(description="Destination of the packet; for a query, the DNS server")
    protocol: str
    port: int
    names: list[str]
    query: bool = Field(description="A DNS query: approval allows the name, with any protocol and port")
    flow_id: str
    state: Literal["pending", "approved", "denied", "expired", "withdrawn"]
    decided_at: str | None
    decided_by: str | None
    rule_id: str | None = Field(description="The rule that the approval made")
    host: str = Field(description="The host of its agent")


class ApproveIn(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True, json_schema_extra={"examples": [{"for": "1h"}]})

    for_: str = Field("once", alias="for", max_length=64, description="once, 5m, 1h, 1d, an instant, forever")


def approval_out(found: Approval) -> dict[str, Any]:
    """Convert an approval to JSON types, as ApprovalOut."""
    return {
        "id": found.id,
        "agent": found.agent,
        "since": instant(found.time),
        "until": instant(found.until),
        "destination": found.destination,
        "address": found.dst,
        "protocol": found.proto,
        "port": found.dport,
        "names": list(found.names),
        "query": found.query,
        "flow_id": found.flow_id,
        "state": found.state,
        "decided_at": instant(found.decided_at),
        "decided_by": found.decided_by,
        "rule_id": found.rule_id,
        "host": found.host,
    }
