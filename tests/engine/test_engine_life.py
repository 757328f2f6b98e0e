"""The life of flows in the engine: their ends, and the withdrawal of a flow."""

from __future__ import annotations

from egress.model import ACK, Action, Direction, Policy, Reason, Rule
from egress.records.shape import FlowRecord
from tests.traffic import START, Talk, agent, engine, tcp

SUBSCRIBE = b'{"id": 1, "method": "mining.subscribe", "params": ["cgminer/4.11"]}\n'
OUT = Direction.OUT


def allow(**changes: object) -> Rule:
    return Rule(**({"id": "r1", "action": Action.ACCEPT} | changes))  # type: ignore[arg-type]


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
    judge.admission.refuse_new = True
    assert judge.packet(first.raw, START + 1, who, OUT).verdict.reason is Reason.RECORDER
    judge.admission.refuse_new = False
    assert set(talk.play(judge, who, START + 2).actions) == {Action.ACCEPT}
    assert judge.withdraw(talk.steps[2].raw, START + 3, who, OUT) == ()


def test_nothing_new_passes_while_records_cannot_be_written() -> None:
    judge, who = engine(), agent()
    Talk().open().play(judge, who)
    judge.admission.refuse_new = True
    assert Talk(sport=1).open().play(judge, who).outcomes[0].verdict.reason is Reason.RECORDER
    assert Talk().client(b"old").play(judge, who).actions == [Action.ACCEPT]
    judge.admission.refuse_new = False
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


def test_a_connection_that_is_idle_until_its_keep_alive_lives() -> None:
    """TCP sends its first keep-alive after 7200 s; RFC 5382 (REQ-5) asks for 7440 s of patience."""
    for silence, passes in ((7200, True), (7440, True), (8000, False)):
        judge, who = engine(allow()), agent(default=Action.REJECT)
        talk = Talk().open().client(b"SELECT 1").server(b"1")
        talk.play(judge, who)
        probe = tcp(talk.local, talk.remote, talk.sport, talk.dport, ACK, talk.seq - 1, talk.ack)
        ts = START + silence
        while judge.next_tick() <= ts:
            judge.tick(judge.next_tick())
        assert (judge.packet(probe, ts, who, OUT).verdict.action is Action.ACCEPT) is passes
