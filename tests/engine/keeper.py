"""Calls the engine as the gateway does in mode ask: keeps packets on hold, and sends them again when the hold ends."""

from __future__ import annotations

from dataclasses import dataclass, field

from egress.engine.engine import Engine
from egress.engine.outcome import Outcome
from egress.model import Action, Agent, Direction, PolicyChange, Rule
from egress.records.shape import FlowRecord, Record


@dataclass
class Keeper:
    engine: Engine
    version: int = 1
    kept: dict[str, list[tuple[bytes, Agent, Direction]]] = field(default_factory=dict)
    passed: list[bytes] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    states: list[str] = field(default_factory=list)

    def packet(self, raw: bytes, ts: float, who: Agent, direction: Direction = Direction.OUT) -> Outcome:
        outcome = self.engine.packet(raw, ts, who, direction)
        self.records += outcome.records
        if outcome.verdict.action is Action.HOLD:
            waits = self.engine.hold_of(raw, who, direction)
            assert waits in self.engine.holds and outcome.verdict.packet_only
            self.kept.setdefault(waits, []).append((raw, who, direction))
        elif outcome.verdict.action is Action.ACCEPT:
            self.passed.append(raw)
        return outcome

    def settle(self, ts: float, now: Agent | None = None) -> list[Outcome]:
        """Send the packets of ended holds to the engine again, as packets of the agent `now` (default: unchanged)."""
        outcomes = []
        for identifier, state in self.engine.ended_holds():
            self.states.append(state)
            for raw, who, direction in self.kept.pop(identifier, []):
                outcomes.append(self.packet(raw, ts, now or who, direction))
        return outcomes

    def change(self, ts: float, *added: Rule, removed: tuple[str, ...] = ()) -> list[Outcome]:
        self.records += self.engine.change_policy(PolicyChange(self.version, self.version + 1, removed, added), ts)
        self.version += 1
        return self.settle(ts)

    def refuse(self, ts: float, identifier: str) -> list[Outcome]:
        self.records += self.engine.answer(identifier, Action.REJECT, ts)
        return self.settle(ts)

    def tick(self, ts: float) -> list[Outcome]:
        self.records += self.engine.tick(ts)
        return self.settle(ts)

    def flows(self) -> list[FlowRecord]:
        return [record for record in self.records if isinstance(record, FlowRecord)]
