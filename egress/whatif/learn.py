"""Learns few and narrow rules that would have allowed the flows of an agent, except those that were objected to.

It learns from flows that passed, and from flows that were refused or held only because no rule matched. The destination
of a flow is

    a name      if one is bound to its address: the name in the bytes if it is bound; if the bytes have none, the bound
                name that most other flows need as well, among equals the first in the alphabet
    an address  otherwise; a name in the bytes that the agent never resolved proves nothing (addresses are shared)

A name of an address that is not global gets a rule with `private`. Addresses at which clouds serve metadata are left
out.

The ports of a destination share a rule, which keeps protocol and application if they are uniform. Three or more names
under one parent that is not a public suffix become a wildcard; addresses with equal needs become networks that contain
exactly these. Queries to a resolver get a rule of their own, by address. A name that was only queried (an agent whose
default is to refuse gets no further) gets a rule that allows the query and nothing else: DNS to that name.

Left out, with the reason: flows to destinations that a signature ever objected to or a person denied (by address and
port, by name, and under any rule that would allow one); flows that were refused for another reason than the lack of a
rule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from glob import escape

from egress.errors import EgressError
from egress.model import Action, Agent, App, Mode, Policy, Reason, Rule
from egress.policy.domain import canonical, is_address, is_host, parse_pattern, reverse_address
from egress.policy.file import MAX_RULES
from egress.policy.metadata import is_metadata
from egress.policy.rulebook import Rulebook
from egress.policy.special import is_global
from egress.store.database.handles import Connection
from egress.store.query.flowgroups import FlowGroup, flow_groups
from egress.whatif.bundles import Bundle, Want, bundle, networks, safe
from egress.whatif.objections import Objections, address_text
from egress.whatif.subject import DNS_PORT, Target, destination_of, packed, protocol_number, query_of, target_of

MAX_GROUPS = 50_000  # distinct groups of flows; more would give too many rules to review

_LEARNT = frozenset((Reason.DEFAULT, Reason.QUERY, Reason.NAME, Reason.APPROVAL))  # refused because no rule matched
_PORTED = ("tcp", "udp", "sctp")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A destination without a rule, and the reason."""

    what: str  # destination, protocol and port
    why: str
    flows: int


@dataclass(frozen=True, slots=True)
class Proposal:
    """Proposed rules, for review. Counts are flows: recorded = covered + already + the sum of left_out."""

    agent: str
    rules: tuple[Rule, ...]
    recorded: int
    covered: int  # allowed by these rules, and by none before
    already: int  # allowed by rules in force
    left_out: tuple[LeftOut, ...]  # most flows first


def learn(
    connection: Connection,
    agent: Agent,
    policy: Policy,
    since: float | None = None,
    until: float | None = None,
    *,
    now: float,
    everything: bool = False,
    refused: bool = False,
    gate_queries: bool = True,
) -> Proposal:
    """Propose rules for the flows of `agent` active between `since` and `until` that `policy` does not allow at `now`.

    Only flows that passed count (in mode monitor all did); with `refused` also those that were refused because no rule
    matched. The policy's `once` rules are ignored; with `everything` all its allow rules are. Raises EgressError for
    more than MAX_GROUPS groups of flows, or more rules than a policy may have.
    """
    objections = Objections(connection, agent, now)
    lesson = _Lesson(agent, policy, objections, now, everything, refused, gate_queries)
    for number, group in enumerate(flow_groups(connection, since=since, until=until, agent=escape(agent.name)), 1):
        if number > MAX_GROUPS:
            raise EgressError(
                f"agent {agent.name} has more than {MAX_GROUPS} different groups of flows; learn from a shorter time"
            )
        lesson.see(group)
    return lesson.proposal()


@dataclass(frozen=True, slots=True)
class _Pending:
    """A group of flows that may need a rule: to reach the destination, for its query, or for both."""

    group: FlowGroup
    names: tuple[str, ...]  # possible names for the destination; empty: by address only
    flow: bool  # no rule in force allows the flows
    unnamed: bool  # the bytes hide the name


