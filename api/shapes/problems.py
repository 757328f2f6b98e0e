"""The shape of errors: problem documents (RFC 9457)."""

from __future__ import annotations

from pydantic import BaseModel, Field


class ProblemPlace(BaseModel):
    """The place of a mistake: a field of the body or a parameter."""

    pointer: str | None = Field(None, description="JSON pointer into the body", examples=["#/ports/0"])
    parameter: str | None = Field(None, description="Name of a query, path or header parameter", examples=["limit"])
    detail: str = Field(description="The mistake, and how to correct it")


class ProblemDocument(BaseModel):
    """The reason why a request is wrong or cannot be served (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str = Field(description="The request's X-Request-Id, also in the log and the audit trail")
    errors: list[ProblemPlace] = []
