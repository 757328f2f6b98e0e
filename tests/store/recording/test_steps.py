"""Steps reported once, twice, late, wrongly, in parallel and without end: never rewritten, always bounded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import Engine

from egress.model import Agent, Step, StepSource
from egress.store.database.database import storing, writing
from egress.store.policy.agents import StoredAgent, add_agent
from egress.store.policy.audit import Actor, latest
from egress.store.recording import steps
from egress.store.recording.steps import OPEN_SECONDS, InvalidStepError, Reported, StepContext, StepResult, make
from egress.store.recording.writer import store
from tests.store import samples

NOW = samples.START
T = "5b8efff798038103d269b633813fc60c"


def step(name: str = "s1", start: float = NOW, end: float | None = None, now: float = NOW, **fields: Any) -> Step:
    given: dict[str, Any] = {"agent": "train-1", "episode": "e", "tool": "bash", "source": StepSource.API}
    return make(**(given | {"id": name, "start": start, "end": end, "now": now, "reporter": "x"} | fields))


def report(engine: Engine, *told: Step, a_day: int = 1000) -> list[Reported]:
    with storing(engine) as connection:
        return steps.report(connection, told, a_day)


def stored(engine: Engine) -> list[Step]:
    with engine.connect() as connection:
        return list(reversed(steps.listed(connection, "train-1", "", None, 100)))


def test_a_step_is_told_begun_and_then_ended(engine: Engine) -> None:
    (begun,) = report(engine, step())
    assert (begun.result, begun.step.until) == (StepResult.NEW, NOW + OPEN_SECONDS)
    (ended,) = report(engine, step(end=NOW + 2, now=NOW + 3, summary="ls"))
    assert ended.result is StepResult.CHANGED
    assert stored(engine) == [step(end=NOW + 2, now=NOW + 3, summary="ls")] == [ended.step]


def test_the_same_step_told_twice_is_one(engine: Engine) -> None:
    whole = step(end=NOW + 2)
    assert [each.result for each in report(engine, whole, whole)] == [StepResult.NEW, StepResult.SAME]
    assert [each.result for each in report(engine, whole, step(), step(now=NOW + 9))] == [StepResult.SAME] * 3
    assert stored(engine) == [whole]


def test_an_id_is_one_of_its_episode_and_agent(engine: Engine) -> None:
    """Some models call every first tool call of a conversation call_0."""
    told = [step("call_0"), step("call_0", episode="f"), step("call_0", agent="train-2")]
    assert {each.result for each in report(engine, *told)} == {StepResult.NEW}


def test_one_without_end_counts_for_a_while_and_longer_where_it_is_told_again(engine: Engine) -> None:
    report(engine, step())
    (again,) = report(engine, step(now=NOW + 3000))
    assert (again.result, again.step.until) == (StepResult.SAME, NOW + 3000 + OPEN_SECONDS)
    assert stored(engine) == [again.step]


@pytest.mark.parametrize("other", [{"tool": "curl"}, {"start": NOW + 1, "end": NOW + 2}, {"end": NOW + 3}])
def test_what_is_known_of_a_step_is_never_rewritten(engine: Engine, other: dict[str, Any]) -> None:
    whole = step(end=NOW + 2)
    report(engine, whole)
    (answer,) = report(engine, step(**({"end": NOW + 2} | other)))
    assert answer.result is StepResult.CONFLICT and "already" in answer.why
    assert stored(engine) == [whole]


def test_told_at_the_same_moment_by_two(postgresql_engine: Engine) -> None:
    """The other's transaction is over between our look and our write: what it wrote of the end stays."""
    engine = postgresql_engine
    with storing(engine) as mine:
        known = steps._known(mine, {("train-1", "e", "s1")})
        report(engine, step(end=NOW + 2))
        assert not known
        steps._write(mine, [step(end=NOW + 1)])
    assert [each.end for each in stored(engine)] == [NOW + 2]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"start": NOW, "end": NOW - 0.001}, "end"),
        ({"start": NOW + 3601}, "start"),
        ({"end": NOW + 3601}, "end"),
        ({"start": NOW - 8 * 86400}, "start"),
        ({"start": NOW - 9 * 86400, "end": NOW - 86400}, "start"),
        ({"start": 0.0}, "start"),
        ({"start": float("nan")}, "start"),
        ({"start": float("inf")}, "start"),
        ({"name": ""}, "id"),
        ({"name": "x" * 129}, "id"),
        ({"name": "a\nb"}, "id"),
        ({"episode": "\x1b[2J"}, "episode"),
        ({"agent": "../etc"}, "agent"),
    ],
)
def test_what_cannot_be_a_step(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidStepError) as wrong:
        step(**fields)
    assert wrong.value.field == field


@given(tool=st.text(st.characters(), max_size=300), summary=st.text(st.characters(), max_size=4000))
def test_whatever_an_agent_calls_its_tool_it_is_a_step(tool: str, summary: str) -> None:
    made = step(tool=tool, summary=summary)
    for text, most in ((made.tool, steps.MAX_TOOL), (made.summary, steps.MAX_SUMMARY)):
        assert text.isprintable() and len(text) <= most
        text.encode("utf-8")