class _Lesson:
    """The state of one run of `learn`: the groups seen so far, and those that need a rule."""

    def __init__(
        self,
        agent: Agent,
        policy: Policy,
        objections: Objections,
        now: float,
        everything: bool,
        refused: bool,
        gate_queries: bool,
    ) -> None:
        self._agent = replace(agent, default=Action.REJECT)  # so that only rules allow
        self._objections = objections
        self._now = now
        self._include_refused, self._gate_queries = refused, gate_queries
        self._rules = tuple(
            rule for rule in policy.rules if rule.action is not Action.ACCEPT or not (rule.once or everything)
        )
        self._existing = Rulebook(Policy(0, self._rules))
        self._pending: list[_Pending] = []
        self._left_out: Counter[tuple[str, str]] = Counter()
        self._recorded = self._already = 0
        self._bound: dict[bytes, frozenset[str]] = {}  # address → names in flows to it, for reverse lookups

    def see(self, group: FlowGroup) -> None:
        """Add a group of flows: note that it needs a rule, needs none, or is left out."""
        self._recorded += group.count
        target = target_of(group)
        self._bound[target.remote] = self._bound.get(target.remote, frozenset()) | target.names
        names, unnamed = _names(group, target)
        why = self._refused(group, target, names)
        if why:
            self._leave_out(group, why)
            return
        verdict, _ = self._existing.decide(self._agent, target, self._now)
        if verdict.reason is Reason.RULE and verdict.action is not Action.ACCEPT:
            self._leave_out(group, f"rule {verdict.rule_id} denies it")
            return
        flow = verdict.action is not Action.ACCEPT
        if flow or (query_of(group) and not self._resolvable(self._existing, group)[0]):
            self._pending.append(_Pending(group, names, flow, unnamed))
        else:
            self._already += group.count

    def proposal(self) -> Proposal:
        """Make rules for the groups seen, as far as objections allow."""
        wanted = {index: want for index, want in enumerate(self._wants()) if want is not None}
        flows, refused = safe(bundle(wanted.values()), self._objections.reached)
        flows = networks(flows)
        asked, unasked = self._lookups(flows)
        lookups, unresolved = safe(bundle(asked.values()), self._objections.reached)
        covered = 0
        for index, pending in enumerate(self._pending):
            want, lookup = wanted.get(index), asked.get(index)
            why = (refused.get(want) if want else None) or unasked.get(index)
            why = why or (unresolved.get(lookup) if lookup else None)
            if why:
                self._leave_out(pending.group, why)
            else:
                covered += pending.group.count
        rules = _written([*flows, *lookups], self._agent.name, self._now)
        left_out = tuple(LeftOut(what, why, count) for (what, why), count in self._left_out.most_common())
        return Proposal(self._agent.name, rules, self._recorded, covered, self._already, left_out)

    def _refused(self, group: FlowGroup, target: Target, names: tuple[str, ...]) -> str:
        """Return why no rule may be learnt from a group, whatever rules are in force; "" if there is no reason."""
        if group.signatures:
            return f"{', '.join(sorted(group.signatures))} objected"
        if why := self._objections.at(group.proto, group.dst, group.dport):
            return f"{why} at this address and port"
        if group.action is not Action.ACCEPT and group.reason not in _LEARNT:
            rule = f" ({group.rule_id})" if group.rule_id else ""
            return f"refused: {group.reason}{rule}"
        if is_metadata(target.remote, target.proto, target.rport):
            return "clouds serve metadata at this address; if it is right, write a rule for it yourself"
        if group.action is not Action.ACCEPT and group.mode is not Mode.MONITOR and not self._include_refused:
            return f"refused: {group.reason}; --refused includes it"
        if group.reason is Reason.NAME and not names:
            return "the name in the bytes is not one that the agent resolved to this address"
        if group.reason is Reason.QUERY and not query_of(group):
            return "the query could not be read"
        if not target.remote or protocol_number(group.proto) < 0 or (group.proto in _PORTED and not group.dport):
            return "no rule can express this destination, protocol and port"
        return ""

    def _wants(self) -> Iterator[Want | None]:
        """Yield the want of each pending group, None if only its query needs a rule.

        Of several possible names it takes one that another group needs anyway, else the most common one.
        """
        settled = {pending.names[0] for pending in self._pending if len(pending.names) == 1}
        popular = Counter(name for pending in self._pending for name in pending.names)
        for pending in self._pending:
            if not pending.flow:
                yield None
                continue
            group, destination = pending.group, address_text(pending.group.dst)
            if pending.names:
                destination = min(pending.names, key=lambda name: (name not in settled, -popular[name], name))
            app = App.DNS.value if _is_dns(group) else group.app if group.proto in ("tcp", "udp") else ""
            port = group.dport if group.proto in _PORTED else 0
            private = bool(pending.names) and not is_global(packed(group.dst))
            times = group.count, group.first, group.last
            yield Want(destination, group.proto, port, app, pending.unnamed, private, *times)

    def _lookups(self, flows: list[Bundle]) -> tuple[dict[int, Want], dict[int, str]]:
        """Return the wants of queries that neither rules in force nor `flows` allow, by the index of their group.

        The second result has, by index, the reasons why others cannot be allowed.
        """
        rules = tuple(replace(each.rule(self._agent.name, 0.0), id=f":{n}") for n, each in enumerate(flows))
        book = Rulebook(Policy(0, (*self._rules, *rules)))
        asked: dict[int, Want] = {}
        refused: dict[int, str] = {}
        for index, pending in enumerate(self._pending):
            group = pending.group
            if not query_of(group):
                continue
            allowed, denied_by = self._resolvable(book, group)
            if allowed:
                continue
            name = canonical(query_of(group))
            if denied_by:
                refused[index] = f"rule {denied_by} denies it"
            elif not _rulable(name):
                refused[index] = "it is not a valid host name, so no rule can allow it"
            else:
                times = group.count, group.first, group.last
                asked[index] = Want(name, "", DNS_PORT, App.DNS.value, False, False, *times)
        return asked, refused

    def _resolvable(self, book: Rulebook, group: FlowGroup) -> tuple[bool, str]:
        """Judge a query; returns True if it is allowed, and the id of the rule that allows or denies it ("": none)."""
        if not self._gate_queries:
            return True, ""
        name = canonical(query_of(group))
        address = reverse_address(name)
        names = self._bound.get(address, frozenset()) if address else frozenset()
        verdict, _ = book.may_resolve(self._agent, name, self._now, names)
        return verdict.action is Action.ACCEPT, verdict.rule_id

    def _leave_out(self, group: FlowGroup, why: str) -> None:
        """Count the flows of a group as left out, by destination and reason."""
        destination, query = destination_of(group)
        if query:
            what = f"query for {destination}"
        else:
            host = f"[{destination}]" if ":" in destination else destination
            what = f"{group.proto} {host}:{group.dport}" if group.proto in _PORTED else f"{group.proto} {destination}"
        self._left_out[what, why] += group.count


