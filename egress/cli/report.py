"""`egress report`: writes a self-contained HTML page about an agent."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from egress.cli.input.params import Time, case_words
from egress.cli.input.queries import config_option, period, records
from egress.cli.output.html import Html, page, tag
from egress.cli.output.plots import activity, intervals
from egress.cli.output.story import REACH
from egress.cli.output.story_agent import attachment
from egress.cli.output.text import endpoint, hexdump, size, when
from egress.errors import EgressError
from egress.model import Effect
from egress.records.shape import FindingRecord
from egress.store.database.handles import Engine
from egress.store.query.counting import Count, count_by
from egress.store.query.reader import Filter, findings
from egress.store.query.story import agent_story, exactly
from egress.store.query.timeline import Activity, axis, starts, timeline
from egress.store.recording.evidence import read

COLUMNS = 120  # of the timeline
ROWS = 100  # destinations, findings
PLOTS = 20
POINTS = 1000  # of a plot

STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #1a1a1a; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .15rem .6rem .15rem 0;
vertical-align: top; border-bottom: 1px solid #ddd; } td { overflow-wrap: anywhere; } h3 { margin-bottom: 0; }
th, .number, .whole { white-space: nowrap; } .number { text-align: right; } .wide { overflow-x: auto; }
.wide table { min-width: 58rem; }
p { overflow-wrap: anywhere; } pre { background: #f4f4f4; padding: .6rem; overflow-x: auto; } .cut { color: #a00; }
tr, pre, svg { break-inside: avoid; }
svg { width: 100%; height: auto; font-size: 11px; } .accepted { fill: #4a8f5b; } .refused { fill: #c0392b; }
.found { fill: #7d3c98; } .gap { fill: #1f5fa8; } .median { stroke: #c0392b; stroke-dasharray: 4 3; }
.axis { stroke: #888; }
"""

EXAMPLES = """\b
Examples:
  egress report --agent rome-7 --since 7d -w rome-7.html
  egress report --agent 10.77.0.2 --case incident -w incident.html
  egress report --agent rome-7 --since 2026-11-23T15:00 --until 2026-11-23T18:00 -w - > incident.html
"""


@click.command("report", epilog=EXAMPLES)
@click.option("--agent", required=True, metavar="NAME", help="The agent to report on.")
@click.option("--since", type=Time(), metavar="TIME", help="Start of the period [24h ago; a case: its first flow].")
@click.option("--until", type=Time(), metavar="TIME", help="End of the period [now; a case: its last record].")
@click.option("-w", "--write", "target", required=True, metavar="FILE", help="The file; -: standard output.")
@config_option
def command(*, agent: str, since: float | None, until: float | None, target: str, config: Path | None) -> None:
    """Write an HTML report about an agent.

    It has a summary, a timeline, destinations, intervals of beacons, and findings with their bytes. The page is
    self-contained: it loads nothing and runs no scripts. Times are UTC.
    """
    now = time.time()
    with records(config) as engine:
        begin, end = period(engine, since, until, now)
        written = _report(engine, agent, begin, end, now).encode("utf-8", "backslashreplace")
    if target == "-":
        sys.stdout.buffer.write(written)
        sys.stdout.buffer.flush()
        return
    try:
        Path(target).write_bytes(written)
    except OSError as error:
        raise EgressError(f"cannot write {target}: {error.strerror}") from None
    click.echo(f"{target}: {size(len(written))}")


def _report(engine: Engine, agent: str, since: float, until: float, now: float) -> Html:
    wanted = replace(exactly(agent), begun=since, until=until)
    story = agent_story(engine, agent)
    found = list(findings(engine, replace(wanted, limit=ROWS + 1)))[::-1]
    span = f"{when(since)} to {when(until)} UTC"
    facts = [
        ("period", span),
        ("made", f"{when(now)} UTC"),
        *attachment(story.attached),
        *_totals(engine, wanted),
    ]
    return page(
        f"egress: {agent}, {span}",
        STYLE,
        tag("h1", f"Agent {agent}"),
        tag("table", *(tag("tr", tag("th", name), tag("td", value)) for name, value in facts)),
        tag("h2", "Timeline"),
        *_timeline(engine, replace(wanted, begun=None, until=None), since, until),
        tag("h2", "Destinations"),
        *_destinations(list(count_by(engine, wanted, ("dest", "port", "proto", "name"), ROWS + 1))),
        tag("h2", "Processes"),
        *_processes(list(count_by(engine, wanted, ("process",), ROWS + 1))),
        *_beacons(engine, wanted),
        tag("h2", "Findings"),
        *_findings(engine, found),
    )


