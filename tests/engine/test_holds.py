"""Mode ask: flows and queries on hold, each way in which a hold ends, and no packet that passes before."""

from __future__ import annotations

from dataclasses import replace

import pytest

from egress.engine.outcome import Outcome
from egress.limits import Limits
from egress.model import SYN, Action, Budget, BudgetSpan, Direction, Hold, Measure, Mode, Reason, Rule
from tests.engine.keeper import Keeper
from tests.engine.resolver import AAAA, RESOLVER4, A, framed, question, reply
from tests.traffic import AGENT4, AGENT6, SERVER4, SERVER6, START, Talk, agent, engine, tcp, udp

OUT, IN = Direction.OUT, Direction.IN
ASKER = agent(mode=Mode.ASK, default=Action.REJECT)
NAME, OTHER = "www.example.test", "other.example.test"
HELD, PASSED = (Action.HOLD, Reason.APPROVAL), (Action.ACCEPT, Reason.RULE)
DENIED = (Action.REJECT, Reason.APPROVAL)
SUBSCRIBE = b'{"id": 1, "method": "mining.subscribe", "params": ["cgminer/4.11"]}\n'


def allow(name: str, destination: str = "any", **more: object) -> Rule:
    return Rule(**({"id": name, "action": Action.ACCEPT, "destination": destination} | more))  # type: ignore[arg-type]


DNS = allow("dns", RESOLVER4, ports=((53, 53),))


def keeper(*rules: Rule, **limits: float) -> Keeper:
    """An engine that holds every query, for as long as flows, and asks again after a denial; unless `limits` differ."""
    chosen: dict[str, float] = {"ask_names": 0, "ask_query": 120.0, "ask_cooldown": 0.0} | limits
    return Keeper(engine(*rules, limits=Limits(**chosen)))  # type: ignore[arg-type]


def syn(sport: int = 40000, dport: int = 443, remote: str = SERVER4) -> bytes:
    return tcp(AGENT6 if ":" in remote else AGENT4, remote, sport, dport, SYN, 1000, 0)


def query(name: str, rtype: int = A, sport: int = 5353) -> bytes:
    return udp(AGENT4, RESOLVER4, sport, 53, question(name, rtype))


def said(*outcomes: Outcome) -> list[tuple[Action, Reason]]:
    return [(outcome.verdict.action, outcome.verdict.reason) for outcome in outcomes]


def only(gate: Keeper) -> Hold:
    (hold,) = gate.engine.holds.values()
    return hold


# --- flows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("remote", [SERVER4, SERVER6])
def test_a_flow_that_no_rule_speaks_of_waits_and_passes_with_the_rule_that_admits_it(remote: str) -> None:
    gate = keeper()
    assert said(gate.packet(syn(remote=remote), START, ASKER), gate.packet(syn(remote=remote), START + 1, ASKER)) == [
        HELD,
        HELD,
    ]
    hold = only(gate)
    assert (hold.agent, hold.proto, hold.dst, hold.dport, hold.destination) == ("a1", "tcp", remote, 443, remote)
    assert (hold.time, hold.until, hold.query, hold.names) == (START, START + Limits().ask_timeout, False, ())
    (waiting,) = gate.flows()
    assert (waiting.action, waiting.reason, waiting.mode) == (*HELD, Mode.ASK)
    assert hold.flow_id == waiting.flow_id and waiting.packets_out == 0
    assert said(*gate.change(START + 50, allow("yes", remote))) == [PASSED, PASSED]
    assert gate.states == ["approved"] and not gate.engine.holds
    last = gate.flows()[-1]
    assert (last.flow_id, last.action, last.rule_id) == (hold.flow_id, Action.ACCEPT, "yes")
    assert gate.engine._judge.rules.hits["yes"] == (1, START + 50)


def test_a_second_try_from_another_port_waits_for_the_same_answer() -> None:
    gate = keeper()
    gate.packet(syn(1), START, ASKER)
    gate.packet(syn(2), START + 1, ASKER)
    assert only(gate).time == START
    gate.packet(syn(1, 80), START, ASKER)
    gate.packet(syn(1, remote="203.0.113.10"), START, ASKER)
    gate.packet(udp(AGENT4, SERVER4, 1, 443, b"x"), START, ASKER)
    assert len(gate.engine.holds) == 4
    assert said(*gate.change(START + 2, allow("yes", SERVER4, protocol="tcp", ports=((443, 443),)))) == [PASSED] * 2


