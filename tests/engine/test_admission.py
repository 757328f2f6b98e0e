"""Conditions for a new flow that no rule can lift: each refusal has its own reason, and begins no flow."""

from __future__ import annotations

import pytest

from egress.engine.engine import Engine
from egress.limits import Limits
from egress.model import ACK, PSH, SYN, Action, Direction, Mode, Policy, Reason
from tests.traffic import AGENT4, SERVER4, START, Talk, agent, tcp

OUT, IN = Direction.OUT, Direction.IN
FIRST = tcp(AGENT4, SERVER4, 4000, 443, SYN, 1, 0)
LATE = START + Limits().midstream_grace + 1


def judged(raw: bytes, direction: Direction = OUT, *, settled: bool = False, mode: Mode = Mode.ENFORCE) -> Reason:
    """Judge a packet when connections are no longer picked up in mid-stream; a refusal leaves no flow behind."""
    engine, who = Engine(Limits(), Policy(), []), agent(mode=mode)
    engine.packet(tcp(AGENT4, SERVER4, 1, 1, SYN, 1, 0), START, who, OUT)
    verdict, records, _ = engine.packet(raw, LATE, who, direction, settled=settled)
    live = engine.stats()["live_flows"]
    assert (live, len(records)) == ((2, 1) if verdict.action is Action.ACCEPT else (1, len(records)))
    return verdict.reason


@pytest.mark.parametrize(
    ("raw", "direction", "reason"),
    [
        (FIRST, OUT, Reason.DEFAULT),
        (tcp("10.9.9.9", SERVER4, 4000, 443, SYN, 1, 0), OUT, Reason.SPOOFED),
        (tcp(SERVER4, AGENT4, 443, 4000, SYN | ACK, 1, 2), IN, Reason.SEQUENCE),
        (tcp(AGENT4, SERVER4, 4000, 443, PSH | ACK, 1, 2, b"x"), OUT, Reason.MIDSTREAM),
    ],
)
def test_each_condition_has_its_reason(raw: bytes, direction: Direction, reason: Reason) -> None:
    assert judged(raw, direction) is reason


def test_what_the_kernel_marked_as_settled_and_monitored_agents_are_picked_up_in_mid_stream() -> None:
    middle = tcp(AGENT4, SERVER4, 4000, 443, PSH | ACK, 1, 2, b"x")
    assert judged(middle, settled=True) is Reason.DEFAULT
    assert judged(middle, mode=Mode.MONITOR) is Reason.DEFAULT


def test_a_syn_inside_a_live_connection_is_refused_and_one_after_long_silence_begins_another() -> None:
    engine, who = Engine(Limits(), Policy(), []), agent()
    Talk(sport=4000).open().play(engine, who)
    again = tcp(AGENT4, SERVER4, 4000, 443, SYN, 77, 0)
    assert engine.packet(again, START + 1, who, OUT).verdict.reason is Reason.SEQUENCE
    silent = START + 1 + Limits().tcp_handshake
    assert engine.packet(again, silent, who, OUT).verdict.action is Action.ACCEPT


def test_while_records_cannot_be_written_nothing_new_passes_and_what_lives_goes_on() -> None:
    engine, who = Engine(Limits(), Policy(), []), agent()
    talk = Talk(sport=4001).open()
    talk.play(engine, who)
    engine.admission.refuse_new = True
    assert engine.packet(FIRST, START + 1, who, OUT).verdict.reason is Reason.RECORDER
    more = tcp(AGENT4, SERVER4, 4001, 443, PSH | ACK, talk.seq, talk.ack, b"x")
    assert engine.packet(more, START + 1, who, OUT).verdict.action is Action.ACCEPT
