"""Steps (tool calls), as agent frameworks report them: bounded in number and size, and never rewritten.

A step is identified by agent, episode and id, and may be reported any number of times. The first report stays; a later
one may add what is missing, above all the end. An ended step never changes. A report that contradicts the stored step
is a conflict.

A step without an end counts as under way for `OPEN_SECONDS` after its last report: the step of a framework that died
must not explain the agent's later traffic. A framework reports a long tool call again meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from egress.errors import InputError
from egress.model import AGENT_NAME, Step, StepSource
from egress.records.times import MAX_MICROS, iso, micros
from egress.store.database.rows import decode, decode_first
from egress.store.database.tables import agents, findings, flows, steps
from egress.store.recording.writer import rows, upsert

MAX_ID = 128  # characters of an id or an episode
MAX_TOOL = 128  # characters kept of a tool's name
MAX_SUMMARY = 2048  # characters kept of the arguments
OPEN_SECONDS = 3600.0  # after its last report a step without an end counts as under way for this long
PARALLEL = 32  # steps that one flow may belong to
AHEAD_SECONDS = 3600.0  # by which a framework's clock may be ahead of this host's
DAY = 86400.0
LONGEST = 7 * DAY  # of one step
REACH = LONGEST + OPEN_SECONDS  # the longest time from the start of a step to its `until`
_CHUNK = 200  # steps looked up together

Key = tuple[str, str, str]  # agent, episode, id
Trace = tuple[str, str]  # agent, trace id


class InvalidStepError(InputError):
    """A reported step is not valid; `field` and `reason` say why."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field} {reason}")
        self.field, self.reason = field, reason


class StepResult(StrEnum):
    """The result of reporting a step."""

    NEW = "new"
    CHANGED = "changed"  # something missing was added: the end, a summary
    SAME = "same"  # nothing new, but a step under way counts so for longer
    CONFLICT = "conflict"  # it contradicts the stored step
    TOO_MANY = "too many"  # the agent has reached its limit of new steps in 24 hours


@dataclass(frozen=True, slots=True)
class Reported:
    """The result of a report, the step as it is stored now, and why the report was refused (empty: it was not).

    If the agent has too many steps, `step` is the one reported, which is not stored.
    """

    result: StepResult
    step: Step
    why: str = ""


def make(
    agent: str,
    *,
    episode: str,
    id: str,  # noqa: A002 - its name
    tool: str,
    summary: str = "",
    start: float,
    end: float | None,
    source: StepSource,
    call_id: str = "",
    trace_id: str = "",
    span_id: str = "",
    reporter: str,
    now: float,
) -> Step:
    """Make a Step, which `report` can store, from the fields of a report. Times are seconds; `end` None: under way.

    Raises InvalidStepError if agent, episode, id or a time is not valid. The other texts, which an agent can choose,
    are made printable and cut instead: an odd tool name must not hide a tool call.
    """
    if not AGENT_NAME.fullmatch(agent):
        raise InvalidStepError("agent", f"{ascii(agent)[:60]} must be letters, digits, . _ - and at most 63 long")
    for field, text in (("episode", episode), ("id", id)):
        if not text or len(text) > MAX_ID or not text.isprintable():
            raise InvalidStepError(field, f"must be 1 to {MAX_ID} printable characters")
    _check_times(start, end, now)
    start, now = micros(start) / 1e6, micros(now) / 1e6  # as they are stored
    end = None if end is None else micros(end) / 1e6
    until = max(start, now) + OPEN_SECONDS if end is None else end
    texts = (clean(call_id, MAX_ID), clean(trace_id, 32), clean(span_id, 16), clean(reporter, 256))
    return Step(agent, episode, id, clean(tool, MAX_TOOL), clean(summary, MAX_SUMMARY), start, end,
                until, source, *texts, now)  # fmt: skip


def _check_times(start: float, end: float | None, now: float) -> None:
    latest = now + AHEAD_SECONDS
    for field, moment in (("start", start), ("end", end)):
        if moment is not None and not 0 < moment < MAX_MICROS / 1e6:
            raise InvalidStepError(field, "must be a time from 1970 to 2106")
        if moment is not None and moment > latest:
            raise InvalidStepError(
                field, f"{iso(moment)} is more than an hour ahead of the server's clock: correct the framework's"
            )
    if end is not None and end < start:
        raise InvalidStepError("end", f"{iso(end)} is before the start, {iso(start)}")
    if (now if end is None else end) - start > LONGEST:
        raise InvalidStepError("start", f"{iso(start)}: a step lasts seven days at most")


