"""Episodes: the steps (tool calls) of one agent conversation in order, with the agent's traffic during and between.

Steps and traffic are joined by time (`stepjoin`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from egress.model import Action, Step
from egress.records.shape import FlowRecord
from egress.records.times import micros
from egress.store.database.errors import NotFoundError
from egress.store.database.matching import glob
from egress.store.database.rows import checked, decode, decoding
from egress.store.database.tables import anomalies, findings, flows, steps
from egress.store.query.listing import visible
from egress.store.query.processes import by_flow
from egress.store.query.reader import CHUNK, FlowDetails, findings_by_flow
from egress.store.query.stepjoin import Interval, Join, SentFlow, Traffic, merged
from egress.store.recording.steps import REACH

BEFORE = 60.0  # seconds shown before the first step
AFTER = 3600.0  # and after the last step, up to the agent's next one: a tool may leave something running
EARLIER = 3600.0  # seconds before the time shown: flows that began in them and were still alive are shown, too
MOST_STEPS = 10_000  # steps shown of an episode, the first ones


@dataclass(frozen=True, slots=True)
class Episode:
    """The totals of an episode, for a list. Times are seconds."""

    agent: str
    episode: str
    start: float  # of the first step
    end: float | None  # of the last step; None while a step is under way
    steps: int
    tools: int  # distinct tools


@dataclass(frozen=True, slots=True)
class Part:
    """A step, or a gap without a step under way, and the traffic in it. Times are seconds."""

    number: int  # of the step, from 1; 0: a gap
    step: Step | None  # None: a gap
    start: float
    end: float  # of a step: the time until it counts as under way
    traffic: Traffic
    flows: tuple[FlowDetails, ...]  # the first, and the first that were refused or have findings
    lived_on: dict[str, tuple[int, int]]  # flow id → the first and last later step in which it was still alive


@dataclass(frozen=True, slots=True)
class EpisodeStory:
    """An episode with the traffic during and between its steps. Times are seconds."""

    agent: str
    episode: str
    start: float  # of the time shown
    end: float
    parts: tuple[Part, ...]  # by start; gaps only with traffic
    total: Traffic
    elsewhere: int  # flows of this time that began in a step of another episode
    earlier: tuple[FlowDetails, ...]  # the newest flows that began before it and were still alive
    more_steps: bool  # the episode has more than MOST_STEPS
    ahead: float  # seconds, at least, that the framework's clock is ahead of this host's


def listed(
    connection: Connection,
    *,
    agent: str = "",
    since: float | None = None,
    scope: Sequence[str] = ("*",),
    before: tuple[float, str, str] | None = None,
    limit: int,
) -> tuple[Episode, ...]:
    """List at most `limit` episodes, by the start of their first step, newest first.

    `before` is the cursor (start, agent, episode) after which the list begins; None: from the newest. `since`
    (seconds): only episodes with a step under way then or later. `agent` is a glob; empty: any. `scope` has the globs
    of the agents that the caller may see.
    """
    first = sa.func.min(sa.type_coerce(steps.c.start, sa.BigInteger))
    open_ = sa.func.sum(sa.case((steps.c.end.is_(None), 1), else_=0))
    last, count = sa.func.max(sa.type_coerce(steps.c.end, sa.BigInteger)), sa.func.count()
    query = sa.select(
        steps.c.agent, steps.c.episode, first, last, open_, count, sa.func.count(steps.c.tool.distinct())
    ).where(visible(steps.c.agent, scope), *([glob(steps.c.agent, agent)] if agent else []))
    if since is not None:
        query = query.having(sa.func.max(sa.type_coerce(steps.c.until, sa.BigInteger)) >= micros(since))
    if before is not None:
        start, *names = before
        behind = sa.tuple_(steps.c.agent, steps.c.episode) < sa.tuple_(*map(sa.literal, names))
        query = query.having(sa.or_(first < micros(start), sa.and_(first == micros(start), behind)))
    query = query.group_by(steps.c.agent, steps.c.episode)
    query = query.order_by(first.desc(), steps.c.agent.desc(), steps.c.episode.desc()).limit(limit)
    rows = checked(connection.execute(query), str, str, int, int | None, int | Decimal, int, int)
    return tuple(
        Episode(name, episode, begun / 1e6, None if unfinished else ended / 1e6, number, tools)
        for name, episode, begun, ended, unfinished, number, tools in rows
    )


def agents_of(connection: Connection, episode: str) -> tuple[str, ...]:
    """The names of the agents that have an episode with this id, sorted."""
    return tuple(
        connection.scalars(sa.select(steps.c.agent).distinct().where(steps.c.episode == episode).order_by("agent"))
    )


def episode_story(connection: Connection, agent: str, episode: str) -> EpisodeStory:
    """Read the first MOST_STEPS steps of an episode, and the agent's traffic during and between them.

    The time shown begins BEFORE seconds before the first step, and ends at the agent's next step after the last, at
    most AFTER seconds later. Raises NotFoundError if the agent has no such episode.
    """
    mine = sa.select(steps).where(steps.c.agent == agent, steps.c.episode == episode)
    rows = list(decode(Step, connection.execute(mine.order_by(steps.c.start, steps.c.id).limit(MOST_STEPS + 1))))
    if not rows:
        raise NotFoundError(f"agent {agent} has no episode {episode[:128]!a}; `egress episodes` lists them", episode)
    shown = rows[:MOST_STEPS]
    window = _window(connection, agent, shown, more=len(rows) > MOST_STEPS)
    intervals = [(micros(step.start), micros(step.until)) for step in shown]
    join = Join(intervals, merged(_busy(connection, agent, window)), window)
    made = _findings(connection, agent, window)
    join.flows(_sent(connection, agent, window), frozenset(flow_id for _, _, flow_id in made))
    join.findings((when, signature) for when, signature, _ in made)
    join.refusals(_refusals(connection, agent, window))
    join.settle()
    ahead = max((step.start if step.end is None else step.end) - step.reported for step in shown)
    return EpisodeStory(
        agent, episode, window[0] / 1e6, window[1] / 1e6, _parts(connection, shown, join, window), join.total,
        join.elsewhere, _earlier(connection, agent, shown[0].start), len(rows) > MOST_STEPS, max(0.0, ahead),
    )  # fmt: skip


def _window(connection: Connection, agent: str, shown: Sequence[Step], *, more: bool) -> Interval:
    """The time shown (see `episode_story`), in microseconds. `more`: the episode has more steps than those shown."""
    last = shown[-1].start if more else max(step.until for step in shown)
    following = sa.select(sa.func.min(steps.c.start)).where(steps.c.agent == agent, steps.c.start > last)
    beyond = connection.scalar(following)
    end = micros(last + AFTER) if beyond is None else min(micros(beyond) - 1, micros(last + AFTER))
    return micros(shown[0].start - BEFORE), end


def _busy(connection: Connection, agent: str, window: Interval) -> Iterator[Interval]:
    """Yield the times of the agent's steps in the window, of any episode, by start; they may overlap."""
    start, until = (sa.type_coerce(column, sa.BigInteger) for column in (steps.c.start, steps.c.until))
    begun = start.between(window[0] - micros(REACH), window[1])
    during = (steps.c.agent == agent, begun, until >= window[0])
    query = sa.select(start, until).where(*during).order_by(start)
    for row in checked(connection.execution_options(yield_per=CHUNK).execute(query), int, int):
        yield row[0], row[1]


