"""The shapes of agents."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.times import instant
from egress.model import Action
from egress.policy.budgettext import budget_text
from egress.store.policy.agents import StoredAgent

ModeName = Literal["enforce", "monitor", "ask"]
DefaultName = Literal["allow", "deny"]
AGENT = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
HOST = AGENT


class AgentFields(BaseModel):
    """The settings of an agent."""

    name: str = Field(pattern=AGENT, description="Letters, digits, . _ -", examples=["rome-7"])
    kind: Literal["netns", "interface", "cidr"] = Field(description="Kind of attachment")
    value: str = Field(max_length=256, description="The namespace, the interface, or CIDR@interface")
    networks: list[str] = Field([], max_length=64, description="CIDRs that are the agent's own; default: its addresses")
    mode: ModeName = Field(
        "enforce", description="monitor: record refusals, but let packets pass; ask: unmatched flows wait for approval"
    )
    default: DefaultName = Field("deny", description="The action for flows that match no rule")
    labels: list[str] = Field([], max_length=64)
    budgets: list[str] = Field([], max_length=16, description="MEASURE=LIMIT/SPAN", examples=[["bytes=10mb/hour"]])


class AgentIn(AgentFields):
    """An agent to attach."""

    model_config = ConfigDict(extra="forbid")

    host: str | None = Field(None, pattern=HOST, description="Host of the gateway that guards it; default: this host")


class AgentPatch(BaseModel):
    """The settings to change; omitted or null settings stay unchanged."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"mode": "ask"}]})

    mode: ModeName | None = None
    default: DefaultName | None = None
    labels: list[str] | None = Field(None, max_length=64)
    budgets: list[str] | None = Field(None, max_length=16)


class AgentOut(AgentFields):
    """An attached agent, or a live sandbox of `egress run`."""

    kind: Literal["netns", "interface", "cidr", "sandbox"]  # type: ignore[assignment]
    host: str = Field(description="The host on which it is attached; names of agents are unique over all hosts")
    quarantined: bool = Field(description="true: cut off by an operator, in any mode")
    created: str


def agent_out(stored: StoredAgent) -> dict[str, Any]:
    """Convert an agent to JSON types, as AgentOut."""
    agent = stored.agent
    return {
        "name": agent.name,
        "kind": stored.kind,
        "value": stored.value,
        "networks": list(agent.networks),
        "mode": agent.mode,
        "default": "allow" if agent.default is Action.ACCEPT else "deny",
        "labels": list(agent.labels),
        "budgets": [budget_text(budget) for budget in agent.budgets],
        "quarantined": agent.quarantined,
        "created": instant(stored.created),
        "host": stored.host,
    }
