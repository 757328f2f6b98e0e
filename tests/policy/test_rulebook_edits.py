"""A policy edited in place: the effect of an edit, edits that are refused, and that nothing accumulates."""

from __future__ import annotations

from dataclasses import replace

import pytest

from egress.model import Action, Agent, Policy, PolicyChange, Rule
from egress.policy.rulebook import Rulebook
from tests.policy.test_rulebook import DENIED, Target, X, allow, decide, deny
from tests.traffic import START, agent


def test_the_lower_position_speaks_first_and_of_equal_ones_the_older() -> None:
    first, second, third = (allow(id=name, position=at) for name, at in (("1", 5), ("2", -5), ("3", 5)))
    assert decide(first, second, third)[2] == "2"
    book = Rulebook(Policy(1, (first, second, third)))
    book.apply(PolicyChange(1, 2, ("2",)))
    assert book.decide(DENIED, Target(), START)[0].rule_id == "1"
    book.apply(PolicyChange(2, 3, ("1",), (first,)))
    assert book.decide(DENIED, Target(), START)[0].rule_id == "3", "a rule that is added again counts as newer"
    book.apply(PolicyChange(3, 4, (), (allow(id="4", position=-(2**62)),)))
    assert book.decide(DENIED, Target(), START)[0].rule_id == "4"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (PolicyChange(2, 4), "is of policy version 2, but version 3 is in force"),
        (PolicyChange(4, 5), "is of policy version 4"),
        (PolicyChange(3, 4, ("allow", "other")), "removes rules that are not in version 3: other"),
        (PolicyChange(3, 4, ("allow", "allow")), "removes a rule twice"),
        (PolicyChange(3, 4, (), (allow(),)), "a second rule with the id allow"),
        (PolicyChange(3, 4, (), (allow(id="new"), allow(id="new"))), "a second rule with the id new"),
        (PolicyChange(3, 4, ("allow",), (allow(destination="10.0.0.0/33"),)), "ends in a number|wildcard|label"),
        (PolicyChange(3, 4, ("allow",), (allow(id="x"), allow(protocol="smoke"))), "smoke"),
    ],
)
def test_a_change_that_does_not_fit_changes_nothing(change: PolicyChange, complaint: str) -> None:
    book = Rulebook(Policy(3, (allow(expires_at=START + 1),)))
    book.hit("allow", START)
    with pytest.raises(ValueError, match=complaint):
        book.apply(change)
    verdict, _ = book.decide(DENIED, Target(), START)
    assert (verdict.rule_id, verdict.policy_version) == ("allow", 3)
    assert book.next_expiry(START) == START + 1 and book.hits == {"allow": (1, START)}
    book.apply(PolicyChange(3, 4, ("allow",)))
    assert decide_with(book) is Action.REJECT


def decide_with(book: Rulebook, who: Agent = DENIED) -> Action:
    return book.decide(who, Target(), START)[0].action


def test_a_policy_with_two_rules_of_one_id_is_none() -> None:
    with pytest.raises(ValueError, match="two rules with the id allow"):
        Rulebook(Policy(1, (allow(), allow(destination="8.8.8.8"))))


def test_a_once_rule_may_be_used_again_when_it_was_edited_or_gone() -> None:
    once = allow(once=True)
    book = Rulebook(Policy(1, (once,)))
    book.spend(once)
    steps: list[tuple[tuple[str, ...], tuple[Rule, ...], Action]] = [
        (("allow",), (once,), Action.REJECT),  # the same rule
        (("allow",), (replace(once, comment="again"),), Action.ACCEPT),
        ((), (deny(destination="8.8.8.8"),), Action.ACCEPT),
        (("allow",), (), Action.REJECT),
        ((), (once,), Action.ACCEPT),
    ]
    for version, (removed, added, action) in enumerate(steps, 1):
        book.apply(PolicyChange(version, version + 1, removed, added))
        assert decide_with(book) is action


def test_what_was_remembered_of_an_agent_follows_an_edit() -> None:
    labelled = agent(default=Action.REJECT, labels=("gpu",))
    book = Rulebook(Policy(1))
    assert decide_with(book, labelled) is Action.REJECT
    for version, selector in enumerate(["label:g*", "a?", DENIED.name, "*"]):
        book.apply(PolicyChange(2 * version + 1, 2 * version + 2, (), (allow(agent=selector),)))
        assert decide_with(book, labelled) is Action.ACCEPT
        book.apply(PolicyChange(2 * version + 2, 2 * version + 3, ("allow",)))
        assert decide_with(book, labelled) is Action.REJECT


def test_edits_leave_nothing_behind() -> None:
    """A gateway is edited for months: nothing may grow with each edit."""
    destinations = ["any", "10.{}.0.0/16", "10.0.0.{}", "h{}.x.org", "*.z{}.org", "**.b.d{}.org", "2001:db8:{}::/48"]
    book, empty = Rulebook(Policy(0)), Rulebook(Policy(0))
    version = 0
    for number in range(2_000):
        text = destinations[number % 7].format(number % 250)
        selector = ("*", f"agent{number}", f"a{number}*", f"label:{number}")[number % 4]
        expires_at = START + number if number % 3 == 0 else None
        rule = allow(id=str(number), agent=selector, destination=text, expires_at=expires_at, once=True)
        who = Agent(f"agent{number}", default=Action.REJECT, labels=(str(number),))
        book.apply(PolicyChange(version, version + 1, (), (rule,)))
        book.decide(who, X, START - 1)
        book.hit(rule.id, START)
        book.spend(rule)
        edited = replace(rule, destination="**.edited.org", agent="*")
        book.apply(PolicyChange(version + 1, version + 2, (rule.id,), (edited,)))
        book.apply(PolicyChange(version + 2, version + 3, (rule.id,)))
        book.forget(who.name)
        version += 3
    assert size(book) == size(empty)


def size(thing: object) -> int:
    """Count the containers below an object, at any depth, and itself."""
    if isinstance(thing, dict):
        return 1 + sum(map(size, thing.values()))
    if isinstance(thing, list | tuple):
        return 1 + sum(map(size, thing))
    return sum(map(size, vars(thing).values())) if hasattr(thing, "__dict__") else 1
