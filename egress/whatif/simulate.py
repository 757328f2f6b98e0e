"""Simulates a candidate policy: re-judges each stored flow, as far as its record describes it.

Only the policy differs. Agents are as they are now; agents that are gone have the given default and no labels. Expiry
is ignored: rules count as valid at any time. A `once` rule admits its first flow. Refusals that the rules did not
decide (budgets, refused destinations, quarantine, malformed packets) stay. A finding refuses the flow unless the
candidate's rule exempts every signature that objected; a finding that was exempted then refuses if it is not exempted
now. A query is judged by its last name. A flow that was refused at its first packet has shown no bytes: it is assumed
to match a rule's application and name. `egress.whatif.subject.recorded` lists what else a record does not show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import ip_address

from egress.model import Action, Agent, Policy, Reason, Rule, Verdict
from egress.policy.domain import canonical, reverse_address
from egress.policy.rulebook import Rulebook, exempt
from egress.store.database.handles import Connection
from egress.store.query.flowgroups import FlowGroup, flow_groups, names_of
from egress.whatif.subject import destination_of, forgotten, query_of, target_of

MAX_GROUPS = 50_000  # changed destinations that are listed; more count in the totals only
LIMIT = 100  # groups returned unless asked for more
STEP = 1000  # groups between two reports of progress

# Decisions of rules; for any other reason the flow would be refused again. FINDING depends on the admitting rule.
_RULED = frozenset((Reason.RULE, Reason.DEFAULT, Reason.APPLICATION, Reason.NAME, Reason.PRIVATE, Reason.METADATA,
                    Reason.QUERY, Reason.APPROVAL))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Group:
    """Flows of one agent to one destination (with protocol and port) whose decision changes."""

    agent: str
    destination: str  # the name in the bytes or bound to the address, the queried name, or the address
    proto: str
    port: int
    query: bool  # DNS queries for `destination`, not flows to it
    newly_refused: int  # flows
    newly_allowed: int
    reason: Reason  # of the candidate's verdict, of the first flow if they differ
    rule_id: str


@dataclass(frozen=True, slots=True)
class Simulation:
    """The result of a simulation; counts are flows."""

    flows: int
    newly_refused: int  # accepted then, would be refused now
    newly_allowed: int  # refused or held then, would be accepted now
    same: int
    groups: tuple[Group, ...]  # most flows first
    more: int  # changed flows in no group, beyond `limit` or MAX_GROUPS
    gone: int  # number of agents of these flows that are not attached any more


@dataclass(frozen=True, slots=True)
class Apart:
    """The rules that apply to agents of one host of a fleet only, and the hosts of agents."""

    rules: Mapping[str, str]  # rule id -> host
    agents: Mapping[str, str]  # name -> host
    here: str  # the assumed host of agents that are gone


@dataclass(slots=True)
class _Tally:
    """The changed flows of one destination so far."""

    reason: Reason
    rule_id: str
    newly_refused: int = 0
    newly_allowed: int = 0


@dataclass(slots=True)
class _Totals:
    """The counts of a simulation so far."""

    flows: int = 0
    newly_refused: int = 0
    newly_allowed: int = 0
    groups: dict[tuple[str, str, str, int, bool], _Tally] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)


def simulate(
    connection: Connection,
    candidate: tuple[Rule, ...],
    *,
    agents: Mapping[str, Agent],
    since: float | None = None,
    until: float | None = None,
    agent: str = "",
    default: Action = Action.REJECT,
    limit: int = LIMIT,
    gate_queries: bool = True,
    apart: Apart | None = None,
    progress: Callable[[int], None] | None = None,
) -> Simulation:
    """Re-judge the stored flows of agents (`agent`: a glob) active between `since` and `until` (seconds).

    `default` is the default of agents that are gone; `apart`: the rules that are for one host of a fleet.
    `gate_queries` is as in the config. `progress` is called from time to time with the number of flows judged.
    """
    judge = _Candidate(connection, candidate, gate_queries, apart or Apart({}, {}, ""))
    totals = _Totals()
    for number, group in enumerate(flow_groups(connection, since=since, until=until, agent=agent), 1):
        who = agents.get(group.agent)
        if who is None:
            totals.gone.add(group.agent)
            who = forgotten(group.agent, group.mode, default)
        left = group.count
        while left:
            verdict, spent = judge.decide(who, group)
            times = 1 if spent else left  # for the next flow the rule is spent
            _count(totals, group, verdict, times)
            left -= times
        if progress is not None and number % STEP == 0:
            progress(totals.flows)
    return _summary(totals, limit)


class _Candidate:
    """The candidate policy; groups of flows are judged in the order of their first start."""

    def __init__(self, connection: Connection, rules: tuple[Rule, ...], gate_queries: bool, apart: Apart) -> None:
        self._eternal = tuple(replace(rule, expires_at=None) for rule in rules)
        self._apart = apart
        self._books: dict[str, Rulebook] = {}  # by host
        self._gate_queries = gate_queries
        self._names = lru_cache(maxsize=4096)(lambda agent, address: names_of(connection, agent, address))

    def decide(self, agent: Agent, group: FlowGroup) -> tuple[Verdict, bool]:
        """Return the verdict on the next one of these flows, and True if it has spent a `once` rule."""
        if group.action is not Action.ACCEPT and group.reason not in _RULED and group.reason is not Reason.FINDING:
            return Verdict(group.action, group.reason, group.rule_id), False
        rules = self._book(agent)
        verdict, rule = rules.decide(agent, target_of(group), group.first)
        if verdict.action is not Action.ACCEPT:
            return verdict, False
        if not all(exempt(rule, signature) for signature in group.signatures):
            return replace(verdict, action=Action.REJECT, reason=Reason.FINDING), False
        if group.reason is Reason.FINDING and not group.signatures:
            return Verdict(group.action, group.reason, group.rule_id), False  # the finding that objected is not stored
        if self._gate_queries and (query_of(group) or group.reason is Reason.QUERY):
            asked = self._may_resolve(agent, group)
            if asked.action is not Action.ACCEPT:
                return asked, False
        if rule is not None and rule.once:
            rules.spend(rule)
            return verdict, True
        return verdict, False

    def _may_resolve(self, agent: Agent, group: FlowGroup) -> Verdict:
        """Return the verdict on the query of a group; a reverse lookup is judged by the address's names."""
        address = reverse_address(canonical(query_of(group)))
        names = frozenset[str]()
        if address is not None:
            names = self._names(agent.name, str(ip_address(address)))
        return self._book(agent).may_resolve(agent, query_of(group), group.first, names)[0]

    def _book(self, agent: Agent) -> Rulebook:
        """Return the rules for agents of the agent's host; one rulebook for all if no rule is limited to a host."""
        apart = self._apart
        host = apart.agents.get(agent.name, apart.here) if apart.rules else ""
        if host not in self._books:
            mine = tuple(rule for rule in self._eternal if apart.rules.get(rule.id, host) == host)
            self._books[host] = Rulebook(Policy(0, mine))
        return self._books[host]


