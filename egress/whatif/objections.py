"""What an agent may not be given by learning: whatever a signature objected to, ever, and whatever a person denied."""

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
    """A destination (address and port, under any name it had) or a name to ask the DNS for."""

    proto: str
    dst: str
    dport: int
    names: frozenset[str]  # bound to the address, or said in the bytes
    query: str  # the name asked for; "": no query
    queries_only: bool  # says nothing of the flow that the query went over
    why: str

    @property
    def target(self) -> Target:
        """As little is said as a flow can say, so that every rule which could admit it does."""
        return Target(protocol_number(self.proto), packed(self.dst), self.dport, names=self.names)


class Objections:
    """Those of one agent."""

    def __init__(self, connection: Connection, agent: Agent, now: float) -> None:
        self._agent = replace(agent, default=Action.REJECT)
        self._now = now
        found = dict.fromkeys((*_findings(connection, agent.name), *_denials(connection, agent.name)))
        self.all = tuple(found)
        self._places: dict[tuple[str, bytes, int], str] = {}
        for each in self.all:
            if not each.queries_only:
                self._places.setdefault((each.proto, packed(each.dst), each.dport), each.why)

    def at(self, proto: str, dst: str, dport: int) -> str:
        """What was objected to at this address and port; "" for nothing."""
        return self._places.get((proto, packed(dst), dport), "")

    def reached(self, bundles: list[Bundle]) -> dict[int, str]:
        """Bundles, by index, whose rule would admit something here; of several at one place the first."""
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
    """A finding whose flow is not on file (any more) still has the address. A weak lead of a hunt is no objection."""
    for signature, proto, dst, dport, effect, app, server_name, bound in objected_flows(connection, agent):
        names = set(bound)
        if server_name and app in NAMING:
            names.add(canonical(server_name))
        asked = canonical(server_name) if server_name and app == App.DNS else ""
        # A hunt looks at the names in questions: it has nothing against the resolver.
        queries_only = bool(asked) and effect is Effect.NONE
        yield Objection(proto, dst, dport, frozenset(names), asked, queries_only, f"{signature} objected")


def _denials(connection: Connection, agent: str) -> Iterator[Objection]:
    for proto, dst, dport, names, is_query in denials(connection, agent):
        asked = canonical(names[0]) if is_query and names else ""
        bound = frozenset[str]() if is_query else frozenset(names)
        yield Objection(proto, dst, dport, bound, asked, is_query, "a person denied it")


def address_text(address: str) -> str:
    """The one spelling of a record's address; as it is where it is none."""
    return str(ip_address(packed(address))) if packed(address) else address
