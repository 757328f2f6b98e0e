"""What is known of one flow, finding or agent, gathered from all tables."""

from __future__ import annotations

import glob
from contextlib import closing
from dataclasses import dataclass, replace

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from egress.errors import EgressError
from egress.model import Rule
from egress.records.shape import FindingRecord, FlowRecord, ProcessRecord
from egress.store.database.tables import captured_flows, captures
from egress.store.policy.agents import StoredAgent
from egress.store.policy.agents import agent as stored_agent
from egress.store.policy.ruleset import rule_at
from egress.store.query.counting import Count, count_by
from egress.store.query.listing import finding as find_finding
from egress.store.query.processes import by_flow
from egress.store.query.reader import AgentSummary, Filter, Told, agents, findings_of, flow, stories
from egress.store.recording.evidence import read, was_pruned
from egress.store.recording.steps import Doing, doing

BEFORE = 60  # seconds before a flow that belong to its story
MOST = 20  # flows of them
TOP = 10  # destinations and names of an agent


@dataclass(frozen=True, slots=True)
class KeptPackets:
    """The packets kept of a finding."""

    packets: int
    bytes: int  # of them
    pruned: bool = False  # packets as old as these were taken away


@dataclass(frozen=True, slots=True)
class FlowStory:
    flow: FlowRecord
    findings: tuple[FindingRecord, ...]
    process: ProcessRecord | None  # None: nothing is recorded of it
    rule: Rule | None  # that the verdict names, as it stood in the policy the verdict was made under
    kept: dict[str, KeptPackets]  # by finding id
    before: tuple[Told, ...]  # what the agent began in the BEFORE seconds before, the last MOST
    more_before: bool
    doing: Doing  # what its framework says the agent was doing when the flow began
    files: tuple[str, ...] = ()  # of a case: the captures that hold the flow


@dataclass(frozen=True, slots=True)
class FindingStory:
    finding: FindingRecord
    flow: FlowRecord | None  # None while only the finding is stored
    kept: KeptPackets | None
    doing: Doing  # what its framework says the agent was doing then


@dataclass(frozen=True, slots=True)
class AgentStory:
    name: str
    attached: StoredAgent | None  # None: it is not, any more
    summary: AgentSummary | None  # None: nothing is recorded
    destinations: tuple[Count, ...]  # address, port, protocol; those with most flows
    names: tuple[Count, ...]
    signatures: tuple[Count, ...]
    processes: tuple[Count, ...]  # executables that opened its flows
    newest: tuple[Told, ...]


def flow_story(engine: Engine, flow_id: str) -> FlowStory:
    """Raises EgressError where there is no such flow."""
    found = flow(engine, flow_id)
    if found is None:
        raise EgressError(f"no flow begins with {flow_id}; `egress query` shows which there are")
    findings = findings_of(engine, flow_id)
    kept = {each.finding_id: _kept(engine, each) for each in findings}
    with engine.connect() as connection:
        stored = rule_at(connection, found.rule_id, found.policy_version) if found.rule_id else None
        process = by_flow(connection, [flow_id]).get(flow_id)
        files = files_of(connection, flow_id)
        meanwhile = doing(connection, found.agent, found.start)
    earlier = _before(engine, found)
    return FlowStory(
        found,
        findings,
        process,
        None if stored is None else stored.rule,
        {finding_id: each for finding_id, each in kept.items() if each is not None},
        earlier[-MOST:],
        len(earlier) > MOST,
        meanwhile,
        files,
    )


def finding_story(engine: Engine, finding_id: str) -> FindingStory:
    """Raises EgressError where there is no such finding."""
    with engine.connect() as connection:
        found = find_finding(connection, finding_id)
        if found is None:
            raise EgressError(f"no finding begins with {finding_id}")
        meanwhile = doing(connection, found.agent, found.time)
    return FindingStory(found, flow(engine, found.flow_id), _kept(engine, found), meanwhile)


def agent_story(engine: Engine, name: str) -> AgentStory:
    """Raises EgressError where nothing is known of it."""
    with engine.connect() as connection:
        attached = stored_agent(connection, name)
    summary = next(iter(agents(engine, name)), None)
    if attached is None and summary is None:
        raise EgressError(
            f"nothing is known of an agent {name[:80]!a}; `egress query --count-by agent` shows which act"
        )
    wanted = exactly(name)
    return AgentStory(
        name,
        attached,
        summary,
        tuple(count_by(engine, wanted, ("dest", "port", "proto"), TOP)),
        tuple(count_by(engine, replace(wanted, query="name:?*"), ("name",), TOP)),
        tuple(count_by(engine, wanted, ("signature",), TOP)),
        tuple(count_by(engine, wanted, ("process",), TOP)),
        tuple(stories(engine, replace(wanted, limit=5))),
    )


def exactly(agent: str) -> Filter:
    """Everything of exactly this agent."""
    return Filter(agent=glob.escape(agent))


def _kept(engine: Engine, found: FindingRecord) -> KeptPackets | None:
    with engine.connect() as connection:
        kept = read(connection, found.finding_id)
        if kept is None or not kept.packets:
            return KeptPackets(0, 0, pruned=True) if was_pruned(connection, found) else None
    return KeptPackets(len(kept.packets), sum(len(packet.data) for packet in kept.packets))


def _before(engine: Engine, found: FlowRecord) -> tuple[Told, ...]:
    """The newest first of those begun before it, one more than MOST, oldest first; never the flow itself."""
    begun = replace(exactly(found.agent), until=found.start, begun=found.start - BEFORE, limit=MOST + 2)
    with closing(stories(engine, begun)) as told:
        return tuple(each for each in told if each.flow.flow_id != found.flow_id)[-(MOST + 1) :]


def files_of(connection: Connection, flow_id: str) -> tuple[str, ...]:
    """The captures that hold a flow; none where it was seen live."""
    query = (
        sa.select(captures.c.file)
        .join_from(captured_flows, captures, captures.c.id == captured_flows.c.capture)
        .where(captured_flows.c.flow_id == flow_id)
        .order_by(captures.c.id)
    )
    return tuple(connection.scalars(query))
