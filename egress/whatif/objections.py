"""Objections: destinations that learning must not allow, since a signature objected to them or a person denied them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address

from egress.model import Action, Agent, App, Effect, Policy
from egress.policy.domain import canonical
from egress.policy.rulebook import Rulebook
from egress.store.database.handles import Connection
from egress.store.policy.approvals import denials
from egress.store.query.flowgroups import objected_flows
from egress.whatif.bundles import Bundle
from egress.whatif.subject import NAMING, Target, packed, protocol_number


@dataclass(frozen=True, slots=True)
class Objection:
    """A destination that must not be allowed: an address and port, under any of its names, or a name in DNS queries."""

    proto: str
    dst: str
    dport: int
    names: frozenset[str]  # bound to the address, or in the bytes
    query: str  # the queried name; "": not a query
    queries_only: bool  # it holds for queries of the name, not for flows to the resolver
    why: str

    @property
    def target(self) -> Target:
        """The destination without application and name in the bytes, so that every rule that could admit it matches."""
        return Target(protocol_number(self.proto), packed(self.dst), self.dport, names=self.names)


class Objections:
    """All objections to destinations of one agent, read from the database."""

    def __init__(self, connection: Connection, agent: Agent, now: float) -> None:
        self._agent = replace(agent, default=Action.REJECT)
        self._now = now
        found = dict.fromkeys((*_findings(connection, agent.name), *_denials(connection, agent.name)))
        self.all = tuple(found)
        self._reasons: dict[tuple[str, bytes, int], str] = {}
        for each in self.all:
            if not each.queries_only:
                self._reasons.setdefault((each.proto, packed(each.dst), each.dport), each.why)

    def at(self, proto: str, dst: str, dport: int) -> str:
        """Return the reason of an objection to this address and port; "" if there is none."""
        return self._reasons.get((proto, packed(dst), dport), "")

    def reached(self, bundles: list[Bundle]) -> dict[int, str]:
        """Return the bundles whose rule would allow a destination with an objection: index → reason.

        It need not find all at once: of rules that allow the same destination it finds one.
        """
        rules = (replace(each.rule(self._agent.name, 0.0), id=str(index)) for index, each in enumerate(bundles))
        book = Rulebook(Policy(0, tuple(rules)))
        wrong: dict[int, str] = {}
        for each in self.all:
            if not each.queries_only:
                verdict, _ = book.decide(self._agent, each.target, self._now)
                if verdict.action is Action.ACCEPT:
                    wrong.setdefault(int(verdict.rule_id), each.why)
            if each.query:
                verdict, _ = book.may_resolve(self._agent, each.query, self._now)
                if verdict.action is Action.ACCEPT:
                    wrong.setdefault(int(verdict.rule_id), each.why)
        return wrong


def _findings(connection: Connection, agent: str) -> Iterator[Objection]:
    """Yield the objections that follow from findings; where the flow is not stored any more, by address only."""
    for signature, proto, dst, dport, effect, app, server_name, bound in objected_flows(connection, agent):
        names = set(bound)
        if server_name and app in NAMING:
            names.add(canonical(server_name))
        asked = canonical(server_name) if server_name and app == App.DNS else ""
        # A hunt judges the names in queries, not the resolver that they were sent to.
        queries_only = bool(asked) and effect is Effect.NONE
        yield Objection(proto, dst, dport, frozenset(names), asked, queries_only, f"{signature} objected")


def _denials(connection: Connection, agent: str) -> Iterator[Objection]:
    """Yield the objections that follow from approvals that a person denied."""
    for proto, dst, dport, names, is_query in denials(connection, agent):
        asked = canonical(names[0]) if is_query and names else ""
        bound = frozenset[str]() if is_query else frozenset(names)
        yield Objection(proto, dst, dport, bound, asked, is_query, "a person denied it")


def address_text(address: str) -> str:
    """Return an address in its canonical spelling; other text unchanged."""
    return str(ip_address(packed(address))) if packed(address) else address
