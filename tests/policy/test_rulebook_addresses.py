"""Rules and the kinds of addresses: a name means a host outside, metadata must be named, IPv4 inside IPv6."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from egress.addresses import Networks
from egress.model import UDP, Action, Policy, PolicyChange, Reason, Verdict
from egress.policy.affected import ChangeScope
from egress.policy.metadata import SERVICES
from egress.policy.rulebook import Rulebook
from tests.policy.test_rulebook import DENIED, Target, allow, decide, deny
from tests.traffic import START, agent

NAME = "www.x.org"
INSIDE = [
    "10.1.2.3", "172.16.0.1", "192.168.0.1", "127.0.0.1", "169.254.7.7", "100.64.0.1", "224.0.0.251", "198.18.0.1",
    "255.255.255.255", "0.0.0.0", "fd00::1", "fe80::1", "::1", "ff02::fb", "64:ff9b::10.1.2.3", "64:ff9b:1::8.8.8.8",
    "2002:a01:203::1", "2001:0:808:808:0:0:f5fe:fdfc", "::ffff:10.1.2.3", "2600::5efe:10.1.2.3",
]  # fmt: skip


def at(address: str, **changes: object) -> Target:
    target = Target(remote=ip_address(address).packed, names=frozenset({NAME}))
    return replace(target, **changes)  # type: ignore[arg-type]


# --- a name means a host outside -----------------------------------------------------------------------


@pytest.mark.parametrize("address", INSIDE)
@pytest.mark.parametrize("pattern", [NAME, "*.x.org", "**.org"])
def test_a_name_rule_admits_an_address_inside_only_if_it_says_so(address: str, pattern: str) -> None:
    plain, private = allow(destination=pattern), allow(destination=pattern, private=True)
    assert decide(plain, target=at(address)) == (Action.REJECT, Reason.PRIVATE, "allow")
    assert decide(plain, target=at(address, said=NAME)) == (Action.REJECT, Reason.PRIVATE, "allow")
    assert decide(private, target=at(address)) == (Action.ACCEPT, Reason.RULE, "allow")
    assert decide(private, target=at(address, said="www.x.net"))[1] is Reason.NAME
    assert decide(plain, allow(id="2", destination=address), target=at(address)) == (Action.ACCEPT, Reason.RULE, "2")
    assert decide(plain, who=agent(), target=at(address)) == (Action.ACCEPT, Reason.DEFAULT, "")


@pytest.mark.parametrize("address", ["203.0.113.9", "8.8.8.8", "2001:db8::9", "2600::1", "64:ff9b::8.8.8.8"])
def test_a_name_rule_admits_addresses_outside(address: str) -> None:
    assert decide(allow(destination=NAME), target=at(address)) == (Action.ACCEPT, Reason.RULE, "allow")


def test_the_addresses_of_this_host_and_of_agents_are_not_outside_though_they_are_global() -> None:
    book = Rulebook(Policy(1, (allow(destination=NAME),)))
    book.nearby = Networks(("203.0.113.9", "2600:1:2::/64"))
    translated = ("64:ff9b::203.0.113.9", "::ffff:203.0.113.9", "2002:cb00:7109::1")
    for address in ("203.0.113.9", "2600:1:2::7", *translated):
        assert book.decide(DENIED, at(address), START)[0].reason is Reason.PRIVATE
    assert book.decide(DENIED, at("203.0.113.10"), START)[0].reason is Reason.RULE
    following = Rulebook(Policy(2, (allow(destination=NAME),)), book)
    assert following.decide(DENIED, at("203.0.113.9"), START)[0].reason is Reason.PRIVATE, "a new policy keeps them"


def test_a_deny_rule_matches_the_name_at_any_address() -> None:
    assert decide(deny(destination=NAME), who=agent(), target=at("10.1.2.3")) == (Action.REJECT, Reason.RULE, "deny")


def test_what_does_not_bind_is_found_with_the_rule_that_would_admit_it() -> None:
    rules = [allow(id="any"), allow(id="plain", destination="*.x.org"), allow(id="other", destination="www.y.org")]
    book = Rulebook(Policy(1, tuple(rules)))
    inside, outside = ip_address("10.1.2.3").packed, ip_address("203.0.113.9").packed
    found = book.not_bound(DENIED, ("WWW.X.org", "edge.cdn.test"), inside, START)
    assert found is not None and found.id == "plain"
    assert book.not_bound(DENIED, (NAME,), outside, START) is None
    assert book.not_bound(DENIED, ("unknown.test",), inside, START) is None
    private = allow(id="private", destination=NAME, private=True)
    book.apply(PolicyChange(1, 2, (), (private,)))
    assert book.not_bound(DENIED, (NAME,), inside, START) is None


# --- metadata ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [*SERVICES, "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "64:ff9b:1::6464:64c8"])
@pytest.mark.parametrize("default", [Action.ACCEPT, Action.REJECT, Action.DROP])
def test_metadata_is_refused_unless_a_rule_names_the_address(address: str, default: Action) -> None:
    who, target = agent(default=default), at(address)
    refused = Action.REJECT if default is Action.ACCEPT else default
    wide = [
        allow(id="any"),
        allow(id="v4", destination="0.0.0.0/0"),
        allow(id="v6", destination="::/0"),
        allow(id="link-local", destination="169.254.0.0/16"),
        allow(id="pair", destination="169.254.169.254/31"),
        allow(id="name", destination=NAME, private=True, unnamed=True),
    ]
    for rules in ([], wide):
        assert decide(*rules, who=who, target=target) == (refused, Reason.METADATA, "")
    named = allow(id="named", destination=address, ports=((443, 443),))
    assert decide(*wide, named, who=who, target=target) == (Action.ACCEPT, Reason.RULE, "named")
    assert decide(named, who=who, target=replace(target, rport=80)) == (refused, Reason.METADATA, "")


def test_dns_and_time_at_such_an_address_follow_the_rules() -> None:
    resolver = Target(remote=ip_address("168.63.129.16").packed, proto=UDP, rport=53)
    assert decide(who=agent(), target=resolver) == (Action.ACCEPT, Reason.DEFAULT, "")
    assert decide(allow(ports=((53, 53),)), target=resolver)[1] is Reason.RULE
    assert decide(target=resolver) == (Action.REJECT, Reason.DEFAULT, "")


def test_what_metadata_opens_itself_is_not_concerned() -> None:
    assert decide(who=agent(), target=at("169.254.169.254", outbound=False))[1] is Reason.DEFAULT


# --- IPv4 inside IPv6 ----------------------------------------------------------------------------------

FORMS = ["64:ff9b::10.1.2.3", "64:ff9b:1::10.1.2.3", "64:ff9b:1:a01:2:300::", "2002:a01:203::1", "::ffff:10.1.2.3",
         "::ffff:0:10.1.2.3", "2001:0:808:808:0:0:f5fe:fdfc", "2600::5efe:10.1.2.3"]  # fmt: skip


@pytest.mark.parametrize("address", FORMS)
@pytest.mark.parametrize("denied", ["10.0.0.0/8", "10.1.2.3", "0.0.0.0/0"])
def test_a_deny_rule_matches_every_form_of_its_addresses(address: str, denied: str) -> None:
    rules = deny(destination=denied), allow()
    assert decide(*rules, target=at(address)) == (Action.REJECT, Reason.RULE, "deny")
    assert decide(deny(destination="192.0.2.0/24"), allow(), target=at(address))[1] is Reason.RULE
    assert decide(deny(destination="192.0.2.0/24"), allow(), target=at(address))[2] == "allow"


def test_an_allow_rule_matches_the_forms_that_name_the_same_host_alone() -> None:
    rule = allow(destination="192.0.2.0/28")
    admitted = [decide(rule, target=Target(remote=ip_address(text).packed))[0] is Action.ACCEPT for text in (
        "192.0.2.1", "64:ff9b::192.0.2.1", "::ffff:192.0.2.1", "64:ff9b:1::192.0.2.1", "2002:c000:201::1",
        "64:ff9b::192.0.2.99",
    )]  # fmt: skip
    assert admitted == [True, True, True, False, False, False]


def test_a_change_of_a_rule_for_ipv4_concerns_flows_to_its_forms() -> None:
    book = Rulebook(Policy(1, ()))
    scope = ChangeScope(PolicyChange(1, 2, (), (deny(destination="10.0.0.0/8"),)), book)

    class Flow(Target):
        who = agent()
        verdict = Verdict(Action.ACCEPT, Reason.DEFAULT)
        objection: Verdict | None = None

    assert all(scope.includes(Flow(remote=ip_address(text).packed)) for text in FORMS)
    assert not scope.includes(Flow(remote=ip_address("64:ff9b::8.8.8.8").packed))


def test_a_reverse_name_of_a_form_is_denied_with_its_address() -> None:
    book = Rulebook(Policy(1, (deny(destination="10.0.0.0/8"),)))
    reverse = ip_address("64:ff9b::10.1.2.3").reverse_pointer
    assert book.may_resolve(agent(), reverse, START)[0].action is Action.REJECT
