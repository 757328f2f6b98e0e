"""Which flows a change of policy can concern, so that an edit costs the flows it is about and not all that live.

It may say yes where nothing changes (the flow is judged again, and its verdict stays), never no where a verdict would.
"""

from __future__ import annotations

from typing import Protocol

from egress.model import Agent, App, PolicyChange, Reason, Verdict
from egress.policy.domain import canonical
from egress.policy.index import place
from egress.policy.rulebook import DNS_PORTS, Rulebook, Subject
from egress.policy.selectors import Catalogue, reaching

_NO_NAMES: frozenset[str] = frozenset()


class Judged(Subject, Protocol):
    """What it looks at: a flow with its verdict."""

    who: Agent
    verdict: Verdict
    objection: Verdict | None


class ChangeScope:
    """Made before `rules.apply(change)`, for it needs the rules that go; ValueError as there."""

    def __init__(self, change: PolicyChange, rules: Rulebook) -> None:
        self._gone = frozenset(change.removed)
        self._catalogue = Catalogue()
        for entry in rules.moved(change):
            self._catalogue.add(entry)

    def includes_agent(self, agent: Agent) -> bool:
        """Whether any rule that came or went speaks of the agent; if not, it touches no flow of it."""
        mine = self._catalogue.rules_of(agent)
        return bool(mine.deny or mine.allow)

    def includes(self, flow: Judged, names: frozenset[str] = _NO_NAMES) -> bool:
        """Whether the flow may get another verdict, or the same one by another rule.

        `names`: those bound to its address by now, which `flow.names` may lack until the flow is judged again.
        """
        if (flow.rule is not None and flow.rule.id in self._gone) or flow.verdict.rule_id in self._gone:
            return True
        mine = self._catalogue.rules_of(flow.who)
        if not (mine.deny or mine.allow):
            return False
        asked = flow.objection is not None and flow.objection.reason is Reason.QUERY
        if asked or flow.rport in DNS_PORTS or flow.app == App.DNS:
            return True  # whatever name a rule is about, it may be one that was asked for
        names |= flow.names
        if flow.said:
            names |= {canonical(flow.said)}
        where = place(flow.remote, names, self._catalogue.deepest)
        return bool(reaching((*mine.deny, *mine.allow), where, flow.proto, flow.rport))
