"""Refusals without a flow: dropped silently, refused visibly, or passed in monitor mode."""

from __future__ import annotations

from functools import partial

import pytest

from egress.dissection.dissector import Dissector
from egress.dissection.layer import MAX_CHANNELS
from egress.engine import reassembly
from egress.engine.engine import Engine
from egress.engine.outbox import Outbox
from egress.engine.refusals import Refusals
from egress.limits import Limits
from egress.model import Action, Mode, Policy, Reason
from egress.records.shape import AnomalyRecord, FlowRecord
from egress.wire.packet import decode
from tests.dissection.boxes import BOXES, box
from tests.traffic import AGENT4, SERVER4, START, Talk, agent, tcp

PACKET = decode(tcp(AGENT4, SERVER4, 40000, 443, 2, 1, 0))


@pytest.mark.parametrize("reason", [Reason.MEMCAP, Reason.RECORDER, Reason.MIDSTREAM])
def test_a_connection_is_refused_so_that_its_client_notices(reason: Reason) -> None:
    verdict = Refusals(Outbox(Limits())).refuse(agent(), PACKET, START, reason, "why")
    assert (verdict.action, verdict.packet_only, verdict.reason) == (Action.REJECT, False, reason)


@pytest.mark.parametrize("reason", [Reason.SPOOFED, Reason.TRUNCATED, Reason.SEQUENCE])
def test_a_packet_is_dropped_and_marks_no_connection(reason: Reason) -> None:
    verdict = Refusals(Outbox(Limits())).refuse(agent(), PACKET, START, reason, "why")
    assert (verdict.action, verdict.packet_only) == (Action.DROP, True)


def test_monitor_mode_counts_and_lets_pass() -> None:
    outbox = Outbox(Limits())
    verdict = Refusals(outbox).malformed(agent(mode=Mode.MONITOR), b"\x45", START, "short")
    assert verdict.action is Action.ACCEPT and outbox.counts["malformed"] == 1
    (record,) = outbox.take()
    assert isinstance(record, AnomalyRecord) and (record.src, record.detail) == ("", "short")


def test_the_first_refusal_is_recorded_at_once_and_its_repetitions_once_a_second() -> None:
    outbox = Outbox(Limits())
    refusals = Refusals(outbox)
    for at in (0.0, 0.1, 0.2):
        refusals.refuse(agent(), PACKET, START + at, Reason.SPOOFED, "why")
    (first,) = outbox.take()
    refusals.tick(START + 0.9)
    assert not outbox.records and refusals.next_tick() == START + 1
    refusals.tick(START + 1)
    (folded,) = outbox.take()
    assert isinstance(first, AnomalyRecord) and isinstance(folded, AnomalyRecord)
    assert (first.count, first.time, folded.count, folded.time) == (1, START, 2, START + 1)
    assert refusals.next_tick() == float("inf")


def test_carried_bytes_that_are_not_dissected_pass_are_counted_and_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's own protocol carries more channels than are followed."""
    monkeypatch.setattr(reassembly, "Dissector", partial(Dissector, registry=BOXES))
    boxes = b"".join(box(b"12345", b"S", at, first=not at) for at in range(MAX_CHANNELS + 3))
    engine = Engine(Limits(), Policy(), [])
    played = Talk().open().client(boxes).play(engine, agent(default=Action.ACCEPT))
    assert set(played.actions) == {Action.ACCEPT}
    late = engine.tick(START + 100.0)
    anomalies = [each for each in (*played.records, *late) if isinstance(each, AnomalyRecord)]
    assert [(each.reason, each.count) for each in anomalies] == [(Reason.TRUNCATED, 1), (Reason.TRUNCATED, 2)]
    assert {(each.src, each.dst, each.proto) for each in anomalies} == {(AGENT4, SERVER4, "tcp")}
    (flow,) = {each.flow_id for each in played.records if isinstance(each, FlowRecord)}
    assert all(f"passed: bytes carried inside flow {flow}" in each.detail for each in anomalies)
    ended = [each for each in engine.shutdown(START + 101.0) if isinstance(each, FlowRecord)]
    assert [each.unseen_bytes for each in ended] == [15]
    assert engine.stats()["unread"] == 3
