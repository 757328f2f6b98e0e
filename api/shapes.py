"""The shapes of agents, approvals, questions and records in the OpenAPI document."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

ModeName = Literal["enforce", "monitor", "ask"]
DefaultName = Literal["allow", "deny"]
AGENT = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
HOST = AGENT


class AgentFields(BaseModel):
    name: str = Field(pattern=AGENT, description="Letters, digits, . _ -", examples=["rome-7"])
    kind: Literal["netns", "interface", "cidr"] = Field(description="What is attached")
    value: str = Field(max_length=256, description="Which one: a namespace, an interface, CIDR@interface")
    networks: list[str] = Field([], max_length=64, description="CIDRs that are the agent's own; default: its addresses")
    mode: ModeName = Field("enforce", description="monitor: decide and record, but let pass; ask: a person is asked")
    default: DefaultName = Field("deny", description="What happens where no rule speaks")
    labels: list[str] = Field([], max_length=64)
    budgets: list[str] = Field([], max_length=16, description="MEASURE=LIMIT/SPAN", examples=[["bytes=10mb/hour"]])


class AgentIn(AgentFields):
    """An agent to attach."""

    model_config = ConfigDict(extra="forbid")

    host: str | None = Field(None, pattern=HOST, description="Whose gateway attaches it; default: that of this API")


class AgentPatch(BaseModel):
    """What to change; what is left out or null stays."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"mode": "ask"}]})

    mode: ModeName | None = None
    default: DefaultName | None = None
    labels: list[str] | None = Field(None, max_length=64)
    budgets: list[str] | None = Field(None, max_length=16)


class AgentOut(AgentFields):
    kind: Literal["netns", "interface", "cidr", "sandbox"]  # type: ignore[assignment]
    host: str = Field(description="Where it is attached; its name is its own over all hosts")
    quarantined: bool = Field(description="Cut off by a person's order")
    created: str


class ApprovalOut(BaseModel):
    """What an agent in mode ask waits, or waited, for."""

    id: str
    agent: str
    since: str
    until: str = Field(description="Refused if nobody decides by then")
    destination: str = Field(description="What a rule that allows it says: a name or an address")
    address: str = Field(description="Where the packet goes; of a query: the DNS server")
    protocol: str
    port: int
    names: list[str]
    query: bool = Field(description="A DNS query: approving it allows the name, whatever the protocol and port")
    flow_id: str
    state: Literal["pending", "approved", "denied", "expired", "withdrawn"]
    decided_at: str | None
    decided_by: str | None
    rule_id: str | None = Field(description="The rule that an approval made")
    host: str = Field(description="Where it waits")


class GatewayOut(BaseModel):
    """A gateway at this database. Times are those of the database's clock."""

    host: str
    state: Literal["up", "silent", "stopped"] = Field(description="silent: gone, or it cannot reach the database")
    started: str
    seen: str = Field(description="Its last sign of life, a few seconds ago while it is up")
    policy_version: int = Field(description="That all its workers judge by")
    behind: int = Field(description="Versions of the policy that are newer than that")
    agents: int = Field(description="That it watches")
    skew: float = Field(description="Seconds that its clock is ahead of the database's")
    program: str = Field(description="Version of egress")


class RenameIn(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "gpu-2"}]})

    name: str = Field(pattern=HOST, description="The host's new name, which no other has")


class ApproveIn(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True, json_schema_extra={"examples": [{"for": "1h"}]})

    for_: str = Field("once", alias="for", max_length=64, description="once, 5m, 1h, 1d, an instant, forever")


class CheckIn(BaseModel):
    """A question to the rules."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"agent": "rome-7", "destination": "example.org", "port": 443}]},
    )

    agent: str = Field(pattern=AGENT, description="Its name")
    destination: str = Field(max_length=1024, description="A name or an address")
    port: int = Field(0, ge=0, le=65535, description="0 where the protocol has none")
    protocol: str = Field("tcp", max_length=16)
    app: str = Field("", max_length=32, description="What is spoken: tls, ssh, http, …; empty: not known yet")
    address: str = Field("", max_length=64, description="Of a name: what the agent has resolved it to")


class CheckOut(BaseModel):
    allowed: bool
    action: str
    reason: str
    rule_id: str
    policy_version: int
    resolvable: bool | None = Field(description="A name: whether the agent may ask the DNS for it")
    explanation: str = Field(description="One sentence")
    conditions: list[str] = Field(description="Under what the answer holds, and what was not looked at")


class GroupOut(BaseModel):
    """Flows of one agent to one destination that would be decided otherwise."""

    agent: str
    destination: str
    proto: str
    port: int
    query: bool
    newly_refused: int
    newly_allowed: int
    reason: str
    rule_id: str


class SimulationOut(BaseModel):
    """What a candidate policy would have changed; counts are flows."""

    flows: int
    newly_refused: int
    newly_allowed: int
    same: int
    groups: list[GroupOut]
    more: int = Field(description="Changed flows that are in no group")
    gone: int = Field(description="Agents that are not attached any more; they were judged by `default`")


class Eve(BaseModel):
    """A record as EVE JSON, as it is journalled; docs/records.md describes its fields."""

    model_config = ConfigDict(extra="allow")

    timestamp: str
    event_type: str


class ProcessOut(BaseModel):
    """The process that opened a flow, as it was then."""

    status: Literal["found", "gone", "unknown"]
    reason: str = Field(description="Why it was not found")
    pid: int = Field(description="The host's number of it; 0: not found")
    inner_pid: int = Field(description="Its number in its own pid namespace")
    uid: int | None
    exe: str = Field(description="The executable's path, in its own file system")
    cmdline: str = Field(description="What the process says it is")
    cgroup: str
    runtime: str = Field(description="docker, podman, …; empty: in no container")
    container: str = Field(description="The container's id")
    started: str | None


class FlowOut(Eve):
    findings: list[dict[str, Any]] = Field(description="EVE alerts")
    process: ProcessOut | None = Field(description="null: it was not looked for (a replay, another host)")


class VerdictOut(BaseModel):
    """A decision: on a flow, or on packets that belong to none."""

    time: str = Field(description="Of the flow's latest record")
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
    process: ProcessOut | None = Field(description="null: of no flow, or it was not looked for")


class Health(BaseModel):
    status: str


class Readiness(BaseModel):
    status: str
    database: str
