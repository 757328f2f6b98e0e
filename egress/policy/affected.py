"""Finds the flows that a policy change can affect, so that after an edit only those are judged again.

It may include a flow whose verdict stays the same, but misses none whose verdict changes.
"""

from __future__ import annotations

from typing import Protocol

from egress.model import Agent, App, PolicyChange, Reason, Verdict
from egress.policy import special
from egress.policy.domain import canonical
from egress.policy.index import destination_keys
from egress.policy.rulebook import DNS_PORTS, Rulebook, Subject
from egress.policy.selectors import Catalogue, reaching

_NO_NAMES: frozenset[str] = frozenset()


class Judged(Subject, Protocol):
    """The attributes of a flow that `ChangeScope` reads: a `Subject` with its agent and its verdict."""

    who: Agent
    verdict: Verdict
    objection: Verdict | None


class ChangeScope:
    """The agents and flows that a policy change can affect. Raises ValueError if the change does not fit `rules`.

    Create it before `rules.apply(change)`: it needs the removed rules.
    """

    def __init__(self, change: PolicyChange, rules: Rulebook) -> None:
        self._gone = frozenset(change.removed)
        self._catalogue = Catalogue()
        for entry in rules.changed(change):
            self._catalogue.add(entry)

    def includes_agent(self, agent: Agent) -> bool:
        """Return True if an added or removed rule selects the agent; if not, none of its flows is affected."""
        mine = self._catalogue.rules_of(agent)
        return bool(mine.deny or mine.allow)

    def includes(self, flow: Judged, names: frozenset[str] = _NO_NAMES) -> bool:
        """Return True if the flow may get another verdict, or the same one by another rule.

        `names`: the names bound to its address now; `flow.names` may lack some until the flow is judged again.
        """
        if (flow.rule is not None and flow.rule.id in self._gone) or flow.verdict.rule_id in self._gone:
            return True
        mine = self._catalogue.rules_of(flow.who)
        if not (mine.deny or mine.allow):
            return False
        asked = flow.objection is not None and flow.objection.reason is Reason.QUERY
        if asked or flow.rport in DNS_PORTS or flow.app == App.DNS:
            return True  # a query on this flow may have asked for any name that the rule matches
        names |= flow.names
        if flow.said:
            names |= {canonical(flow.said)}
        where = destination_keys(flow.remote, names, self._catalogue.deepest, special.embedded(flow.remote))
        return bool(reaching((*mine.deny, *mine.allow), where, flow.proto, flow.rport))
