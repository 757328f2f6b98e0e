"""Formats everything recorded about an episode as lines of text."""

from __future__ import annotations

from collections.abc import Iterator

from egress.cli.output.oneline import brief
from egress.cli.output.processes import program
from egress.cli.output.text import labelled, plain, size, when
from egress.model import Step
from egress.records.shape import FlowRecord
from egress.store.query.episodes import EpisodeStory, Part
from egress.store.query.stepjoin import Traffic

SHOWN = 5  # destinations of a part
NO_TOOL = "no tool was running"
_CLOCK = 0.05  # seconds; smaller differences of the clocks are not reported


def episode_lines(story: EpisodeStory) -> Iterator[str]:
    """Format an episode: its totals, then its parts in order, each with the flows that began in it.

    A part is a tool call, or a period in which no tool was running.
    """
    calls = [part for part in story.parts if part.step]
    yield labelled("episode", story.episode)
    yield labelled("agent", story.agent)
    yield labelled("time", f"{when(calls[0].start)} UTC to {when(max(part.end for part in calls))}")
    yield labelled("calls", f"{len(calls)} tool calls{' and more' if story.more_steps else ''}")
    yield labelled("left", _counts(story.total))
    alone = [part.traffic for part in story.parts if not part.step]
    if alone:
        flows, found = sum(each.flows for each in alone), sum(each.findings for each in alone)
        yield labelled("", f"of which {flows} flows and {found} findings while {NO_TOOL}")
    if story.elsewhere:
        yield labelled(
            "", f"without {story.elsewhere} flows of the same time that belong to other episodes of this agent"
        )
    if story.ahead > _CLOCK:
        yield labelled(
            "clock", f"the framework's is at least {story.ahead:.3f} s ahead of this host's: times are inexact"
        )
    for number, (flow, *_) in enumerate(story.earlier):
        yield labelled("" if number else "earlier", f"{when(flow.start)}  {brief(flow)}, still alive when it began")
    for part in story.parts:
        yield ""
        yield from _part(part)


def _part(part: Part) -> Iterator[str]:
    if part.step is None:
        yield f"  -- {NO_TOOL}: {when(part.start)} to {when(part.end)} ({part.end - part.start:.3f} s)"
    else:
        yield plain(f"{part.number:4} {when(part.step.start)}  {_duration(part.step)}  {part.step.tool or '(no name)'}")
        if part.step.summary:
            yield _indented(part.step.summary)
    if not part.traffic and not part.traffic.alive:
        yield _indented("nothing left the sandbox")
        return
    yield _indented(_counts(part.traffic))
    if part.traffic.destinations:
        yield _indented(f"to {_destinations(part.traffic)}")
    for flow, made, process in part.flows:
        found = "".join(f" {finding.signature}" for finding in made)
        by = f" by {program(process)}" if process is not None and process.exe else ""
        yield _indented(f"{_place(part, flow)}  {brief(flow)}{by}{found}{_alive(part, flow)}")
    if part.traffic.flows > len(part.flows):
        yield _indented(f"and {part.traffic.flows - len(part.flows)} more")


def _place(part: Part, flow: FlowRecord) -> str:
    """Format a flow's offset in its part; between tool calls also the time left to the next call."""
    after = f"{flow.start - part.start:+.3f} s"
    return after if part.step else f"{after}, {part.end - flow.start:.3f} s before the end"


def _alive(part: Part, flow: FlowRecord) -> str:
    alive = part.lived_on.get(flow.flow_id)
    if alive is None:
        return ""
    first, last = alive
    return f" LIVED ON into step {first}" if first == last else f" LIVED ON into steps {first} to {last}"


def _duration(step: Step) -> str:
    return "not ended" if step.end is None else f"{step.end - step.start:.3f} s"


def _counts(traffic: Traffic) -> str:
    parts = [f"{traffic.flows} flows" if traffic.flows != 1 else "1 flow"]
    parts += [f"{traffic.refused} refused"] if traffic.refused else []
    parts += [f"{size(traffic.bytes_out)} out, {size(traffic.bytes_in)} in"] if traffic.flows else []
    parts += [f"{traffic.packets} packets refused without a flow"] if traffic.packets else []
    named = ", ".join(f"{name} x{count}" if count > 1 else name for name, count in traffic.signatures.items())
    parts += [f"FOUND {named}"] if named else []
    parts += [f"{traffic.alive} begun earlier were still alive"] if traffic.alive else []
    return ", ".join(parts)


def _destinations(traffic: Traffic) -> str:
    top = traffic.destinations.most_common(SHOWN)
    named = [f"{name or 'others'} ({count})" if count > 1 else name or "another" for name, count in top]
    more = len(traffic.destinations) - len(top)
    return ", ".join(named) + (f" and {more} more" if more else "")


def _indented(text: str) -> str:
    return f"     {plain(text)}"
