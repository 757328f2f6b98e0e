"""Holds (mode ask): one for each flow or query that needs a person's approval, however many flows wait for it.

The engine keeps no packets. It answers HOLD to each packet of a flow that waits, without a look at its bytes. The
caller keeps those packets (`Engine.hold_of` returns the id of their hold), learns from `Engine.ended_holds` that the
hold is over, presents the packets again through `Engine.packet`, and applies the verdicts that come then.

The id of a hold is 16 hex digits of the question, so a client's second try, from another port, waits for the same
answer:

    a flow     agent, protocol, destination address and port
    a query    agent and name, whatever its type

A hold is pending from the first flow that asks until it is

    approved    the rules now allow the flow or query: a rule was added, or the agent's default was changed
    denied      by a person or by a rule
    expired     timed out after `Limits.ask_timeout`
    withdrawn   the agent is gone, is quarantined, or is no longer in mode ask

After that the same question may be asked again, under the same id; after a denial not before `Limits.ask_cooldown`.

A query does not wait so long: after `Limits.ask_query` its flow is refused (SERVFAIL tells its client to try again),
and each new try waits for the same hold. Most names are resolved first, and then the connection waits
(`egress.engine.queries`).
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict, deque
from ipaddress import ip_address

from egress.engine.flow import Flow
from egress.engine.outbox import Outbox
from egress.limits import Limits
from egress.model import Agent, Hold, Mode, protocol_name
from egress.policy.domain import is_host
from egress.records.shape import RECORD_NAMES

PENDING, APPROVED, DENIED, EXPIRED, WITHDRAWN = "pending", "approved", "denied", "expired", "withdrawn"
MAX_DENIED = 4096  # questions whose cool-down is remembered


class Holds:
    """The pending holds by id.

    `due` is the time at which the first of them times out or a query has waited long enough, or infinity. Counts the
    holds that were made, and the refusals because an agent had too many.
    """

    def __init__(self, limits: Limits, outbox: Outbox) -> None:
        self.pending: dict[str, Hold] = {}
        self.due = float("inf")
        self._counts = outbox.counts
        self._timeout, self._most = limits.ask_timeout, limits.ask_holds
        self._patience, self._cooldown = limits.ask_query, limits.ask_cooldown
        self._first: dict[str, Flow] = {}
        self._of_agent: Counter[str] = Counter()
        self._ended: list[tuple[str, str]] = []
        self._queries: deque[tuple[float, Flow, str]] = deque()  # when a query has waited long enough; and its hold
        self._denied: OrderedDict[str, float] = OrderedDict()  # id to the end of its cool-down, the oldest first

    def ask(self, flow: Flow, query: str, ts: float, *, by_name: bool = True) -> str:
        """Return the id of the pending hold for a flow (`query` is empty) or for a query for the name `query`.

        Makes the hold if there is none. Empty if the agent has `Limits.ask_holds` holds already, or if the question was
        denied less than `Limits.ask_cooldown` ago. `by_name`: a rule with the name of the flow's address can admit the
        flow, so the hold shows the name; else it shows the address.
        """
        identifier = identity(flow, query)
        if identifier not in self.pending and ts < self._denied.get(identifier, ts):
            return ""
        if query:
            self._queries.append((ts + self._patience, flow, identifier))
            self.due = min(self.due, ts + self._patience)
        if identifier in self.pending:
            return identifier
        if self._of_agent[flow.agent] >= self._most:
            self._counts["holds_refused"] += 1
            return ""
        hold = self.pending[identifier] = _hold(identifier, flow, query, ts, ts + self._timeout, by_name)
        self._first[identifier] = flow
        self._of_agent[flow.agent] += 1
        self.due = min(self.due, hold.until)
        self._counts["holds"] += 1
        return identifier

    def first(self, identifier: str) -> Flow:
        """Return the flow that asked first, with which the rules are evaluated again when they change.

        Raises KeyError if the hold is not pending.
        """
        return self._first[identifier]

    def of(self, agent: str) -> list[Hold]:
        """Return the pending holds of one agent, oldest first."""
        if not self._of_agent[agent]:
            return []
        return [hold for hold in self.pending.values() if hold.agent == agent]

    def late(self, ts: float) -> list[Hold]:
        """Return the pending holds that have timed out by `ts`."""
        return [hold for hold in self.pending.values() if hold.until <= ts] if self.due <= ts else []

    def end(self, identifier: str, state: str) -> Hold | None:
        """End a hold, report it in `ended` with this state, and return it; None if it is not pending (any more)."""
        hold = self.pending.pop(identifier, None)
        if hold is None:
            return None
        del self._first[identifier]
        self._of_agent[hold.agent] -= 1
        if not self._of_agent[hold.agent]:
            del self._of_agent[hold.agent]
        self._set_due()
        self._ended.append((identifier, state))
        return hold

    def cool(self, identifier: str, ts: float) -> None:
        """Refuse the same question at once for `Limits.ask_cooldown` seconds, since a person has denied it."""
        self._denied.pop(identifier, None)
        self._denied[identifier] = ts + self._cooldown
        if len(self._denied) > MAX_DENIED:
            self._denied.popitem(last=False)

    def impatient(self, ts: float) -> list[tuple[Flow, str]]:
        """Take out the queries that have waited `Limits.ask_query`, each with the id of its hold, which goes on."""
        found = []
        while self._queries and self._queries[0][0] <= ts:
            _, flow, identifier = self._queries.popleft()
            if flow.hold == identifier and identifier in self.pending:
                found.append((flow, identifier))
        self._set_due()
        return found

    def release(self, identifier: str) -> None:
        """Report a hold in `ended` with state `pending`, so that its packets are presented again; it goes on."""
        if (identifier, PENDING) not in self._ended:
            self._ended.append((identifier, PENDING))

    def _set_due(self) -> None:
        """Set `due` to the first time at which a hold times out or a query has waited long enough."""
        self.due = min((left.until for left in self.pending.values()), default=float("inf"))
        if self._queries:
            self.due = min(self.due, self._queries[0][0])

    def ended(self) -> tuple[tuple[str, str], ...]:
        """Return (id, state) of the holds that ended or were released since the last call, in that order."""
        ended, self._ended = tuple(self._ended), []
        return ended


def asks(agent: Agent) -> bool:
    """Return True if flows of this agent that no rule matches wait for an approval."""
    return agent.mode is Mode.ASK and not agent.quarantined


def identity(flow: Flow, query: str) -> str:
    """Return the id of the hold for a flow (`query` is empty) or for a query for the name `query`."""
    ends = f"query|{query}" if query else f"{flow.proto}|{flow.remote.hex()}|{flow.rport}"
    return hashlib.blake2b(f"{flow.agent}|{ends}".encode(), digest_size=8).hexdigest()


def _hold(identifier: str, flow: Flow, query: str, ts: float, until: float, by_name: bool) -> Hold:
    """Make a hold from the flow that asks first."""
    address = str(ip_address(flow.remote))
    names = (query,) if query else tuple(sorted(flow.names))
    return Hold(
        id=identifier,
        flow_id=flow.id,
        agent=flow.agent,
        time=ts,
        until=until,
        proto=protocol_name(flow.proto),
        dst=address,
        dport=flow.rport,
        names=names[:RECORD_NAMES],
        query=bool(query),
        destination=names[0] if (query or by_name) and len(names) == 1 and is_host(names[0]) else address,
    )
