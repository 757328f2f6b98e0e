"""Attacks of a programmer with root in the sandbox: each test sends bytes that an honest receiver would accept."""

from __future__ import annotations

import pytest

from egress.limits import Limits
from egress.model import ACK, FIN, PSH, SYN, URG, Action, Direction, Mode, Policy, Reason, Rule
from tests.traffic import AGENT4, SERVER4, START, Step, Talk, agent, echo, engine, ip_packet, play, tcp

SUBSCRIBE = b'{"id": 1, "method": "mining.subscribe", "params": ["cgminer/4.11"]}\n'
SSH = b"SSH-2.0-OpenSSH_9.2\r\n"
OUT = Direction.OUT
BEGINNINGS = [
    tcp(AGENT4, SERVER4, 22, 443, SYN | ACK, 1000, 5),
    tcp(AGENT4, SERVER4, 22, 443, PSH | ACK, 1001, 5, b"S"),
]


def resumed(talk: Talk) -> Talk:
    """The same connection without its steps so far, to be continued later."""
    rest = Talk(sport=talk.sport)
    rest.seq, rest.ack = talk.seq, talk.ack
    return rest


def test_urgent_data_does_not_pass_uninspected() -> None:
    """Linux removes the urgent byte from the stream: the application reads SSH-2.0."""
    talk = Talk().open()
    raw = tcp(AGENT4, SERVER4, 40000, 443, PSH | ACK | URG, talk.seq, talk.ack, b"SSXH-2.0-Go\r\n")
    talk.steps.append(Step(raw, OUT, 0.001))
    played = talk.play(engine(), agent())
    assert played.actions[-1] is Action.DROP and played.outcomes[-1].verdict.reason is Reason.SEQUENCE
    assert talk.play(engine(), agent(mode=Mode.MONITOR)).actions[-1] is Action.ACCEPT


@pytest.mark.parametrize("first", BEGINNINGS)
def test_no_forged_beginning_turns_the_connection_around(first: bytes) -> None:
    """A SYN-ACK or a stray segment from port 22 comes first: the flow still counts as opened by the agent."""
    talk = Talk(sport=22)
    talk.steps.append(Step(first, OUT, 0.001))
    talk.open().server(SSH).client(SSH)
    assert talk.play(engine(), agent()).signatures == ["ssh.unusual-port"]


def test_the_answer_to_a_syn_that_was_not_seen_opens_nothing() -> None:
    talk = Talk()
    talk.seq += 1
    talk._in(SYN | ACK)
    played = talk.play(engine(), agent())
    assert played.actions == [Action.DROP] and played.outcomes[0].verdict.reason is Reason.SEQUENCE


def test_a_flow_seen_and_forgotten_is_not_picked_up_even_soon_after_a_start() -> None:
    judge, who = engine(), agent()
    talk = Talk().open().client(SUBSCRIBE[:30]).reset()
    talk.play(judge, who)
    late = START + Limits().tcp_closed + 1
    judge.tick(late)
    assert judge.stats()["live_flows"] == 0
    played = resumed(talk).client(SUBSCRIBE[30:]).play(judge, who, late)
    assert played.outcomes[0].verdict.reason is Reason.MIDSTREAM
    assert Talk(sport=2).client(b"older than we are").play(judge, who, late).actions == [Action.ACCEPT]


def test_a_login_after_enough_empty_lines_is_still_seen() -> None:
    login = b'{"id":1,"method":"login","params":{"login":"' + b"4" * 95 + b'","pass":"x"}}\n'
    played = Talk().open().client(b"\n" * 66000).client(login).play(engine(), agent())
    assert played.signatures == ["mining.stratum"] and played.actions[-1] is Action.REJECT


@pytest.mark.parametrize("raw", [echo(AGENT4, SERVER4, 7, b"x" * 900), ip_packet(AGENT4, SERVER4, 47, b"x" * 900)])
def test_a_rule_for_an_application_opens_no_other_protocol(raw: bytes) -> None:
    judge, who = engine(Rule("r1", Action.ACCEPT, app="tls")), agent(default=Action.REJECT)
    assert play(judge, who, [Step(raw, OUT, 0.1)]).actions == [Action.REJECT]


def test_an_exemption_taken_back_reaches_a_live_flow() -> None:
    judge, who = engine(Rule("r1", Action.ACCEPT, exempt=("mining.*",))), agent()
    talk = Talk().open().client(SUBSCRIBE)
    assert set(talk.play(judge, who).actions) == {Action.ACCEPT}
    judge.set_policy(Policy(2, ()), START + 1)
    assert resumed(talk).client(SUBSCRIBE).play(judge, who, START + 2).actions == [Action.REJECT]


def test_many_tiny_waiting_segments_are_paid_for() -> None:
    judge, who = engine(limits=Limits(max_buffered=400_000)), agent()
    refused = 0
    for port in range(1000, 1010):
        talk = Talk(sport=port).open()
        for number in range(500):
            talk.raw_client(10 + 3 * number, b"ab")
        refused += Action.REJECT in talk.play(judge, who).actions
    assert refused > 0


def test_a_half_closed_connection_may_wait_for_its_answer() -> None:
    judge, who = engine(), agent()
    talk = Talk().open().client(b"query\n")
    talk._out(FIN | ACK)
    talk.seq += 1
    talk.play(judge, who)
    late = START + 10 * Limits().tcp_closed
    judge.tick(late)
    assert resumed(talk).server(b"answer").play(judge, who, late).actions == [Action.ACCEPT]


def test_agents_that_fill_the_tables_together_do_not_lock_another_out() -> None:
    judge = engine(limits=Limits(max_flows=80, max_flows_agent=20))
    for number in range(4):
        for port in range(1000, 1020):
            Talk(sport=port).open().client(b"x").play(judge, agent(name=f"hog{number}"))
    assert set(Talk().open().play(judge, agent(name="b1"), START + 1).actions) == {Action.ACCEPT}
    assert judge.stats()["live_flows"] == 80


def test_a_first_message_cut_in_a_settled_flow_is_refused_with_its_beginning() -> None:
    judge, who = engine(limits=Limits(settle_bytes=20000)), agent()
    talk = Talk().open().client(b"\n" * 30000)
    assert talk.play(judge, who).outcomes[-1].verdict.settled
    late = Talk()
    late.seq, late.ack = talk.seq, talk.ack
    late.client(b'{"id":1,"method":"mining.subscribe","params":["cgminer/4.11"]}\n', segment=20)
    played = late.play(judge, who, START + 1)
    assert played.signatures == ["mining.stratum"] and b"}" not in played.passed(late.steps)
