"""Episodes: an agent's steps in their order, joined with what left its sandbox meanwhile and between them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from egress.model import Action, Step
from egress.records.shape import FlowRecord
from egress.records.times import micros
from egress.store.database.errors import NotFoundError
from egress.store.database.matching import glob
from egress.store.database.tables import anomalies, findings, flows, steps
from egress.store.query.listing import visible
from egress.store.query.processes import by_flow
from egress.store.query.reader import CHUNK, Told, findings_by_flow
from egress.store.query.stepjoin import Interval, Join, Sent, Traffic, covered
from egress.store.recording.steps import REACH

BEFORE = 60.0  # seconds before the first step that are shown as well
AFTER = 3600.0  # and after the last, or up to the agent's next step: what a tool left running
EARLIER = 3600.0  # how long before that a flow may have begun to be shown as still alive
MOST_STEPS = 10_000  # of an episode; the first ones


@dataclass(frozen=True, slots=True)
class Episode:
    """One in a list."""

    agent: str
    episode: str
    start: float  # of its first step
    end: float | None  # of its last; None while one is under way
    steps: int
    tools: int  # different ones


@dataclass(frozen=True, slots=True)
class Part:
    """A step, or a time in which no tool was running, and what left the sandbox in it."""

    number: int  # of the step, from 1; 0: no tool was running
    step: Step | None
    start: float
    end: float  # of a step: until when it counts as under way
    traffic: Traffic
    flows: tuple[Told, ...]  # the first, and the first of those refused or found something in
    lived_on: dict[str, tuple[int, int]]  # by flow id: the first and last later step it was still alive in


@dataclass(frozen=True, slots=True)
class EpisodeStory:
    agent: str
    episode: str
    start: float  # what is shown
    end: float
    parts: tuple[Part, ...]  # in the order of their start; times without a tool only where something left
    total: Traffic
    elsewhere: int  # flows meanwhile that began in a step of another episode
    earlier: tuple[Told, ...]  # flows begun before, still alive in it; the newest
    more_steps: bool  # it has more than MOST_STEPS
    ahead: float  # seconds that the framework's clock is ahead of ours, at the least


def listed(
    connection: Connection,
    *,
    agent: str = "",
    since: float | None = None,
    scope: Sequence[str] = ("*",),
    before: tuple[float, str, str] | None = None,
    limit: int,
) -> tuple[Episode, ...]:
    """By their first step, newest first, those behind (start, agent, episode) `before`. `agent` is a glob."""
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
    return tuple(
        Episode(name, episode, begun / 1e6, None if unfinished else ended / 1e6, number, tools)
        for name, episode, begun, ended, unfinished, number, tools in connection.execute(query)
    )


def agents_of(connection: Connection, episode: str) -> tuple[str, ...]:
    """The agents that have an episode of this id."""
    return tuple(
        connection.scalars(sa.select(steps.c.agent).distinct().where(steps.c.episode == episode).order_by("agent"))
    )


def episode_story(connection: Connection, agent: str, episode: str) -> EpisodeStory:
    """Raises NotFoundError."""
    mine = sa.select(steps).where(steps.c.agent == agent, steps.c.episode == episode)
    rows = connection.execute(mine.order_by(steps.c.start, steps.c.id).limit(MOST_STEPS + 1)).all()
    if not rows:
        raise NotFoundError(f"agent {agent} has no episode {episode[:128]!a}; `egress episodes` lists them", episode)
    shown = [Step(*row) for row in rows[:MOST_STEPS]]
    window = _window(connection, agent, shown, more=len(rows) > MOST_STEPS)
    intervals = [(micros(step.start), micros(step.until)) for step in shown]
    join = Join(intervals, covered(_busy(connection, agent, window)), window)
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
    """From a little before the first step to the agent's next one after the last, or an hour after it."""
    last = shown[-1].start if more else max(step.until for step in shown)
    following = sa.select(sa.func.min(steps.c.start)).where(steps.c.agent == agent, steps.c.start > last)
    beyond = connection.scalar(following)
    end = micros(last + AFTER) if beyond is None else min(micros(beyond) - 1, micros(last + AFTER))
    return micros(shown[0].start - BEFORE), end


def _busy(connection: Connection, agent: str, window: Interval) -> Iterator[Interval]:
    """When any tool of the agent was running, of whatever episode."""
    start, until = (sa.type_coerce(column, sa.BigInteger) for column in (steps.c.start, steps.c.until))
    begun = start.between(window[0] - micros(REACH), window[1])
    during = (steps.c.agent == agent, begun, until >= window[0])
    for row in connection.execution_options(yield_per=CHUNK).execute(
        sa.select(start, until).where(*during).order_by(start)
    ):
        yield row[0], row[1]


