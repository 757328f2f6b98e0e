"""Conditions under which flows settle, and under which they are reopened."""

from __future__ import annotations

from egress.limits import Limits
from egress.model import Action, Reason, Rule
from egress.records.shape import FlowRecord
from tests.traffic import START, Talk, agent, client_hello, engine

SUBSCRIBE = b'{"id": 1, "method": "mining.subscribe", "params": ["cgminer/4.11"]}\n'
SERVER_HELLO = b"\x16\x03\x03\x00\x04\x02\x00\x00\x00" + bytes(40)
SSH = b"SSH-2.0-OpenSSH_9.2\r\n"


def test_tls_settles_and_a_clear_text_protocol_after_it_is_still_seen() -> None:
    judge, who = engine(), agent()
    talk = Talk().open().client(client_hello("www.example.org")).server(SERVER_HELLO)
    played = talk.play(judge, who)
    assert played.outcomes[-1].verdict.settled
    last = [record for record in played.records if isinstance(record, FlowRecord)][-1]
    assert (last.app_proto, last.server_name) == ("tls", "www.example.org")
    late = Talk()
    late.seq, late.ack = talk.seq, talk.ack
    late.client(b"\x17\x03\x03\x00\x10" + bytes(16)).client(SUBSCRIBE)
    played = late.play(judge, who, START + 1)
    assert played.actions == [Action.ACCEPT, Action.REJECT] and played.signatures == ["mining.stratum"]


def test_a_flow_that_proves_nothing_settles_and_an_application_rule_refuses_it_then() -> None:
    blob = bytes(range(256)) * 300
    judge = engine(limits=Limits(settle_bytes=20000))
    played = Talk().open().client(blob).play(judge, agent())
    assert played.outcomes[-1].verdict.settled and judge.stats()["buffered_bytes"] == 0
    strict = engine(Rule("r1", Action.ACCEPT, app="ssh"), limits=Limits(settle_bytes=20000))
    played = Talk().open().client(blob).play(strict, agent(default=Action.REJECT))
    assert played.outcomes[-1].verdict.reason is Reason.APPLICATION


def test_a_server_cannot_talk_the_inspection_away() -> None:
    judge, who = engine(limits=Limits(settle_bytes=20000)), agent()
    talk = Talk().open().client(b"hi\n").server(bytes(range(256)) * 100)
    played = talk.play(judge, who)
    assert played.outcomes[-1].verdict.settled
    late = Talk()
    late.seq, late.ack = talk.seq, talk.ack
    late.client(SUBSCRIBE, segment=9)
    played = late.play(judge, who, START + 1)
    assert played.signatures == ["mining.stratum"] and played.actions[-1] is Action.REJECT


def test_a_flow_taken_back_keeps_its_opener() -> None:
    judge, who = engine(limits=Limits(settle_bytes=20000)), agent()
    talk = Talk(sport=22).open().client(b"\x81" * 30000)
    assert talk.play(judge, who).outcomes[-1].verdict.settled
    late = Talk(sport=22)
    late.seq, late.ack = talk.seq, talk.ack
    assert late.client(SSH).play(judge, who, START + 1).signatures == ["ssh.unusual-port"]
