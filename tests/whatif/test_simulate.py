"""A candidate policy over stored flows: what it changes, what it cannot, and that grouping changes no count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from egress.model import Action, Effect, Mode, Policy, Reason, Rule
from egress.policy.rulebook import Rulebook
from egress.records.shape import FlowRecord, Record
from egress.whatif.simulate import Simulation, simulate
from egress.whatif.subject import recorded as as_target
from tests.examples import examples
from tests.whatif.recording import AGENT, START, allow, deny, dns, finding, flow, recorded, refused, tls


def run(records: Sequence[Record], *candidate: Rule, **options: Any) -> Simulation:
    with recorded(records) as connection:
        return simulate(connection, candidate, agents={"trainer": AGENT}, **options)


def counts(result: Simulation) -> tuple[int, int, int]:
    return result.newly_refused, result.newly_allowed, result.same


def test_what_passed_and_would_not_is_grouped_by_destination() -> None:
    records = [tls("a.example"), tls("a.example"), tls("b.example"), tls("b.example", dport=8443)]
    result = run([*records, flow(direction="in")], allow("b.example", ports=((443, 443),)))
    assert result.flows == 4 and counts(result) == (3, 0, 1)
    assert [(group.destination, group.port, group.newly_refused, group.reason) for group in result.groups] == [
        ("a.example", 443, 2, Reason.DEFAULT),
        ("b.example", 8443, 1, Reason.DEFAULT),
    ]


def test_what_was_refused_and_would_pass() -> None:
    held = flow(action=Action.HOLD, reason=Reason.APPROVAL, dst="192.0.2.9")
    records = [tls("a.example", **refused(Reason.DEFAULT)), held, dns("a.example", **refused(Reason.QUERY))]
    result = run(records, allow("a.example"), allow("192.0.2.9"), allow("10.0.0.53", app="dns"))
    assert counts(result) == (0, 3, 0)
    assert {(group.destination, group.query) for group in result.groups} == {
        ("a.example", False), ("192.0.2.9", False), ("a.example", True),
    }  # fmt: skip


def test_what_rules_did_not_decide_stays() -> None:
    others = set(Reason) - {
        Reason.RULE, Reason.DEFAULT, Reason.APPLICATION, Reason.NAME, Reason.PRIVATE, Reason.METADATA, Reason.QUERY,
        Reason.APPROVAL,
    }  # fmt: skip
    result = run([tls("a.example", **refused(reason)) for reason in sorted(others)], allow())
    assert counts(result) == (0, 0, len(others))


def test_findings_stand_unless_every_signature_is_exempt() -> None:
    objected = flow(**refused(Reason.FINDING))
    records: list[Record] = [objected, finding(objected, "mining.stratum"), finding(objected, "ssh.role-reversal")]
    assert counts(run(records, allow())) == (0, 0, 1)
    assert counts(run(records, allow(exempt=("mining.*",)))) == (0, 0, 1)
    assert counts(run(records, allow(exempt=("mining.*", "ssh.role-reversal")))) == (0, 1, 0)


def test_a_finding_that_was_exempt_refuses_when_it_no_longer_is() -> None:
    passed = flow(action=Action.ACCEPT, reason=Reason.RULE)
    records: list[Record] = [passed, finding(passed, action=Action.ACCEPT)]
    assert counts(run(records, allow(exempt=("mining.stratum",)))) == (0, 0, 1)
    result = run(records, allow())
    assert counts(result) == (1, 0, 0)
    assert result.groups[0].reason is Reason.FINDING


def test_what_was_found_looking_back_refused_nothing_and_does_not_now() -> None:
    passed = flow(action=Action.ACCEPT, reason=Reason.RULE)
    hunted = finding(passed, "beacon.slow", action=Action.ACCEPT, effect=Effect.NONE)
    assert counts(run([passed, hunted], allow())) == (0, 0, 1)


def test_a_query_needs_the_resolver_and_the_name() -> None:
    records: list[Record] = [dns("www.example.org"), dns("elsewhere.example")]
    resolver = allow("10.0.0.53", app="dns")
    result = run(records, resolver, allow("*.example.org"))
    assert counts(result) == (1, 0, 1)
    assert (result.groups[0].destination, result.groups[0].query) == ("elsewhere.example", True)
    assert counts(run(records, allow("*.example.org"))) == (2, 0, 0)
    assert counts(run(records, resolver, gate_queries=False)) == (0, 0, 2)


def test_a_reverse_lookup_may_be_allowed_by_the_names_its_address_had() -> None:
    records: list[Record] = [tls("a.example"), dns("7.100.51.198.in-addr.arpa")]
    assert counts(run(records, allow("10.0.0.53", app="dns"), allow("a.example"))) == (0, 0, 2)
    assert counts(run(records[1:], allow("10.0.0.53", app="dns"), allow("a.example"))) == (1, 0, 0)


def test_the_name_in_the_bytes_is_looked_at() -> None:
    fronted = tls("evil.example", names=("good.example",))
    silent = flow(names=("good.example",), server_name="")
    ssh = flow(names=("good.example",), app_proto="ssh", dport=22)
    result = run([fronted, silent, ssh], allow("good.example"))
    assert counts(result) == (2, 0, 1)
    assert {group.destination for group in result.groups} == {"evil.example", "good.example"}
    assert counts(run([fronted, silent, ssh], allow("good.example", unnamed=True))) == (1, 0, 2)


def test_a_full_list_of_names_does_not_refuse_what_passed() -> None:
    names = tuple(f"n{number}.example" for number in range(8))
    assert counts(run([tls("zz.example", names=names)], allow("zz.example"))) == (0, 0, 1)
    assert counts(run([tls("zz.example", names=names, **refused(Reason.DEFAULT))], allow("zz.example"))) == (0, 0, 1)


def test_once_admits_the_first_and_expiry_is_not_looked_at() -> None:
    records: list[Record] = [flow(dport=80, app_proto=""), *(flow() for _ in range(3))]
    assert counts(run(records, allow(once=True))) == (3, 0, 1)
    first = run(records, allow(once=True)).groups[0]
    assert (first.port, first.newly_refused) == (443, 3)
    assert counts(run(records, allow(expires_at=1.0))) == (0, 0, 4)


def test_agents_as_they_are_now_and_those_that_are_gone() -> None:
    records: list[Record] = [flow(), flow(agent="gone"), flow(agent="gone", mode=Mode.MONITOR)]
    with recorded(records) as connection:
        open_agent = replace(AGENT, default=Action.ACCEPT, labels=("gpu",))
        result = simulate(connection, (), agents={"trainer": open_agent})
        assert counts(result) == (2, 0, 1)
        assert {group.agent for group in result.groups} == {"gone"}
        labelled = simulate(connection, (deny(agent="label:gpu"),), agents={"trainer": open_agent})
        assert counts(labelled) == (3, 0, 0)


def test_window_limit_and_progress() -> None:
    records: list[Record] = [
        flow(dst=f"192.0.2.{number}", start=START + number, updated=START + number) for number in range(9)
    ]
    seen: list[int] = []
    result = run(records, since=START + 2, until=START + 6, limit=2, progress=seen.append)
    assert (result.flows, result.newly_refused, len(result.groups), result.more) == (5, 5, 2, 3)
    assert seen == []
    many: list[Record] = [flow(dst=f"10.1.{number >> 8}.{number & 255}") for number in range(2500)]
    assert run(many, progress=seen.append).flows == 2500
    assert seen == [1000, 2000]


NAMES = ("a.example", "b.example", "www.a.example", "")
flows = st.builds(
    lambda name, bound, dst, app, dport, verdict: flow(
        server_name=name, names=tuple(sorted({*bound} - {""})), dst=dst, app_proto=app, dport=dport,
        action=verdict[0], reason=verdict[1],
    ),
    st.sampled_from(NAMES),
    st.lists(st.sampled_from(NAMES), max_size=2),
    st.sampled_from(("192.0.2.1", "192.0.2.2", "2001:db8::1")),
    st.sampled_from(("", "tls", "ssh", "http", "unknown")),
    st.sampled_from((22, 443)),
    st.sampled_from([(Action.ACCEPT, Reason.RULE), (Action.REJECT, Reason.DEFAULT), (Action.HOLD, Reason.APPROVAL)]),
)  # fmt: skip
rules = st.builds(
    Rule,
    id=st.integers(0, 1 << 40).map(str),
    action=st.sampled_from((Action.ACCEPT, Action.REJECT)),
    destination=st.sampled_from(("any", "a.example", "*.example", "**.example", "192.0.2.0/24", "192.0.2.1")),
    ports=st.sampled_from(((), ((443, 443),))),
    app=st.sampled_from(("", "tls", "ssh")),
)


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(flows, max_size=12), st.lists(rules, max_size=5, unique_by=lambda rule: rule.id))
def test_it_counts_what_deciding_each_flow_alone_counts(some: list[FlowRecord], candidate: list[Rule]) -> None:
    book = Rulebook(Policy(1, tuple(candidate)))
    expected = [0, 0, 0]
    for each in some:
        target = as_target(each.proto, each.dst, each.dport, each.app_proto, each.server_name, each.names, each.action)
        passes = book.decide(AGENT, target, START)[0].action is Action.ACCEPT
        expected[2 if passes == (each.action is Action.ACCEPT) else 1 if passes else 0] += 1
    result = run(some, *candidate)
    assert list(counts(result)) == expected
    assert sum(group.newly_refused + group.newly_allowed for group in result.groups) == expected[0] + expected[1]