def _sent(connection: Connection, agent: str, window: Interval) -> Iterator[SentFlow]:
    f = flows.c
    start, end = (sa.type_coerce(column, sa.BigInteger) for column in (f.start, f.end))
    texts = (f.proto, f.dst, f.dport, f.app_proto, f.server_name, sa.type_coerce(f.names, sa.Text))
    refused = f.action != Action.ACCEPT
    query = sa.select(f.flow_id, start, end, *texts, refused, f.bytes_out, f.bytes_in)
    query = query.where(f.agent == agent, start.between(*window)).order_by(start, f.flow_id)
    rows = connection.execute(query.execution_options(yield_per=CHUNK))
    kinds = (str, int, int | None, str, str, int, str, str, str, bool | int, int, int)
    for flow_id, begun, ended, *named, no, out, into in checked(rows, *kinds):
        with decoding():
            label = _label(*named)
        yield SentFlow(flow_id, begun, ended, label, bool(no), out, into)


def _label(proto: str, dst: str, dport: int, app: str, name: str, names: str) -> str:
    """A destination as text: `dns example.org`, `tcp example.org:443`, `udp [2001:db8::7]:53`, `icmp 192.0.2.1`."""
    if app == "dns" and name:
        return f"dns {name}"
    bound = name or ("" if names == "[]" else json.loads(names)[0])
    where = bound or (f"[{dst}]" if ":" in dst and dport else dst)
    return f"{proto} {where}:{dport}" if dport else f"{proto} {where}"


