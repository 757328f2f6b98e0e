"""Formats everything recorded about an agent, as lines of text or as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from egress.cli.output.oneline import brief
from egress.cli.output.text import endpoint, labelled, size, when
from egress.policy.budgettext import budget_text
from egress.records.times import iso
from egress.store.policy.agents import StoredAgent, to_mapping
from egress.store.query.counting import Count
from egress.store.query.reader import AgentSummary
from egress.store.query.story import AgentStory
from egress.store.query.storyjson import flow_mapping


def agent_lines(story: AgentStory) -> Iterator[str]:
    """Format an agent's story as lines of text."""
    yield labelled("agent", story.name)
    for label, text in attachment(story.attached):
        yield labelled(label, text)
    if story.summary is None:
        yield labelled("activity", "nothing is recorded yet")
        return
    yield from _summary(story.summary)
    yield from _counts("to", [(endpoint(each.values[0], int(each.values[1])), each) for each in story.destinations])
    yield from _counts("names", [(each.values[0], each) for each in story.names])
    yield from _counts("opened by", [(each.values[0], each) for each in story.processes])
    if not story.signatures:
        yield labelled("findings", "none")
    for number, each in enumerate(story.signatures):
        found = f"{each.values[0]}  {each.findings} on {each.flows} flows, the last {when(each.last)} UTC"
        yield labelled("" if number else "findings", found)
    for number, (flow, findings, _) in enumerate(reversed(story.newest)):
        found = "".join(f" {finding.signature}" for finding in findings)
        yield labelled("" if number else "newest", f"{when(flow.start)}  {brief(flow)}{found}")


def attachment(attached: StoredAgent | None) -> Iterator[tuple[str, str]]:
    """Yield label and text of each fact about an agent's attachment, mode and budgets; None: it is not attached."""
    if attached is None:
        yield ("attached", "no: it is unguarded")
        return
    agent = attached.agent
    where = f"{attached.kind} {attached.value}".rstrip()
    networks = f" ({', '.join(agent.networks)})" if agent.networks else ""
    yield ("attached", f"{where}{networks} since {when(attached.created)} UTC")
    yield ("mode", f"{agent.mode}, default {agent.default}")
    if agent.quarantined:
        yield ("quarantine", f"YES: nothing passes; `egress agent release {agent.name}` ends it")
    if agent.labels:
        yield ("labels", ", ".join(agent.labels))
    yield ("budgets", ", ".join(map(budget_text, agent.budgets)) or "none")


def _summary(summary: AgentSummary) -> Iterator[str]:
    yield labelled("flows", f"{summary.flows}: {summary.accepted} accepted, {summary.refused} refused")
    if summary.anomalies:
        yield labelled("", f"and {summary.anomalies} packets refused without a flow")
    if summary.folded:
        yield labelled("", f"and {summary.folded} beyond its quota of records, counted together (limits.records_agent)")
    if summary.first is not None and summary.last is not None:
        yield labelled("active", f"{when(summary.first)} to {when(summary.last)} UTC")


def _counts(label: str, groups: Sequence[tuple[str, Count]]) -> Iterator[str]:
    for number, (what, each) in enumerate(groups):
        refused = f", {each.refused} refused" if each.refused else ""
        proto = f"{each.values[2]} " if len(each.values) > 2 else ""
        yield labelled("" if number else label, f"{proto}{what}  {each.flows} flows{refused}, {size(each.bytes)}")


def agent_document(story: AgentStory) -> dict[str, object]:
    """Convert an agent's story to JSON types."""
    attached = None if story.attached is None else to_mapping(story.attached)
    return {
        "agent": story.name,
        "attached": attached,
        "summary": None if story.summary is None else _moments(dataclasses.asdict(story.summary)),
        "destinations": [_document(("dest", "port", "proto"), each) for each in story.destinations],
        "names": [_document(("name",), each) for each in story.names],
        "signatures": [_document(("signature",), each) for each in story.signatures],
        "processes": [_document(("process",), each) for each in story.processes],
        "newest": list(map(flow_mapping, story.newest)),
    }


def _document(keys: tuple[str, ...], group: Count) -> dict[str, object]:
    numbers = dataclasses.asdict(group)
    del numbers["values"]
    return {**dict(zip(keys, group.values, strict=True)), **_moments(numbers)}


def _moments(values: dict[str, object]) -> dict[str, object]:
    """Convert the times among the values to ISO 8601."""
    for key in ("first", "last"):
        moment = values[key]
        values[key] = iso(moment) if isinstance(moment, float) else None
    return values
