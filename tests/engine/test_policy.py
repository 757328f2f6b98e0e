"""The written order of verdicts: deny, allow, default; application protocols; who a rule is for."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.engine.policy import Rulebook, exempt
from egress.model import TCP, UDP, Action, Agent, Policy, Reason, Rule
from tests.traffic import agent


@dataclass
class Target:
    remote: bytes = ip_address("203.0.113.9").packed
    rport: int = 443
    proto: int = TCP
    outbound: bool = True
    app: str = ""


DENIED = agent(default=Action.REJECT)


def decide(*rules: Rule, who: Agent = DENIED, target: Target | None = None) -> tuple[Action, Reason, str]:
    verdict, _ = Rulebook(Policy(3, rules)).decide(who, target or Target())
    assert verdict.policy_version == 3
    return verdict.action, verdict.reason, verdict.rule_id


def allow(**changes: object) -> Rule:
    return Rule(**({"id": "allow", "action": Action.ACCEPT} | changes))  # type: ignore[arg-type]


def deny(**changes: object) -> Rule:
    return Rule(**({"id": "deny", "action": Action.REJECT} | changes))  # type: ignore[arg-type]


def test_the_default_speaks_where_no_rule_does() -> None:
    assert decide() == (Action.REJECT, Reason.DEFAULT, "")
    assert decide(who=agent()) == (Action.ACCEPT, Reason.DEFAULT, "")


def test_deny_beats_allow_in_any_order() -> None:
    assert decide(allow(), deny()) == decide(deny(), allow()) == (Action.REJECT, Reason.RULE, "deny")


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        (allow(destination="203.0.113.9"), True),
        (allow(destination="203.0.113.0/24"), True),
        (allow(destination="203.0.112.0/24"), False),
        (allow(destination="2001:db8::/32"), False),
        (allow(destination="::/0"), False),
        (allow(ports=((443, 443),)), True),
        (allow(ports=((1, 442), (444, 65535))), False),
        (allow(protocol="tcp"), True),
        (allow(protocol="udp"), False),
        (allow(protocol="6"), True),
        (allow(agent="a?"), True),
        (allow(agent="b*"), False),
        (allow(app="ssh"), True),
    ],
)
def test_what_a_rule_reaches(rule: Rule, matches: bool) -> None:
    assert (decide(rule)[0] is Action.ACCEPT) == matches


def test_an_application_rule_is_asked_again_once_the_protocol_is_known() -> None:
    rule = allow(app="ssh")
    assert decide(rule, target=Target(app="ssh"))[0] is Action.ACCEPT
    assert decide(rule, target=Target(app="tls")) == (Action.REJECT, Reason.APPLICATION, "allow")
    assert decide(rule, target=Target(app="unknown")) == (Action.REJECT, Reason.APPLICATION, "allow")
    assert decide(deny(app="ssh"), who=agent(), target=Target())[0] is Action.ACCEPT
    assert decide(deny(app="ssh"), who=agent(), target=Target(app="ssh"))[0] is Action.REJECT


def test_flows_from_outside_need_more_than_an_allow_rule() -> None:
    inbound = Target(outbound=False)
    assert decide(allow(), target=inbound) == (Action.REJECT, Reason.INBOUND, "")
    assert decide(who=agent(), target=inbound) == (Action.ACCEPT, Reason.DEFAULT, "")
    assert decide(deny(), who=agent(), target=inbound) == (Action.REJECT, Reason.RULE, "deny")


def test_exemptions_name_a_signature_or_a_family() -> None:
    rule = allow(exempt=("ssh.*", "beacon.timing"))
    assert exempt(rule, "ssh.unusual-port") and exempt(rule, "beacon.timing")
    assert not exempt(rule, "mining.stratum") and not exempt(None, "ssh.unusual-port")


networks = st.sampled_from(["any", "203.0.113.9", "203.0.113.0/28", "203.0.0.0/8", "2001:db8::/64", "2001:db8::9"])
ports = st.sampled_from([(), ((443, 443),), ((1, 1000),), ((22, 22), (8000, 9000))])
rules = st.builds(
    Rule,
    id=st.uuids().map(str),
    action=st.sampled_from([Action.ACCEPT, Action.REJECT]),
    agent=st.sampled_from(["*", "a1", "a*", "b1"]),
    destination=networks,
    protocol=st.sampled_from(["", "tcp", "udp"]),
    ports=ports,
)
targets = st.builds(
    Target,
    remote=st.sampled_from([ip_address(a).packed for a in ("203.0.113.9", "203.0.113.200", "8.8.8.8", "2001:db8::9")]),
    rport=st.sampled_from([22, 53, 443, 8080]),
    proto=st.sampled_from([TCP, UDP]),
)


@given(st.lists(rules, max_size=6), targets)
def test_agrees_with_an_obvious_reference(some: list[Rule], target: Target) -> None:
    def reaches(rule: Rule) -> bool:
        address = ip_address(target.remote)
        return (
            rule.agent in ("*", "a1", "a*")
            and (rule.destination == "any" or address in ip_network(rule.destination))
            and rule.protocol in ("", {TCP: "tcp", UDP: "udp"}[target.proto])
            and (not rule.ports or any(target.rport in range(low, high + 1) for low, high in rule.ports))
        )

    matching = [rule for rule in some if reaches(rule)]
    denied = any(rule.action is Action.REJECT for rule in matching)
    expected = Action.ACCEPT if matching and not denied else Action.REJECT
    assert decide(*some, target=target)[0] is expected
