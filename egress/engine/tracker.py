"""The flows of all agents of one engine: bounded tables, room for new flows, timeouts.

A table keeps the flows of one agent, roughly in order of last use. When an agent's share is full, the oldest flow that
is decided and harmless to forget makes room: settled, closed, or refused by policy alone (it would be refused again). A
flow refused for a finding is never forgotten early. An undecided flow is forgotten early only after it has been idle,
or when the engine is full and an agent below its fair share needs room. If no flow can make room, the new flow is
refused (Suricata calls this the memcap exception policy). So an agent can fill only its own share, and by filling it
can only lock itself out.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Iterator

from egress.addresses import Networks
from egress.engine.flow import Flow, Key
from egress.engine.outbox import Outbox
from egress.engine.stage import Stage
from egress.limits import Limits
from egress.model import TCP, Agent

TURN = 100  # flows that are forgotten, and timers that are looked at, in one tick: a few milliseconds
EVICT_LOOK = 64  # oldest flows that are looked at for one that may make room
SLACK = 4096  # stale entries of the heap of timers that are tolerated beyond two for each live flow


class FlowTable:
    """The flows of one agent, roughly in order of last use, the oldest first."""

    __slots__ = ("buffered", "ended", "flows")

    def __init__(self) -> None:
        self.flows: OrderedDict[Key, Flow] = OrderedDict()
        self.ended: set[Key] = set()  # TCP flows forgotten so far: they began after the engine was started
        self.buffered = 0  # bytes under inspection

    def touch(self, flow: Flow, ts: float) -> None:
        """Move a flow to the end, at most once a second: a move costs more than the counters of a packet."""
        if ts - flow.moved > 1.0:
            flow.moved = ts
            self.flows.move_to_end(flow.key)

    def evictable(self, ts: float, *, forced: bool = False) -> Flow | None:
        """Return a flow among the EVICT_LOOK oldest that may make room, None if there is none.

        `forced`: any flow may that is not refused for a finding.
        """
        for flow, _ in zip(self.flows.values(), range(EVICT_LOOK), strict=False):
            if flow.forgettable(ts) or (forced and not flow.condemned):
                return flow
        return None

    def __iter__(self) -> Iterator[Flow]:
        return iter(self.flows.values())

    def __len__(self) -> int:
        return len(self.flows)


class Timers:
    """The times at which flows are due to be forgotten: a heap, rebuilt before it outgrows the flows.

    Entries are not updated: one that comes up too early is pushed again, one of a forgotten flow is skipped.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._heap: list[tuple[float, int, Flow]] = []
        self._serial = 0

    def watch(self, flow: Flow) -> None:
        """Add the end of a flow's present timeout; call again when the timeout gets shorter."""
        self._serial += 1
        heapq.heappush(self._heap, (flow.last + flow.timeout(self._limits), self._serial, flow))

    def due(self, ts: float) -> Iterator[Flow]:
        """Yield the live flows whose timeout has passed; looks at no more than TURN entries."""
        for _ in range(TURN):
            if not self._heap or self._heap[0][0] > ts:
                return
            flow = heapq.heappop(self._heap)[2]
            if flow.stage is Stage.FORGOTTEN:
                continue
            if flow.last + flow.timeout(self._limits) > ts:
                self.watch(flow)
            else:
                yield flow

    def next(self) -> float:
        """Return the time of the first entry; infinity if there is none.

        Entries of forgotten flows before it are dropped, at most TURN of them.
        """
        for _ in range(TURN):
            if not self._heap or self._heap[0][2].stage is not Stage.FORGOTTEN:
                break
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else float("inf")

    def entries(self) -> int:
        """Return the number of entries, those of forgotten flows included."""
        return len(self._heap)

    def trim(self, live: int) -> None:
        """Drop the entries of forgotten flows if there are more than SLACK beyond two for each live flow."""
        if len(self._heap) > 2 * live + SLACK:
            self._heap = [entry for entry in self._heap if entry[2].stage is not Stage.FORGOTTEN]
            heapq.heapify(self._heap)


