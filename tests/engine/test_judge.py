"""The judge: the order of rules, names, refused destinations and budgets, and the refusals that stand."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from egress.dissection.events import DnsAnswered, DnsAsked, Named
from egress.engine.flow import Flow
from egress.engine.judge import Judge
from egress.limits import Limits
from egress.model import Action, Agent, Budget, BudgetSpan, Direction, Measure, Policy, PolicyChange, Reason, Rule
from egress.wire import dns
from egress.wire.packet import decode
from tests.engine.resolver import question, reply
from tests.traffic import AGENT4, SERVER4, START, agent, udp

OUT, IN = Direction.OUT, Direction.IN
NAME = "www.example.test"
REMOTE = ip_address(SERVER4).packed


def rule(name: str, destination: str = "any", **more: object) -> Rule:
    return Rule(**({"id": name, "action": Action.ACCEPT, "destination": destination} | more))  # type: ignore[arg-type]


def judge(*rules: Rule, gate_queries: bool = True) -> Judge:
    return Judge(Limits(), Policy(1, rules), gate_queries=gate_queries, refuse_ech=False)


def flow(who: Agent, port: int = 443, remote: str = SERVER4) -> Flow:
    packet = decode(udp(AGENT4, remote, 40000, port, b"x"))
    return Flow(who, (packet.proto, packet.src, packet.sport, packet.dst, packet.dport), packet, START, OUT)


def admit(judge: Judge, made: Flow, ts: float = START) -> tuple[Action, Reason, str]:
    """Admit a flow as the engine does: it has the verdict from then on."""
    made.verdict = judge.admit(made, ts)
    return made.verdict.action, made.verdict.reason, made.verdict.rule_id


def again(judge: Judge, made: Flow, ts: float = START) -> tuple[Action, Reason, str]:
    made.verdict = judge.verdict(made, ts)
    return made.verdict.action, made.verdict.reason, made.verdict.rule_id


def teach(judge: Judge, who: Agent, name: str = NAME, ts: float = START) -> None:
    answer = dns.answer(reply(name, (name, SERVER4)))
    assert judge.observe(flow(who, 53), DnsAnswered(IN, answer), ts) is False


DENIED, FREE = agent(default=Action.REJECT), agent()


def test_a_refused_destination_is_above_every_allow_and_below_a_refusal() -> None:
    for who, rules, says in (
        (DENIED, [rule("all")], Reason.DESTINATION),
        (FREE, [], Reason.DESTINATION),
        (DENIED, [], Reason.DEFAULT),
        (FREE, [rule("no", action=Action.REJECT)], Reason.RULE),
    ):
        asked = judge(*rules)
        asked.destinations.remember("a1", REMOTE, START)
        assert admit(asked, flow(who))[:2] == (Action.REJECT, says)


def test_a_budget_is_asked_last_and_stands_until_the_rules_change() -> None:
    who = agent(default=Action.REJECT, budgets=(Budget(Measure.CONNECTIONS, 1, BudgetSpan.MINUTE),))
    asked = judge(rule("web", ports=((443, 443),)))
    assert admit(asked, flow(who, 80)) == (Action.REJECT, Reason.DEFAULT, "")  # costs nothing
    assert admit(asked, flow(who)) == (Action.ACCEPT, Reason.RULE, "web")
    second = flow(who)
    assert admit(asked, second) == again(asked, second, START + 99) == (Action.REJECT, Reason.BUDGET, "web")
    assert admit(asked, flow(who), START + 120)[0] is Action.ACCEPT
    assert asked.rules.hits["web"] == (3, START + 120)


def test_bytes_past_a_budget_are_said_once_to_each_flow() -> None:
    who = agent(budgets=(Budget(Measure.BYTES, 100, BudgetSpan.HOUR),))
    asked, made = judge(), flow(who)
    admit(asked, made)
    assert not asked.count_bytes(made, 100, START)
    assert asked.count_bytes(made, 1, START)
    assert again(asked, made) == (Action.REJECT, Reason.BUDGET, "")
    assert not asked.count_bytes(flow(FREE), 1 << 40, START)


def test_an_answer_binds_for_its_agent_until_it_is_forgotten() -> None:
    asked, other = judge(rule("good", NAME)), agent(name="a2", default=Action.REJECT)
    teach(asked, DENIED)
    made = flow(DENIED)
    assert admit(asked, made) == (Action.ACCEPT, Reason.RULE, "good")
    assert admit(asked, flow(other))[1] is Reason.DEFAULT
    asked.forget("a1")
    assert admit(asked, flow(DENIED))[1] is Reason.DEFAULT
    assert again(asked, made)[0] is Action.ACCEPT  # by the names it was admitted with


def test_a_later_name_does_not_make_good_an_earlier_one() -> None:
    asked, made = judge(rule("good", NAME)), flow(DENIED)
    teach(asked, DENIED)
    admit(asked, made)
    assert asked.observe(made, Named(NAME, hidden=False), START)
    assert again(asked, made)[0] is Action.ACCEPT
    assert asked.observe(made, Named("evil.test", hidden=False), START)
    assert again(asked, made) == (Action.REJECT, Reason.NAME, "good")
    assert not asked.observe(made, Named(NAME, hidden=False), START)
    assert again(asked, made) == (Action.REJECT, Reason.NAME, "good")


RESOLVER = "10.9.9.9"


@pytest.mark.parametrize(
    ("name", "gate", "who", "refused"),
    [
        (NAME, True, DENIED, False),
        (NAME.upper(), True, DENIED, False),
        ("evil.test", True, DENIED, True),
        ("evil.test", False, DENIED, False),
        ("evil.test", True, FREE, False),
        (None, True, DENIED, True),
        (None, False, DENIED, False),
        (None, True, FREE, False),
    ],
)
def test_a_query_is_judged_by_its_name(name: str | None, gate: bool, who: Agent, refused: bool) -> None:
    asked = judge(rule("dns", RESOLVER), rule("good", NAME), gate_queries=gate)
    made = flow(who, 53, RESOLVER)
    admit(asked, made)
    query = None if name is None else dns.query(question(name))
    verdict = asked.query_refusal(made, DnsAsked(OUT, query), START)
    assert (verdict is not None and (verdict.action, verdict.reason) == (Action.REJECT, Reason.QUERY)) is refused
    good = dns.query(question(NAME))
    assert asked.query_refusal(made, DnsAsked(OUT, good), START) is None
    assert again(asked, made)[0] is Action.ACCEPT


@pytest.mark.parametrize(("app", "refused"), [("", True), ("dns", True), ("ssh", False)])
def test_bytes_that_are_no_query_pass_where_the_rule_is_for_something_else(app: str, refused: bool) -> None:
    asked = judge(rule("port", RESOLVER, ports=((53, 53),), app=app))
    made = flow(DENIED, 53, RESOLVER)
    admit(asked, made)
    assert (asked.query_refusal(made, DnsAsked(OUT, None), START) is not None) is refused


def test_the_reverse_name_of_an_address_that_may_be_reached() -> None:
    asked = judge(rule("dns", RESOLVER), rule("good", NAME))
    reverse = DnsAsked(OUT, dns.query(question(".".join(reversed(SERVER4.split("."))) + ".in-addr.arpa", 12)))
    assert asked.query_refusal(flow(DENIED, 53, RESOLVER), reverse, START)
    teach(asked, DENIED)
    assert not asked.query_refusal(flow(DENIED, 53, RESOLVER), reverse, START)


def test_a_once_rule_is_good_for_the_flow_it_admitted_and_for_no_other() -> None:
    asked, made = judge(rule("one", once=True)), flow(DENIED)
    assert admit(asked, made)[2] == "one"
    assert admit(asked, flow(DENIED))[1] is Reason.DEFAULT
    assert again(asked, made) == (Action.ACCEPT, Reason.RULE, "one")
    asked.set_policy(Policy(2, (rule("one", once=True),)))
    assert admit(asked, flow(DENIED))[1] is Reason.DEFAULT
    assert again(asked, made)[0] is Action.ACCEPT


def test_what_a_once_rule_admitted_outlives_it_but_not_its_time_and_no_deny_rule() -> None:
    asked, made = judge(rule("one", once=True, app="ssh", expires_at=START + 9)), flow(DENIED)
    assert admit(asked, made) == (Action.ACCEPT, Reason.RULE, "one")
    asked.change_policy(PolicyChange(1, 2, ("one",)))
    assert again(asked, made) == (Action.ACCEPT, Reason.RULE, "one")
    made.app = "ssh"
    assert again(asked, made) == (Action.ACCEPT, Reason.RULE, "one")
    assert admit(asked, flow(DENIED))[1] is Reason.DEFAULT
    other = flow(DENIED)
    other.rule, other.app = made.rule, "tls"
    assert again(asked, other)[1] is Reason.DEFAULT
    late = flow(DENIED)
    late.rule = made.rule
    assert again(asked, late, START + 9)[1] is Reason.DEFAULT
    asked.change_policy(PolicyChange(2, 3, (), (rule("no", action=Action.REJECT),)))
    assert again(asked, made) == (Action.REJECT, Reason.RULE, "no")
    asked.change_policy(PolicyChange(3, 4, ("no",)))
    assert again(asked, made)[1] is Reason.DEFAULT  # once refused it has no rule any more


def test_a_flow_that_is_refused_uses_up_no_once_rule() -> None:
    asked = judge(rule("one", once=True))
    asked.destinations.remember("a1", REMOTE, START)
    assert admit(asked, flow(DENIED))[1] is Reason.DESTINATION
    none = agent(default=Action.REJECT, budgets=(Budget(Measure.CONNECTIONS, 0, BudgetSpan.HOUR),))
    other = "192.0.2.9"
    assert admit(asked, flow(none, remote=other))[1] is Reason.BUDGET
    assert admit(asked, flow(DENIED, remote=other)) == (Action.ACCEPT, Reason.RULE, "one")


def test_quarantine_is_above_everything_and_takes_nothing_from_what_stood() -> None:
    who = agent(budgets=(Budget(Measure.CONNECTIONS, 0, BudgetSpan.HOUR),))
    asked, made = judge(), flow(who)
    assert admit(asked, made)[1] is Reason.BUDGET
    made.adopt(agent(quarantined=True))
    assert again(asked, made) == (Action.REJECT, Reason.QUARANTINE, "")
    made.adopt(who)
    assert again(asked, made)[1] is Reason.BUDGET
