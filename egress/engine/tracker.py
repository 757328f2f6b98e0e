"""The flows of all agents of one engine: bounded tables, room for new flows, timeouts.

An agent can fill only its own share. What may be given up for a new flow is decided in `Flow.forgettable`; if
nothing may, there is no room and the new flow is refused (Suricata calls this the memcap exception policy).
"""

from __future__ import annotations

from collections.abc import Iterator

from egress.addresses import Networks
from egress.engine.flow import Flow, FlowTable
from egress.engine.records import flow_record
from egress.engine.timers import Timers
from egress.limits import Limits
from egress.model import TCP, Agent
from egress.records.shape import FlowRecord


class Tracker:
    """Who talks to whom; `live` counts the flows of all agents."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._tables: dict[str, FlowTable] = {}
        self._networks: dict[tuple[str, ...], Networks] = {}
        self.timers = Timers(limits)
        self.live = 0

    def table(self, agent: str) -> FlowTable:
        table = self._tables.get(agent)
        if table is None:
            table = self._tables[agent] = FlowTable()
        return table

    def owns(self, agent: Agent, address: bytes) -> bool:
        """Whether a packed source address is the agent's own."""
        networks = self._networks.get(agent.networks)
        if networks is None:
            networks = self._networks[agent.networks] = Networks(agent.networks)
        return address in networks

    def add(self, flow: Flow) -> None:
        self.table(flow.agent).flows[flow.key] = flow
        self.live += 1
        self.timers.watch(flow)

    def make_room(self, table: FlowTable, ts: float) -> tuple[FlowRecord, ...] | None:
        """Room for one more flow: the records of what was given up for it, or None if nothing may be."""
        forced = False
        if len(table) < self._limits.max_flows_agent:
            if self.live < self._limits.max_flows:
                return ()
            forced = len(table) < self._limits.max_flows // len(self._tables)  # a fair share is not to be kept away
            table = max(self._tables.values(), key=len)
        victim = table.evictable(ts, forced=forced)
        return None if victim is None else (self.forget(victim, ts, "evicted"),)

    def charge(self, flow: Flow) -> bool:
        """Book the bytes now held for inspecting a flow; False if its agent holds too many."""
        table = self.table(flow.agent)
        table.buffered += flow.charge()
        return table.buffered <= self._limits.max_buffered

    def release(self, flow: Flow) -> None:
        """Give up inspecting a flow."""
        flow.release()
        self.charge(flow)

    def forget(self, flow: Flow, ts: float, state: str) -> FlowRecord:
        """The end of a flow and its last record."""
        flow.forgotten = True
        self.release(flow)
        flow.scan = None
        self.live -= 1
        table = self.table(flow.agent)
        del table.flows[flow.key]
        if flow.proto == TCP and len(table.ended) < self._limits.max_flows_agent:
            table.ended.add(flow.key)
        self.timers.trim(self.live)
        return flow_record(flow, ts, state, ended=True)

    def drop(self, agent: str, ts: float) -> tuple[FlowRecord, ...]:
        """Forget an agent and all its flows."""
        ends = [self.forget(flow, ts, "closed" if flow.state == "closed" else "shutdown") for flow in self.flows(agent)]
        self._tables.pop(agent, None)
        return tuple(ends)

    def expire(self, ts: float) -> Iterator[FlowRecord]:
        """Forget the flows that have been silent for their timeout."""
        for flow in self.timers.due(ts):
            yield self.forget(flow, ts, "closed" if flow.state == "closed" else "timeout")

    def agents(self) -> list[str]:
        return list(self._tables)

    def flows(self, agent: str | None = None) -> list[Flow]:
        """The live flows (of one agent), as a list: forgetting some while walking it is fine."""
        tables = self._tables.values() if agent is None else [self.table(agent)]
        return [flow for table in tables for flow in table]

    @property
    def buffered(self) -> int:
        return sum(table.buffered for table in self._tables.values())