def test_a_once_rule_lets_one_of_two_pass_and_the_other_waits_again() -> None:
    gate = keeper()
    for sport in (1, 2):
        gate.packet(syn(sport), START, ASKER)
    assert said(*gate.change(START + 5, allow("one", SERVER4, once=True))) == [PASSED, HELD]
    assert only(gate).time == START + 5
    assert said(*gate.change(START + 6, removed=("one",))) == []  # used up: the gateway takes it away
    talk = Talk(sport=1).open().client(b"hello")
    assert said(*(gate.packet(step.raw, START + 7, ASKER, step.direction) for step in talk.steps)) == [PASSED] * 4
    assert said(*gate.change(START + 8, allow("two", SERVER4, once=True))) == [PASSED]


def test_a_flow_of_a_once_rule_that_is_gone_must_keep_to_it_and_falls_to_a_deny_rule() -> None:
    for text, then in ((b"SSH-2.0-OpenSSH_9.2\r\n", Action.ACCEPT), (b"GET / HTTP/1.1\r\n\r\n", Action.REJECT)):
        gate = Keeper(engine(only=lambda _: False))
        gate.packet(syn(dport=22), START, ASKER)
        gate.change(START + 1, allow("one", SERVER4, once=True, app="ssh"))
        gate.change(START + 2, removed=("one",))
        talk = Talk(dport=22).open().client(text)
        outcomes = [gate.packet(step.raw, START + 3, ASKER, step.direction) for step in talk.steps]
        assert outcomes[-1].verdict.action is then
        gate.change(START + 4, Rule("no", Action.REJECT, destination=SERVER4))
        assert gate.packet(talk.client(b"x").steps[-1].raw, START + 5, ASKER).verdict.action is Action.REJECT


def test_no_means_no_until_the_rules_change_about_it() -> None:
    gate = keeper()
    gate.packet(syn(), START, ASKER)
    assert said(*gate.refuse(START + 9, only(gate).id)) == [DENIED] and gate.states == ["denied"]
    gate.change(START + 10, allow("else", "192.0.2.1"))
    assert said(gate.packet(syn(), START + 20, ASKER)) == [DENIED]
    assert [record.action for record in gate.flows()] == [Action.HOLD, Action.REJECT]
    gate.change(START + 21, allow("yes", SERVER4))
    assert said(gate.packet(syn(), START + 22, ASKER)) == [PASSED]
    assert gate.engine.answer("0" * 16, Action.REJECT, START) == ()
    with pytest.raises(ValueError, match="rule"):
        gate.engine.answer("0" * 16, Action.ACCEPT, START)


def test_nobody_answers_in_time() -> None:
    gate = keeper()
    gate.packet(syn(), START, ASKER)
    until = START + Limits().ask_timeout
    while (due := gate.engine.next_tick()) < until:  # timers of the flow itself
        assert gate.tick(due) == [] and len(gate.engine.holds) == 1
    assert gate.engine.next_tick() == until
    assert said(*gate.tick(until)) == [DENIED] and gate.states == ["expired"]
    assert said(gate.packet(syn(), until + Limits().tcp_closed - 1, ASKER)) == [DENIED]
    gate.tick(until + 2 * Limits().tcp_closed)
    assert said(gate.packet(syn(), until + 61, ASKER)) == [HELD]


@pytest.mark.parametrize("mode", [Mode.ENFORCE, Mode.MONITOR])
def test_an_agent_that_does_not_ask_any_more_withdraws_what_waits(mode: Mode) -> None:
    gate = keeper()
    gate.packet(syn(), START, ASKER)
    now = replace(ASKER, mode=mode)
    gate.engine.change_agent(now, START + 1)
    action = Action.REJECT if mode is Mode.ENFORCE else Action.ACCEPT
    assert said(*gate.settle(START + 1, now)) == [(action, Reason.DEFAULT)] and gate.states == ["withdrawn"]


def test_an_agent_whose_default_is_now_to_allow_needs_no_answer() -> None:
    gate = keeper()
    gate.packet(syn(), START, ASKER)
    now = replace(ASKER, default=Action.ACCEPT)
    gate.packet(syn(2), START + 1, now)  # no call announced it, but another packet shows it
    assert gate.engine.holds
    gate.engine.change_agent(now, START + 1)
    assert said(*gate.settle(START + 1, now)) == [(Action.ACCEPT, Reason.DEFAULT)] and gate.states == ["approved"]


def test_an_agent_that_goes_takes_its_holds_along() -> None:
    gate, other = keeper(), replace(ASKER, name="b1")
    gate.packet(syn(), START, ASKER)
    gate.packet(syn(), START, other)
    (ended,) = gate.engine.release("a1", START + 1)
    assert ended.agent == "a1" and [state for _, state in gate.engine.ended_holds()] == ["withdrawn"]
    assert only(gate).agent == "b1"
    gate.engine.shutdown(START + 2)
    assert not gate.engine.holds


