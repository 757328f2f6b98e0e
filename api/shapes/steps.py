"""The shapes of steps (tool calls that agent frameworks report) and of episodes, which consist of steps."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

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
    tool: str = Field("", max_length=4096, description="Name of the tool; a long name is cut")
    summary: str = Field("", max_length=1 << 20, description="Arguments as text; a long text is cut")
    start: str = Field("", max_length=64, description="RFC 3339 with a time zone; default: time of the first report")
    end: str = Field("", max_length=64, description="RFC 3339 with a time zone, or `now`; default: the step is running")
    call_id: str = Field("", max_length=MAX_ID, description="The model's id of the call; default: `id`")
    trace_id: str = Field("", pattern="^([0-9a-f]{32})?$")
    span_id: str = Field("", pattern="^([0-9a-f]{16})?$")


class StepOut(BaseModel):
    """A tool call as reported: claims of a framework, with texts that an agent may have chosen."""

    agent: str
    episode: str
    id: str
    tool: str
    summary: str
    start: str
    end: str | None
    until: str = Field(description="The time until which it counts as running: `end`, or an hour after its last report")
    source: Literal["api", "otlp"]
    call_id: str
    trace_id: str
    span_id: str
    reporter: str
    reported: str


class EpisodeOut(BaseModel):
    """An episode without its steps."""

    agent: str
    episode: str
    start: str
    end: str | None = Field(description="null: a step is running")
    steps: int
    tools: int


class TrafficOut(BaseModel):
    """The agent's traffic in a part of an episode, or in all of it."""

    flows: int
    refused: int
    bytes_out: int
    bytes_in: int
    findings: int
    refused_packets: int = Field(description="Refused packets that belong to no flow")
    still_alive: int = Field(description="Live flows that began before the period")
    signatures: dict[str, int]
    destinations: dict[str, int] = Field(description="The destinations with most flows")
    more_destinations: int


class PartOut(BaseModel):
    """A part of an episode: a step, or a period in which no tool was running."""

    kind: Literal["step", "no tool"]
    number: int = Field(description="Number of the step, from 1; 0: no tool was running")
    step: StepOut | None
    start: str
    end: str
    traffic: TrafficOut
    flows: list[dict[str, Any]] = Field(
        description="EVE: the first flows, and the first that were refused or have findings"
    )


class EpisodeStoryOut(BaseModel):
    """An episode, step by step, with the flows that began in each step and while no tool was running."""

    agent: str
    episode: str
    start: str
    end: str
    parts: list[PartOut]
    total: TrafficOut
    elsewhere: int = Field(description="Flows that began only in a step of another episode")
    earlier: list[dict[str, Any]] = Field(description="EVE: flows that began before the episode and were alive in it")
    more_steps: bool
    clock_ahead: float = Field(description="Seconds that the framework's clock is ahead, at least")
