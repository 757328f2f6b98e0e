"""Rules by agent: the agents that a selector matches, and a catalogue that edits keep correct and small."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.model import ICMP, TCP, UDP, Action, Agent, Rule
from egress.policy.index import IndexedRule, destination_keys, parse_destination
from egress.policy.selectors import AgentRules, Catalogue, reaching, selects

SELECTORS = ["*", "a1", "a?", "b*", "label:gpu", "label:team-*", "label:a1"]
AGENTS = [Agent("a1"), Agent("a1", labels=("gpu",)), Agent("a2", labels=("team-red", "gpu")), Agent("b1"), Agent("*")]


def entry(number: int, selector: str, destination: str = "any", **more: object) -> IndexedRule:
    rule = Rule(str(number), Action(more.pop("action", "accept")), selector, destination, **more)  # type: ignore[arg-type]
    return IndexedRule((0, number), rule, parse_destination(destination), {"tcp": TCP}.get(rule.protocol, -1))


@pytest.mark.parametrize(
    ("selector", "agents"),
    [
        ("*", [0, 1, 2, 3, 4]),
        ("a1", [0, 1]),
        ("a?", [0, 1, 2]),
        ("[b]*", [3]),
        ("label:gpu", [1, 2]),
        ("label:team-*", [2]),
        ("gpu", []),
        ("A1", []),
    ],
)
def test_whom_a_selector_speaks_of(selector: str, agents: list[int]) -> None:
    assert [number for number, agent in enumerate(AGENTS) if selects(selector, agent)] == agents
    catalogue = Catalogue()
    catalogue.add(entry(1, selector))
    assert [number for number, agent in enumerate(AGENTS) if catalogue.rules_of(agent).allow] == agents


def rules(mine: AgentRules) -> tuple[set[str], set[str]]:
    anywhere = [{each.rule.id for index in side for bucket in index.anywhere() for each in bucket} for side in mine]
    return anywhere[0], anywhere[1]


@pytest.mark.slow
@given(st.lists(st.tuples(st.sampled_from(SELECTORS), st.booleans()), max_size=12), st.data())
def test_what_it_remembers_of_an_agent_follows_every_edit(some: list[tuple[str, bool]], data: st.DataObject) -> None:
    catalogue, live = Catalogue(), dict[int, IndexedRule]()
    steps = list(enumerate(some))
    while steps or live:
        if steps and (not live or data.draw(st.booleans())):
            number, (selector, allows) = steps.pop()
            live[number] = entry(number, selector, action="accept" if allows else "drop")
            catalogue.add(live[number])
        else:
            catalogue.remove(live.pop(data.draw(st.sampled_from(sorted(live)))))
        for agent in AGENTS:
            mine = [each.rule for each in live.values() if selects(each.rule.agent, agent)]
            allowed = {rule.id for rule in mine if rule.action is Action.ACCEPT}
            assert rules(catalogue.rules_of(agent)) == ({rule.id for rule in mine} - allowed, allowed)


def test_the_deepest_pattern_is_the_deepest_that_is_left() -> None:
    catalogue = Catalogue()
    entries = [entry(number, "*", text) for number, text in enumerate(["**.x", "**.b.a.x", "**.c.a.x", "d.c.b.a.x"])]
    seen = []
    for each in entries:
        catalogue.add(each)
        seen.append(catalogue.deepest)
    for each in reversed(entries):
        catalogue.remove(each)
        seen.append(catalogue.deepest)
    assert seen == [1, 3, 3, 3, 3, 3, 1, 0]


def test_an_agent_that_is_gone_is_forgotten() -> None:
    catalogue = Catalogue()
    for number in range(100):
        catalogue.rules_of(Agent(f"a{number}"))
        catalogue.forget(f"a{number}")
        catalogue.forget("nobody")
    assert vars(catalogue) == vars(Catalogue())


@pytest.mark.parametrize(
    ("rule", "proto", "port", "reached"),
    [
        ({}, UDP, 0, True),
        ({"protocol": "tcp"}, TCP, 443, True),
        ({"protocol": "tcp"}, UDP, 443, False),
        ({"ports": ((1, 10), (443, 443))}, TCP, 443, True),
        ({"ports": ((1, 10), (443, 443))}, TCP, 11, False),
        ({"app": "tls"}, TCP, 443, True),
        ({"app": "tls"}, ICMP, 0, False),
    ],
)
def test_what_reaches_a_protocol_and_port(rule: dict[str, object], proto: int, port: int, reached: bool) -> None:
    catalogue = Catalogue()
    catalogue.add(entry(1, "*", "10.0.0.0/8", **rule))
    where = destination_keys(b"\x0a\1\1\1", (), 0)
    assert bool(reaching(catalogue.rules_of(AGENTS[0]).allow, where, proto, port)) == reached
    assert not reaching(catalogue.rules_of(AGENTS[0]).allow, destination_keys(b"\x0b\1\1\1", (), 0), proto, port)