def _names(group: FlowGroup, target: Target) -> tuple[tuple[str, ...], bool]:
    """Return the names that a rule may use for a flow (empty: only its address), and True if its bytes have no name."""
    if _is_dns(group):
        return (), False
    usable = tuple(name for name in sorted(target.names) if _rulable(name))
    if target.said is None:
        return usable, False
    said = canonical(target.said)
    if not said or is_address(said):
        return usable, bool(usable)
    return ((said,) if said in usable else ()), False


def _is_dns(group: FlowGroup) -> bool:
    """Return True for flows to port 53 over TCP or UDP that are DNS or not identified."""
    return group.dport == DNS_PORT and group.proto in ("tcp", "udp") and group.app in ("", App.DNS)


def _rulable(name: str) -> bool:
    """Return True if an allow rule can have this name, spelled like that, as its destination."""
    try:
        return is_host(name) and not packed(name) and str(parse_pattern(name)) == name
    except ValueError:
        return False


def _written(bundles: list[Bundle], agent: str, now: float) -> tuple[Rule, ...]:
    """Make the rules of the bundles, names before addresses, in a stable order. Raises EgressError for too many."""
    if len(bundles) > MAX_RULES:
        raise EgressError(
            f"this would take {len(bundles)} rules, a policy has at most {MAX_RULES}; learn from a shorter time"
        )
    ordered = sorted(bundles, key=lambda each: (bool(packed(each.destination.partition("/")[0])), each.destination))
    return tuple({rule.id: rule for each in ordered for rule in (each.rule(agent, now),)}.values())
