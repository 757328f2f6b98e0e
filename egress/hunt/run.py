"""A hunt: runs the hunters over a window of history and turns their leads into findings.

The id of a finding is a hash of its signature, agent, destination and the UTC day of its last flow: two hunts over the
same history give the same findings, and a beacon that goes on is one finding a day. The first stored one stays.
`Effect.NONE` marks findings of hunts: nothing is refused because of them. A lead that the flow's rule exempts is
counted, but is not a finding, as in the engine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from egress.hunt.hunter import Hunter, Lead, Settings, counted
from egress.model import EVIDENCE_BYTES, Action, Effect, Rule
from egress.policy.rulebook import exempt
from egress.records.shape import FindingRecord, FlowRecord
from egress.store.database.handles import Engine
from egress.store.policy.ruleset import rule_at
from egress.store.query.history import DAY, History, Window


@dataclass(frozen=True, slots=True)
class HuntResult:
    """The findings of one hunter in one hunt."""

    hunter: str
    findings: tuple[FindingRecord, ...]  # strongest first
    exempted: int  # leads that the rules of their flows exempt
    notes: tuple[str, ...]


def hunt(
    engine: Engine,
    hunters: Sequence[Hunter],
    window: Window,
    settings: Settings,
    progress: Callable[[str, int], object] = lambda _, __: None,
) -> list[HuntResult]:
    """Run hunters over a window; store nothing. `progress` is called with a hunter's id and its number of rows read."""
    results = []
    rules: dict[tuple[str, int], Rule | None] = {}
    for hunter in hunters:
        history = History(engine, window, lambda rows, name=hunter.id: progress(name, rows))  # type: ignore[misc]
        haul = hunter.hunt(history, settings)
        findings: dict[str, FindingRecord] = {}
        exempted = gone = 0
        for lead in haul.leads:
            flow = history.flow(lead.agent, lead.start, lead.target)
            if flow is None:
                gone += 1
            elif exempt(_rule(engine, flow, rules), hunter.id):
                exempted += 1
            else:
                found = finding(hunter, lead, flow)
                findings.setdefault(found.finding_id, found)
        notes = haul.notes
        if gone:
            notes += (f"{counted(gone, 'lead')} left out: the flows are not stored any more",)
        results.append(HuntResult(hunter.id, tuple(findings.values()), exempted, notes))
    return results


def finding(hunter: Hunter, lead: Lead, flow: FlowRecord) -> FindingRecord:
    """Make the finding of a lead, on its last flow, with the start of that flow as its time."""
    text = "\0".join((hunter.id, lead.agent, lead.destination, str(lead.start // DAY)))
    return FindingRecord(
        finding_id=hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest(),
        flow_id=flow.flow_id,
        agent=flow.agent,
        time=flow.start,
        signature=hunter.id,
        severity=lead.severity,
        technique=hunter.technique,
        summary=lead.summary,
        evidence=lead.evidence.encode("utf-8", "backslashreplace")[:EVIDENCE_BYTES],
        effect=Effect.NONE,
        action=Action.ACCEPT,
        mode=flow.mode,
        proto=flow.proto,
        src=flow.src,
        sport=flow.sport,
        dst=flow.dst,
        dport=flow.dport,
        community_id=flow.community_id,
        rule_id=flow.rule_id,
        policy_version=flow.policy_version,
    )


def _rule(engine: Engine, flow: FlowRecord, known: dict[tuple[str, int], Rule | None]) -> Rule | None:
    """Return the rule that decided a flow, as it was in the flow's policy version; None if none did, or it is gone."""
    key = flow.rule_id, flow.policy_version
    if flow.rule_id and key not in known:
        with engine.connect() as connection:
            stored = rule_at(connection, *key)
        known[key] = None if stored is None else stored.rule
    return known.get(key)