def clean(text: str, most: int) -> str:
    r"""Escape unprintable characters (`\x1b`), and cut the text to `most` characters; `…` marks the cut."""
    shown = text[: most + 1]
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def report(connection: Connection, reports: Sequence[Step], a_day: int) -> list[Reported]:
    """Store new and changed steps; returns a result for each report, in their order.

    `a_day`: the number of new steps that an agent may have in 24 hours. Call it in a transaction of
    `database.storing`: then equal reports in two transactions at the same time are stored once.
    """
    known = _known(connection, {_key(step) for step in reports})
    room = {agent: _room(connection, agent, reports, a_day) for agent in {step.agent for step in reports}}
    answers, written = [], dict[Key, Step]()
    for step in reports:
        key = _key(step)
        answer = _merged(known.get(key), step)
        if answer.result is StepResult.NEW:
            if room[step.agent] <= 0:
                why = f"agent {step.agent} already has {a_day} new steps in 24 hours"
                answer = Reported(StepResult.TOO_MANY, step, why)
            room[step.agent] -= 1
        if answer.result in (StepResult.NEW, StepResult.CHANGED, StepResult.SAME):
            if answer.step != known.get(key):
                written[key] = answer.step
            known[key] = answer.step
        answers.append(answer)
    if written:
        # In a fixed order, so that no two transactions wait for each other.
        _write(connection, [written[key] for key in sorted(written)])
    return answers


def _merged(old: Step | None, new: Step) -> Reported:
    """Add what is missing in the stored step from a report of it; a report that contradicts it is a conflict."""
    if old is None:
        return Reported(StepResult.NEW, new)
    for field, was, now in (("tool", old.tool, new.tool), ("start", old.start, new.start), ("end", old.end, new.end)):
        if was not in ("", None) and now not in ("", None) and was != now:
            stored = was if isinstance(was, str) else iso(was)
            why = f"step {old.id} of episode {old.episode} already has {field} {stored}"
            return Reported(StepResult.CONFLICT, old, why)
    if old.end is not None:
        return Reported(StepResult.SAME, old)
    merged = replace(
        old, tool=old.tool or new.tool, summary=old.summary or new.summary, call_id=old.call_id or new.call_id,
        end=new.end, until=new.until, reporter=new.reporter, reported=new.reported,
    )  # fmt: skip
    unchanged = replace(merged, until=old.until, reporter=old.reporter, reported=old.reported) == old
    return Reported(StepResult.SAME if unchanged else StepResult.CHANGED, merged)


def _write(connection: Connection, written: list[Step]) -> None:
    statement = upsert(connection, steps)
    new = statement.excluded
    filled = ("tool", "summary", "end", "until", "call_id", "reporter", "reported")
    statement = statement.on_conflict_do_update(
        index_elements=list(steps.primary_key.columns),
        set_={name: new[name] for name in filled},
        where=steps.c.end.is_(None),
    )
    connection.execute(statement, rows(written))


def _key(step: Step) -> Key:
    return step.agent, step.episode, step.id


def _known(connection: Connection, keys: set[Key]) -> dict[Key, Step]:
    known, listed = {}, sorted(keys)
    for at in range(0, len(listed), _CHUNK):
        mine = sa.tuple_(steps.c.agent, steps.c.episode, steps.c.id).in_(listed[at : at + _CHUNK])
        for step in decode(Step, connection.execute(sa.select(steps).where(mine))):
            known[_key(step)] = step
    return known


def _room(connection: Connection, agent: str, reports: Sequence[Step], a_day: int) -> int:
    """The number of new steps that the agent may still have; negative if it has too many."""
    since = max(step.reported for step in reports) - DAY
    mine = sa.select(sa.func.count()).where(steps.c.agent == agent, steps.c.reported > since)
    return a_day - (connection.scalar(mine) or 0)


def is_known(connection: Connection, agent: str) -> bool:
    """True if an agent of this name is attached or has records."""
    there = sa.exists().where(agents.c.name == agent)
    recorded = sa.or_(sa.exists().where(flows.c.agent == agent), sa.exists().where(findings.c.agent == agent))
    return bool(connection.scalar(sa.select(sa.or_(there, recorded))))


def attached(connection: Connection) -> frozenset[str]:
    """The names of the attached agents."""
    return frozenset(connection.scalars(sa.select(agents.c.name)))