def test_what_is_refused_for_a_reason_does_not_wait() -> None:
    budgets = (Budget(Measure.CONNECTIONS, 0, BudgetSpan.HOUR),)
    rules = (Rule("no", Action.REJECT, destination="192.0.2.1"), allow("web", "192.0.2.2"), DNS)
    gate = keeper(*rules, Rule("never", Action.REJECT, destination="never.test"))
    gate.engine._judge.destinations.remember("a1", bytes([192, 0, 2, 3]), START)
    for raw, who, direction, reason in (
        (syn(remote="192.0.2.1"), ASKER, OUT, Reason.RULE),
        (syn(remote="192.0.2.2"), replace(ASKER, budgets=budgets), OUT, Reason.BUDGET),
        (syn(remote="192.0.2.3"), ASKER, OUT, Reason.DESTINATION),
        (tcp(SERVER4, AGENT4, 5, 22, SYN, 1, 0), ASKER, IN, Reason.INBOUND),
        (query("never.test"), ASKER, OUT, Reason.QUERY),
        (udp(AGENT4, RESOLVER4, 9, 53, b"no query"), ASKER, OUT, Reason.QUERY),
        (syn(9), replace(ASKER, quarantined=True), OUT, Reason.QUARANTINE),
        (syn(10), replace(ASKER, mode=Mode.ENFORCE), OUT, Reason.DEFAULT),
    ):
        assert said(gate.packet(raw, START, who, direction)) == [(Action.REJECT, reason)]
    assert not gate.engine.holds


def test_a_flow_that_a_rule_admitted_does_not_wait_when_the_rule_is_silent() -> None:
    gate = keeper(allow("soon", SERVER4, expires_at=START + 5))
    for step in Talk().open().steps:
        gate.packet(step.raw, START, ASKER, step.direction)
    gate.tick(START + 5)
    assert said(gate.packet(Talk().open().client(b"x").steps[-1].raw, START + 6, ASKER)) == [
        (Action.REJECT, Reason.DEFAULT)
    ]
    assert said(gate.packet(syn(2), START + 6, ASKER)) == [HELD]


def test_signatures_judge_what_was_approved() -> None:
    gate = keeper()
    talk = Talk().open().client(SUBSCRIBE)
    gate.packet(talk.steps[0].raw, START, ASKER)
    assert said(*gate.change(START + 1, allow("yes", SERVER4))) == [PASSED]
    outcomes = [gate.packet(step.raw, START + 2, ASKER, step.direction) for step in talk.steps[1:]]
    assert said(outcomes[-1]) == [(Action.REJECT, Reason.FINDING)]


def test_too_many_at_once_are_refused_and_one_agent_takes_no_others_room() -> None:
    gate, other = keeper(ask_holds=3), replace(ASKER, name="b1")
    assert said(*(gate.packet(syn(dport=port), START, ASKER) for port in range(1, 6))) == [HELD] * 3 + [DENIED] * 2
    assert said(gate.packet(syn(7, 1), START, ASKER), gate.packet(syn(), START, other)) == [HELD, HELD]
    stats = gate.engine.stats()
    assert (stats["holds"], stats["holds_refused"], stats["waiting"], stats["refused"]) == (4, 2, 4, 2)


def test_a_name_is_proposed_where_the_address_has_only_one() -> None:
    gate = keeper(DNS, allow("good", NAME, ports=((80, 80),)), allow("also", OTHER, ports=((80, 80),)))
    for name, proposed, port in ((NAME, NAME, 1), (OTHER, SERVER4, 2)):
        gate.packet(query(name, sport=port), START, ASKER)
        gate.packet(udp(RESOLVER4, AGENT4, 53, port, reply(name, (name, SERVER4))), START, ASKER, IN)
        gate.packet(syn(port, 443 + port), START, ASKER)
        hold = list(gate.engine.holds.values())[-1]
        assert hold.destination == proposed and NAME in hold.names
        assert gate.flows()[-1].names == hold.names


def test_nothing_is_admitted_while_records_cannot_be_written() -> None:
    gate = keeper()
    gate.packet(syn(), START, ASKER)
    gate.engine.admission.refuse_new = True
    assert said(*gate.change(START + 1, allow("yes", SERVER4, once=True))) == [(Action.REJECT, Reason.RECORDER)]
    gate.engine.admission.refuse_new = False
    assert said(gate.packet(syn(), START + 2, ASKER)) == [PASSED]


# --- queries --------------------------------------------------------------------------------------------