def _findings(connection: Connection, agent: str, window: Interval) -> list[tuple[int, str, str]]:
    """The time, signature and flow id of each finding on the agent in the window, by time."""
    when = sa.type_coerce(findings.c.time, sa.BigInteger)
    query = sa.select(when, findings.c.signature, findings.c.flow_id).where(
        findings.c.agent == agent, when.between(*window)
    )
    rows = checked(connection.execute(query.order_by(when)), int, str, str)
    return [(row[0], row[1], row[2]) for row in rows]


def _refusals(connection: Connection, agent: str, window: Interval) -> Iterator[tuple[int, int]]:
    when = sa.type_coerce(anomalies.c.time, sa.BigInteger)
    query = sa.select(when, anomalies.c.count).where(anomalies.c.agent == agent, when.between(*window)).order_by(when)
    for row in checked(connection.execution_options(yield_per=CHUNK).execute(query), int, int):
        yield row[0], row[1]


def _parts(connection: Connection, shown: Sequence[Step], join: Join, window: Interval) -> tuple[Part, ...]:
    made = [(step.start, step.until, number, step, join.traffic[number - 1]) for number, step in enumerate(shown, 1)]
    free = [(gap.start / 1e6, gap.end / 1e6, 0, None, gap.traffic) for gap in join.gaps if gap.traffic]
    each = sorted([*made, *free], key=lambda part: (part[0], part[2]))
    ids = [flow_id for *_, traffic in each for flow_id in (*traffic.listed, *traffic.notable)]
    details = _details(connection, sorted(set(ids)), window)
    parts = []
    for start, end, number, step, traffic in each:
        listed_ = sorted({*traffic.listed, *traffic.notable}, key=lambda flow_id: details[flow_id].flow.start)
        flows_ = tuple(details[flow_id] for flow_id in listed_)
        lived = {flow.flow_id: later for flow, *_ in flows_ if (later := _later(join, flow))}
        spans = {flow_id: (each_.start + 1, each_.stop) for flow_id, each_ in lived.items()}
        parts.append(Part(number, step, start, end, traffic, flows_, spans))
    return tuple(parts)


def _later(join: Join, flow: FlowRecord) -> range:
    return join.later(micros(flow.start), None if flow.end is None else micros(flow.end))


def _details(connection: Connection, ids: Sequence[str], begun: Interval) -> dict[str, FlowDetails]:
    """The details of flows, by id. `begun`, the first and last of their starts (microseconds), limits the search."""
    found = dict[str, FlowDetails]()
    when = sa.type_coerce(flows.c.start, sa.BigInteger).between(*begun)
    for at in range(0, len(ids), CHUNK):
        rows = connection.execute(sa.select(flows).where(flows.c.flow_id.in_(ids[at : at + CHUNK]), when))
        records = list(decode(FlowRecord, rows))
        made = findings_by_flow(connection, records)
        opened = by_flow(connection, [record.flow_id for record in records], (begun[0] / 1e6, begun[1] / 1e6))
        for record in records:
            mine = tuple(made.get(record.flow_id, ()))
            found[record.flow_id] = FlowDetails(record, mine, opened.get(record.flow_id))
    return found


def _earlier(connection: Connection, agent: str, first: float) -> tuple[FlowDetails, ...]:
    """The newest ten flows begun in the EARLIER seconds before the time shown that were alive at `first` (seconds)."""
    alive = sa.or_(flows.c.end.is_(None), flows.c.end >= first)
    since, until = micros(first - BEFORE - EARLIER), micros(first - BEFORE) - 1
    begun = sa.type_coerce(flows.c.start, sa.BigInteger).between(since, until)
    query = sa.select(flows.c.flow_id).where(flows.c.agent == agent, begun, alive).order_by(flows.c.start.desc())
    details = _details(connection, list(connection.scalars(query.limit(10))), (since, until))
    return tuple(sorted(details.values(), key=lambda each: each.flow.start))
