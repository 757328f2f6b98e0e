"""The life of flows in the engine: when they settle, when they are taken back, what ends them, what undoes them."""

from __future__ import annotations

from egress.config import Limits
from egress.model import Action, Direction, FlowRecord, Policy, Reason, Rule
from tests.traffic import START, Talk, agent, client_hello, engine

SUBSCRIBE = b'{"id": 1, "method": "mining.subscribe", "params": ["cgminer/4.11"]}\n'
SERVER_HELLO = b"\x16\x03\x03\x00\x04\x02\x00\x00\x00" + bytes(40)
SSH = b"SSH-2.0-OpenSSH_9.2\r\n"
OUT = Direction.OUT


def allow(**changes: object) -> Rule:
    return Rule(**({"id": "r1", "action": Action.ACCEPT} | changes))  # type: ignore[arg-type]


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
    strict = engine(allow(app="ssh"), limits=Limits(settle_bytes=20000))
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


def test_the_flows_of_an_agent_that_is_gone_end_and_nothing_is_held_against_its_name() -> None:
    judge, one, two = engine(), agent(), agent(name="b1")
    Talk().open().client(SUBSCRIBE).play(judge, one)
    Talk().open().play(judge, two)
    (ended,) = judge.release("a1", START + 1)
    assert isinstance(ended, FlowRecord) and ended.agent == "a1" and ended.end is not None
    assert judge.stats()["live_flows"] == 1
    assert set(Talk().open().play(judge, one, START + 2).actions) == {Action.ACCEPT}


def test_a_flow_whose_first_record_could_not_be_written_did_not_begin() -> None:
    judge, who = engine(), agent()
    talk = Talk().open()
    (first, *_) = talk.steps
    judge.packet(first.raw, START, who, OUT)
    (undone,) = judge.withdraw(first.raw, START, who, OUT)
    assert isinstance(undone, FlowRecord) and (undone.action, undone.reason) == (Action.REJECT, Reason.RECORDER)
    judge.refuse_new = True
    assert judge.packet(first.raw, START + 1, who, OUT).verdict.reason is Reason.RECORDER
    judge.refuse_new = False
    assert set(talk.play(judge, who, START + 2).actions) == {Action.ACCEPT}
    assert judge.withdraw(talk.steps[2].raw, START + 3, who, OUT) == ()


def test_nothing_new_passes_while_records_cannot_be_written() -> None:
    judge, who = engine(), agent()
    Talk().open().play(judge, who)
    judge.refuse_new = True
    assert Talk(sport=1).open().play(judge, who).outcomes[0].verdict.reason is Reason.RECORDER
    assert Talk().client(b"old").play(judge, who).actions == [Action.ACCEPT]
    judge.refuse_new = False
    assert set(Talk(sport=1).open().play(judge, who).actions) == {Action.ACCEPT}


def test_a_new_policy_reaches_live_flows_and_gives_refused_ones_another_try() -> None:
    judge, who = engine(allow()), agent(default=Action.REJECT)
    talk = Talk().open()
    assert set(talk.play(judge, who).actions) == {Action.ACCEPT}
    (changed,) = judge.set_policy(Policy(2, ()), START + 1)
    assert isinstance(changed, FlowRecord) and changed.action is Action.REJECT and changed.policy_version == 2
    late = Talk()
    late.seq, late.ack = talk.seq, talk.ack
    assert late.client(b"x").play(judge, who, START + 2).actions == [Action.REJECT]
    judge.set_policy(Policy(3, (allow(),)), START + 3)
    assert set(Talk().open().play(judge, who, START + 4).actions) == {Action.ACCEPT}
