"""The shapes of tokens."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from api.times import instant
from egress.store.policy.tokens import Token


class TokenIn(BaseModel):
    """A token to create."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"name": "ci", "role": "editor", "agents": ["ci-*"], "expires": "30d"}]},
    )

    name: str = Field(min_length=1, max_length=128, description="The holder; shown in the audit trail")
    role: Literal["viewer", "approver", "editor", "admin", "gateway", "reporter"]
    agents: list[str] | None = Field(
        None, min_length=1, max_length=64, description="Globs of the agents in its scope; default: the caller's scope"
    )
    expires: str = Field("forever", max_length=64, description="A duration (1h, 30d, 4w), an instant, or forever")


class TokenOut(BaseModel):
    """A token without its secret."""

    id: str
    name: str
    role: str
    agents: list[str]
    created: str
    created_by: str
    expires: str = Field(description="RFC 3339, or forever")
    revoked_at: str | None
    last_used: str | None = Field(description="Exact to the minute")


class TokenMade(TokenOut):
    """A new token with its secret."""

    token: str | None = Field(description="The secret, shown once; null in a replay by Idempotency-Key")


def token_out(token: Token) -> dict[str, object]:
    """Convert a token to JSON types, as TokenOut."""
    return {
        "id": token.id,
        "name": token.name,
        "role": token.role,
        "agents": list(token.agents),
        "created": instant(token.created),
        "created_by": token.created_by,
        "expires": instant(token.expires_at) or "forever",
        "revoked_at": instant(token.revoked_at),
        "last_used": instant(token.last_used),
    }