def _totals(engine: Engine, wanted: Filter) -> list[tuple[str, str]]:
    by_reason = list(count_by(engine, wanted, ("action", "reason")))
    by_signature = list(count_by(engine, wanted, ("signature",)))
    flows, refused = (sum(getattr(each, field) for each in by_reason) for field in ("flows", "refused"))
    verdicts = ", ".join(f"{each.values[0]} ({each.values[1]}) {each.flows}" for each in by_reason)
    signed = ", ".join(f"{each.values[0]} {each.findings}" for each in by_signature[:ROWS])
    return [
        ("flows begun", f"{flows}, {refused} of them refused, {size(sum(each.bytes for each in by_reason))}"),
        ("verdicts", verdicts or "none"),
        ("findings", signed or "none"),
    ]


def _timeline(engine: Engine, wanted: Filter, since: float, until: float) -> list[Html]:
    shown = axis(since, until, COLUMNS)
    found, _ = timeline(engine, wanted, shown, 1)
    of = found[0] if found else Activity.nothing("", shown)
    legend = f"Flows by start time, {shown.step} s per bar; green: accepted, red: refused, triangle: findings."
    return [activity(shown, of), tag("p", legend)]


def _destinations(groups: Sequence[Count]) -> list[Html]:
    texts = [(endpoint(each.values[0], int(each.values[1])), each.values[2], each.values[3]) for each in groups]
    return _counted(groups, texts, ("address", "protocol", "name"), "destinations with most flows")


def _processes(groups: Sequence[Count]) -> list[Html]:
    """Build the table of flows by executable, as the kernel named it."""
    return _counted(groups, [each.values for each in groups], ("executable",), "executables with most flows")


def _counted(
    groups: Sequence[Count], texts: Sequence[tuple[str, ...]], names: tuple[str, ...], what: str
) -> list[Html]:
    rows = [
        tag(
            "tr",
            *(tag("td", text, class_="whole") for text in cells[:-1]),
            tag("td", cells[-1]),
            *(tag("td", number, class_="number") for number in (each.flows, each.refused, size(each.bytes))),
            *(tag("td", when(moment)[:19], class_="whole") for moment in (each.first, each.last)),
        )
        for each, cells in zip(groups[:ROWS], texts, strict=False)
    ]
    heads = (*names, "flows", "refused", "bytes", "first", "last")
    counted = ("flows", "refused", "bytes")
    head = tag("tr", *(tag("th", name, class_="number" if name in counted else "whole") for name in heads))
    return [tag("div", tag("table", head, *rows), class_="wide"), *_truncation(len(groups), what)]


def _beacons(engine: Engine, wanted: Filter) -> list[Html]:
    """Plot the intervals between flows to each destination with a finding of a beacon, at most PLOTS of them."""
    rhythmic = replace(wanted, signature="beacon.*")
    targets = list(count_by(engine, rhythmic, ("dest",), PLOTS + 1))
    parts = [tag("h2", "Beacons")] if targets else []
    for each in targets[:PLOTS]:
        dst = each.values[0]
        moments = starts(engine, wanted, dst, POINTS + 1)
        parts.append(tag("h3", f"{dst}: intervals between the starts of flows"))
        if len(moments) < 3:
            parts.append(
                tag("p", f"{len(moments)} flows: too few to draw; the rhythm is within a connection, see the finding.")
            )
            continue
        drawn, described = intervals(moments[-POINTS:])
        parts += [drawn, tag("p", described)]
        if len(moments) > POINTS:
            parts.append(tag("p", f"Only the newest {POINTS} flows are drawn.", class_="cut"))
    if len(targets) > PLOTS:
        parts.append(tag("p", f"Only the {PLOTS} destinations with most such flows are drawn.", class_="cut"))
    return parts


def _findings(engine: Engine, found: Sequence[FindingRecord]) -> list[Html]:
    parts = [] if found else [tag("p", "None.")]
    for each in found[:ROWS]:
        with engine.connect() as connection:
            kept = read(connection, each.finding_id)
        parts += [
            tag("h3", f"{each.signature} ({each.severity}, {each.technique})"),
            tag("p", f"{when(each.time)} UTC, {each.proto} to {endpoint(each.dst, each.dport)}: {each.summary}"),
            tag("p", f"{_effect_text(each)}; finding {each.finding_id}, flow {each.flow_id}, {each.community_id}"),
            tag("pre", Html("\n".join(str(tag("span", line)) for line in hexdump(each.evidence)))),
        ]
        if kept is not None and kept.packets:
            command = f"egress evidence {each.finding_id} -w {each.finding_id}.pcapng{case_words()}"
            parts.append(tag("p", f"{len(kept.packets)} packets are kept: ", tag("code", command)))
    return [*parts, *_truncation(len(found), "newest findings")]


def _effect_text(found: FindingRecord) -> str:
    return REACH[found.effect] if found.effect is Effect.NONE else f"{found.action} ({found.mode})"


def _truncation(count: int, what: str) -> list[Html]:
    """Return a note that only ROWS items are shown; empty if there are no more."""
    return [tag("p", f"Only the {ROWS} {what} are shown.", class_="cut")] if count > ROWS else []
