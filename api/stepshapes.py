"""The shapes of steps and episodes in the OpenAPI document."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.paging import INSTANT, parse_instant
from api.problems import wrong_field
from egress.store.recording.steps import MAX_ID

_NAME = r"^[^\x00-\x1f\x7f]+$"


class StepIn(BaseModel):
    """A tool call of an agent."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"episode": "run-17", "id": "call_1", "tool": "bash", "summary": '{"command": "make test"}'}]
        },
    )

    episode: str = Field(min_length=1, max_length=MAX_ID, pattern=_NAME, description="Conversation, session or run")
    id: str = Field(min_length=1, max_length=MAX_ID, pattern=_NAME, description="Unique within the episode")
    tool: str = Field("", max_length=4096, description="Its name; what is too long is cut")
    summary: str = Field("", max_length=1 << 20, description="Arguments, as text; what is too long is cut")
    start: str = Field("", max_length=64, description="RFC 3339 with a time zone; without it the moment it is told")
    end: str = Field("", max_length=64, description="RFC 3339 with a time zone, or `now`; without it it is under way")
    call_id: str = Field("", max_length=MAX_ID, description="What the model calls it; without it `id`")
    trace_id: str = Field("", pattern="^([0-9a-f]{32})?$")
    span_id: str = Field("", pattern="^([0-9a-f]{16})?$")


class StepOut(BaseModel):
    """A tool call as it is known: claims of a framework, texts of which an agent may have chosen."""

    agent: str
    episode: str
    id: str
    tool: str
    summary: str
    start: str
    end: str | None
    until: str = Field(description="When it stops to count as under way: `end`, or an hour after it was last told of")
    source: Literal["api", "otlp"]
    call_id: str
    trace_id: str
    span_id: str
    reporter: str
    reported: str


class EpisodeOut(BaseModel):
    agent: str
    episode: str
    start: str
    end: str | None = Field(description="null: a step is under way")
    steps: int
    tools: int


class TrafficOut(BaseModel):
    """What left the sandbox in a time."""

    flows: int
    refused: int
    bytes_out: int
    bytes_in: int
    findings: int
    refused_packets: int = Field(description="Refused without a flow")
    still_alive: int = Field(description="Flows begun before that were alive in it")
    signatures: dict[str, int]
    destinations: dict[str, int] = Field(description="Those with most flows")
    more_destinations: int


class PartOut(BaseModel):
    kind: Literal["step", "no tool"]
    number: int = Field(description="Of the step, from 1; 0: no tool was running")
    step: StepOut | None
    start: str
    end: str
    traffic: TrafficOut
    flows: list[dict[str, Any]] = Field(description="EVE: the first, and the first of those refused or found in")


class EpisodeStoryOut(BaseModel):
    """An episode, step by step, with what left the sandbox in each and while no tool was running."""

    agent: str
    episode: str
    start: str
    end: str
    parts: list[PartOut]
    total: TrafficOut
    elsewhere: int = Field(description="Flows that began in a step of another episode alone")
    earlier: list[dict[str, Any]] = Field(description="EVE: flows begun before it, still alive in it")
    more_steps: bool
    clock_ahead: float = Field(description="Seconds that the framework's clock is ahead, at the least")


def moment_in(field: str, text: str, now: float) -> float | None:
    """Seconds since the epoch of an instant in a body; None without one. Raises Problem (422)."""
    if not text:
        return None
    if text == "now":
        return now
    if (found := parse_instant(text)) is not None:
        return found
    raise wrong_field(field, f"must be {INSTANT} or now")
