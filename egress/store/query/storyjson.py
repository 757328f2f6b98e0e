"""Steps, episodes and flows as plain JSON, for the API and for `egress show … -o json`."""

from __future__ import annotations

from typing import Any

from egress.model import Step
from egress.records.eve import process_part, to_eve
from egress.records.times import iso
from egress.store.query.episodes import Episode, EpisodeStory, Part
from egress.store.query.reader import FlowDetails
from egress.store.query.stepjoin import Traffic
from egress.store.recording.steps import StepContext

TOP = 20  # destinations of a part


def step_mapping(step: Step) -> dict[str, Any]:
    """A step, with times as ISO text."""
    return {name: _time(getattr(step, name)) for name in Step.__slots__}


def episode_mapping(episode: Episode) -> dict[str, Any]:
    """An episode of a list, with times as ISO text."""
    return {name: _time(getattr(episode, name)) for name in Episode.__slots__}


def story_mapping(story: EpisodeStory) -> dict[str, Any]:
    """The story of an episode: its parts (steps, and gaps with traffic) and totals, with times as ISO text."""
    return {
        "agent": story.agent,
        "episode": story.episode,
        "start": iso(story.start),
        "end": iso(story.end),
        "parts": [_part(story, part) for part in story.parts],
        "total": _traffic(story.total),
        "elsewhere": story.elsewhere,
        "earlier": [flow_mapping(details) for details in story.earlier],
        "more_steps": story.more_steps,
        "clock_ahead": round(story.ahead, 6),
    }


def context_mapping(agent: str, context: StepContext) -> dict[str, Any]:
    """A mapping with `steps`, those of the context that are under way, and `agent`: `name`, `episode` and `step`.

    `episode` and `step` (its id) are those of the step under way that began last; null if none is under way.
    """
    last = context.steps[-1] if context.steps else None
    where = {"episode": last.episode if last else None, "step": last.id if last else None}
    return {"agent": {"name": agent, **where}, "steps": [step_mapping(step) for step in context.steps]}


def _time(value: object) -> object:
    """A float, which is always a time here, as ISO text; other values unchanged."""
    return iso(value) if isinstance(value, float) else value


def _part(story: EpisodeStory, part: Part) -> dict[str, Any]:
    flows = []
    for details in part.flows:
        agent = {"name": story.agent, "episode": story.episode, "step": part.step.id if part.step else None}
        alive = part.lived_on.get(details.flow.flow_id)
        still = {"first": alive[0], "last": alive[1]} if alive else None
        flows.append({**flow_mapping(details), "agent": agent, "alive_in_steps": still})
    return {
        "kind": "step" if part.step else "no tool",
        "number": part.number,
        "step": step_mapping(part.step) if part.step else None,
        "start": iso(part.start),
        "end": iso(part.end),
        "traffic": _traffic(part.traffic),
        "flows": flows,
    }


def flow_mapping(details: FlowDetails) -> dict[str, Any]:
    """The flow as an EVE event, with its findings and its process (null: none is recorded)."""
    made = [to_eve(each) for each in details.findings]
    return {**to_eve(details.flow), "findings": made, "process": process_part(details.process)}


def _traffic(traffic: Traffic) -> dict[str, Any]:
    top = traffic.destinations.most_common(TOP)
    return {
        "flows": traffic.flows,
        "refused": traffic.refused,
        "bytes_out": traffic.bytes_out,
        "bytes_in": traffic.bytes_in,
        "findings": traffic.findings,
        "refused_packets": traffic.packets,
        "still_alive": traffic.alive,
        "signatures": dict(traffic.signatures),
        "destinations": dict(top),
        "more_destinations": len(traffic.destinations) - len(top),
    }
