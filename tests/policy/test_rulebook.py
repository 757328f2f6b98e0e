"""The order of verdicts: deny, allow, default; names and applications asked for again; agents that a rule selects."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import ip_address

import pytest

from egress.model import TCP, UDP, Action, Agent, Policy, Reason, Rule
from egress.policy.rulebook import Rulebook, exempt
from tests.traffic import START, agent


@dataclass
class Target:
    remote: bytes = ip_address("203.0.113.9").packed
    rport: int = 443
    proto: int = TCP
    outbound: bool = True
    app: str = ""
    excluded: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    said: str | None = None
    hidden: bool = False
    rule: Rule | None = None


DENIED = agent(default=Action.REJECT)
X = Target(names=frozenset({"www.x.org"}))


def decide(
    *rules: Rule, who: Agent = DENIED, target: Target | None = None, ts: float = START
) -> tuple[Action, Reason, str]:
    verdict, rule = Rulebook(Policy(3, rules)).decide(who, target or Target(), ts)
    assert verdict.policy_version == 3
    assert rule is None or (rule.id == verdict.rule_id and verdict.action is Action.ACCEPT)
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


def test_the_first_of_several_speaks() -> None:
    rules = [allow(id=name, destination=to) for name, to in [("1", "203.0.113.0/24"), ("2", "any"), ("3", "*.x.org")]]
    assert decide(*rules, target=X)[2] == "1" and decide(*reversed(rules), target=X)[2] == "3"


@pytest.mark.parametrize(
    ("rule", "admits"),
    [
        (allow(destination="203.0.113.9"), True),
        (allow(destination="203.0.113.0/24"), True),
        (allow(destination="203.0.112.0/24"), False),
        (allow(destination="2001:db8::/32"), False),
        (allow(destination="::/0"), False),
        (allow(destination="www.x.org"), True),
        (allow(destination="*.x.org"), True),
        (allow(destination="**.org"), True),
        (allow(destination="x.org"), False),
        (allow(ports=((443, 443),)), True),
        (allow(ports=((1, 442), (444, 65535))), False),
        (allow(protocol="tcp"), True),
        (allow(protocol="udp"), False),
        (allow(protocol="6"), True),
        (allow(agent="a?"), True),
        (allow(agent="a1"), True),
        (allow(agent="b*"), False),
        (allow(agent="label:gpu"), True),
        (allow(agent="label:team-*"), True),
        (allow(agent="label:a1"), False),
        (allow(agent="gpu"), False),
        (allow(app="ssh"), True),
    ],
)
def test_what_a_rule_reaches(rule: Rule, admits: bool) -> None:
    who = agent(default=Action.REJECT, labels=("gpu", "team-red"))
    assert (decide(rule, who=who, target=X)[0] is Action.ACCEPT) == admits


def test_an_application_rule_is_asked_again_once_the_protocol_is_known() -> None:
    rule = allow(app="ssh")
    assert decide(rule, target=Target(app="ssh"))[0] is Action.ACCEPT
    assert decide(rule, target=Target(app="tls")) == (Action.REJECT, Reason.APPLICATION, "allow")
    assert decide(rule, target=Target(app="unknown")) == (Action.REJECT, Reason.APPLICATION, "allow")
    assert decide(deny(app="ssh"), who=agent(), target=Target())[0] is Action.ACCEPT
    assert decide(deny(app="ssh"), who=agent(), target=Target(app="ssh"))[0] is Action.REJECT


# --- names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (None, Reason.RULE),
        ("www.x.org", Reason.RULE),
        ("WwW.x.ORG.", Reason.RULE),
        ("api.x.org", Reason.RULE),
        ("www.y.org", Reason.NAME),
        ("x.org", Reason.NAME),
        ("a.www.x.org", Reason.NAME),
        ("www.x.org.evil.com", Reason.NAME),
        ("evil.com/.x.org", Reason.NAME),
        ("b!.x.org", Reason.NAME),
        ("", Reason.NAME),
        ("203.0.113.9", Reason.NAME),
    ],
)
def test_a_bound_address_admits_until_the_bytes_say_another_name(said: str | None, reason: Reason) -> None:
    action = Action.ACCEPT if reason is Reason.RULE else Action.REJECT
    assert decide(allow(destination="*.x.org"), target=replace(X, said=said)) == (action, reason, "allow")


def test_an_address_without_a_binding_is_an_address_only() -> None:
    rule = allow(destination="www.x.org")
    assert decide(rule) == decide(rule, target=Target(said="www.x.org")) == (Action.REJECT, Reason.DEFAULT, "")
    assert decide(rule, allow(id="net", destination="203.0.113.0/24"), target=Target(said="x"))[2] == "net"


@pytest.mark.parametrize(
    ("said", "hidden"),
    [("", False), ("192.0.2.7", False), ("2001:db8::1", False), ("www.x.org", True), ("cloudflare-ech.com", True)],
)
def test_a_hidden_name_needs_a_rule_that_says_so(said: str, hidden: bool) -> None:
    target = replace(X, said=said, hidden=hidden)
    assert decide(allow(destination="www.x.org"), target=target) == (Action.REJECT, Reason.NAME, "allow")
    assert decide(allow(destination="www.x.org", unnamed=True), target=target)[0] is Action.ACCEPT


def test_unnamed_is_no_leave_to_say_another_name() -> None:
    rule = allow(destination="www.x.org", unnamed=True)
    for hidden in (False, True):
        assert decide(rule, target=replace(X, said="www.y.org", hidden=hidden))[1] is Reason.NAME
    assert decide(rule, target=replace(X, said="cloudflare-ech.com"))[1] is Reason.NAME


def test_two_sites_on_one_address() -> None:
    shared = Target(names=frozenset({"a.org", "b.org"}))
    a, b = allow(id="a", destination="a.org"), allow(id="b", destination="b.org")
    assert decide(a, target=replace(shared, said="b.org")) == (Action.REJECT, Reason.NAME, "a")
    assert decide(a, b, target=replace(shared, said="b.org")) == (Action.ACCEPT, Reason.RULE, "b")


def test_a_deny_rule_finds_a_name_bound_or_said() -> None:
    rule = deny(destination="**.x.org")
    assert decide(rule, who=agent(), target=X)[2] == "deny"
    assert decide(rule, who=agent(), target=Target(said="A.X.org"))[2] == "deny"
    assert decide(rule, who=agent(), target=Target(said="bad label!.x.org"))[2] == "deny"
    assert decide(rule, who=agent(), target=replace(Target(), said="x.org"))[0] is Action.ACCEPT


def test_a_name_that_no_host_has_is_not_allowed_by_a_wildcard() -> None:
    strange = Target(names=frozenset({"a b.x.org", "\\046.x.org"}))
    assert decide(allow(destination="**.x.org"), target=strange)[0] is Action.REJECT


# --- time ---------------------------------------------------------------------------------------------


def test_expiry_to_the_microsecond() -> None:
    book = Rulebook(
        Policy(1, (allow(expires_at=START + 60), deny(id="d", destination="8.8.8.8", expires_at=START + 5)))
    )

    def admitted(ts: float) -> bool:
        return book.decide(DENIED, Target(), ts)[0].action is Action.ACCEPT

    assert admitted(START) and admitted(START + 60 - 1e-6)
    assert not admitted(START + 60) and not admitted(START + 61)
    moments = [book.next_expiry(ts) for ts in (START, START + 5 - 1e-6, START + 5, START + 60 - 1e-6, START + 60)]
    assert moments == [START + 5, START + 5, START + 60, START + 60, float("inf")]


def test_a_once_rule_admits_one_flow_and_stays_good_for_it() -> None:
    once = allow(once=True)
    book = Rulebook(Policy(1, (once,)))
    verdict, rule = book.decide(DENIED, Target(), START)
    assert verdict.action is Action.ACCEPT and rule is not None
    assert book.decide(DENIED, Target(), START)[0].action is Action.ACCEPT, "a decision alone does not use the rule up"
    book.spend(rule)
    for later in (book, Rulebook(Policy(2, (allow(id="z", destination="8.8.8.8"), once)), book)):
        assert later.decide(DENIED, Target(), START)[0].reason is Reason.DEFAULT
        assert later.decide(DENIED, Target(rule=once), START)[1] == once
    edited = Rulebook(Policy(3, (allow(once=True, comment="again"),)), book)
    assert edited.decide(DENIED, Target(), START)[0].action is Action.ACCEPT
    other = allow(id="other")
    standing = Rulebook(Policy(1, (other,)))
    standing.spend(other)
    assert standing.decide(DENIED, Target(), START)[0].action is Action.ACCEPT


def test_hits_outlive_an_edit_but_not_their_rule() -> None:
    book = Rulebook(Policy(1, (allow(), deny(destination="8.8.8.8"))))
    for rule_id, ts in (("allow", START), ("allow", START + 1), ("deny", START + 2)):
        book.hit(rule_id, ts)
    assert book.hits == {"allow": (2, START + 1), "deny": (1, START + 2)}
    assert Rulebook(Policy(2, (allow(comment="edited"),)), book).hits == {"allow": (2, START + 1)}


def test_a_relabelled_agent_is_another() -> None:
    book = Rulebook(Policy(1, (allow(agent="label:gpu"),)))
    for labels, action in (((), Action.REJECT), (("gpu",), Action.ACCEPT), ((), Action.REJECT)):
        who = agent(default=Action.REJECT, labels=labels)
        assert book.decide(who, Target(), START)[0].action is action


# --- queries ------------------------------------------------------------------------------------------


def resolve(
    name: str, *rules: Rule, who: Agent = DENIED, names: frozenset[str] = frozenset()
) -> tuple[Action, Reason, str]:
    verdict, rule = Rulebook(Policy(3, rules)).may_resolve(who, name, START, names)
    assert rule is None or rule.id == verdict.rule_id
    return verdict.action, verdict.reason, verdict.rule_id


REFUSED = (Action.REJECT, Reason.QUERY, "")
ALLOWED = (Action.ACCEPT, Reason.RULE, "allow")


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (allow(destination="www.x.org"), ALLOWED),
        (allow(destination="WWW.x.org"), ALLOWED),
        (allow(destination="*.x.org", app="ssh", ports=((22, 22),), protocol="tcp"), ALLOWED),
        (allow(destination="x.org"), REFUSED),
        (allow(destination="203.0.113.9"), REFUSED),
        (allow(destination="0.0.0.0/0"), ALLOWED),
        (allow(), ALLOWED),
        (allow(ports=((443, 443),)), ALLOWED),
        (allow(ports=((53, 53), (443, 443))), ALLOWED),
        (allow(ports=((53, 53),)), REFUSED),
        (allow(app="dns"), REFUSED),
        (allow(destination="www.x.org", agent="other"), REFUSED),
        (allow(destination="www.x.org", expires_at=START), REFUSED),
    ],
)
def test_a_query_is_allowed_where_a_flow_by_that_name_could_be(
    rule: Rule, expected: tuple[Action, Reason, str]
) -> None:
    assert resolve("wWw.X.org.", rule) == expected


def test_what_is_denied_whole_is_not_resolved() -> None:
    denied = (Action.REJECT, Reason.QUERY, "deny")
    for who in (DENIED, agent()):
        assert resolve("a.x.org", allow(destination="**.org"), deny(destination="*.x.org"), who=who) == denied
        assert (
            resolve("a.x.org", allow(destination="**.org"), deny(destination="*.x.org", app="ssh"), who=who)[2]
            != "deny"
        )
    assert resolve("a.x.org", who=agent()) == (Action.ACCEPT, Reason.DEFAULT, "")
    assert resolve("a.x.org", deny(), who=agent()) == denied


def test_exfiltration_under_a_strange_name() -> None:
    assert resolve("se\\032cret.x.org", allow(destination="**.x.org")) == REFUSED
    assert resolve("", allow(destination="**.x.org")) == REFUSED


def test_reverse_names_of_what_may_be_reached() -> None:
    name = "9.113.0.203.in-addr.arpa"
    assert resolve(name, allow(destination="203.0.113.0/24")) == ALLOWED
    assert resolve(name, allow(ports=((53, 53),))) == ALLOWED
    assert resolve(name, allow(destination="203.0.112.0/24")) == REFUSED
    assert resolve(name, allow(destination="x.org"), names=frozenset({"x.org"})) == ALLOWED
    assert resolve(name, allow(destination="x.org")) == REFUSED
    assert resolve(name, allow(), deny(destination="203.0.113.9"))[2] == "deny"
    six = ip_address("2001:db8::9").reverse_pointer
    assert resolve(six.upper(), allow(destination="2001:db8::/32")) == ALLOWED


def test_flows_from_outside_need_more_than_an_allow_rule() -> None:
    inbound = Target(outbound=False)
    assert decide(allow(), target=inbound) == (Action.REJECT, Reason.INBOUND, "")
    assert decide(who=agent(), target=inbound) == (Action.ACCEPT, Reason.DEFAULT, "")
    assert decide(deny(), who=agent(), target=inbound) == (Action.REJECT, Reason.RULE, "deny")


def test_exemptions_name_a_signature_or_a_family() -> None:
    rule = allow(exempt=("ssh.*", "beacon.timing"))
    assert exempt(rule, "ssh.unusual-port") and exempt(rule, "beacon.timing")
    assert not exempt(rule, "mining.stratum") and not exempt(None, "ssh.unusual-port")


def test_udp_port_zero_and_other_protocols_have_no_ports() -> None:
    assert decide(allow(ports=((1, 65535),)), target=Target(proto=UDP, rport=0))[0] is Action.REJECT