def _count(totals: _Totals, group: FlowGroup, verdict: Verdict, times: int) -> None:
    """Count `times` flows of a group that get this verdict from the candidate."""
    totals.flows += times
    passed, passes = group.action is Action.ACCEPT, verdict.action is Action.ACCEPT
    if passed == passes:
        return
    totals.newly_refused += times if passed else 0
    totals.newly_allowed += times if passes else 0
    destination, query = destination_of(group)
    key = group.agent, destination, group.proto, group.dport, query
    tally = totals.groups.get(key)
    if tally is None:
        if len(totals.groups) >= MAX_GROUPS:
            return
        tally = totals.groups[key] = _Tally(verdict.reason, verdict.rule_id)
    tally.newly_refused += times if passed else 0
    tally.newly_allowed += times if passes else 0


def _summary(totals: _Totals, limit: int) -> Simulation:
    """Make the result, with the `limit` groups of most changed flows."""
    groups = [
        Group(*key, tally.newly_refused, tally.newly_allowed, tally.reason, tally.rule_id)
        for key, tally in totals.groups.items()
    ]
    groups.sort(key=lambda group: (-group.newly_refused - group.newly_allowed, group.agent, group.destination))
    shown = tuple(groups[:limit])
    changed = totals.newly_refused + totals.newly_allowed
    return Simulation(
        totals.flows,
        totals.newly_refused,
        totals.newly_allowed,
        totals.flows - changed,
        shown,
        changed - sum(group.newly_refused + group.newly_allowed for group in shown),
        len(totals.gone),
    )
