"""The shapes of what-if questions and their answers: checks and simulations."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from api.shapes.agents import AGENT


class CheckIn(BaseModel):
    """A flow to be judged by the rules in force."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"agent": "rome-7", "destination": "example.org", "port": 443}]},
    )

    agent: str = Field(pattern=AGENT, description="The agent's name")
    destination: str = Field(max_length=1024, description="A name or an address")
    port: int = Field(0, ge=0, le=65535, description="0 for a protocol without ports")
    protocol: str = Field("tcp", max_length=16)
    app: str = Field("", max_length=32, description="Application protocol: tls, ssh, http, …; empty: not identified")
    address: str = Field("", max_length=64, description="For a name: the address that the agent resolved it to")


class CheckOut(BaseModel):
    """The verdict of the rules in force on the flow."""

    allowed: bool
    action: str
    reason: str
    rule_id: str
    policy_version: int
    resolvable: bool | None = Field(description="For a name: true if the agent may query the DNS for it")
    explanation: str = Field(description="One sentence")
    conditions: list[str] = Field(description="The conditions of the answer, and the checks that were left out")


class GroupOut(BaseModel):
    """Flows of one agent to one destination whose verdicts would change."""

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
    """The verdicts that a candidate policy would have changed, in numbers of flows."""

    flows: int
    newly_refused: int
    newly_allowed: int
    same: int
    groups: list[GroupOut]
    more: int = Field(description="Changed flows that are in no listed group")
    gone: int = Field(description="Agents that are no longer attached; they were judged by `default`")
