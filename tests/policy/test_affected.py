"""The scope of a policy change: every flow whose verdict it changes, and few others."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egress.model import UDP, Action, Agent, Policy, PolicyChange, Reason, Rule, Verdict
from egress.policy.affected import ChangeScope
from egress.policy.rulebook import Rulebook
from tests.examples import examples
from tests.policy.test_rulebook import DENIED, Target, allow, deny
from tests.policy.test_rulebook_reference import NAMES, agents, changes, rules, targets
from tests.policy.test_rulebook_reference import Target as Seen
from tests.traffic import START

REFUSED = Verdict(Action.REJECT, Reason.DEFAULT)


@dataclass
class Live(Target):
    """A target with the verdict that it got."""

    who: Agent = DENIED
    verdict: Verdict = REFUSED
    objection: Verdict | None = None


def judged(book: Rulebook, who: Agent, target: Seen) -> Live:
    verdict, rule = book.decide(who, target, START)
    return Live(**vars(target) | {"rule": rule}, who=who, verdict=verdict)


def outcome(found: tuple[Verdict, Rule | None]) -> tuple[Action, Reason, str, Rule | None]:
    verdict, rule = found
    return verdict.action, verdict.reason, verdict.rule_id, rule


@pytest.mark.slow
@settings(max_examples=examples(400))
@given(
    st.lists(rules, max_size=8),
    st.lists(st.tuples(agents, targets, st.frozensets(st.sampled_from(NAMES), max_size=2)), min_size=1, max_size=4),
    st.data(),
)
def test_no_verdict_changes_without_its_flow_being_touched(
    live: list[Rule], some: list[tuple[Agent, Seen, frozenset[str]]], data: st.DataObject
) -> None:
    """`since` holds names bound after the flow was judged; they count when it is judged again."""
    book = Rulebook(Policy(0, tuple(live)))
    for rule in live:
        if data.draw(st.booleans()):
            book.spend(rule)
    flows = [(judged(book, who, target), since) for who, target, since in some]
    change = data.draw(changes(live, 0))
    scope = ChangeScope(change, book)
    included = [scope.includes(flow, since) for flow, since in flows]
    for flow, since in flows:
        flow.names |= since
    before = [outcome(book.decide(flow.who, flow, START)) for flow, _ in flows]
    book.apply(change)
    for (flow, _), touched, old in zip(flows, included, before, strict=True):
        if outcome(book.decide(flow.who, flow, START)) != old:
            assert touched and scope.includes_agent(flow.who)


@pytest.mark.slow
@settings(max_examples=examples(200))
@given(st.lists(rules, max_size=8), agents, st.sampled_from(NAMES), st.integers(0, 1), st.data())
def test_no_answer_to_a_query_changes_without_its_flow_being_touched(
    live: list[Rule], who: Agent, name: str, at_53: int, data: st.DataObject
) -> None:
    book = Rulebook(Policy(0, tuple(live)))
    asked, _ = book.may_resolve(who, name, START)
    refused = asked if asked.action is not Action.ACCEPT else None
    flow = Live(rport=53 if at_53 or refused is None else 5353, proto=UDP, who=who, objection=refused)
    change = data.draw(changes(live, 0))
    scope = ChangeScope(change, book)
    touched = scope.includes(flow)
    book.apply(change)
    if outcome(book.may_resolve(who, name, START))[:3] != (asked.action, asked.reason, asked.rule_id):
        assert touched and scope.includes_agent(who)


BOOK = (allow(id="net", destination="203.0.113.0/24"), deny(id="site", destination="**.y.org"))


def touches(flow: Live, *added: Rule, removed: tuple[str, ...] = ()) -> bool:
    scope = ChangeScope(PolicyChange(1, 2, removed, added), Rulebook(Policy(1, BOOK)))
    assert scope.includes_agent(flow.who) or not scope.includes(flow)
    return scope.includes(flow)


@pytest.mark.parametrize(
    ("rule", "touched"),
    [
        (allow(), True),
        (allow(destination="203.0.113.9"), True),
        (allow(destination="203.0.113.10"), False),
        (allow(destination="www.x.org"), True),
        (deny(destination="*.x.org"), True),
        (deny(destination="**.said.org"), True),
        (deny(destination="**.other.org"), False),
        (allow(protocol="udp"), False),
        (allow(ports=((444, 65535),)), False),
        (allow(agent="b*"), False),
        (allow(agent="label:gpu"), False),
        (allow(app="ssh"), True),
    ],
)
def test_a_rule_that_comes_or_goes_touches_what_it_could_speak_of(rule: Rule, touched: bool) -> None:
    flow = Live(names=frozenset({"www.x.org"}), said="A.Said.org.")
    assert touches(flow, rule) == touched
    scope = ChangeScope(PolicyChange(1, 2, (rule.id,)), Rulebook(Policy(1, (rule,))))
    assert scope.includes(flow) == touched


def test_an_agent_that_no_rule_speaks_of_is_left_alone() -> None:
    book = Rulebook(Policy(1, (allow(agent="b2"),)))
    scope = ChangeScope(PolicyChange(1, 2, ("allow",), (allow(id="new", agent="b1"),)), book)
    assert [scope.includes_agent(Agent(name)) for name in ("a1", "b1", "b2")] == [False, True, True]
    nothing = ChangeScope(PolicyChange(1, 2), Rulebook(Policy(1, BOOK)))
    assert not nothing.includes_agent(Agent("a1")) and not nothing.includes(Live())


def test_what_a_rule_had_decided_is_touched_when_it_goes() -> None:
    elsewhere = replace(Live(), remote=bytes([192, 0, 2, 1]))
    assert not touches(elsewhere, removed=("net",))
    assert touches(replace(elsewhere, rule=BOOK[0]), removed=("net",))
    assert touches(replace(elsewhere, verdict=Verdict(Action.REJECT, Reason.DESTINATION, "net")), removed=("net",))


def test_a_name_bound_since_counts() -> None:
    scope = ChangeScope(PolicyChange(1, 2, (), (allow(destination="x.org"),)), Rulebook(Policy(1, BOOK)))
    assert not scope.includes(Live()) and scope.includes(Live(), frozenset({"x.org"}))


@pytest.mark.parametrize(
    ("changes_", "touched"),
    [
        ({"rport": 53, "proto": UDP}, True),
        ({"app": "dns"}, True),
        ({"objection": Verdict(Action.REJECT, Reason.QUERY)}, True),
        ({"objection": Verdict(Action.REJECT, Reason.BUDGET)}, False),
        ({"rport": 53, "who": Agent("b1")}, False),
    ],
)
def test_queries_are_touched_by_a_rule_for_any_name(changes_: dict[str, object], touched: bool) -> None:
    flow = replace(Live(), **changes_)  # type: ignore[arg-type]
    assert touches(flow, allow(destination="x.org", agent="a1")) == touched


def test_a_change_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version 0, but version 1 is in force"):
        ChangeScope(PolicyChange(0, 2), Rulebook(Policy(1, BOOK)))
