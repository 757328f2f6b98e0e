"""TLS records of settled flows: over segments, repetitions, and large packets of which the kernel copies a part."""

from __future__ import annotations

from egress.engine.engine import Engine
from egress.model import ACK, PSH, Action, Reason
from tests.dissection.conversations import Turn
from tests.engine.test_conformance import DENIED, HELLO, IN, OUT, RECORD, SERVER_HELLO, allow, held, talk_of
from tests.traffic import START, Talk, tcp


def settled(judge: Engine, turns: list[Turn] | None = None) -> Talk:
    talk = talk_of(turns or [(OUT, HELLO), (IN, SERVER_HELLO)])
    assert talk.play(judge, DENIED).outcomes[-1].verdict.settled
    talk.steps.clear()
    return talk


def test_records_are_followed_after_the_flow_has_settled() -> None:
    judge = held(allow("tls"))
    talk = settled(judge)
    for size in (1, 2, 3, 7, 261, 1400):
        talk.client(RECORD * 20, segment=size)
    assert set(talk.play(judge, DENIED).actions) == {Action.ACCEPT}
    talk.steps.clear()
    talk.client(b"no record at all")
    assert [outcome.verdict.reason for outcome in talk.play(judge, DENIED).outcomes] == [Reason.APPLICATION]


def test_a_header_begun_before_settling_is_ended_after_it() -> None:
    judge = held(allow("tls"))
    talk = settled(judge, [(OUT, HELLO + RECORD[:3]), (IN, SERVER_HELLO)])
    talk.client(RECORD[3:] + RECORD)
    assert set(talk.play(judge, DENIED).actions) == {Action.ACCEPT}
    talk.steps.clear()
    talk.client(b"\x17\x03").client(b"\x09")
    assert talk.play(judge, DENIED).actions == [Action.ACCEPT, Action.REJECT]


def test_retransmissions_of_settled_flows_pass() -> None:
    judge = held(allow("tls"))
    talk = settled(judge)
    talk.client(RECORD * 3).raw_client(-len(RECORD), RECORD).client(RECORD)
    assert set(talk.play(judge, DENIED).actions) == {Action.ACCEPT}


def test_a_hidden_header_ends_the_check_and_honest_traffic_goes_on() -> None:
    """The kernel copies the first bytes of a large packet only, and segments may change places."""
    judge = held(allow("tls"))
    talk = settled(judge)
    data = RECORD * 100
    raw = tcp(talk.local, talk.remote, talk.sport, talk.dport, PSH | ACK, talk.seq, talk.ack, data)
    assert judge.packet(raw[:3072], START + 1, DENIED, OUT, len(raw)).verdict.action is Action.ACCEPT
    talk.seq += len(data)
    talk.client(RECORD * 5)
    assert set(talk.play(judge, DENIED, START + 2).actions) == {Action.ACCEPT}
    judge = held(allow("tls"))
    talk = settled(judge)
    talk.raw_client(261, RECORD).raw_client(0, RECORD)
    talk.seq += 522
    assert set(talk.client(RECORD).play(judge, DENIED).actions) == {Action.ACCEPT}


def test_headers_within_the_copied_bytes_of_a_large_packet_are_checked() -> None:
    judge = held(allow("tls"))
    talk = settled(judge)
    big = b"\x17\x03\x03\x40\x00" + bytes(16384)
    for last_one, action in ((big, Action.ACCEPT), (b"bad header" + bytes(9000), Action.REJECT)):
        raw = tcp(talk.local, talk.remote, talk.sport, talk.dport, PSH | ACK, talk.seq, talk.ack, last_one)
        assert judge.packet(raw[:3072], START + 1, DENIED, OUT, len(raw)).verdict.action is action
        talk.seq += len(last_one)
