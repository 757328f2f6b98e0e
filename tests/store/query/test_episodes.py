"""Episodes joined with what left the sandbox, on both databases: the story, the list, and the query language."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from egress.model import Action, Reason, Step, StepSource
from egress.records.shape import AnomalyRecord, Record
from egress.store.database.database import open_database, storing, writing
from egress.store.database.errors import NotFoundError
from egress.store.query.counting import count_by
from egress.store.query.episodes import EpisodeStory, Part, agents_of, episode_story, listed
from egress.store.query.reader import Filter, findings, flows
from egress.store.recording import steps
from egress.store.recording.steps import make
from egress.store.recording.writer import store
from tests.store import samples
from tests.whatif.recording import START, dns, finding, flow, refused

A = "trainer"


def step(name: str, start: float, end: float | None, **fields: Any) -> Step:
    given: dict[str, Any] = {"agent": A, "episode": "e", "tool": "bash", "source": StepSource.API, "now": START + 300}
    times = {"start": START + start, "end": None if end is None else START + end}
    return make(**(given | times | {"id": name, "reporter": "x"} | fields))


def at(second: float, **fields: Any) -> Any:
    return flow(**{"start": START + second, "updated": START + second, "end": START + second, **fields})


def keep(engine: Engine, told: list[Step], records: list[Record]) -> None:
    with storing(engine) as connection:
        steps.report(connection, told, 10**6)
    with writing(engine) as connection:
        store(connection, records)


def story(engine: Engine, episode: str = "e") -> EpisodeStory:
    with engine.connect() as connection:
        return episode_story(connection, A, episode)


def ids(part: Part) -> set[str]:
    return {told.flow.flow_id for told in part.flows}


IN_ONE = at(1, dst="2001:db8::7", bytes_out=100, bytes_in=50)
ASKED = dns("pool.example", start=START + 2, updated=START + 2, end=START + 2)
TUNNEL = at(3, dport=22, end=None, **refused(Reason.FINDING))
FREE = at(15, dst="203.0.113.9")
IN_TWO = at(21)
AFTER = at(40)
ELSEWHERE = at(31)
STEPS = [step("one", 0, 10), step("two", 20, 25, tool="python"), step("other", 30, 35, episode="f", tool="curl")]
FOUND = finding(TUNNEL, "ssh.role-reversal", time=START + 16)
ODD = AnomalyRecord(A, START + 16.5, Reason.SPOOFED, "no", 3)
RECORDS: list[Record] = [IN_ONE, ASKED, TUNNEL, FREE, IN_TWO, AFTER, ELSEWHERE, FOUND, ODD]


@pytest.fixture
def filled(engine: Engine) -> Engine:
    keep(engine, STEPS, [*RECORDS, at(5, agent="another")])
    return engine


def test_an_episode_is_its_steps_and_what_left_in_them_and_between(filled: Engine) -> None:
    told = story(filled)
    assert [(part.number, part.traffic.flows) for part in told.parts] == [(1, 3), (0, 1), (2, 1)]
    one, gap, two = told.parts
    assert ids(one) == {IN_ONE.flow_id, ASKED.flow_id, TUNNEL.flow_id} and ids(gap) == {FREE.flow_id}
    assert (one.traffic.refused, one.traffic.bytes_out) == (1, 100 + ASKED.bytes_out + TUNNEL.bytes_out)
    assert set(one.traffic.destinations) == {"tcp [2001:db8::7]:443", "dns pool.example", "tcp 198.51.100.7:22"}
    assert gap.start - (START + 10) == pytest.approx(1e-6, abs=1e-6)
    assert START + 20 - gap.end == pytest.approx(1e-6, abs=1e-6)
    assert two.step == STEPS[1]
    # A finding belongs to its own time, and is shown with its flow as well.
    assert (one.traffic.findings, gap.traffic.findings, gap.traffic.packets) == (0, 1, 3)
    assert {found for told_ in one.flows for found in told_.findings} == {FOUND}
    # The frame ends where the agent's next step begins, and a tunnel that lives on says so.
    assert (told.total.flows, told.elsewhere, told.end < START + 30) == (5, 0, True)
    assert one.lived_on == {TUNNEL.flow_id: (2, 2)} and two.traffic.alive == 1


def test_what_a_tool_leaves_running_shows_after_the_last_one(filled: Engine) -> None:
    told = story(filled, "f")
    assert [(part.number, ids(part)) for part in told.parts if part.number or AFTER.flow_id in ids(part)] == [
        (1, {ELSEWHERE.flow_id}), (0, {AFTER.flow_id}),
    ]  # fmt: skip
    assert told.end == START + 35 + 3600
    assert told.elsewhere == 4, "of the other episode's steps, within the minute before"


def test_a_flow_from_before_that_is_still_alive_is_shown_apart(engine: Engine) -> None:
    old = [at(-1000, end=None), at(-900, end=START + 5), at(-800, end=START - 700), at(-9000, end=None)]
    keep(engine, STEPS, old)
    assert [each.flow.flow_id for each in story(engine).earlier] == [each.flow_id for each in old[:2]]


def test_parallel_steps_of_two_episodes(engine: Engine) -> None:
    """Events that began in both are in both, and a time with a running tool is never a gap."""
    keep(engine, [step("a", 0, 10), step("b", 5, 15, episode="f")], [at(7), at(12), at(17)])
    mine, theirs = story(engine), story(engine, "f")
    assert [(part.number, part.traffic.flows) for part in mine.parts] == [(1, 1), (0, 1)]
    assert [(part.number, part.traffic.flows) for part in theirs.parts] == [(1, 2), (0, 1)]
    assert mine.elsewhere == 1


def test_a_step_that_never_ended_counts_for_an_hour(engine: Engine) -> None:
    keep(engine, [step("a", 0, None)], [at(300 + 3599), at(300 + 3601)])
    assert [(part.number, part.traffic.flows) for part in story(engine).parts] == [(1, 1), (0, 1)]


def test_a_clock_that_is_ahead_shows(engine: Engine) -> None:
    keep(engine, [step("a", 301, 303)], [])
    assert story(engine).ahead == pytest.approx(3.0)
    keep(engine, [step("b", 0, 1, episode="f")], [])
    assert story(engine, "f").ahead == 0.0


def test_no_such_episode(filled: Engine) -> None:
    with pytest.raises(NotFoundError, match="egress episodes"):
        story(filled, "g")
    with filled.connect() as connection:
        assert agents_of(connection, "e") == (A,)


def test_a_list_of_episodes(filled: Engine) -> None:
    keep(filled, [step("one", 50, None), step("x", 0, 1, agent="b")], [])
    with filled.connect() as connection:
        every = listed(connection, limit=9)
        assert [(each.agent, each.episode, each.steps, each.tools) for each in every] == [
            (A, "f", 1, 1), (A, "e", 2, 2), ("b", "e", 1, 1),
        ]  # fmt: skip
        assert (every[1].start, every[1].end) == (START, START + 25)
        pages = [listed(connection, limit=1)]
        while pages[-1]:
            last = pages[-1][-1]
            pages.append(listed(connection, limit=1, before=(last.start, last.agent, last.episode)))
        assert tuple(each for page in pages for each in page) == every
        assert listed(connection, limit=9, scope=("b*",)) == every[2:]
        assert listed(connection, limit=9, agent="b") == every[2:]
        assert listed(connection, limit=9, since=START + 30) == every[:1]


ASKS = {
    "tool:bash": [IN_ONE, ASKED, TUNNEL],
    "tool:p* or tool:curl": [IN_TWO, ELSEWHERE],
    "step:one app:dns": [ASKED],
    "episode:f": [ELSEWHERE],
    "-tool:*": [FREE, AFTER],
    "tool!:bash -tool:curl": [FREE, IN_TWO, AFTER],
    "-episode:e (signature:ssh.* or port:443)": [FREE, ELSEWHERE, AFTER],
    "tool:bash signature:ssh.*": [TUNNEL],
}


@pytest.mark.parametrize("query", ASKS)
def test_the_query_language_knows_steps(filled: Engine, query: str) -> None:
    found = flows(filled, Filter(query=f"agent:{A} ({query})"))
    assert [each.flow_id for each in found] == [each.flow_id for each in sorted(ASKS[query], key=lambda f: f.start)]


def test_findings_are_asked_by_their_own_time(filled: Engine) -> None:
    assert list(findings(filled, Filter(query="-tool:*"))) == [FOUND]
    assert list(findings(filled, Filter(query="tool:*"))) == []
    assert list(findings(filled, Filter(query="-tool:* port:22"))) == [FOUND]


def test_counting_by_tool_and_episode(filled: Engine) -> None:
    counts = {each.values: each.flows for each in count_by(filled, Filter(query=f"agent:{A}"), ["tool", "episode"])}
    assert counts == {("bash", "e"): 3, ("", ""): 2, ("python", "e"): 1, ("curl", "f"): 1}
    signed = list(count_by(filled, Filter(), ["signature", "tool"]))
    assert [(each.values, each.findings) for each in signed] == [(("ssh.role-reversal", ""), 1)]


def test_a_flow_in_two_steps_of_one_tool_counts_once(engine: Engine) -> None:
    keep(engine, [step("a", 0, 10), step("b", 5, 15)], [at(7)])
    assert [(each.values, each.flows) for each in count_by(engine, Filter(), ["tool"])] == [(("bash",), 1)]


def test_steps_that_overlap_in_every_way_say_what_the_plainest_join_says(engine: Engine) -> None:
    chance = random.Random(7)
    moments = [(chance.randrange(60), chance.randrange(8), chance.choice("ab")) for _ in range(40)]
    told = [step(f"s{n}", start, start + length, tool=tool) for n, (start, length, tool) in enumerate(moments)]
    sent = [at(second) for second in range(70)]
    keep(engine, [*told, step("other", 0, 70, agent="b", tool="a")], sent)
    for tool in "ab":
        during = [each.flow_id for each in sent
                  if any(s.start <= each.start <= s.until and s.tool == tool for s in told)]  # fmt: skip
        assert [each.flow_id for each in flows(engine, Filter(query=f"tool:{tool}"))] == during
        counted = {each.values: each.flows for each in count_by(engine, Filter(), ["tool"])}
        assert counted[(tool,)] == len(during) < len(sent)


def test_a_thousand_steps_under_way_at_once_are_looked_up_once(engine: Engine) -> None:
    """A framework that never ends them must not make a question of each flow with each of them."""
    keep(engine, [step(f"s{number}", 0, None) for number in range(1000)], [at(n / 10) for n in range(2000)])
    began = time.process_time()
    assert len(list(flows(engine, Filter(query="tool:bash", limit=10)))) == 10
    assert [each.flows for each in count_by(engine, Filter(), ["tool"])] == [2000]
    assert time.process_time() - began < 2, "two million pairs take ten"


MANY_STEPS, MANY_FLOWS = 1000, 50_000
FILL = f"""
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {MANY_FLOWS})
INSERT INTO flows SELECT printf('%016x', i), 'train-1', 1795446362000000 + i * 200000, 1795446362000000 + i * 200000,
    1795446362000000 + i * 200000 + (i % 50) * 1000000, 'closed', 'out', 'tcp', '10.77.0.2', 40000,
    '198.51.100.' || (i % 200), 443, '', 'tls', '', 'accept', 'rule', 'r', 1, 'enforce', 3, 3, 180, 180, 0, '[]', ''
    FROM n
