"""Rules from what was done: few, narrow, enough, and none that reaches what anything objected to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import Connection

from egress.errors import EgressError
from egress.model import Action, Effect, Mode, Policy, Reason, Rule, Severity
from egress.policy.file import dump_yaml, parse_policy
from egress.policy.rulebook import Rulebook
from egress.records.shape import FindingRecord, FlowRecord, Record
from egress.records.times import iso
from egress.store.database.tables import approvals
from egress.store.query.flowgroups import FlowGroup, flow_groups
from egress.whatif import learn as learning
from egress.whatif.learn import Proposal, learn
from egress.whatif.objections import Objections
from egress.whatif.subject import query_of, target_of
from tests.examples import examples
from tests.whatif.recording import AGENT, START, allow, deny, dns, finding, flow, recorded, refused, tls

NOW = START + 10_000


def propose(records: Sequence[Record], *existing: Rule, **options: Any) -> Proposal:
    with recorded(records) as connection:
        return learn(connection, AGENT, Policy(1, existing), now=NOW, **options)


def said(rule: Rule) -> tuple[str, str, tuple[tuple[int, int], ...], str]:
    return rule.destination, rule.protocol, rule.ports, rule.app


def test_a_name_is_one_rule_with_its_ports() -> None:
    first = tls("a.example.org")
    found = propose([first, tls("a.example.org", dst="198.51.100.8"), tls("a.example.org", dport=8443)])
    assert [said(rule) for rule in found.rules] == [("a.example.org", "tcp", ((443, 443), (8443, 8443)), "tls")]
    rule = found.rules[0]
    assert (rule.agent, rule.author, rule.created, rule.action) == ("trainer", "egress learn", NOW, Action.ACCEPT)
    begun = iso(first.start)[:19]
    assert rule.comment.startswith(f"learned from 3 flows, {begun}Z..")
    assert (found.recorded, found.covered, found.already, found.left_out) == (3, 3, 0, ())


def test_protocol_and_application_only_where_they_are_uniform() -> None:
    quic = tls("a.example.org", proto="udp", app_proto="quic")
    unknown = tls("a.example.org", app_proto="", server_name="", names=("a.example.org",))
    assert [said(rule) for rule in propose([tls("a.example.org"), quic]).rules] == [
        ("a.example.org", "", ((443, 443),), "")
    ]
    assert propose([tls("a.example.org"), unknown]).rules[0].app == "tls"
    mixed = propose([flow(proto="icmp", app_proto="", dport=0), flow(app_proto="ssh", dport=22)])
    assert {said(rule) for rule in mixed.rules} == {
        ("198.51.100.7", "icmp", (), ""), ("198.51.100.7", "tcp", ((22, 22),), "ssh"),
    }  # fmt: skip


def test_three_siblings_become_a_wildcard_but_not_under_a_public_suffix() -> None:
    found = propose([tls(f"{host}.example.org") for host in "abc"])
    assert [rule.destination for rule in found.rules] == ["*.example.org"]
    assert len(propose([tls(f"{host}.example.org") for host in "ab"]).rules) == 2
    assert len(propose([tls(f"{host}.co.uk") for host in "abcd"]).rules) == 4
    assert len(propose([tls(f"{host}.github.io") for host in "abcd"]).rules) == 4
    assert len(propose([tls(f"{host}.internal") for host in "abcd"]).rules) == 4


def test_more_ports_than_a_rule_can_have_are_several_rules() -> None:
    odd = [tls("a.example.org", dport=port) for port in range(1, 1200, 2)]
    found = propose(odd)
    assert [len(rule.ports) for rule in found.rules] == [256, 256, 88]
    assert found.covered == len(odd)
    assert len(parse_policy(dump_yaml(found.rules), "proposed")) == 3
    # Under a wildcard the ports of all are few ranges; taken apart each name has many.
    names = [tls(f"{'abc'[port % 3]}.example.org", dport=port) for port in range(1, 1200)]
    assert [(rule.destination, len(rule.ports)) for rule in propose(names).rules] == [("*.example.org", 1)]
    miner = tls("d.example.org", "203.0.113.9", dport=600)
    apart = propose([*names, miner, finding(miner)])
    assert {rule.destination for rule in apart.rules} == {f"{name}.example.org" for name in "abc"}
    assert all(len(rule.ports) <= 256 for rule in apart.rules) and apart.covered == len(names)


def test_addresses_are_collapsed_exactly() -> None:
    records: list[Record] = [flow(dst=f"192.0.2.{number}", app_proto="ssh", dport=22) for number in range(4, 9)]
    records.append(flow(dst="2001:db8::1", app_proto="ssh", dport=22))
    found = propose([*records, flow(dst="192.0.2.9", app_proto="tls")])
    assert [(rule.destination, rule.app) for rule in found.rules] == [
        ("192.0.2.4/30", "ssh"), ("192.0.2.8", "ssh"), ("192.0.2.9", "tls"), ("2001:db8::1", "ssh"),
    ]  # fmt: skip


def test_which_name_a_flow_is_learnt_by() -> None:
    chain = {"app_proto": "ssh", "dport": 22, "names": ("cdn.example.net", "git.example.org")}
    assert [rule.destination for rule in propose([flow(**chain)]).rules] == ["cdn.example.net"]
    with_tls = propose([flow(**chain), tls("git.example.org", names=("cdn.example.net", "git.example.org"))])
    assert [rule.destination for rule in with_tls.rules] == ["git.example.org"]
    never_resolved = propose([tls("a.example.org", names=())])
    assert [rule.destination for rule in never_resolved.rules] == ["198.51.100.7"]
    silent = propose([tls("", names=("a.example.org",))])
    assert [(rule.destination, rule.unnamed) for rule in silent.rules] == [("a.example.org", True)]


def test_a_resolver_is_allowed_by_address_for_dns_alone() -> None:
    found = propose(
        [dns("a.example.org", names=("dns.example",)), dns("a.example.org", proto="tcp"), tls("a.example.org")]
    )
    assert {said(rule) for rule in found.rules} == {
        ("10.0.0.53", "", ((53, 53),), "dns"), ("a.example.org", "tcp", ((443, 443),), "tls"),
    }  # fmt: skip


def test_a_name_that_was_only_asked_for_opens_the_question_alone() -> None:
    resolver = allow("10.0.0.53", app="dns")
    found = propose([dns("a.example.org", **refused(Reason.QUERY))], resolver, refused=True)
    assert [said(rule) for rule in found.rules] == [("a.example.org", "", ((53, 53),), "dns")]
    assert found.covered == 1
    assert propose([dns("a.example.org")], resolver, gate_queries=False).already == 1
    unreadable = propose([dns("", **refused(Reason.QUERY)), dns("bad name.example")], resolver)
    assert unreadable.rules == () and len(unreadable.left_out) == 2


def test_a_reverse_lookup_of_a_name_that_is_allowed_needs_nothing() -> None:
    found = propose([tls("a.example.org"), dns("7.100.51.198.in-addr.arpa")], allow("10.0.0.53"))
    assert [rule.destination for rule in found.rules] == ["a.example.org"]


def test_rules_in_force_are_not_proposed_again() -> None:
    records: list[Record] = [tls("a.example.org"), tls("b.example.org")]
    found = propose(records, allow("a.example.org"))
    assert [rule.destination for rule in found.rules] == ["b.example.org"]
    assert (found.covered, found.already) == (1, 1)
    assert len(propose(records, allow("a.example.org"), everything=True).rules) == 2
    assert len(propose(records, allow("a.example.org", once=True)).rules) == 2
    assert len(propose(records, allow("a.example.org", expires_at=START)).rules) == 2


@pytest.mark.parametrize("reason", [Reason.DEFAULT, Reason.NAME, Reason.APPROVAL])
def test_what_was_refused_for_want_of_a_rule_is_learnt_only_on_demand(reason: Reason) -> None:
    turned_away = [tls("a.example.org", **refused(reason)), tls("a.example.org", action=Action.HOLD, reason=reason)]
    for each in turned_away:
        found = propose([each])
        assert (found.rules, found.covered, found.recorded) == ((), 0, 1)
        assert [left.why for left in found.left_out] == [f"refused: {reason}; --refused includes it"]
        assert propose([each], refused=True).covered == 1
    assert propose([tls("a.example.org", mode=Mode.MONITOR, **refused(reason))]).covered == 1  # it passed
    assert propose([turned_away[0], tls("b.example.org")]).rules[0].destination == "b.example.org"


@pytest.mark.parametrize(
    "reason", [Reason.RULE, Reason.BUDGET, Reason.DESTINATION, Reason.QUARANTINE, Reason.APPLICATION]
)
def test_what_was_refused_for_another_reason_is_listed(reason: Reason) -> None:
    found = propose([tls("a.example.org", **refused(reason, "r1")), flow(direction="in")])
    assert (found.rules, found.recorded, found.covered) == ((), 1, 0)
    assert [(left.what, left.why, left.flows) for left in found.left_out] == [
        ("tcp a.example.org:443", f"refused: {reason} (r1)", 1)
    ]


def test_a_front_that_was_never_resolved_is_no_reason_to_open_its_address() -> None:
    fronted = tls("evil.example", names=("good.example",), **refused(Reason.NAME, "good"))
    assert propose([fronted]).rules == ()
    denied = propose([tls("a.example.org")], deny("a.example.org"))
    assert denied.left_out[0].why == "rule deny-a.example.org denies it"


def test_what_a_signature_objected_to_is_left_out_at_its_address_by_name_and_in_groups() -> None:
    miner = tls("pool.example.org", dst="203.0.113.9", **refused(Reason.FINDING))
    innocent = [tls(f"{host}.example.org") for host in "abc"]
    records: list[Record] = [
        miner, finding(miner), *innocent,
        tls("pool.example.org", dst="203.0.113.10"),
        tls("other.example.net", dst="203.0.113.9"),
        tls("pool.example.org", dst="203.0.113.10", dport=8443),
    ]  # fmt: skip
    found = propose(records)
    assert sorted((rule.destination, rule.ports) for rule in found.rules) == [
        ("a.example.org", ((443, 443),)), ("b.example.org", ((443, 443),)), ("c.example.org", ((443, 443),)),
        ("pool.example.org", ((8443, 8443),)),
    ]  # fmt: skip
    assert {(left.what, left.why) for left in found.left_out} == {
        ("tcp pool.example.org:443", "mining.stratum objected"),
        ("tcp other.example.net:443", "mining.stratum objected at this address and port"),
    }
    assert (found.recorded, found.covered, sum(left.flows for left in found.left_out)) == (7, 4, 3)


def test_an_old_finding_or_one_without_its_flow_still_counts() -> None:
    gone = finding(flow(dst="203.0.113.9"))
    assert propose([gone, flow(dst="203.0.113.9")]).rules == ()
    assert propose([replace(gone, agent="another"), flow(dst="203.0.113.9")]).covered == 1
    early = flow(start=1.0, updated=1.0, dst="203.0.113.9")
    assert propose([early, finding(early), flow(dst="203.0.113.9")], since=START).rules == ()


def _deny(connection: Connection, query: bool, **fields: object) -> None:
    row = {
        "id": "1", "flow_id": "1", "agent": "trainer", "time": START, "until": START, "proto": "tcp",
        "dst": "198.51.100.7", "dport": 443, "names": ("a.example.org",), "query": query,
        "destination": "a.example.org", "state": "denied",
    }  # fmt: skip
    connection.execute(sa.insert(approvals), [row | fields])


def test_what_a_person_denied_is_left_out() -> None:
    records: list[Record] = [
        tls("a.example.org", **refused(Reason.APPROVAL)),
        dns("b.example.org"),
        tls("c.example.org", dst="192.0.2.1"),
    ]
    with recorded(records) as connection:
        _deny(connection, False)
        _deny(connection, True, id="2", proto="udp", dst="10.0.0.53", dport=53, names=("b.example.org",))
        found = learn(connection, AGENT, Policy(), now=NOW)
    assert sorted(rule.destination for rule in found.rules) == ["10.0.0.53", "c.example.org"]
    assert {left.why for left in found.left_out} == {
        "a person denied it at this address and port",
        "a person denied it",
    }


def test_too_much_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "MAX_GROUPS", 3)
    with pytest.raises(EgressError, match="shorter time"):
        propose([flow(dport=port) for port in range(1, 5)])
    monkeypatch.setattr(learning, "MAX_GROUPS", 9)
    monkeypatch.setattr(learning, "MAX_RULES", 1)
    with pytest.raises(EgressError, match="2 rules"):
        propose([flow(), tls("a.example.org")])


def test_nothing_recorded_and_odd_records() -> None:
    assert propose([flow(agent="another")]).recorded == 0
    odd: list[Record] = [flow(dport=0), flow(dst="nowhere"), flow(proto="xyz"), flow(names=("any", "1.2", "a b"))]
    found = propose(odd)
    assert [rule.destination for rule in found.rules] == ["198.51.100.7"]
    assert sum(left.flows for left in found.left_out) == 3


HOSTS = ("a.example.org", "b.example.org", "c.example.org", "d.example.org", "example.org", "x.co.uk", "any", "")
PLACES = ("192.0.2.1", "192.0.2.2", "192.0.2.3", "198.51.100.7", "2001:db8::1")
_verdicts = st.sampled_from(
    [
        (Action.ACCEPT, Reason.RULE), (Action.REJECT, Reason.DEFAULT), (Action.REJECT, Reason.NAME),
        (Action.REJECT, Reason.QUERY), (Action.HOLD, Reason.APPROVAL), (Action.REJECT, Reason.BUDGET),
    ]
)  # fmt: skip
_flows = st.builds(
    lambda name, bound, dst, app, proto, dport, verdict: flow(
        server_name=name, names=tuple(sorted({*bound} - {""})), dst=dst, app_proto=app, proto=proto, dport=dport,
        action=verdict[0], reason=verdict[1],
    ),
    st.sampled_from(HOSTS),
    st.lists(st.sampled_from(HOSTS), max_size=3),
    st.sampled_from(PLACES),
    st.sampled_from(("", "tls", "ssh", "http", "dns", "unknown")),
    st.sampled_from(("tcp", "udp", "icmp", "47", "sctp")),
    st.sampled_from((0, 22, 53, 443, 444)),
    _verdicts,
)  # fmt: skip
_existing = st.lists(
    st.sampled_from(
        [allow("a.example.org"), allow("192.0.2.1"), deny("b.example.org"), allow("10.0.0.0/8", app="dns")]
    ),
    max_size=3,
    unique_by=lambda rule: rule.id,
)


def _allowed(book: Rulebook, group: FlowGroup) -> bool:
    """Query names included; `names` of reverse lookups do not come up here."""
    if book.decide(AGENT, target_of(group), NOW)[0].action is not Action.ACCEPT:
        return False
    return not query_of(group) or book.may_resolve(AGENT, query_of(group), NOW)[0].action is Action.ACCEPT


def test_what_a_hunt_found_is_left_out_but_not_its_weak_leads_and_not_the_resolver() -> None:
    hunted = {"effect": Effect.NONE, "action": Action.ACCEPT}
    beacon, new, asked = tls("c2.example.net"), tls("new.example.org", dst="203.0.113.9"), dns("x.example.com")
    found = propose(
        [
            beacon, finding(beacon, "beacon.slow", severity=Severity.MEDIUM, **hunted),
            new, finding(new, "probe.rare-destination", severity=Severity.LOW, **hunted),
            asked, finding(asked, "dns.slow-leak", severity=Severity.MEDIUM, **hunted),
        ]
    )  # fmt: skip
    assert {rule.destination for rule in found.rules} == {"new.example.org", "10.0.0.53"}
    assert any(each.why == "beacon.slow objected at this address and port" for each in found.left_out)


@pytest.mark.slow
@settings(max_examples=examples(150), deadline=None)
@given(st.lists(st.tuples(_flows, st.booleans()), max_size=14), _existing)
def test_what_is_covered_is_allowed_and_what_was_objected_to_is_not(
    some: list[tuple[FlowRecord, bool]], existing: list[Rule]
) -> None:
    objected: list[FindingRecord] = [finding(each) for each, bad in some if bad and each.dport == 443]
    with recorded([*(each for each, _ in some), *objected]) as connection:
        found = learn(connection, AGENT, Policy(1, tuple(existing)), now=NOW)
        done = list(flow_groups(connection))
        objections = Objections(connection, AGENT, NOW).all
    both = Rulebook(Policy(1, (*existing, *found.rules)))
    before, proposed = Rulebook(Policy(1, tuple(existing))), Rulebook(Policy(1, found.rules))
    assert sum(group.count for group in done) == found.recorded == len(some)
    left = sum(each.flows for each in found.left_out)
    assert found.recorded == found.covered + found.already + left
    assert sum(each.count for each in done if _allowed(both, each)) >= found.covered + found.already
    assert sum(each.count for each in done if _allowed(before, each)) >= found.already
    for group in done:
        if group.signatures:
            assert proposed.decide(AGENT, target_of(group), NOW)[0].action is not Action.ACCEPT
    for objection in objections:
        assert proposed.decide(AGENT, objection.target, NOW)[0].action is not Action.ACCEPT
    again = parse_policy(dump_yaml(found.rules), "learnt")
    assert [replace(rule, created=NOW) for rule in again] == list(found.rules)


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(_flows, max_size=10))
def test_what_was_learnt_needs_no_second_lesson(some: list[FlowRecord]) -> None:
    with recorded(some) as connection:
        first = learn(connection, AGENT, Policy(), now=NOW)
        second = learn(connection, AGENT, Policy(1, first.rules), now=NOW)
    assert second.rules == ()
    assert second.already == first.covered + first.already


def test_a_name_inside_is_learnt_with_private_and_metadata_is_left_out() -> None:
    inside = tls("mirror.example.org", names=("mirror.example.org",), dst="10.0.0.5")
    found = propose([inside, tls("a.example.net", names=("a.example.net",))])
    assert [(rule.destination, rule.private) for rule in found.rules] == [
        ("a.example.net", False), ("mirror.example.org", True),
    ]  # fmt: skip
    metadata = flow(dst="169.254.169.254", dport=80, app_proto="http", names=("metadata.google.internal",))
    left = propose([metadata])
    assert left.rules == () and "clouds serve metadata" in left.left_out[0].why


def test_siblings_inside_and_outside_do_not_share_a_wildcard() -> None:
    records = [tls(f"{name}.example.org", names=(f"{name}.example.org",)) for name in "abc"]
    records += [tls(f"{name}.example.org", names=(f"{name}.example.org",), dst="10.0.0.5") for name in "xyz"]
    assert {(rule.destination, rule.private) for rule in propose(records).rules} == {
        ("*.example.org", False), ("*.example.org", True),
    }  # fmt: skip
