"""The judge of flows: rules, names, refused destinations and budgets, in one written order.

    a budget or a query that was refused      stands until the rules change
    deny rules, allow rules, the default      `egress.engine.policy`; names are those bound to the address for this
                                              agent, and the one that the bytes say
    a destination refused for a finding       above every allow
    a budget                                  asked last, of what would pass

A finding on the flow itself is above all of it, and is the engine's business.
"""

from __future__ import annotations

from egress.config import Limits
from egress.domain import canonical, reverse_address
from egress.engine.budget import Budgets
from egress.engine.destinations import Destinations
from egress.engine.events import DnsAnswered, DnsAsked, Event, Named
from egress.engine.flow import Flow
from egress.engine.names import Bindings
from egress.engine.policy import Rulebook
from egress.model import Action, Direction, Policy, Reason, Verdict
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
        """The verdict of a new flow; one that passes is counted against its rule and its agent's budgets."""
        verdict = self.again(flow, ts)
        if flow.rule is not None:
            self.rules.hit(flow.rule.id, ts)
            self.rules.spend(flow.rule)
        passes = verdict.action is Action.ACCEPT and flow.outbound
        if not passes or self._budgets.note_flow(flow.who, flow.remote, ts) is None:
            return verdict
        flow.objection = self._refuse(Reason.BUDGET, verdict.rule_id)
        return flow.objection

    def again(self, flow: Flow, ts: float) -> Verdict:
        """The verdict of a flow under what is known now."""
        if flow.objection is not None:
            return flow.objection
        flow.names |= self._bindings.names_of(flow.agent, flow.remote, ts)
        verdict, flow.rule = self.rules.decide(flow.who, flow, ts)
        if verdict.action is Action.ACCEPT and self.destinations.refused(flow.agent, flow.remote, ts):
            return self._refuse(Reason.DESTINATION, verdict.rule_id)
        return verdict

    def told(self, flow: Flow, event: Event, ts: float) -> bool:
        """Take note of what the bytes say; True if the flow has to be judged again."""
        if isinstance(event, Named):
            if flow.refused:
                return False  # by a name before it, in the same segment perhaps: no later one makes that good
            flow.said, flow.hidden = event.name, event.hidden
            return True
        if isinstance(event, DnsAsked) and event.direction is Direction.OUT and self._gate_queries:
            if event.query is None and flow.rule is not None and flow.rule.app not in ("", "dns"):
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
        flow.objection = self._refuse(Reason.BUDGET, flow.verdict.rule_id)
        return True

    def change(self, policy: Policy) -> None:
        """Judge by other rules from now on."""
        self.rules = Rulebook(policy, self.rules)

    def forget(self, agent: str) -> None:
        self.destinations.forget(agent)
        self._bindings.forget(agent)
        self._budgets.forget(agent)

    def _asked(self, flow: Flow, name: str, ts: float) -> bool:
        """A query itself carries data out: one for a name that no rule allows is refused before it leaves.

        One that cannot be read is judged as one for the root: only who may ask anything may ask that.
        """
        address = reverse_address(canonical(name))
        names = self._bindings.names_of(flow.agent, address, ts) if address else frozenset()
        verdict, _ = self.rules.may_resolve(flow.who, name, ts, names)
        if verdict.action is Action.ACCEPT:
            return False
        flow.objection = verdict
        return True

    def _refuse(self, reason: Reason, rule_id: str) -> Verdict:
        return Verdict(Action.REJECT, reason, rule_id, self.rules.version)