def _sent(connection: Connection, agent: str, window: Interval) -> Iterator[Sent]:
    f = flows.c
    start, end = (sa.type_coerce(column, sa.BigInteger) for column in (f.start, f.end))
    texts = (f.proto, f.dst, f.dport, f.app_proto, f.server_name, sa.type_coerce(f.names, sa.Text))
    refused = f.action != Action.ACCEPT
    query = sa.select(f.flow_id, start, end, *texts, refused, f.bytes_out, f.bytes_in)
    query = query.where(f.agent == agent, start.between(*window)).order_by(start, f.flow_id)
    for flow_id, begun, ended, *named, no, out, into in connection.execute(query.execution_options(yield_per=CHUNK)):
        yield Sent(flow_id, begun, ended, _label(*named), bool(no), out, into)


def _label(proto: str, dst: str, dport: int, app: str, name: str, names: str) -> str:
    """`dns example.org`, `tcp example.org:443`, `udp [2001:db8::7]:53`, `icmp 192.0.2.1`."""
    if app == "dns" and name:
        return f"dns {name}"
    bound = name or ("" if names == "[]" else json.loads(names)[0])
    where = bound or (f"[{dst}]" if ":" in dst and dport else dst)
    return f"{proto} {where}:{dport}" if dport else f"{proto} {where}"


def _findings(connection: Connection, agent: str, window: Interval) -> list[tuple[int, str, str]]:
    """Time, signature and flow of each."""
    when = sa.type_coerce(findings.c.time, sa.BigInteger)
    query = sa.select(when, findings.c.signature, findings.c.flow_id).where(
        findings.c.agent == agent, when.between(*window)
    )
    return [(row[0], row[1], row[2]) for row in connection.execute(query.order_by(when))]


def _refusals(connection: Connection, agent: str, window: Interval) -> Iterator[tuple[int, int]]:
    when = sa.type_coerce(anomalies.c.time, sa.BigInteger)
    query = sa.select(when, anomalies.c.count).where(anomalies.c.agent == agent, when.between(*window)).order_by(when)
    for row in connection.execution_options(yield_per=CHUNK).execute(query):
        yield row[0], row[1]


def _parts(connection: Connection, shown: Sequence[Step], join: Join, window: Interval) -> tuple[Part, ...]:
    made = [(step.start, step.until, number, step, join.traffic[number - 1]) for number, step in enumerate(shown, 1)]
    free = [(gap.start / 1e6, gap.end / 1e6, 0, None, gap.traffic) for gap in join.gaps if gap.traffic]
    each = sorted([*made, *free], key=lambda part: (part[0], part[2]))
    ids = [flow_id for *_, traffic in each for flow_id in (*traffic.listed, *traffic.notable)]
    told = _told(connection, sorted(set(ids)), window)
    parts = []
    for start, end, number, step, traffic in each:
        listed_ = sorted({*traffic.listed, *traffic.notable}, key=lambda flow_id: told[flow_id].flow.start)
        flows_ = tuple(told[flow_id] for flow_id in listed_)
        lived = {flow.flow_id: later for flow, *_ in flows_ if (later := _later(join, flow))}
        spans = {flow_id: (each_.start + 1, each_.stop) for flow_id, each_ in lived.items()}
        parts.append(Part(number, step, start, end, traffic, flows_, spans))
    return tuple(parts)


def _later(join: Join, flow: FlowRecord) -> range:
    return join.later(micros(flow.start), None if flow.end is None else micros(flow.end))


def _told(connection: Connection, ids: Sequence[str], begun: Interval) -> dict[str, Told]:
    """`begun`: from when to when they began, so that other days are not looked through."""
    told = dict[str, Told]()
    when = sa.type_coerce(flows.c.start, sa.BigInteger).between(*begun)
    for at in range(0, len(ids), CHUNK):
        rows = connection.execute(sa.select(flows).where(flows.c.flow_id.in_(ids[at : at + CHUNK]), when))
        records = [FlowRecord(*row) for row in rows]
        made = findings_by_flow(connection, records)
        opened = by_flow(connection, [record.flow_id for record in records], (begun[0] / 1e6, begun[1] / 1e6))
        for record in records:
            found = tuple(made.get(record.flow_id, ()))
            told[record.flow_id] = Told(record, found, opened.get(record.flow_id))
    return told


def _earlier(connection: Connection, agent: str, first: float) -> tuple[Told, ...]:
    alive = sa.or_(flows.c.end.is_(None), flows.c.end >= first)
    since, until = micros(first - BEFORE - EARLIER), micros(first - BEFORE) - 1
    begun = sa.type_coerce(flows.c.start, sa.BigInteger).between(since, until)
    query = sa.select(flows.c.flow_id).where(flows.c.agent == agent, begun, alive).order_by(flows.c.start.desc())
    told = _told(connection, list(connection.scalars(query.limit(10))), (since, until))
    return tuple(sorted(told.values(), key=lambda each: each.flow.start))
