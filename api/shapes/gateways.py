"""The shapes of gateways."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.shapes.agents import HOST
from api.times import instant
from egress.store.policy.gateways import StoredGateway


class GatewayOut(BaseModel):
    """A gateway that has run with this database. Times are by the database's clock."""

    host: str
    state: Literal["up", "silent", "stopped"] = Field(description="silent: dead, or unable to reach the database")
    started: str
    seen: str = Field(description="Time of its last heartbeat; at most a few seconds ago while it is up")
    policy_version: int = Field(description="The version that all its workers enforce")
    behind: int = Field(description="Number of newer policy versions")
    agents: int = Field(description="Number of agents that it guards")
    skew: float = Field(description="Seconds that its clock is ahead of the database's")
    program: str = Field(description="Version of egress")


class RenameIn(BaseModel):
    """The new name of a host."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "gpu-2"}]})

    name: str = Field(pattern=HOST, description="The host's new name, which no other host may have")


def gateway_out(found: StoredGateway, now: float, newest: int) -> dict[str, Any]:
    """Convert a gateway to JSON types, as GatewayOut. `newest` is the newest version of the policy."""
    return {
        "host": found.host,
        "state": found.state(now),
        "started": instant(found.started),
        "seen": instant(found.seen),
        "policy_version": found.policy_version,
        "behind": max(newest - found.policy_version, 0),
        "agents": found.agents,
        "skew": round(found.skew, 3),
        "program": found.program,
    }
