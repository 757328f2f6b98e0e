"""The judge of flows. It checks quarantine, earlier refusals, rules, refused destinations and budgets, in this order.

    quarantine                                a person's order, above everything
    a budget, a query or an approval that     stands until the rules change
    was refused
    deny rules, allow rules, the default      `egress.policy.rulebook`; names are those bound to the address for this
                                              agent, and the name in the bytes
    a destination refused for a finding       above every allow
    a budget                                  asked last, for flows that would pass

Two more things decide, outside the judge: a finding on the flow itself (`egress.engine.engine`), and mode ask, which
puts on hold the flows that the default refuses (`egress.engine.verdicts`).

A `once` rule is gone as soon as it is used. The flow that it admitted keeps its verdict as long as it matches the
rule; the rule's expiry, a deny rule, a finding, a budget or a quarantine still end it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from egress.addresses import Networks
from egress.dissection.events import DnsAnswered, DnsAsked, Event, Named, NotBound
from egress.engine.flow import Flow
from egress.limits import Limits
from egress.model import Action, App, Policy, PolicyChange, Reason, Rule, Verdict
from egress.policy import special
from egress.policy.affected import ChangeScope
from egress.policy.applications import covered
from egress.policy.bindings import Bindings
from egress.policy.budgets import Budgets
from egress.policy.destinations import Destinations
from egress.policy.domain import canonical, reverse_address
from egress.policy.rulebook import ECH_PUBLIC_NAMES, Rulebook
from egress.wire.dns import addresses_of


class Judge:
    """The judge of all flows of one engine: rules, names bound by DNS, refused destinations and budgets."""

    def __init__(self, limits: Limits, policy: Policy, *, gate_queries: bool, refuse_ech: bool) -> None:
        self.rules = Rulebook(policy)
        self.destinations = Destinations(limits.destination_timeout)
        self._gate_queries, self._refuse_ech = gate_queries, refuse_ech
        self._bindings = Bindings()
        self._budgets = Budgets()

    def admit(self, flow: Flow, ts: float) -> Verdict:
        """Judge a flow that is not admitted yet.

        A flow that passes is counted for its rule and its agent's budgets; the latter may refuse it. A `once` rule is
        spent.
        """
        verdict = self.verdict(flow, ts)
        if verdict.action is not Action.ACCEPT:
            return verdict
        rule = flow.rule
        if rule is not None:
            self.rules.hit(rule.id, ts)
        if flow.outbound and self._budgets.note_flow(flow.who, flow.remote, ts) is not None:
            refusal = self.refusal(Reason.BUDGET, verdict.rule_id)
            flow.set_objection(refusal)
            return refusal
        if rule is not None:
            self.rules.spend(rule)
        flow.admit()
        return verdict

    def verdict(self, flow: Flow, ts: float) -> Verdict:
        """Judge a flow by the facts known now. Sets the flow's rule, and adds the names bound to its address."""
        if flow.who.quarantined:
            return self.refusal(Reason.QUARANTINE)
        if flow.objection is not None:
            return flow.objection
        names = self._bindings.names_of(flow.agent, flow.remote, ts)
        if names:
            flow.names |= names
        admitted = flow.rule
        verdict, flow.rule = self.rules.decide(flow.who, flow, ts)
        if admitted is not None and admitted.once and verdict.action is not Action.ACCEPT:
            verdict, flow.rule = self._once_admitted(flow, admitted, verdict, ts)
        flow.demanded = self.rules.demands(flow.rule, flow, verdict)
        if verdict.action is Action.ACCEPT and self.refuses_destination(flow, ts):
            return self.refusal(Reason.DESTINATION, verdict.rule_id)
        return verdict

    def preview(self, flow: Flow, query: str, ts: float) -> Verdict:
        """Return the verdict of the rules alone on a flow on hold, or on a query for `query`; nothing is counted.

        The names bound to the flow's address now are added to the flow.
        """
        if query:
            return self._resolves(flow, query, ts)
        names = self._bindings.names_of(flow.agent, flow.remote, ts)
        if names:
            flow.names |= names
        return self.rules.decide(flow.who, flow, ts)[0]

    def observe(self, flow: Flow, event: Event, ts: float) -> bool:
        """Take the name from the bytes, or bind the names of a DNS answer to its addresses.

        Returns True if the flow must be judged again. Other events change nothing.
        """
        if isinstance(event, Named):
            if flow.refused:
                return False  # an earlier name, perhaps in the same segment, refused it: no later one makes that good
            flow.said, flow.hidden = event.name, event.hidden and self._hides(event.name)
            return True
        if isinstance(event, DnsAnswered):
            for bound in addresses_of(event.answer):
                self._bindings.bind(flow.agent, bound.names, bound.address, bound.ttl, ts)
        return False

    def query_refusal(self, flow: Flow, event: DnsAsked, ts: float) -> Verdict | None:
        """Return the refusal of a query, or None if it may leave: a query carries data out, so it is judged first.

        A query that cannot be read is judged as one for the root: only an agent that may ask for any name may send it.
        """
        if not self._gate_queries:
            return None
        if event.query is None and flow.rule is not None and covered(flow.rule.app) - {App.DNS}:
            return None  # another protocol on the DNS port, which its rule allows
        verdict = self._resolves(flow, event.query.name if event.query else "", ts)
        return None if verdict.action is Action.ACCEPT else verdict

    def _hides(self, outer: str) -> bool:
        """Return True if a hello with an ECH extension and this clear name hides the name of its server.

        Browsers send a meaningless extension (GREASE, RFC 9849 section 6.2) besides the real name, and nobody can tell
        it from an encrypted hello. A real one has the public name of its operator in clear text.
        """
        return not outer or self._refuse_ech or canonical(outer) in ECH_PUBLIC_NAMES

    def not_bound(self, flow: Flow, event: DnsAnswered, ts: float) -> Iterator[NotBound]:
        """Yield the addresses in an answer that a name rule would admit if they were outside (`is_outside`).

        They are bound all the same, since deny rules and records go by the names, but the name rule does not admit
        them. 0.0.0.0 and :: are left out: a resolver that blocks a name answers so, and no packet reaches them.
        """
        for bound in addresses_of(event.answer):
            if any(bound.address) and (rule := self.rules.not_bound(flow.who, bound.names, bound.address, ts)):
                yield NotBound(ts, event.answer.name, bound.address, rule.id)

    def refuses_destination(self, flow: Flow, ts: float) -> bool:
        """Return True if an earlier finding refused the flow's destination to its agent.

        The refusal then lasts longer, since the destination was tried.
        """
        return self.destinations.refused(flow.agent, _host(flow), ts)

    def refuse_destination(self, flow: Flow, ts: float) -> None:
        """Refuse the flow's destination to its agent from now on, for a finding.

        It ends after `Limits.destination_timeout` seconds without an attempt.
        """
        self.destinations.remember(flow.agent, _host(flow), ts)

    def is_outside(self, address: bytes) -> bool:
        """Return True if this packed address is global, and neither this host's nor an agent's."""
        return self.rules.is_outside(address)

    def set_nearby(self, networks: Iterable[str]) -> None:
        """Set the networks of this host and of all agents: from now on their addresses are not outside."""
        self.rules.nearby = Networks(networks)

    def by_name(self, flow: Flow) -> bool:
        """Return True if the rule that admits the flow has a name as its destination."""
        return flow.rule is not None and self.rules.named(flow.rule)

    def count_bytes(self, flow: Flow, size: int, ts: float) -> bool:
        """Count bytes that the agent sends; True, with the flow's objection set, if they exceed a budget."""
        if self._budgets.note_bytes(flow.who, size, ts) is None:
            return False
        flow.set_objection(self.refusal(Reason.BUDGET, flow.verdict.rule_id))
        return True

    def uncount_bytes(self, flow: Flow, size: int, ts: float) -> None:
        """Take back the bytes of a packet that has to wait after all: they are counted when it comes again."""
        self._budgets.note_bytes(flow.who, -size, ts)

    def set_policy(self, policy: Policy) -> None:
        """Judge by other rules from now on."""
        self.rules = Rulebook(policy, self.rules)

    def change_policy(self, change: PolicyChange) -> ChangeScope:
        """Judge by changed rules from now on; return the flows that the change can affect, as a scope.

        Raises ValueError if the change does not fit the rules in force.
        """
        scope = ChangeScope(change, self.rules)
        self.rules.apply(change)
        return scope

    def affected(self, flow: Flow, scope: ChangeScope, ts: float) -> bool:
        """Return True if a change of the rules may give a flow another verdict, with the names its address has now."""
        return scope.includes(flow, self._bindings.names_of(flow.agent, flow.remote, ts))

    def next_expiry(self, ts: float) -> float:
        """Return the first time after `ts` at which a rule expires, or infinity."""
        return self.rules.next_expiry(ts)

    def refusal(self, reason: Reason, rule_id: str = "") -> Verdict:
        """Make a verdict that refuses a flow under the rules in force."""
        return Verdict(Action.REJECT, reason, rule_id, self.rules.version)

    def on_hold(self) -> Verdict:
        """Make a verdict that puts a flow on hold."""
        return Verdict(Action.HOLD, Reason.APPROVAL, "", self.rules.version, packet_only=True)

    def forget(self, agent: str) -> None:
        """Drop the names, budgets and refused destinations of an agent that is gone."""
        self.rules.forget(agent)
        self.destinations.forget(agent)
        self._bindings.forget(agent)
        self._budgets.forget(agent)

    def _resolves(self, flow: Flow, name: str, ts: float) -> Verdict:
        """Return the verdict of the rules on a query for a name; a reverse lookup is judged by the address's names."""
        address = reverse_address(canonical(name))
        names = self._bindings.names_of(flow.agent, address, ts) if address else frozenset()
        return self.rules.may_resolve(flow.who, name, ts, names)[0]

    def _once_admitted(self, flow: Flow, admitted: Rule, verdict: Verdict, ts: float) -> tuple[Verdict, Rule | None]:
        """Return verdict and rule of a flow that a `once` rule admitted and the rules in force (`verdict`) refuse.

        The `once` rule still admits it as long as the flow matches it, unless a deny rule refuses the flow.
        """
        if verdict.reason is Reason.RULE:
            return verdict, None  # a deny rule
        alone, rule = Rulebook(Policy(self.rules.version, (admitted,))).decide(flow.who, flow, ts)
        return (alone, rule) if rule is not None else (verdict, None)


def _host(flow: Flow) -> bytes:
    """Return the address under which a flow's host is remembered: the IPv4 one, if both families name it."""
    return special.same_host(flow.remote) or flow.remote
