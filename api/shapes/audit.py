"""The shapes of the audit trail."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class AuditOut(BaseModel):
    """One entry: a change, and a hash that links it to the entry before."""

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
    """The result of a verification. Keep copies of `count` and `head`: only they show that the end was cut off."""

    count: int
    head: str
    broken: int | None = Field(description="The first entry that is not valid; null: all are valid")
    why: str
