"""Counting, timelines, tails and flow_details, on both databases."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import Engine

from egress.errors import EgressError
from egress.model import Action
from egress.records.shape import FlowRecord
from egress.store.database.database import writing
from egress.store.database.tables import flows as flow_table
from egress.store.query import tail
from egress.store.query.counting import KEYS, ORDERS, count_by
from egress.store.query.reader import SORTS, Filter, agents, finding_ids, flows
from egress.store.query.story import agent_story, exactly, finding_story, flow_story
from egress.store.query.tail import Tail
from egress.store.query.timeline import axis, starts, timeline
from egress.store.recording.writer import store
from tests.examples import examples
from tests.store import samples

MADE = [
    samples.numbered(1, agent="a", dport=22, bytes_out=1, server_name="", names=("x.example", "y.example")),
    samples.numbered(2, agent="a", dport=80, bytes_out=1000, action=Action.ACCEPT, server_name='["z"]'),
    samples.numbered(3700, agent="b", dport=80, bytes_out=30),
]
FOUND = [
    replace(samples.FINDING, finding_id=f"{number:x}", flow_id=MADE[0].flow_id, agent="a", time=samples.START + number)
    for number in (1, 2)
] + [replace(samples.FINDING, finding_id="3", flow_id=MADE[2].flow_id, agent="b", signature="ssh.port")]


@pytest.fixture
def filled(engine: Engine) -> Engine:
    with writing(engine) as connection:
        store(connection, [*MADE, *FOUND, samples.EVIDENCE])
    return engine


def test_counts(filled: Engine) -> None:
    first, _ = count_by(filled, Filter(), ["agent"])
    assert (first.values, first.flows, first.findings, first.refused, first.bytes) == (("a",), 2, 0, 1, 1601)
    assert (first.first, first.last) == (MADE[0].start, MADE[1].updated)
    # A flow with two findings of a signature is one flow, and its bytes are counted once.
    signed, _ = count_by(filled, Filter(), ["signature", "agent"])
    assert (signed.values, signed.flows, signed.findings, signed.bytes) == (("mining.stratum", "a"), 1, 2, 301)
    assert [each.values for each in count_by(filled, Filter(query="signature:ssh.*"), ["signature"])] == [("ssh.port",)]
    assert {each.values[0] for each in count_by(filled, Filter(), ["name"])} == {
        "x.example, y.example", '["z"]', samples.FLOW.server_name,
    }  # fmt: skip
    assert {each.values for each in count_by(filled, Filter(), ["day", "hour"])} == {
        ("2026-11-23", "2026-11-23 15:00"), ("2026-11-23", "2026-11-23 16:00"),
    }  # fmt: skip
    assert len(list(count_by(filled, Filter(), ["port", "agent"], 2))) == 2


def test_every_key_and_every_order(filled: Engine) -> None:
    for key in KEYS:
        assert sum(each.flows for each in count_by(filled, Filter(), [key])) == (2 if KEYS[key].of_findings else 3)
    for order in ORDERS:
        found = [getattr(each, order) for each in count_by(filled, Filter(), ["port", "severity"], None, order)]
        assert found == sorted(found, reverse=True)
    for name in SORTS:
        up = [each.flow_id for each in flows(filled, Filter(sort=name))]
        assert up == [each.flow_id for each in flows(filled, Filter(sort=f"-{name}"))][::-1]
        assert up[1:] == [each.flow_id for each in flows(filled, Filter(sort=name, limit=2))]
        assert up[:2] == [each.flow_id for each in flows(filled, Filter(sort=name, limit=2, skip=1))]


PICKS = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 7200), st.sampled_from(list(Action)), st.integers(0, 10**6)),
    max_size=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(25), deadline=None)
@given(PICKS)
def test_counts_and_timelines_are_those_of_a_slow_reading(
    engine: Engine, picks: list[tuple[str, int, Action, int]]
) -> None:
    made = [
        samples.numbered(number, agent=agent, start=samples.START + at, action=action, bytes_out=size)
        for number, (agent, at, action, size) in enumerate(picks)
    ]
    with writing(engine) as connection:
        connection.execute(flow_table.delete())
        store(connection, list(made))
    counted = {each.values: each.flows for each in count_by(engine, Filter(), ["agent", "action"])}
    assert counted == Counter((flow.agent, flow.action.value) for flow in made)
    shown = axis(samples.START, samples.START + 7200, 50)
    found, more = timeline(engine, Filter(), shown, 10)
    assert (more, [each.agent for each in found]) == (0, sorted({flow.agent for flow in made}))
    for each in found:
        own = [flow for flow in made if flow.agent == each.agent]
        steps = Counter(int(flow.start - shown.begin) // shown.step for flow in own)
        assert each.flows == [steps[at] for at in range(shown.count)]
        assert sum(each.bytes) == sum(flow.bytes_out + flow.bytes_in for flow in own)
        assert sum(each.refused) == sum(flow.action is not Action.ACCEPT for flow in own)


def test_a_timeline_has_the_busiest_agents(filled: Engine) -> None:
    shown = axis(samples.START, samples.START + 4000, 100)
    found, more = timeline(filled, Filter(), shown, 1)
    assert [each.agent for each in found] == ["a"] and more == 1
    assert found[0].signatures == {"mining.stratum": 2} and sum(found[0].findings) == 2
    assert starts(filled, Filter(), MADE[0].dst, 2) == [MADE[1].start, MADE[2].start]


def test_stories(filled: Engine) -> None:
    told = flow_story(filled, MADE[1].flow_id)
    assert [each.flow.flow_id for each in told.before] == [MADE[0].flow_id] and len(told.before[0][1]) == 2
    assert flow_story(filled, MADE[2].flow_id).before == ()
    assert finding_story(filled, "3").flow == MADE[2] and finding_story(filled, "3").kept is None
    about = agent_story(filled, "a")
    assert about.summary == agents(filled)[0] == agents(filled, "a")[0]
    assert about.signatures[0].findings == 2 and about.newest[-1][0] == MADE[1]
    assert finding_ids(filled, "3") == ("3",)
    for wrong in (
        lambda: flow_story(filled, "ff"),
        lambda: finding_story(filled, "ff"),
        lambda: agent_story(filled, "?"),
    ):
        with pytest.raises(EgressError):
            wrong()


def test_exactly_one_agent_whatever_its_name(engine: Engine) -> None:
    names = ["a", "[a]", "*", "a?", "[!a]*", "]", "\\"]
    with writing(engine) as connection:
        store(connection, [samples.numbered(number, agent=name) for number, name in enumerate(names)])
    for name in names:
        assert [each.agent for each in flows(engine, exactly(name))] == [name]


def _put(engine: Engine, *records: FlowRecord) -> None:
    with writing(engine) as connection:
        store(connection, list(records))


def test_a_tail_gives_what_is_stored_once(filled: Engine) -> None:
    following = Tail(filled, Filter())
    assert [type(each).__name__ for each in following.newest(2)] == ["FindingRecord", "FlowRecord"]
    assert following.later() == []
    new, late = samples.numbered(3710), samples.numbered(3709)
    _put(filled, new)
    assert following.later() == [new]
    _put(filled, late)  # made before `new`, stored after it
    assert following.later() == [late]
    ended = replace(new, updated=new.updated + 1, end=new.updated + 1, state="closed")
    _put(filled, ended)
    assert following.later() == [ended]
    assert following.later() == []
    _put(filled, samples.numbered(4000), samples.numbered(3980))
    assert following.later() == [samples.numbered(3980), samples.numbered(4000)]
    with writing(filled) as connection:
        odd = replace(samples.ANOMALY, time=samples.START + 4000)
        store(connection, [odd, replace(odd, detail="other"), replace(FOUND[0], finding_id="9", time=odd.time)])
    assert len(following.later()) == 3


def test_a_tail_of_a_query_has_only_that(filled: Engine) -> None:
    following = Tail(filled, Filter(query="port:22"))
    assert {each.agent for each in following.newest(10)} == {"a"}
    _put(filled, samples.numbered(3710), samples.numbered(3711, dport=22))
    assert following.later() == [samples.numbered(3711, dport=22)]


def test_much_at_once_comes_in_parts(filled: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "MOST", 10)
    monkeypatch.setattr(tail, "BATCH", 3)
    following = Tail(filled, Filter())
    assert following.newest(0) == []
    many = [samples.numbered(5000 + number, start=samples.START + 5000) for number in range(25)]
    _put(filled, *many)
    parts = [following.later() for _ in range(4)]
    assert [len(part) for part in parts] == [10, 10, 5, 0]
    assert [each for part in parts for each in part] == many


def test_a_clock_that_is_ahead_hides_nothing(engine: Engine) -> None:
    _put(engine, samples.numbered(1, updated=4e9))
    following = Tail(engine, Filter())
    following.newest(1)
    now = replace(samples.numbered(2), updated=round(time.time(), 6))
    _put(engine, now)
    assert following.later() == [now]
