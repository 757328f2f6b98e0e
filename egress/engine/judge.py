"""The judge of flows: rules, names, refused destinations and budgets, in one written order.

    quarantine                                a person's order, above everything
    a budget, a query or an approval that     stands until the rules change
    was refused
    deny rules, allow rules, the default      `egress.policy.rulebook`; names are those bound to the address for this
                                              agent, and the one that the bytes say
    a destination refused for a finding       above every allow
    a budget                                  asked last, of what would pass

A finding on the flow itself is above all of it, and is the engine's business; so is mode ask, which keeps waiting what
the default refuses (`egress.engine.verdicts`).

What a `once` rule has admitted it keeps to its end, for such a rule goes as soon as it is used: the flow must go on
keeping to it, and its expiry, a deny rule, a finding, a budget or a quarantine still end it.
"""

from __future__ import annotations

from egress.dissection.events import DnsAnswered, DnsAsked, Event, Named
from egress.engine.flow import Flow
from egress.engine.holds import asks
from egress.limits import Limits
from egress.model import Action, App, Direction, Policy, PolicyChange, Reason, Rule, Verdict
from egress.policy.affected import Concern
from egress.policy.bindings import Bindings
from egress.policy.budgets import Budgets
from egress.policy.destinations import Destinations
from egress.policy.domain import canonical, is_host, reverse_address
from egress.policy.rulebook import Rulebook
from egress.wire.dns import addresses_of


class Judge:
    """What it knows of an agent is forgotten with the agent."""

    def __init__(self, limits: Limits, policy: Policy, *, gate_queries: bool) -> None:
        self.rules = Rulebook(policy)
        self.destinations = Destinations(limits.destination_timeout)
        self._gate_queries = gate_queries
        self._bindings = Bindings()
        self._budgets = Budgets()

    def admit(self, flow: Flow, ts: float) -> Verdict:
        """The verdict of a flow not admitted so far; one that passes is counted: its rule, its agent's budgets."""
        verdict = self.again(flow, ts)
        if verdict.action is not Action.ACCEPT:
            return verdict
        rule = flow.rule
        if rule is not None:
            self.rules.hit(rule.id, ts)
        if flow.outbound and self._budgets.note_flow(flow.who, flow.remote, ts) is not None:
            flow.objection = self.refuse(Reason.BUDGET, verdict.rule_id)
            return flow.objection
        if rule is not None:
            self.rules.spend(rule)
        flow.admitted = True
        return verdict

    def again(self, flow: Flow, ts: float) -> Verdict:
        """The verdict of a flow under what is known now."""
        if flow.who.quarantined:
            return self.refuse(Reason.QUARANTINE)
        if flow.objection is not None:
            return flow.objection
        flow.names |= self._bindings.names_of(flow.agent, flow.remote, ts)
        admitted = flow.rule
        verdict, flow.rule = self.rules.decide(flow.who, flow, ts)
        if admitted is not None and admitted.once and verdict.action is not Action.ACCEPT:
            verdict, flow.rule = self._kept(flow, admitted, verdict, ts)
        if verdict.action is Action.ACCEPT and self.destinations.refused(flow.agent, flow.remote, ts):
            return self.refuse(Reason.DESTINATION, verdict.rule_id)
        return verdict

    def would_pass(self, flow: Flow, query: str, ts: float) -> Verdict:
        """What the rules alone say now of a flow that waits, for itself or for a query's name; nothing is counted."""
        if query:
            return self._resolves(flow, query, ts)
        flow.names |= self._bindings.names_of(flow.agent, flow.remote, ts)
        return self.rules.decide(flow.who, flow, ts)[0]

    def told(self, flow: Flow, event: Event, ts: float) -> bool:
        """Take note of what the bytes say; True if the flow has to be judged again."""
        if isinstance(event, Named):
            if flow.refused:
                return False  # by a name before it, in the same segment perhaps: no later one makes that good
            flow.said, flow.hidden = event.name, event.hidden
            return True
        if isinstance(event, DnsAsked) and event.direction is Direction.OUT and self._gate_queries:
            if event.query is None and flow.rule is not None and flow.rule.app not in ("", App.DNS):
                return False  # another protocol on the DNS's port, by a rule that says so
            return self._asked(flow, event.query.name if event.query else "", ts)
        if isinstance(event, DnsAnswered):
            for bound in addresses_of(event.answer):
                self._bindings.bind(flow.agent, bound.names, bound.address, bound.ttl, ts)
        return False

    def by_name(self, flow: Flow) -> bool:
        """Whether the rule that admits a flow names its destination."""
        return flow.rule is not None and self.rules.named(flow.rule)

    def sent(self, flow: Flow, size: int, ts: float) -> bool:
        """The agent sends this many bytes on an admitted flow; True if that is more than it may."""
        if self._budgets.note_bytes(flow.who, size, ts) is None:
            return False
        flow.objection = self.refuse(Reason.BUDGET, flow.verdict.rule_id)
        return True

    def unsent(self, flow: Flow, size: int, ts: float) -> None:
        """A packet that was counted waits after all, and will be counted when it comes again."""
        self._budgets.note_bytes(flow.who, -size, ts)

    def change(self, policy: Policy) -> None:
        """Judge by other rules from now on."""
        self.rules = Rulebook(policy, self.rules)

    def apply(self, change: PolicyChange) -> Concern:
        """Judge by changed rules from now on; ValueError if the change is not of the rules in force."""
        concern = Concern(change, self.rules)
        self.rules.apply(change)
        return concern

    def concerned(self, flow: Flow, concern: Concern, ts: float) -> bool:
        """Whether a change of the rules may give this flow another verdict, by what its address is called now."""
        return concern.touches(flow, self._bindings.names_of(flow.agent, flow.remote, ts))

    def forget(self, agent: str) -> None:
        self.rules.forget(agent)
        self.destinations.forget(agent)
        self._bindings.forget(agent)
        self._budgets.forget(agent)

    def _asked(self, flow: Flow, name: str, ts: float) -> bool:
        """A query itself carries data out: one for a name that no rule allows is refused before it leaves, or waits.

        One that cannot be read is judged as one for the root: only who may ask anything may ask that.
        """
        verdict = self._resolves(flow, name, ts)
        if verdict.action is Action.ACCEPT:
            return False
        asked = canonical(name)
        if asks(flow.who) and not verdict.rule_id and is_host(asked):
            flow.wants = asked
        else:
            flow.objection = verdict
        return True

    def _resolves(self, flow: Flow, name: str, ts: float) -> Verdict:
        address = reverse_address(canonical(name))
        names = self._bindings.names_of(flow.agent, address, ts) if address else frozenset()
        return self.rules.may_resolve(flow.who, name, ts, names)[0]

    def _kept(self, flow: Flow, admitted: Rule, verdict: Verdict, ts: float) -> tuple[Verdict, Rule | None]:
        """The verdict of a flow that a `once` rule admitted and no other does."""
        if verdict.reason is Reason.RULE:
            return verdict, None  # a deny rule
        alone, rule = Rulebook(Policy(self.rules.version, (admitted,))).decide(flow.who, flow, ts)
        return (alone, rule) if rule is not None else (verdict, None)

    def refuse(self, reason: Reason, rule_id: str = "") -> Verdict:
        return Verdict(Action.REJECT, reason, rule_id, self.rules.version)
