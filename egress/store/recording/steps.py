"""Steps as agent frameworks tell of them: bounded, told as often as they like, never rewritten.

A step is known by agent, episode and id. What was told of it first stays; told again it may get what it did not have,
its end above all. An ended step is never changed. What says something else of a step that is there is a conflict.

A step without an end counts as under way for `OPEN_SECONDS` after it was last told of: a framework that died must not
explain an agent's traffic for ever, and one with a long tool call tells of it again now and then.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from egress.errors import InputError
from egress.model import AGENT_NAME, Step, StepSource
from egress.records.times import MAX_MICROS, iso, micros
from egress.store.database.tables import agents, findings, flows, steps
from egress.store.recording.writer import rows, upsert

MAX_ID = 128  # characters of an id or an episode
MAX_TOOL = 128  # characters kept of a tool's name
MAX_SUMMARY = 2048  # characters kept of the arguments
OPEN_SECONDS = 3600.0  # that a step without an end counts as under way
PARALLEL = 32  # steps that one flow is shown in
AHEAD_SECONDS = 3600.0  # that a framework's clock may be ahead of ours
DAY = 86400.0
LONGEST = 7 * DAY  # of one step
REACH = LONGEST + OPEN_SECONDS  # from the start of one to its `until`, at most
_CHUNK = 200  # steps looked up together

Key = tuple[str, str, str]  # agent, episode, id
Trace = tuple[str, str]  # agent, trace id


class InvalidStepError(InputError):
    """What cannot be a step: which field, and why."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field} {reason}")
        self.field, self.reason = field, reason


class StepResult(StrEnum):
    """What came of telling a step."""

    NEW = "new"
    CHANGED = "changed"  # it got what it did not have: its end, a summary
    SAME = "same"  # it is known; one that is under way counts so for longer
    CONFLICT = "conflict"  # what is known of it says otherwise
    TOO_MANY = "too many"  # the agent has as many as it may in a day


@dataclass(frozen=True, slots=True)
class Telling:
    """What came of it, the step as it is known now, and in one sentence why it was not taken."""

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
    """A step that can be stored. Raises InvalidStepError.

    Names are checked; a tool's name and its arguments, which an agent can choose, are made printable and cut instead:
    nobody shall hide a tool call by giving it an odd name.
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
            raise InvalidStepError(field, "must be a time since 1970")
        if moment is not None and moment > latest:
            raise InvalidStepError(
                field, f"{iso(moment)} is more than an hour ahead of this clock: set the framework's"
            )
    if end is not None and end < start:
        raise InvalidStepError("end", f"{iso(end)} is before the start, {iso(start)}")
    if (now if end is None else end) - start > LONGEST:
        raise InvalidStepError("start", f"{iso(start)}: a step lasts seven days at most")


def clean(text: str, most: int) -> str:
    r"""At most so many characters, all of which print: others become `\x1b`; what was cut shows as `…`."""
    shown = text[: most + 1]
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def tell(connection: Connection, told: Sequence[Step], a_day: int) -> list[Telling]:
    """Store what is new of these steps, in their order; `a_day`: how many new ones an agent may have in 24 hours.

    Within a transaction of `database.storing`: whoever tells the same of a step at the same moment tells the same.
    """
    known = _known(connection, {_key(step) for step in told})
    room = {agent: _room(connection, agent, told, a_day) for agent in {step.agent for step in told}}
    answers, written = [], dict[Key, Step]()
    for step in told:
        key = _key(step)
        telling = _merged(known.get(key), step)
        if telling.result is StepResult.NEW:
            if room[step.agent] <= 0:
                telling = Telling(
                    StepResult.TOO_MANY, step, f"agent {step.agent} has {a_day} new steps in 24 hours already"
                )
            room[step.agent] -= 1
        if telling.result in (StepResult.NEW, StepResult.CHANGED, StepResult.SAME):
            if telling.step != known.get(key):
                written[key] = telling.step
            known[key] = telling.step
        answers.append(telling)
    if written:
        _write(connection, [written[key] for key in sorted(written)])  # in one order: no two wait for each other
    return answers


def _merged(old: Step | None, new: Step) -> Telling:
    if old is None:
        return Telling(StepResult.NEW, new)
    for field, was, told in (("tool", old.tool, new.tool), ("start", old.start, new.start), ("end", old.end, new.end)):
        if was not in ("", None) and told not in ("", None) and was != told:
            what = was if isinstance(was, str) else iso(was)
            return Telling(
                StepResult.CONFLICT, old, f"step {old.id} of episode {old.episode} has {field} {what} already"
            )
    if old.end is not None:
        return Telling(StepResult.SAME, old)
    now = replace(
        old, tool=old.tool or new.tool, summary=old.summary or new.summary, call_id=old.call_id or new.call_id,
        end=new.end, until=new.until, reporter=new.reporter, reported=new.reported,
    )  # fmt: skip
    unchanged = replace(now, until=old.until, reporter=old.reporter, reported=old.reported) == old
    return Telling(StepResult.SAME if unchanged else StepResult.CHANGED, now)


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
        for row in connection.execute(sa.select(steps).where(mine)):
            step = Step(*row)
            known[_key(step)] = step
    return known


def _room(connection: Connection, agent: str, told: Sequence[Step], a_day: int) -> int:
    since = max(step.reported for step in told) - DAY
    mine = sa.select(sa.func.count()).where(steps.c.agent == agent, steps.c.reported > since)
    return a_day - (connection.scalar(mine) or 0)


def is_known(connection: Connection, agent: str) -> bool:
    """Whether there is, or was, such an agent: one that is attached, or of which something is recorded."""
    there = sa.exists().where(agents.c.name == agent)
    recorded = sa.or_(sa.exists().where(flows.c.agent == agent), sa.exists().where(findings.c.agent == agent))
    return bool(connection.scalar(sa.select(sa.or_(there, recorded))))


def attached(connection: Connection) -> frozenset[str]:
    """The agents there are now."""
    return frozenset(connection.scalars(sa.select(agents.c.name)))


# --- conversations and traces ------------------------------------------------------------------------------


def conversations(connection: Connection, traces: Collection[Trace]) -> dict[Trace, str]:
    """The episodes that agents' traces are known to be part of, but those that are only called like their trace."""
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
    """Traces turned out to be part of episodes: their steps, so far an episode of their own, join those."""
    agent, trace_id, episode = (sa.bindparam(name, type_=sa.Text) for name in ("of_agent", "of_trace", "joined"))
    there = steps.alias()
    taken = sa.exists().where(there.c.agent == agent, there.c.episode == episode, there.c.id == steps.c.id)
    alone = (steps.c.agent == agent, steps.c.episode == trace_id, steps.c.trace_id == trace_id, ~taken)
    each = [{"of_agent": key[0], "of_trace": key[1], "joined": named[key]} for key in sorted(named)]
    if each:
        connection.execute(sa.update(steps).where(*alone).values(episode=episode), each)