def test_both_queries_for_a_name_wait_for_one_answer_and_the_connection_follows() -> None:
    gate = keeper(DNS)
    asked = [query(NAME), query(NAME, AAAA), query(NAME.upper(), sport=6), query(NAME, AAAA, sport=7)]
    assert said(*(gate.packet(raw, START, ASKER) for raw in asked)) == [HELD] * 4
    hold = only(gate)
    assert (hold.query, hold.names, hold.destination, hold.dst, hold.dport) == (True, (NAME,), NAME, RESOLVER4, 53)
    assert gate.flows()[-1].packets_out == 0 and gate.flows()[-1].app_proto == "dns"
    assert said(*gate.change(START + 3, allow("name", NAME))) == [PASSED] * 4
    assert gate.passed == [asked[0], asked[1], asked[2], asked[3]]
    gate.packet(udp(RESOLVER4, AGENT4, 53, 5353, reply(NAME, (NAME, SERVER4))), START + 3, ASKER, IN)
    assert gate.packet(syn(), START + 3, ASKER).verdict.rule_id == "name"
    gate.engine.shutdown(START + 4)


def test_another_query_in_the_same_flow_waits_for_its_own_answer() -> None:
    gate = keeper(DNS)
    assert said(gate.packet(query(NAME), START, ASKER), gate.packet(query(OTHER), START, ASKER)) == [HELD, HELD]
    assert said(*gate.change(START + 1, allow("name", NAME))) == [PASSED, HELD]
    assert only(gate).names == (OTHER,)
    assert said(*gate.refuse(START + 2, only(gate).id)) == [DENIED]
    assert gate.passed == [query(NAME)]


def test_a_deny_rule_answers_a_query_too() -> None:
    gate = keeper(DNS)
    gate.packet(query(NAME), START, ASKER)
    assert said(*gate.change(START + 1, Rule("no", Action.REJECT, destination=NAME))) == [(Action.REJECT, Reason.QUERY)]
    assert gate.states == ["denied"]


def over_tcp(gate: Keeper, *messages: bytes, split: int = 1400) -> Talk:
    talk = Talk(dport=53, remote=RESOLVER4).open().client(framed(*messages), segment=split)
    for step in talk.steps:
        gate.packet(step.raw, START, ASKER, step.direction)
    return talk


@pytest.mark.parametrize("split", [1400, 5])
def test_queries_over_tcp_wait_one_after_the_other(split: int) -> None:
    gate = keeper(DNS)
    talk = over_tcp(gate, question(NAME), question(OTHER, ident=8), split=split)
    assert only(gate).names == (NAME,)
    gate.change(START + 1, allow("name", NAME))
    assert only(gate).names == (OTHER,)
    assert talk.steps[-1].raw not in gate.passed
    gate.change(START + 2, allow("other", OTHER))
    assert gate.passed == [step.raw for step in talk.steps] and not gate.engine.holds
    last = gate.flows()[-1]
    assert (last.action, last.packets_out) == (Action.ACCEPT, len(talk.steps) - 2)  # all before the last one


@pytest.mark.parametrize("split", [1400, 5])
def test_a_refused_query_over_tcp_does_not_come_through_by_being_sent_again(split: int) -> None:
    gate = keeper(DNS)
    talk = over_tcp(gate, question(NAME), split=split)
    before = list(gate.passed)
    assert set(said(*gate.refuse(START + 1, only(gate).id))) == {DENIED}
    assert said(gate.packet(talk.steps[-1].raw, START + 2, ASKER)) == [DENIED]
    assert gate.passed == before


def test_other_bytes_in_place_of_the_approved_query_are_refused() -> None:
    gate = keeper(DNS)
    talk = over_tcp(gate, question(NAME))
    gate.change(START + 1, allow("name", NAME))
    talk.raw_client(-len(framed(question(NAME))), framed(question(NAME[:-4] + "evil")))
    assert said(gate.packet(talk.steps[-1].raw, START + 2, ASKER)) == [(Action.REJECT, Reason.FINDING)]


def test_a_segment_with_too_many_questions_is_refused() -> None:
    gate = keeper(DNS)
    talk = over_tcp(gate, *(question(f"n{number}.test", ident=number) for number in range(80)), split=4000)
    assert talk.steps[-1].raw not in gate.passed
    last = gate.flows()[-1]
    assert (last.action, last.reason) == (Action.REJECT, Reason.QUERY)


def test_bytes_are_counted_once_against_a_budget() -> None:
    who = replace(ASKER, budgets=(Budget(Measure.BYTES, 2 * len(query(NAME)), BudgetSpan.HOUR),))
    gate = keeper(DNS)
    for _ in range(3):
        gate.packet(query(NAME), START, who)
    assert said(*gate.change(START + 1, allow("name", NAME))) == [PASSED, PASSED, (Action.REJECT, Reason.BUDGET)]
