"""Refusals without a flow: dropped silently, refused visibly, or passed in monitor mode."""

from __future__ import annotations

import pytest

from egress.engine.outbox import Outbox
from egress.engine.refusals import Refusals
from egress.limits import Limits
from egress.model import Action, Mode, Reason
from egress.records.shape import AnomalyRecord
from egress.wire.packet import decode
from tests.traffic import AGENT4, SERVER4, START, agent, tcp

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
