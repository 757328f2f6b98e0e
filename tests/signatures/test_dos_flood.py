"""dos.flood: a flow of an agent whose queue overran is named; nothing is refused."""

from __future__ import annotations

from egress.engine.engine import Engine
from egress.limits import Limits
from egress.model import Action, Direction, Effect, Policy
from egress.records.shape import FindingRecord
from signatures.dos_flood import DosFlood
from tests.traffic import START, Talk, agent


def test_the_newest_flow_is_named_and_goes_on() -> None:
    engine, who = Engine(Limits(), Policy(), [DosFlood()]), agent()
    assert engine.overrun(who.name, 9, START) == (), "no flow yet"
    first, newest = Talk(sport=40000).open(), Talk(sport=40001, remote="203.0.113.8").open()
    first.play(engine, who)
    newest.play(engine, who, START + 1)
    (finding,) = engine.overrun(who.name, 1234, START + 2)
    assert isinstance(finding, FindingRecord)
    assert (finding.signature, finding.effect, finding.action) == ("dos.flood", Effect.NONE, Action.ACCEPT)
    assert "1234 packets were dropped" in finding.summary and finding.dst == "203.0.113.8"
    newest.steps.clear()
    newest.client(b"goes on")
    (step,) = newest.steps
    assert engine.packet(step.raw, START + 3, who, Direction.OUT).verdict.action is Action.ACCEPT
    assert engine.overrun(who.name, 5, START + 4) == (), "once for a flow"
    assert engine.overrun("another", 5, START + 4) == ()
