"""Repeated refusals are folded into one record; none is lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from egress.engine.anomalies import REST, Anomalies
from egress.model import Reason
from egress.records.shape import AnomalyRecord


def anomaly(time: float = 5.0, reason: Reason = Reason.SPOOFED, agent: str = "a", detail: str = "x") -> AnomalyRecord:
    return AnomalyRecord(agent, time, reason, detail, 1)


def test_the_first_of_a_kind_is_told_apart_from_its_repetitions() -> None:
    anomalies = Anomalies()
    one, two = anomaly(), anomaly(reason=Reason.MALFORMED)
    assert [anomalies.note(each) for each in (one, one, anomaly(5.5, detail="y"), two)] == [True, False, False, True]
    assert anomalies.due == 6.0
    spoofed, malformed = anomalies.take()
    assert (spoofed.reason, spoofed.detail, spoofed.count, spoofed.time) == (Reason.SPOOFED, "x", 3, 5.0)
    assert malformed.count == 1
    assert anomalies.due == float("inf") and anomalies.take() == ()


def test_kinds_are_bounded() -> None:
    anomalies = Anomalies(256)
    for number in range(512):
        anomalies.note(anomaly(5.0, Reason.ERROR, "a", f"kind {number}"), f"kind {number}")
        anomalies.note(anomaly(6.0, Reason.ERROR, "a", "kind 0"), "kind 0")
    found = anomalies.take()
    assert len(found) == 257
    assert sum(record.count for record in found) == 1024
    assert (found[0].time, found[0].count) == (5.0, 513)
    assert (found[-1].agent, found[-1].detail, found[-1].count) == ("", REST, 256)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([Reason.SPOOFED, Reason.MALFORMED]))))
def test_none_is_lost(kinds: list[tuple[str, Reason]]) -> None:
    anomalies = Anomalies()
    firsts = [kind for kind in kinds if anomalies.note(anomaly(agent=kind[0], reason=kind[1]))]
    assert sorted(firsts) == sorted(set(kinds))
    assert {(each.agent, each.reason): each.count for each in anomalies.take()} == {
        kind: kinds.count(kind) for kind in kinds
    }
