"""Evaluates rules, in a fixed order: deny rules, allow rules, the agent's default.

Allow rules admit flows that the agent opens; for a flow that the other side opened, the default decides after the deny
rules. Among several matching rules of one kind the one with the lowest position decides. A condition that cannot be
checked yet admits the flow and is checked later, since a connection that may not open never sends a byte to check:

    application   admits while the bytes so far may be a protocol that the rule demands
                  (`egress.policy.applications`); once identified, or given up (`App.UNKNOWN`), it must be one of them
    name          admits if the address is bound to a name that the rule matches (`egress.policy.bindings`). Once the
                  bytes carry a name (SNI, QUIC, Host, :authority) the same rule must match it, since addresses are
                  shared. Bytes that hide the name (no SNI, an address in place of a name, ECH under the public name of
                  its operator) are refused unless the rule is `unnamed`. For protocols that carry no name (SSH) the
                  binding decides; an address without a binding has no name. A name means a host outside: an address
                  that is not global, or is one of this host or of an agent (`nearby`), is admitted only if the rule is
                  `private`

A deny rule with a name matches if it matches a bound name or the name in the bytes. A deny rule for an IPv4 address
also matches every IPv6 address that embeds it. An allow rule for an IPv4 address also matches only those IPv6 addresses
that are certainly the same host (`egress.policy.special`).

An address at which clouds serve metadata is refused whatever the default is, unless an allow rule for exactly that
address admits the flow (`egress.policy.metadata`).

A DNS query carries its name to the operators of the name's servers, so it is judged too (`may_resolve`). If the default
is to refuse, a name may be resolved if a rule could admit a flow by it: a rule with a pattern that matches the name, or
a rule for every destination that is not for DNS servers only (else the rule that lets an agent query would allow every
name). Rules with an address make no name resolvable, except the reverse names of the addresses they match. A name that
is denied for any protocol, port and application is not resolved either.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Protocol

from egress.addresses import Network, Networks
from egress.model import Action, Agent, App, Policy, PolicyChange, Reason, Rule, Verdict
from egress.policy import special
from egress.policy.applications import NOTHING, covered, demanded
from egress.policy.domain import Pattern, canonical, is_address, is_host, matches, reverse_address
from egress.policy.index import (
    POSITION,
    Bucket,
    Destination,
    DestinationKeys,
    Index,
    IndexedRule,
    destination_keys,
    parse_destination,
    parse_protocol,
)
from egress.policy.metadata import is_metadata
from egress.policy.selectors import Catalogue, reaching

DNS_PORTS = (53, 53)

# Outer names of encrypted hellos (`public_name`, RFC 9849 section 4) that stand for every site of an operator.
ECH_PUBLIC_NAMES = frozenset({"cloudflare-ech.com"})

_NO_NAMES: frozenset[str] = frozenset()
_NOWHERE = Networks(())


class Subject(Protocol):
    """The attributes of a flow that rules are compared with."""

    proto: int
    remote: bytes
    rport: int
    outbound: bool
    app: str
    excluded: frozenset[str]  # application protocols that the bytes so far contradict
    names: frozenset[str]  # bound to `remote` for this agent when the flow was opened, and since
    said: str | None  # the name in the bytes; None: not read (yet), "": the bytes carry no name
    hidden: bool  # the bytes hide the name (`egress.engine.judge` decides that for ECH)
    rule: Rule | None  # the rule that admitted it: even when spent it stays valid for this flow


class Rulebook:
    """A compiled policy. It takes over hits, spent rules, parsed destinations and `nearby` of `before`, if given.

    `nearby`: the addresses of this host and of all agents; a rule with a name does not admit them unless it is
    `private`.

    Of several matching deny (or allow) rules the one with the lowest `Rule.position` decides, of equal ones the first.
    Raises ValueError for two rules with one id, and for an invalid destination or protocol.
    """

    def __init__(self, policy: Policy, before: Rulebook | None = None) -> None:
        self.version = policy.version
        self.nearby: Networks = before.nearby if before is not None else _NOWHERE
        self.hits: dict[str, tuple[int, float]] = {}  # rule id to the number of flows, and the time of the last
        self._spent: dict[str, Rule] = {}
        self._entries: dict[str, IndexedRule] = {}  # by rule id
        self._catalogue = Catalogue()
        self._arrived = 0  # rules so far, removed ones included
        self._expiries: list[float] = []  # sorted; one for each rule that expires
        entries = before._entries.values() if before is not None else ()
        known = {entry.rule.destination: entry.destination for entry in entries}
        for rule in policy.rules:
            if rule.id in self._entries:
                raise ValueError(f"the policy has two rules with the id {rule.id}")
            self._enter(self._compiled(rule, known))
        self._expiries = sorted(rule.expires_at for rule in policy.rules if rule.expires_at is not None)
        if before is not None:
            self._inherit(policy, before)

    def changed(self, change: PolicyChange) -> list[IndexedRule]:
        """Return the rules that a change removes, then those that it adds, compiled; change nothing.

        Raises ValueError as `apply` does.
        """
        added = self._fitting(change)
        return [self._entries[rule_id] for rule_id in change.removed] + added

    def decide(self, agent: Agent, subject: Subject, ts: float) -> tuple[Verdict, Rule | None]:
        """Return the verdict of the rules on a flow at `ts`, and the allow rule that admits it.

        The rule is None if the flow is refused or the agent's default admits it.
        """
        said = subject.said
        if said:
            said = canonical(said)
            said = "" if is_address(said) else said
        mine = self._catalogue.rules_of(agent)
        names = subject.names | {said} if said else subject.names
        where = destination_keys(subject.remote, names, self._catalogue.deepest, special.embedded(subject.remote))
        for entry in self._matching(mine.deny, subject, where, ts):
            covers = covered(entry.rule.app)
            if not covers or subject.app in covers:
                return Verdict(entry.rule.action, Reason.RULE, entry.rule.id, self.version), None
        accepts = agent.default is Action.ACCEPT
        if not subject.outbound:
            return Verdict(agent.default, Reason.DEFAULT if accepts else Reason.INBOUND, "", self.version), None
        near: tuple[Reason, str] | None = None
        if names or where.inner:
            same = special.same_host(subject.remote)
            hosts = filter(is_host, subject.names)
            where = destination_keys(subject.remote, hosts, self._catalogue.deepest, (same,) if same else ())
        metadata = is_metadata(subject.remote, subject.proto, subject.rport)
        for entry in self._matching(mine.allow, subject, where, ts):
            obstacle = (
                Reason.METADATA if metadata and not _is_one_address(entry) else self._obstacle(entry, subject, said)
            )
            if obstacle is None:
                return Verdict(Action.ACCEPT, Reason.RULE, entry.rule.id, self.version), entry.rule
            near = near or (obstacle, entry.rule.id)
        if metadata:
            action = Action.REJECT if accepts else agent.default
            return Verdict(action, Reason.METADATA, "", self.version), None
        reason, rule_id = (Reason.DEFAULT, "") if near is None or accepts else near
        return Verdict(agent.default, reason, rule_id, self.version), None

    def is_outside(self, address: bytes) -> bool:
        """Return True if a packed address is outside: global, and not one of this host or of an agent.

        The same must hold for the IPv4 addresses that it embeds: a translator on the way (NAT64) would send packets
        back here. Rules with a name admit other addresses only if they are `private`.
        """
        return special.is_global(address) and not any(
            each in self.nearby for each in (address, *special.embedded(address))
        )

    def may_resolve(
        self, agent: Agent, name: str, ts: float, names: frozenset[str] = _NO_NAMES
    ) -> tuple[Verdict, Rule | None]:
        """Return the verdict on a DNS query of the agent for `name`, and the rule that allows it, else None.

        `names`: for a reverse lookup, the names bound to the address in it (`domain.reverse_address`).
        """
        name = canonical(name)
        address = reverse_address(name)
        mine = self._catalogue.rules_of(agent)
        where = destination_keys(
            address or b"", {name} | names, self._catalogue.deepest, special.embedded(address or b"")
        )
        for entry in self._matching_names(mine.deny, where, ts):
            if _matches_all_traffic(entry):
                return Verdict(entry.rule.action, Reason.QUERY, entry.rule.id, self.version), None
        if agent.default is Action.ACCEPT:
            return Verdict(Action.ACCEPT, Reason.DEFAULT, "", self.version), None
        where = destination_keys(address or b"", filter(is_host, {name} | names), self._catalogue.deepest)
        for entry in self._matching_names(mine.allow, where, ts):
            if isinstance(entry.destination, Pattern) or address is not None or not _dns_only(entry.rule):
                return Verdict(Action.ACCEPT, Reason.RULE, entry.rule.id, self.version), entry.rule
        return Verdict(agent.default, Reason.QUERY, "", self.version), None

    def demands(self, rule: Rule | None, subject: Subject, refusal: Verdict | None = None) -> frozenset[str]:
        """Return the application protocols that the rule that admits a flow demands of it; empty: any will do.

        `rule`: None if no rule admits the flow; then `refusal` is its verdict. If that has the reason APPLICATION, the
        rule that it names is used.
        """
        if rule is None and refusal is not None and refusal.reason is Reason.APPLICATION:
            rule = self._entries[refusal.rule_id].rule if refusal.rule_id in self._entries else None
        if rule is None:
            return NOTHING
        return demanded(rule, subject.proto, subject.rport, named=not rule.app and self.named(rule))

    def not_bound(self, agent: Agent, names: Iterable[str], address: bytes, ts: float) -> Rule | None:
        """Return the first allow rule with a name that matches one of `names` but does not admit their address.

        None if it is outside (`is_outside`), if no rule matches, or if one of the matching rules is `private`.
        """
        if self.is_outside(address):
            return None
        where = destination_keys(b"", filter(is_host, map(canonical, names)), self._catalogue.deepest)
        indexes = self._catalogue.rules_of(agent).allow
        found = [entry.rule for entry in self._matching_names(indexes, where, ts) if _is_name(entry)]
        return found[0] if found and not any(rule.private for rule in found) else None

    def named(self, rule: Rule) -> bool:
        """Return True if a rule's destination is a name, also for a rule that has left the policy."""
        entry = self._entries.get(rule.id)
        destination = parse_destination(rule.destination) if entry is None else entry.destination
        return isinstance(destination, Pattern)

    def next_expiry(self, ts: float) -> float:
        """Return the first time after `ts` at which a rule expires (live flows must be re-judged then), or infinity."""
        at = bisect_right(self._expiries, ts)
        return self._expiries[at] if at < len(self._expiries) else float("inf")

    def hit(self, rule_id: str, ts: float) -> None:
        """Count a flow that this rule admitted at `ts`."""
        self.hits[rule_id] = self.hits.get(rule_id, (0, 0.0))[0] + 1, ts

    def spend(self, rule: Rule) -> None:
        """Mark a `once` rule as spent by the flow that it admitted, so that it admits no other; ignore other rules."""
        if rule.once:
            self._spent[rule.id] = rule

    def forget(self, agent: str) -> None:
        """Remove the cached selection of rules of an agent that is gone."""
        self._catalogue.forget(agent)

    # --- compiling --------------------------------------------------------------------------------------

    def apply(self, change: PolicyChange) -> None:
        """Turn the rulebook into the next version; the cost depends on the change, not on the number of rules.

        An edited rule (removed and added) keeps its hits; an edited `once` rule may admit another flow. Raises
        ValueError, and changes nothing, if the change is of another version or does not fit this one.
        """
        added = self._fitting(change)
        gone = [self._entries.pop(rule_id) for rule_id in change.removed]
        for entry in gone:
            self._catalogue.remove(entry)
            if (expires_at := entry.rule.expires_at) is not None:
                del self._expiries[bisect_left(self._expiries, expires_at)]
        for entry in added:
            self._enter(entry)
            if (expires_at := entry.rule.expires_at) is not None:
                insort(self._expiries, expires_at)
        for entry in gone:
            again = self._entries.get(entry.rule.id)
            if again is None:
                self.hits.pop(entry.rule.id, None)
            if again is None or again.rule != entry.rule:
                self._spent.pop(entry.rule.id, None)
        self.version = change.version

    def _fitting(self, change: PolicyChange) -> list[IndexedRule]:
        """Compile the rules that a change adds. Raises ValueError if the change does not fit this version."""
        if change.base != self.version:
            raise ValueError(f"the change is of policy version {change.base}, but version {self.version} is in force")
        gone = set(change.removed)
        if len(gone) < len(change.removed):
            raise ValueError("the change removes a rule twice")
        if missing := [rule_id for rule_id in change.removed if rule_id not in self._entries]:
            raise ValueError(f"the change removes rules that are not in version {self.version}: {', '.join(missing)}")
        known: dict[str, Destination] = {}
        added: dict[str, IndexedRule] = {}
        for rule in change.added:
            if rule.id in added or (rule.id in self._entries and rule.id not in gone):
                raise ValueError(f"the change adds a second rule with the id {rule.id}")
            added[rule.id] = self._compiled(rule, known)
        return list(added.values())

    def _compiled(self, rule: Rule, known: dict[str, Destination]) -> IndexedRule:
        """Compile a rule. `known` is a cache of destinations by their text; the rule's own is added to it."""
        text = rule.destination
        if text not in known:
            known[text] = parse_destination(text)
        self._arrived += 1
        return IndexedRule((rule.position, self._arrived), rule, known[text], parse_protocol(rule.protocol))

    def _enter(self, entry: IndexedRule) -> None:
        """Add a compiled rule to the entries and the catalogue."""
        self._entries[entry.rule.id] = entry
        self._catalogue.add(entry)

    def _inherit(self, policy: Policy, before: Rulebook) -> None:
        """Take over hits and spent rules. An edited rule keeps its hits, but is not spent any more."""
        for rule in policy.rules:
            if rule.id in before.hits:
                self.hits[rule.id] = before.hits[rule.id]
            if before._spent.get(rule.id) == rule:
                self._spent[rule.id] = rule

    # --- choosing ---------------------------------------------------------------------------------------

    def _matching(
        self, indexes: tuple[Index, ...], subject: Subject, where: DestinationKeys, ts: float
    ) -> Iterable[IndexedRule]:
        """Return the rules that are `_alive` and match the subject's destination, protocol and port, by position."""
        found = reaching(indexes, where, subject.proto, subject.rport)
        return _ordered([entry for entry in found if self._alive(entry.rule, ts, subject.rule)]) if found else found

    def _matching_names(self, indexes: tuple[Index, ...], where: DestinationKeys, ts: float) -> Iterable[IndexedRule]:
        """Return the rules that are `_alive` and match these names, this address or every destination, by position."""
        buckets: list[Bucket] = []
        for index in indexes:
            buckets += index.anywhere()
            buckets += index.specific(where)
        return _ordered([entry for bucket in buckets for entry in bucket if self._alive(entry.rule, ts)])

    def _obstacle(self, entry: IndexedRule, subject: Subject, said: str | None) -> Reason | None:
        """Return the reason why an allow rule does not admit a flow; None if it does, or cannot be checked yet.

        `said`: the name in the bytes; "": they have none; None: not known yet.
        """
        named = isinstance(entry.destination, Pattern)
        apps = demanded(entry.rule, subject.proto, subject.rport, named=named)
        if apps:
            apps -= subject.excluded
            if not apps or (subject.app and subject.app not in apps):
                return Reason.APPLICATION
        pattern = entry.destination
        if not isinstance(pattern, Pattern):
            return None
        if subject.remote and not entry.rule.private and not self.is_outside(subject.remote):
            return Reason.PRIVATE
        cover = subject.hidden and said in ECH_PUBLIC_NAMES
        if said and not cover and not (matches(pattern, said) and is_host(said)):
            return Reason.NAME
        hides = subject.hidden or said == ""
        return Reason.NAME if hides and not entry.rule.unnamed else None

    def _alive(self, rule: Rule, ts: float, admitted: Rule | None = None) -> bool:
        """Return True if a rule is neither expired nor spent; for the flow that it admitted it is never spent."""
        if rule.expires_at is not None and ts >= rule.expires_at:
            return False
        return not rule.once or rule.id not in self._spent or (admitted is not None and admitted.id == rule.id)


def exempt(rule: Rule | None, signature: str) -> bool:
    """Return True if the rule that admitted a flow exempts this signature (by id or `family.*`)."""
    return rule is not None and any(fnmatchcase(signature, pattern) for pattern in rule.exempt)


def _ordered(found: list[IndexedRule]) -> list[IndexedRule]:
    if len(found) > 1:
        found.sort(key=POSITION)
    return found


def _is_name(entry: IndexedRule) -> bool:
    return isinstance(entry.destination, Pattern)


def _is_one_address(entry: IndexedRule) -> bool:
    """Return True if a rule's destination is a single address."""
    return isinstance(entry.destination, Network) and entry.destination.shift == 0


def _matches_all_traffic(entry: IndexedRule) -> bool:
    """Return True if a rule matches all traffic to its destination (any protocol, port, application)."""
    return entry.proto == -1 and not entry.rule.ports and not covered(entry.rule.app)


def _dns_only(rule: Rule) -> bool:
    return rule.app == App.DNS or (bool(rule.ports) and all(ports == DNS_PORTS for ports in rule.ports))