# --- conversations and traces ------------------------------------------------------------------------------


def conversations(connection: Connection, traces: Collection[Trace]) -> dict[Trace, str]:
    """The conversation of each trace (agent, trace id): the earliest episode of its steps that has an id of its own.

    An episode whose id is the id of the trace does not count. Traces without a conversation are left out.
    """
    known, ordered = dict[Trace, str](), sorted(traces)
    for at in range(0, len(ordered), _CHUNK):
        mine = sa.tuple_(steps.c.agent, steps.c.trace_id).in_(ordered[at : at + _CHUNK])
        query = sa.select(steps.c.agent, steps.c.trace_id, steps.c.episode).where(
            mine, steps.c.episode != steps.c.trace_id
        )
        query = query.group_by(steps.c.agent, steps.c.trace_id, steps.c.episode).order_by(sa.func.min(steps.c.start))
        for agent, trace_id, episode in connection.execute(query):
            known.setdefault((agent, trace_id), episode)
    return known


def adopt(connection: Connection, named: Mapping[Trace, str]) -> None:
    """Move steps to the conversations of their traces: `named` has the episode for each trace.

    Moved are the steps of these traces whose episode is still the id of the trace. A step whose id is taken in the
    other episode stays.
    """
    agent, trace_id, episode = (sa.bindparam(name, type_=sa.Text) for name in ("of_agent", "of_trace", "joined"))
    there = steps.alias()
    taken = sa.exists().where(there.c.agent == agent, there.c.episode == episode, there.c.id == steps.c.id)
    alone = (steps.c.agent == agent, steps.c.episode == trace_id, steps.c.trace_id == trace_id, ~taken)
    each = [{"of_agent": key[0], "of_trace": key[1], "joined": named[key]} for key in sorted(named)]
    if each:
        connection.execute(sa.update(steps).where(*alone).values(episode=episode), each)


# --- reading -----------------------------------------------------------------------------------------------


def get(connection: Connection, agent: str, episode: str, id: str) -> Step | None:  # noqa: A002 - its name
    """The step with this key; None if it is not stored."""
    return _known(connection, {(agent, episode, id)}).get((agent, episode, id))


def listed(
    connection: Connection, agent: str, episode: str, before: tuple[float, str, str] | None, limit: int
) -> tuple[Step, ...]:
    """List at most `limit` steps of an agent, newest first, after the cursor `before` (start, episode, id).

    `before` None: from the newest on. `episode` empty: of all episodes.
    """
    terms = [steps.c.agent == agent, *([steps.c.episode == episode] if episode else [])]
    if before is not None:
        start, *last = before
        behind = sa.tuple_(steps.c.episode, steps.c.id) < sa.tuple_(*map(sa.literal, last))
        terms += [steps.c.start <= start, sa.or_(steps.c.start < start, behind)]
    order = (steps.c.start.desc(), steps.c.episode.desc(), steps.c.id.desc())
    return tuple(decode(Step, connection.execute(sa.select(steps).where(*terms).order_by(*order).limit(limit))))


@dataclass(frozen=True, slots=True)
class StepContext:
    """The steps of an agent under way at a time; if there were none, the step before and the step after."""

    steps: tuple[Step, ...]  # by start; at most PARALLEL, those that began last
    before: Step | None = None  # the step that ended last
    after: Step | None = None  # the step that began next

    def __bool__(self) -> bool:
        """True if there is a step under way, before or after."""
        return bool(self.steps or self.before or self.after)


def step_context(connection: Connection, agent: str, ts: float) -> StepContext:
    """Read the steps of an agent that were under way at a time (seconds).

    If there were none: the step that ended last before it, and the step that began next, each None if there is none.
    """
    mine = steps.c.agent == agent
    during = sa.select(steps).where(mine, steps.c.start.between(ts - REACH, ts), steps.c.until >= ts)
    newest = during.order_by(steps.c.start.desc(), steps.c.episode.desc(), steps.c.id.desc()).limit(PARALLEL)
    found = tuple(decode(Step, connection.execute(newest)))[::-1]
    if found:
        return StepContext(found)
    last = sa.select(steps).where(mine, steps.c.until < ts, steps.c.start < ts).order_by(steps.c.until.desc()).limit(1)
    following = sa.select(steps).where(mine, steps.c.start > ts).order_by(steps.c.start).limit(1)
    before, after = (decode_first(Step, connection.execute(query)) for query in (last, following))
    return StepContext((), before, after)