"""


@pytest.mark.slow
def test_a_long_episode_answers_in_bounded_time(sqlite_url: str) -> None:
    engine = open_database(sqlite_url)
    told = [
        make("train-1", episode="e", id=f"s{number}", tool="bash", start=1795446362.0 + number * 10,
             end=1795446362.0 + number * 10 + 4.95, source=StepSource.OTLP, reporter="x", now=1795446362.0 + 10_000)
        for number in range(MANY_STEPS)
    ]  # fmt: skip
    try:
        with storing(engine) as connection:
            steps.report(connection, told, 10**6)
            connection.execute(sa.text(FILL))
        began = time.process_time()
        with engine.connect() as connection:
            answer = episode_story(connection, "train-1", "e")
        newest = list(flows(engine, Filter(query="-tool:*", limit=100)))
        took = time.process_time() - began
    finally:
        engine.dispose()
    assert answer.total.flows == MANY_FLOWS and len(answer.parts) == 2 * MANY_STEPS
    assert all(part.traffic.flows == 25 for part in answer.parts)
    assert len(newest) == 100
    assert took < 6, (
        "less than one second, on a machine with nothing else to do; each flow with each step is 50 million"
    )


def test_samples_step_is_one_that_make_makes() -> None:
    """The samples of other tests have the form of stored steps."""
    sample = samples.STEP
    again = make(
        sample.agent, episode=sample.episode, id=sample.id, tool=sample.tool, summary=sample.summary,
        start=sample.start, end=sample.end, source=sample.source, call_id=sample.call_id, trace_id=sample.trace_id,
        span_id=sample.span_id, reporter=sample.reporter, now=sample.reported,
    )  # fmt: skip
    assert again == sample and TUNNEL.action is Action.REJECT
