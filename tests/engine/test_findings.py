"""Findings: the signatures are asked once for each event, and a suspicion is recorded without a refusal."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from egress.dissection.events import Event, HttpAsked
from egress.engine.engine import Engine
from egress.engine.signature import FlowView, Signature
from egress.limits import Limits
from egress.model import Action, Effect, Finding, Policy, Rule, Severity
from tests.traffic import Talk, agent

GET = b"GET /%d HTTP/1.1\r\nHost: a.example\r\n\r\n"


class Asked(Signature):
    """Finds HTTP requests, each with the next of its effects."""

    id = "test.asked"
    severity = Severity.LOW
    technique = "T1071"
    listens = (HttpAsked,)

    def __init__(self, effects: Sequence[Effect]) -> None:
        self.effects = list(effects)

    def see(self, event: Event, flow: FlowView) -> Finding | None:
        return Finding(self.id, self.severity, "asked", b"", self.technique, self.effects.pop(0))


def outcome(*effects: Effect, rule: Rule | None = None) -> tuple[list[tuple[Effect, Action]], list[Action]]:
    """Send a request for each effect; return the findings with their actions, and the answers to the requests."""
    talk = Talk(dport=80).open()
    for number in range(len(effects)):
        talk.client(GET % number)
    engine = Engine(Limits(), Policy(1, (rule,) if rule else ()), [Asked(effects)])
    played = talk.play(engine, agent(default=Action.ACCEPT))
    return [(each.effect, each.action) for each in played.findings], played.actions[-len(effects) :]


def test_a_suspicion_is_recorded_and_refuses_nothing() -> None:
    assert outcome(Effect.NONE) == ([(Effect.NONE, Action.ACCEPT)], [Action.ACCEPT])


@pytest.mark.parametrize("effect", [Effect.FLOW, Effect.DESTINATION])
def test_a_finding_refuses_its_flow_also_after_a_suspicion(effect: Effect) -> None:
    found, actions = outcome(Effect.NONE, Effect.NONE, effect)
    assert found == [(Effect.NONE, Action.ACCEPT), (effect, Action.REJECT)]
    assert actions == [Action.ACCEPT, Action.ACCEPT, Action.REJECT]


def test_a_finding_that_the_rule_exempts_is_recorded_only() -> None:
    rule = Rule("r1", Action.ACCEPT, exempt=("test.*",))
    assert outcome(Effect.FLOW, Effect.FLOW, rule=rule) == ([(Effect.FLOW, Action.ACCEPT)], [Action.ACCEPT] * 2)
