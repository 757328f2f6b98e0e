"""Reading stored history in passes means the same on both databases, and hunting over it finds the same."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import Engine

from egress.hunt.hunter import Settings
from egress.hunt.hunters import load
from egress.hunt.run import hunt
from egress.model import Action, Effect, Reason
from egress.records.shape import FlowRecord
from egress.store.database.database import storing, writing
from egress.store.database.tables import findings as finding_table
from egress.store.database.tables import flows as flow_table
from egress.store.query import history
from egress.store.query.history import AddressTraffic, History, HistoryTarget, Window, keep
from egress.store.query.reader import Filter, findings
from egress.store.query.search import compile_query
from egress.store.recording.writer import store
from tests.examples import examples
from tests.hunt.histories import DAY, SINCE, WEEK, beacon, fill, flow, flows, named, query
from tests.store import samples

REFUSED = {"action": Action.REJECT, "reason": Reason.DEFAULT}


def _shape(found: object) -> list[tuple[str, HistoryTarget, int]]:
    assert isinstance(found, list)
    return [(each.agent, each.target, len(each.moments)) for each in found]


def test_series(engine: Engine) -> None:
    fill(
        engine,
        [
            *flows([3, 1, 2], dst="192.0.2.1"),
            *flows([4, 5], agent="other", **named("A.example.org", "2001:db8::1")),
            flow(6, agent="other", dst="2001:db8::1", server_name="", names=("b.example.org",)),
            query(7, "x.example.org"),
            flow(8, direction="in"),
            flow(-1),
            flow(8 * DAY),
        ],
    )
    past = History(engine, WEEK)
    assert past.count() == 7
    assert past.oldest() == SINCE - 1
    first, second = HistoryTarget("tcp", "192.0.2.1", 443), HistoryTarget("tcp", "2001:db8::1", 443)
    assert _shape(list(past.by_endpoint())) == [("other", second, 3), ("trainer", first, 3)]
    assert [each.target for each in past.by_endpoint(fleet=True)] == [first, second]
    (series, *_) = past.by_endpoint(fleet=True)
    assert series.moments.tolist() == [round((SINCE + second) * 1e6) for second in (1, 2, 3)]
    assert [(each.target.said, each.target.bound, len(each.moments)) for each in past.by_name()] == [
        ("", ("b.example.org",), 1),
        ("a.example.org", (), 2),
    ]
    assert [(agent, name) for agent, name, _ in past.queries()] == [("trainer", "x.example.org")]
    (series,) = History(engine, replace(WEEK, agent="oth*")).by_endpoint(fleet=True)
    assert series.agents == ("other",)


def test_a_series_of_several_agents_says_whose_each_moment_is(engine: Engine) -> None:
    fill(engine, [flow(number, agent=f"agent-{number % 3}") for number in range(9)])
    (series,) = History(engine, WEEK).by_endpoint(fleet=True)
    assert [series.agents[index] for index in series.of] == [f"agent-{number % 3}" for number in range(9)]


def test_a_series_is_bounded_and_says_so(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_MOMENTS", 5)
    fill(engine, flows(range(8)) + flows(range(3), dst="203.0.113.1"))
    for fleet in (False, True):
        found = list(History(engine, WEEK).by_endpoint(fleet=fleet))
        assert [(len(each.moments), each.omitted) for each in found] == [(5, 3), (3, 0)]


def test_sums(engine: Engine) -> None:
    most = (1 << 63) - 1
    fill(
        engine,
        [
            *flows([1, 2], **named("a.example.org"), bytes_out=10, bytes_in=3),
            flow(3, **named("a.example.org"), bytes_out=most, bytes_in=most),
            flow(4, dst="192.0.2.1", **REFUSED),
            query(5, "x.example.org"),
        ],
    )
    (row,) = History(engine, WEEK).traffic()
    begun = round((SINCE + 1) * 1e6)
    huge = history.MAX_BYTES
    assert row == AddressTraffic(
        "trainer", "a.example.org", ("a.example.org",), "203.0.113.9", 3, huge + 20, huge + 6, huge, 2_000_000, begun,
        begun + 2_000_000, begun + 4_000_000,
    )  # fmt: skip
    later = History(engine, Window(SINCE + 2.5, SINCE + 9))
    assert list(later.earlier(SINCE)) == [
        (HistoryTarget(dst="203.0.113.9", said="a.example.org", bound=("a.example.org",)), 2)
    ]
    assert list(later.earlier(SINCE + 2)) == [
        (HistoryTarget(dst="203.0.113.9", said="a.example.org", bound=("a.example.org",)), 1)
    ]


def test_questions(engine: Engine) -> None:
    names = [
        "a.x.example.org",
        "A.x.example.org",
        "b.x.example.org",
        "example.org",
        "yx.example.org",
        "a_b.example.org",
    ]
    fill(engine, [query(number, name) for number, name in enumerate([*names, *["c.x.example.org"] * 3])])
    fill(engine, [query(1, "r.x.example.org", **REFUSED), query(1, "o.x.example.org", agent="other")])
    past = History(engine, WEEK)
    assert Counter({(each.agent, each.name): each.flows for each in past.queried_names()}) == {
        ("other", "o.x.example.org"): 1,
        ("trainer", "a.x.example.org"): 2,
        ("trainer", "b.x.example.org"): 1,
        ("trainer", "c.x.example.org"): 3,
        ("trainer", "example.org"): 1,
        ("trainer", "yx.example.org"): 1,
        ("trainer", "a_b.example.org"): 1,
    }
    assert past.names_under("trainer", "x.example.org", 2, 9) == ("a.x.example.org", "b.x.example.org")
    assert past.names_under("trainer", "x.example.org", 3, 2) == ("a.x.example.org", "b.x.example.org")
    assert past.names_under("trainer", "a%", 9, 9) == past.names_under("trainer", "_x.example.org", 9, 9) == ()


def test_the_flow_that_a_lead_points_at(engine: Engine) -> None:
    wanted = flow(1, **named("A.example.org", "192.0.2.1"))
    bound = flow(1, dst="192.0.2.2", server_name="", names=("b.example.org",))
    asked = query(1, "x.y.example.net")
    fill(engine, [wanted, bound, asked, flow(1, dst="192.0.2.3", proto="udp", dport=9)])
    past = History(engine, WEEK)

    def found(target: HistoryTarget, agent: str = "trainer", start: float = wanted.start) -> FlowRecord | None:
        return past.flow(agent, round(start * 1e6), target)

    assert found(HistoryTarget(said="a.example.org")) == found(HistoryTarget("tcp", "192.0.2.1", 443)) == wanted
    assert found(HistoryTarget(dst="192.0.2.2")) == found(HistoryTarget(bound=("b.example.org",))) == bound
    assert found(HistoryTarget(said="example.net", under=True)) == asked
    for wrong in (
        HistoryTarget(said="example.net"),
        HistoryTarget("tcp", "192.0.2.1", 80),
        HistoryTarget("tcp", "192.0.2.3", 9),
    ):
        assert found(wrong) is None
    assert (
        found(HistoryTarget(dst="192.0.2.2"), agent="other")
        is found(HistoryTarget(dst="192.0.2.2"), start=SINCE)
        is None
    )


@pytest.mark.parametrize("name", ["ÄB.Example", "İ.example", "\udc80X.example", "a\x00B", "ΑΣ.Example"])
def test_the_flow_of_a_name_in_any_script(engine: Engine, name: str) -> None:
    """A database and Python must agree on what lower case is."""
    fill(engine, flows([1, 2], server_name=name))
    (series,) = History(engine, WEEK).by_name()
    (row,) = History(engine, WEEK).traffic()
    for target in (series.target, HistoryTarget(dst=row.dst, said=row.said, bound=row.bound)):
        assert History(engine, WEEK).flow("trainer", row.last, target) is not None


def test_a_hunt_is_stored_once_and_found_by_the_query_tool(engine: Engine) -> None:
    rng = np.random.default_rng(1)
    fill(engine, flows(beacon(rng, 1800, 0.2, 300), **named("c2.example.net")))
    results = hunt(engine, load(), WEEK, Settings())
    found = [each for result in results for each in result.findings]
    assert [each.signature for each in found] == ["beacon.slow"]
    assert [keep(engine, found), keep(engine, found), keep(engine, [])] == [1, 0, 0]
    with writing(engine) as connection:
        store(connection, [samples.FLOW, samples.FINDING])
    assert list(findings(engine, Filter(signature="beacon.*"))) == found
    with engine.connect() as connection:
        hunted = compile_query("effect:none", flow_table, 0.0)
        ids = connection.scalars(flow_table.select().with_only_columns(flow_table.c.flow_id).where(hunted)).all()
        inline = compile_query("-effect:none", finding_table, 0.0)
        others = connection.scalars(
            finding_table.select().with_only_columns(finding_table.c.effect).where(inline)
        ).all()
    assert ids == [found[0].flow_id]
    assert others == [Effect.FLOW]


def test_a_flow_may_name_any_rule_and_version(engine: Engine) -> None:
    judged = {"rule_id": "r", "policy_version": (1 << 63) - 1}
    fill(engine, flows(np.arange(100) * 3600.0, **judged))
    assert [len(result.findings) for result in hunt(engine, load(["beacon.slow"]), WEEK, Settings())] == [1]


@settings(max_examples=examples(8), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=st.lists(samples.flows, max_size=12))
def test_any_rows_at_all(engine: Engine, records: list[FlowRecord]) -> None:
    """Records that an agent provoked never stop a hunt."""
    with storing(engine) as connection:
        connection.execute(flow_table.delete())
        connection.execute(finding_table.delete())
        store(connection, [replace(record, direction="out") for record in records])
    for window in (Window(0.0, 5e9), Window(1e9, 3e9, "*")):
        results = hunt(engine, load(), window, Settings(leak_bytes=1))
        keep(engine, [each for result in results for each in result.findings])
