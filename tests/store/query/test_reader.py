"""Reading back: filters mean what they say, the newest come last."""

from __future__ import annotations

import fnmatch
import ipaddress
import tracemalloc
from contextlib import closing
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import Engine

from egress.model import Action
from egress.store.database.database import writing
from egress.store.database.tables import flows as flow_table
from egress.store.query.reader import CHUNK, Filter, agents, findings, findings_of, flow, flow_details, flow_ids, flows
from egress.store.recording.writer import store
from tests.examples import examples
from tests.store import samples

MADE = [
    samples.numbered(1, agent="train-1", dst="198.51.100.7"),
    samples.numbered(2, agent="train-2", dst="10.1.2.3", action=Action.ACCEPT),
    samples.numbered(3, agent="build", dst="2001:db8::7", action=Action.DROP),
    samples.numbered(4, agent="train-1", dst="::ffff:192.0.2.7", updated=samples.START + 400),
    samples.numbered(5, agent="Train-1", dst="10.200.0.1", action=Action.ACCEPT),
]
FOUND = [
    replace(samples.FINDING, finding_id="1", flow_id=MADE[0].flow_id, time=samples.START + 1),
    replace(
        samples.FINDING, finding_id="2", flow_id=MADE[0].flow_id, time=samples.START + 2, signature="beacon.timing"
    ),
    replace(samples.FINDING, finding_id="3", flow_id=MADE[3].flow_id, time=samples.START + 4, agent="train-2"),
]


@pytest.fixture
def filled(engine: Engine) -> Engine:
    with writing(engine) as connection:
        store(connection, [*MADE, *FOUND, samples.ANOMALY])
    return engine


def _numbers(engine: Engine, wanted: Filter) -> list[int]:
    return [int(record.flow_id, 16) for record in flows(engine, wanted)]


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (Filter(), [1, 2, 3, 4, 5]),
        (Filter(agent="train-1"), [1, 4]),
        (Filter(agent="train-*"), [1, 2, 4]),
        (Filter(agent="[Tt]rain-[!2]"), [1, 4, 5]),
        (Filter(agent="%"), []),
        (Filter(signature="mining.stratum"), [1, 4]),
        (Filter(signature="*.timing"), [1]),
        (Filter(signature="ssh.*"), []),
        (Filter(action=Action.REJECT), [1, 4]),
        (Filter(action=Action.DROP), [3]),
        (Filter(dest=ipaddress.ip_network("10.0.0.0/8")), [2, 5]),
        (Filter(dest=ipaddress.ip_network("10.1.2.3")), [2]),
        (Filter(dest=ipaddress.ip_network("2001:db8::/32")), [3]),
        (Filter(dest=ipaddress.ip_network("::ffff:192.0.2.7")), [4]),
        (Filter(dest=ipaddress.ip_network("0.0.0.0/0")), [1, 2, 5]),
        (Filter(since=samples.START + 3), [3, 4, 5]),
        (Filter(since=samples.START + 300), [4]),  # begun earlier, still active then
        (Filter(until=samples.START + 2), [1, 2]),
        (Filter(limit=2), [4, 5]),
        (Filter(agent="train-*", action=Action.REJECT, limit=1), [4]),
    ],
)
def test_filters(filled: Engine, wanted: Filter, numbers: list[int]) -> None:
    assert _numbers(filled, wanted) == numbers


def test_findings_have_the_same_filters(filled: Engine) -> None:
    def ids(wanted: Filter) -> list[str]:
        return [finding.finding_id for finding in findings(filled, wanted)]

    assert ids(Filter()) == ["1", "2", "3"]
    assert ids(Filter(signature="mining.*", limit=1)) == ["3"]
    assert ids(Filter(agent="train-2")) == ["3"]
    assert ids(Filter(since=samples.START + 2, until=samples.START + 2)) == ["2"]
    assert ids(Filter(action=Action.ACCEPT)) == []
    assert ids(Filter(dest=ipaddress.ip_network("198.51.100.0/24"))) == ["1", "2", "3"]


def test_stories_bring_all_findings_of_a_flow(filled: Engine) -> None:
    told = [
        (int(flow.flow_id, 16), [each.finding_id for each in made]) for flow, made, _ in flow_details(filled, Filter())
    ]
    assert told == [(1, ["1", "2"]), (2, []), (3, []), (4, ["3"]), (5, [])]
    assert [each.finding_id for each in findings_of(filled, MADE[0].flow_id)] == ["1", "2"]


def test_one_flow(filled: Engine) -> None:
    assert flow(filled, MADE[2].flow_id) == MADE[2]
    assert flow(filled, "ffff") is None
    assert flow_ids(filled, MADE[2].flow_id) == (MADE[2].flow_id,)
    assert len(flow_ids(filled, "000")) == 5
    assert len(flow_ids(filled, "000", limit=2)) == 2
    assert flow_ids(filled, "0001") == ()


def test_agents_are_counted(filled: Engine) -> None:
    counted = {each.agent: each for each in agents(filled)}
    assert list(counted) == ["Train-1", "build", "train-1", "train-2"]
    first = counted["train-1"]
    assert (first.flows, first.accepted, first.refused, first.findings, first.anomalies) == (2, 0, 2, 2, 3)
    assert (first.first, first.last) == (samples.START + 1, samples.START + 400)
    assert agents(filled)[3].accepted == 1


def test_an_empty_database_has_nothing(engine: Engine) -> None:
    assert list(flows(engine, Filter())) == []
    assert list(flow_details(engine, Filter())) == []
    assert agents(engine) == ()


def test_more_flows_than_one_fetch(engine: Engine) -> None:
    count = CHUNK * 2 + 3
    with writing(engine) as connection:
        store(connection, [samples.numbered(number) for number in range(count)])
    assert [int(record.flow_id, 16) for record, *_ in flow_details(engine, Filter())] == list(range(count))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(60), deadline=None)
@given(
    pattern=st.text("abA-*?", max_size=6) | st.sampled_from(["[ab]*", "[!a]?", "a[!b-]*"]),
    names=st.lists(st.text("abA-", min_size=1, max_size=5), max_size=6, unique=True),
)
def test_globs_are_fnmatchs(engine: Engine, pattern: str, names: list[str]) -> None:
    with writing(engine) as connection:
        connection.execute(flow_table.delete())
        store(connection, [samples.numbered(number, agent=name) for number, name in enumerate(names)])
    wanted = [name for name in names if not pattern or fnmatch.fnmatchcase(name, pattern)]
    assert [record.agent for record in flows(engine, Filter(agent=pattern))] == wanted


@pytest.mark.slow
def test_a_long_answer_is_not_held(engine: Engine) -> None:
    """Twelve chunks take no more memory than one or two."""
    with writing(engine) as connection:
        store(connection, [samples.numbered(number) for number in range(12 * CHUNK)])
    one, count = _peak(engine, Filter(limit=CHUNK))
    most, all_of_them = _peak(engine, Filter())
    assert (count, all_of_them) == (CHUNK, 12 * CHUNK)
    assert most < 3 * one


def _peak(engine: Engine, wanted: Filter) -> tuple[int, int]:
    """Bytes at most, and flows, of going through an answer."""
    tracemalloc.start()
    try:
        with closing(flow_details(engine, wanted)) as told:
            count = sum(1 for _ in told)
        return tracemalloc.get_traced_memory()[1], count
    finally:
        tracemalloc.stop()