def test_no_agent_has_more_than_its_share_of_a_day(engine: Engine) -> None:
    told = [step(f"s{number}") for number in range(5)]
    results = [each.result for each in report(engine, *told, step("t", agent="train-2"), a_day=3)]
    assert results == [StepResult.NEW] * 3 + [StepResult.TOO_MANY] * 2 + [StepResult.NEW]
    (ended,) = report(engine, step("s0", end=NOW + 1), a_day=3)
    assert ended.result is StepResult.CHANGED, "what is there can be ended"
    (next_day,) = report(engine, step("s9", now=NOW + 86402), a_day=3)
    assert next_day.result is StepResult.NEW


def test_a_trace_joins_its_conversation_once_that_is_known(engine: Engine) -> None:
    span: dict[str, Any] = {"source": StepSource.OTLP, "trace_id": T}
    report(engine, step("a", episode=T, **span), step("b", episode=T, **span), step("x", episode=T))
    mine, theirs = ("train-1", T), ("train-2", T)
    with storing(engine) as connection:
        assert steps.conversations(connection, {mine, theirs}) == {}
        steps.adopt(connection, {theirs: "other", mine: "conv"})
        steps.adopt(connection, {mine: "another"})
        assert steps.conversations(connection, {mine, theirs}) == {mine: "conv"}
    # x is of an episode that is only called so.
    assert sorted((each.episode, each.id) for each in stored(engine)) == [(T, "x"), ("conv", "a"), ("conv", "b")]


def test_a_step_that_is_there_twice_is_not_adopted_over_itself(engine: Engine) -> None:
    span: dict[str, Any] = {"source": StepSource.OTLP, "trace_id": T}
    report(engine, step("a", episode=T, **span), step("a", episode="conv", **span))
    with storing(engine) as connection:
        steps.adopt(connection, {("train-1", T): "conv"})
    assert sorted(each.episode for each in stored(engine)) == [T, "conv"]


def test_which_were_under_way_and_which_lie_around(engine: Engine) -> None:
    outer, inner = step("outer", NOW, NOW + 10), step("inner", NOW + 2, NOW + 4)
    later, other = step("later", NOW + 20, NOW + 21), step("other", NOW, NOW + 30, agent="train-2")
    report(engine, outer, inner, later, other)
    with engine.connect() as connection:
        assert steps.step_context(connection, "train-1", NOW + 3) == StepContext((outer, inner))
        assert steps.step_context(connection, "train-1", NOW + 4.000001) == StepContext((outer,))
        assert steps.step_context(connection, "train-1", NOW + 15) == StepContext((), outer, later)
        assert steps.step_context(connection, "train-1", NOW - 1) == StepContext((), None, outer)
        assert not steps.step_context(connection, "train-3", NOW)


def test_pages_hold_each_step_once(engine: Engine) -> None:
    told = [step(f"s{number}", NOW + number // 3, episode=f"e{number % 2}") for number in range(10)]
    report(engine, *told)
    seen: list[Step] = []
    with engine.connect() as connection:
        while found := steps.listed(connection, "train-1", "", _after(seen), 3):
            seen += found
        assert len(steps.listed(connection, "train-1", "e1", None, 100)) == 5
    assert sorted(seen, key=lambda each: each.id) == told
    assert [each.start for each in seen] == sorted((each.start for each in seen), reverse=True)


def _after(seen: list[Step]) -> tuple[float, str, str] | None:
    return (seen[-1].start, seen[-1].episode, seen[-1].id) if seen else None


def test_an_agent_is_known_by_its_attachment_or_its_records(engine: Engine) -> None:
    with writing(engine) as connection:
        assert not steps.is_known(connection, "train-1")
        store(connection, [samples.FLOW])
        add_agent(connection, Actor("root"), StoredAgent(Agent("rome"), "netns", "rome"))
        assert steps.is_known(connection, "train-1") and steps.is_known(connection, "rome")
        assert not steps.is_known(connection, "paris")


def test_telling_is_no_edit_of_the_policy(engine: Engine) -> None:
    report(engine, step(), step("b"))
    with engine.connect() as connection:
        assert latest(connection) == 0


def test_a_step_under_way_at_a_time_is_found_by_an_index(sqlite_engine: Engine) -> None:
    query = "EXPLAIN QUERY PLAN SELECT * FROM steps WHERE agent = 'a' AND start <= 5 AND until >= 5"
    with sqlite_engine.connect() as connection:
        plan = connection.execute(sa.text(query)).all()
    assert "ix_steps_agent_start_until (agent=? AND start<?)" in plan[0][3]


def test_a_later_telling_fills_in_what_was_missing(engine: Engine) -> None:
    report(engine, step(tool=""))
    (named,) = report(engine, step(tool="bash", call_id="c1"))
    assert (named.result, named.step.tool, named.step.call_id) == (StepResult.CHANGED, "bash", "c1")
    (ended,) = report(engine, step(tool="", end=NOW + 1))
    assert stored(engine) == [ended.step] and ended.step == replace(named.step, end=NOW + 1, until=NOW + 1)
