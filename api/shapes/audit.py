"""The shapes of the audit trail."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class AuditOut(BaseModel):
    """One change, linked by a hash to the one before it."""

    seq: int
    time: str
    actor: str
    request_id: str
    action: str
    target: str
    before: Any = Field(description="null: the target did not exist")
    after: Any = Field(description="null: the target was deleted")
    previous: str
    hash: str


class VerifiedOut(BaseModel):
    """The result of a verification. Keep copies of `count` and `head`: only they reveal that the end was cut off."""

    count: int
    head: str
    broken: int | None = Field(description="The first entry that is not valid; null: all are valid")
    why: str