# --- reading -----------------------------------------------------------------------------------------------


def get(connection: Connection, agent: str, episode: str, id: str) -> Step | None:  # noqa: A002 - its name
    return _known(connection, {(agent, episode, id)}).get((agent, episode, id))


def listed(
    connection: Connection, agent: str, episode: str, before: tuple[float, str, str] | None, limit: int
) -> tuple[Step, ...]:
    """An agent's, newest first, those behind (start, episode, id) `before`; of one episode or (empty) of all."""
    terms = [steps.c.agent == agent, *([steps.c.episode == episode] if episode else [])]
    if before is not None:
        start, *last = before
        behind = sa.tuple_(steps.c.episode, steps.c.id) < sa.tuple_(*map(sa.literal, last))
        terms += [steps.c.start <= start, sa.or_(steps.c.start < start, behind)]
    order = (steps.c.start.desc(), steps.c.episode.desc(), steps.c.id.desc())
    return tuple(Step(*row) for row in connection.execute(sa.select(steps).where(*terms).order_by(*order).limit(limit)))


@dataclass(frozen=True, slots=True)
class Doing:
    """What an agent's framework says it was doing at a moment; where it was nothing, what it did before and after."""

    steps: tuple[Step, ...]  # that were under way, those that began first first; of many the last PARALLEL
    before: Step | None = None  # the one that ended last
    after: Step | None = None  # the one that began next

    def __bool__(self) -> bool:
        """Whether anything is told at all."""
        return bool(self.steps or self.before or self.after)


def doing(connection: Connection, agent: str, ts: float) -> Doing:
    mine = steps.c.agent == agent
    during = sa.select(steps).where(mine, steps.c.start.between(ts - REACH, ts), steps.c.until >= ts)
    newest = during.order_by(steps.c.start.desc(), steps.c.episode.desc(), steps.c.id.desc()).limit(PARALLEL)
    found = tuple(Step(*row) for row in connection.execute(newest))[::-1]
    if found:
        return Doing(found)
    last = sa.select(steps).where(mine, steps.c.until < ts, steps.c.start < ts).order_by(steps.c.until.desc()).limit(1)
    following = sa.select(steps).where(mine, steps.c.start > ts).order_by(steps.c.start).limit(1)
    return Doing((), _first(connection, last), _first(connection, following))


def _first(connection: Connection, query: sa.Select[Any]) -> Step | None:
    row = connection.execute(query).first()
    return None if row is None else Step(*row)
