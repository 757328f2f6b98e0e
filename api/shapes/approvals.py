"""The shapes of approvals: holds of agents in mode `ask` and the decisions on them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from api.times import instant
from egress.errors import InputError
from egress.model import HoldState
from egress.policy.ruletext import to_mapping
from egress.records.shape import ProcessStatus
from egress.store.policy.approvals import Approval, rule_of
from egress.store.query.heldby import Circumstances


class HeldProcess(BaseModel):
    """The process that opened the held flow."""

    pid: int
    exe: str
    cmdline: str = Field(description="The process's own words")
    status: ProcessStatus


class HeldCall(BaseModel):
    """A tool call that was under way, as the agent's framework reported it."""

    episode: str
    tool: str
    summary: str


class ApprovalOut(BaseModel):
    """A hold: a flow or DNS query of an agent in mode `ask` that waits, or waited, for a person's approval."""

    id: str
    agent: str
    since: str
    until: str = Field(description="The time at which it is refused if there is no decision")
    destination: str = Field(description="The destination of the rule that an approval makes: a name or an address")
    address: str = Field(description="Destination address of the packet; for a DNS query, that of the server")
    protocol: str
    port: int
    names: list[str]
    query: bool = Field(description="true: a DNS query, whose approval allows the name with any protocol and port")
    rule: dict[str, Any] | None = Field(description="The rule that an approval makes; null: no rule can express it")
    process: HeldProcess | None = Field(description="null: not looked up, or not yet")
    steps: list[HeldCall] = Field(description="Tool calls that were under way, the latest first")
    flow_id: str
    state: HoldState
    decided_at: str | None
    decided_by: str | None
    rule_id: str | None = Field(description="The rule that the approval made, or an equal one that was in force")
    host: str = Field(description="The host of its agent")


class ApproveIn(BaseModel):
    """The lifetime of the rule that an approval makes."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, json_schema_extra={"examples": [{"for": "1h"}]})

    for_: str = Field("once", alias="for", max_length=64, description="once, 5m, 1h, 1d, an instant, forever")


def approval_out(found: Approval, about: Circumstances) -> dict[str, Any]:
    """Convert an approval to JSON types, as ApprovalOut."""
    process = about.process
    return {
        "rule": _rule(found),
        "process": process and {name: getattr(process, name) for name in HeldProcess.model_fields},
        "steps": [call._asdict() for call in about.calls],
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


def _rule(found: Approval) -> dict[str, Any] | None:
    """Return the rule that an approval would make; None if no rule can express it."""
    try:
        rule = to_mapping(rule_of(found))
    except InputError:
        return None
    return {name: value for name, value in rule.items() if name not in ("id", "comment")}
