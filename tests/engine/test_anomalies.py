"""Repeated refusals are folded, none is lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from egress.engine.anomalies import Anomalies
from egress.model import Reason
from egress.records.shape import AnomalyRecord


def anomaly(time: float = 5.0, reason: Reason = Reason.SPOOFED, agent: str = "a") -> AnomalyRecord:
    return AnomalyRecord(agent, time, reason, "x", 1)


def test_the_first_of_a_kind_comes_at_once_and_its_repetitions_as_a_count() -> None:
    anomalies = Anomalies()
    one, two = anomaly(), anomaly(reason=Reason.MALFORMED)
    assert [len(anomalies.note(each)) for each in (one, one, one, two)] == [1, 0, 0, 1]
    assert anomalies.flush(5.5) == () and anomalies.due == 6.0
    (folded,) = anomalies.flush(6.0)
    assert (folded.reason, folded.count, folded.time) == (Reason.SPOOFED, 2, 6.0)
    assert anomalies.due == float("inf")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([Reason.SPOOFED, Reason.MALFORMED]))))
def test_none_is_lost(kinds: list[tuple[str, Reason]]) -> None:
    anomalies = Anomalies()
    out = [record for agent, reason in kinds for record in anomalies.note(anomaly(agent=agent, reason=reason))]
    out += anomalies.flush(float("inf"))
    for kind in set(kinds):
        assert sum(each.count for each in out if (each.agent, each.reason) == kind) == kinds.count(kind)