class Tracker:
    """The flows of all agents; `live` is their number."""

    def __init__(self, limits: Limits, outbox: Outbox) -> None:
        self._limits, self._outbox = limits, outbox
        self._tables: dict[str, FlowTable] = {}
        self._networks: dict[tuple[str, ...], Networks] = {}
        self._timers = Timers(limits)
        self._leaving: deque[Flow] = deque()  # flows of agents that are gone, which the next ticks end
        self.live = 0

    def table(self, agent: str) -> FlowTable:
        """Return the table of an agent's flows; made if there is none."""
        table = self._tables.get(agent)
        if table is None:
            table = self._tables[agent] = FlowTable()
        return table

    def owns(self, agent: Agent, address: bytes) -> bool:
        """Return True if a packed source address belongs to the agent."""
        networks = self._networks.get(agent.networks)
        if networks is None:
            networks = self._networks[agent.networks] = Networks(agent.networks)
        return address in networks

    def add(self, flow: Flow) -> None:
        """Add a new flow to its agent's table, and set its timer."""
        self.table(flow.agent).flows[flow.key] = flow
        self.live += 1
        if flow.stage is not Stage.REFUSED:  # a refusal has set its timer already
            self.watch(flow)

    def watch(self, flow: Flow) -> None:
        """Set a timer to forget the flow after its present timeout; call again when the timeout gets shorter."""
        self._timers.watch(flow)

    def next_tick(self) -> float:
        """Return the time at which `expire` may have something to do; infinity if there are no flows.

        In the past while flows of agents that are gone wait for their end.
        """
        return float("-inf") if self._leaving else self._timers.next()

    def may_pick_up(self, table: FlowTable, key: Key, uptime: float) -> bool:
        """Return True if a connection may be picked up in mid-stream, though its first bytes were not inspected.

        `uptime` is the time since the engine's first packet, in seconds. Only connections that are older than the
        engine are picked up, until `Limits.midstream_grace`. Any other was tracked and forgotten: an agent may have
        waited for that between two halves of a message.
        """
        if uptime > self._limits.midstream_grace:
            table.ended.clear()
            return False
        return key not in table.ended and len(table.ended) < self._limits.max_flows_agent

    def make_room(self, table: FlowTable, ts: float) -> bool:
        """Make room for one more flow, by forgetting another if necessary; return False if none may be forgotten."""
        forced = False
        if len(table) < self._limits.max_flows_agent:
            if self.live < self._limits.max_flows:
                return True
            forced = len(table) < self._limits.max_flows // len(
                self._tables
            )  # an agent below its fair share always gets room
            table = max(self._tables.values(), key=len)
        victim = table.evictable(ts, forced=forced)
        if victim is None:
            return False
        self.forget(victim, ts, "evicted")
        return True

    def charge(self, flow: Flow) -> bool:
        """Count the bytes now held for inspecting a flow; False if its agent holds more than `Limits.max_buffered`."""
        table = self.table(flow.agent)
        table.buffered += flow.charge()
        return table.buffered <= self._limits.max_buffered

    def release(self, flow: Flow) -> None:
        """Drop the bytes and the state that the inspection of a flow holds."""
        flow.release()
        self.charge(flow)

    def forget(self, flow: Flow, ts: float, why: str) -> None:
        """End a flow and write its last record; `why`: closed, timeout, evicted or shutdown."""
        self.release(flow)
        table = self.table(flow.agent)
        del table.flows[flow.key]
        if flow.proto == TCP and len(table.ended) < self._limits.max_flows_agent:
            table.ended.add(flow.key)
        self._end(flow, ts, why)

    def drop(self, agent: str, ts: float) -> None:
        """Forget an agent and its flows: TURN of them now, the others in the ticks that follow."""
        self._leaving += self.flows(agent)
        self._tables.pop(agent, None)
        self._end_leaving(ts)

    def drop_all(self, ts: float) -> None:
        """Forget all agents and all their flows now."""
        for agent in self.agents():
            self.drop(agent, ts)
        while self._leaving:
            self._end_leaving(ts)

    def expire(self, ts: float) -> None:
        """Forget flows that have been silent for their timeout: TURN of them, or fewer if no more are due.

        `next_tick` is in the past while more are due. Until its turn comes, such a flow is treated like any other.
        """
        if self._leaving:
            self._end_leaving(ts)
            return
        for flow in self._timers.due(ts):
            self.forget(flow, ts, "closed" if flow.state == "closed" else "timeout")

    def _end_leaving(self, ts: float) -> None:
        """End the next TURN flows of agents that are gone."""
        for _ in range(min(TURN, len(self._leaving))):
            flow = self._leaving.popleft()
            flow.release()
            self._end(flow, ts, "closed" if flow.state == "closed" else "shutdown")

    def _end(self, flow: Flow, ts: float, why: str) -> None:
        """Move a flow that has left its table to its last stage, and write its last record."""
        flow.forget()
        self.live -= 1
        self._timers.trim(self.live)
        self._outbox.flow(flow, ts, why)

    def agents(self) -> list[str]:
        """Return the names of the agents that have a table."""
        return list(self._tables)

    def flows(self, agent: str | None = None) -> list[Flow]:
        """Return the live flows (of one agent) as a new list: flows may be forgotten while the caller iterates."""
        tables = self._tables.values() if agent is None else [self.table(agent)]
        return [flow for table in tables for flow in table]

    def newest(self, agent: str) -> Flow | None:
        """Return the flow of an agent that was used last, to about a second; None if it has none."""
        table = self._tables.get(agent)
        return next(reversed(table.flows.values()), None) if table is not None else None

    @property
    def buffered(self) -> int:
        """The bytes held for inspection, of all agents."""
        return sum(table.buffered for table in self._tables.values())
