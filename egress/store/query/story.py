"""Reads the records of one flow, finding or agent from all tables, as its story."""

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
from egress.store.query.reader import AgentSummary, Filter, FlowDetails, agents, findings_of, flow, flow_details
from egress.store.recording.evidence import read, was_pruned
from egress.store.recording.steps import StepContext, step_context

BEFORE = 60  # seconds before a flow: the flows of that time belong to its story
MOST = 20  # of these flows
TOP = 10  # destinations and names of an agent


@dataclass(frozen=True, slots=True)
class KeptPackets:
    """The number and total size (bytes) of the packets kept as evidence of a finding."""

    packets: int
    bytes: int
    pruned: bool = False  # evidence of this age was pruned


@dataclass(frozen=True, slots=True)
class FlowStory:
    """A flow with its findings, process, rule, kept packets, steps, and the flows just before it."""

    flow: FlowRecord
    findings: tuple[FindingRecord, ...]
    process: ProcessRecord | None  # None: none is recorded
    rule: Rule | None  # of the verdict, as it was in the policy version of the verdict
    kept: dict[str, KeptPackets]  # by finding id
    before: tuple[FlowDetails, ...]  # the last MOST flows that the agent opened in the BEFORE seconds before
    more_before: bool
    context: StepContext  # the agent's steps when the flow began
    files: tuple[str, ...] = ()  # in a case: the captures that contain the flow


@dataclass(frozen=True, slots=True)
class FindingStory:
    """A finding, its flow, its packets and its steps."""

    finding: FindingRecord
    flow: FlowRecord | None  # None: not stored yet, or pruned
    kept: KeptPackets | None  # None: none were kept
    context: StepContext  # the agent's steps when the finding was made


@dataclass(frozen=True, slots=True)
class AgentStory:
    """An agent: its attachment, its counts, and its newest flows."""

    name: str
    attached: StoredAgent | None  # None: not attached any more
    summary: AgentSummary | None  # None: no records
    destinations: tuple[Count, ...]  # address, port and protocol, those with most flows
    names: tuple[Count, ...]
    signatures: tuple[Count, ...]
    processes: tuple[Count, ...]  # executables that opened its flows
    newest: tuple[FlowDetails, ...]


def flow_story(engine: Engine, flow_id: str) -> FlowStory:
    """Gather the story of the flow with exactly this id. Raises EgressError if it is not stored."""
    found = flow(engine, flow_id)
    if found is None:
        raise EgressError(f"no flow begins with {flow_id}; `egress query` lists flows")
    findings = findings_of(engine, flow_id)
    kept = {each.finding_id: _kept(engine, each) for each in findings}
    with engine.connect() as connection:
        stored = rule_at(connection, found.rule_id, found.policy_version) if found.rule_id else None
        process = by_flow(connection, [flow_id]).get(flow_id)
        files = files_of(connection, flow_id)
        context = step_context(connection, found.agent, found.start)
    earlier = _before(engine, found)
    return FlowStory(
        found,
        findings,
        process,
        None if stored is None else stored.rule,
        {finding_id: each for finding_id, each in kept.items() if each is not None},
        earlier[-MOST:],
        len(earlier) > MOST,
        context,
        files,
    )


def finding_story(engine: Engine, finding_id: str) -> FindingStory:
    """Gather the story of the finding with exactly this id. Raises EgressError if it is not stored."""
    with engine.connect() as connection:
        found = find_finding(connection, finding_id)
        if found is None:
            raise EgressError(f"no finding begins with {finding_id}")
        context = step_context(connection, found.agent, found.time)
    return FindingStory(found, flow(engine, found.flow_id), _kept(engine, found), context)


def agent_story(engine: Engine, name: str) -> AgentStory:
    """Gather the story of an agent. Raises EgressError if it is not attached and has no records."""
    with engine.connect() as connection:
        attached = stored_agent(connection, name)
    summary = next(iter(agents(engine, name)), None)
    if attached is None and summary is None:
        raise EgressError(f"no agent {name[:80]!a} is known; `egress query --count-by agent` lists them")
    wanted = exactly(name)
    return AgentStory(
        name,
        attached,
        summary,
        tuple(count_by(engine, wanted, ("dest", "port", "proto"), TOP)),
        tuple(count_by(engine, replace(wanted, query="name:?*"), ("name",), TOP)),
        tuple(count_by(engine, wanted, ("signature",), TOP)),
        tuple(count_by(engine, wanted, ("process",), TOP)),
        tuple(flow_details(engine, replace(wanted, limit=5))),
    )


def exactly(agent: str) -> Filter:
    """The filter for all records of the agent with exactly this name, even if it contains `*`, `?` or `[`."""
    return Filter(agent=glob.escape(agent))


def _kept(engine: Engine, found: FindingRecord) -> KeptPackets | None:
    with engine.connect() as connection:
        kept = read(connection, found.finding_id)
        if kept is None or not kept.packets:
            return KeptPackets(0, 0, pruned=True) if was_pruned(connection, found) else None
    return KeptPackets(len(kept.packets), sum(len(packet.data) for packet in kept.packets))


def _before(engine: Engine, found: FlowRecord) -> tuple[FlowDetails, ...]:
    """The last MOST + 1 flows of the agent that began in the BEFORE seconds before this one, oldest first."""
    begun = replace(exactly(found.agent), until=found.start, begun=found.start - BEFORE, limit=MOST + 2)
    with closing(flow_details(engine, begun)) as found_:
        return tuple(each for each in found_ if each.flow.flow_id != found.flow_id)[-(MOST + 1) :]


def files_of(connection: Connection, flow_id: str) -> tuple[str, ...]:
    """The paths of the case's captures that contain a flow; none in the live database."""
    query = (
        sa.select(captures.c.file)
        .join_from(captured_flows, captures, captures.c.id == captured_flows.c.capture)
        .where(captured_flows.c.flow_id == flow_id)
        .order_by(captures.c.id)
    )
    return tuple(connection.scalars(query))
