"""A catalogue of rules by agent selector, then by destination: finds the few rules that may match a flow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import NamedTuple

from egress.model import TCP, UDP, Action, Agent
from egress.policy.applications import covered
from egress.policy.index import DestinationKeys, Index, IndexedRule, depth

LABEL = "label:"  # the beginning of a selector over labels


class SelectorRules(NamedTuple):
    """The rules with the same agent selector (`model.Rule.agent`): those that deny, and those that allow."""

    deny: Index
    allow: Index


class AgentRules(NamedTuple):
    """The rules of one agent: one index for each selector that matches it, of rules that deny and that allow."""

    deny: tuple[Index, ...]
    allow: tuple[Index, ...]


class Catalogue:
    """Rules by agent selector. A selector without rules is dropped, so that edits do not fill the memory.

    `deepest`: the most labels in the base of a `**` pattern, which bounds the keys to look up (`destination_keys`).
    """

    def __init__(self) -> None:
        self.deepest = 0  # most labels in the base of a ** pattern
        self._depths: Counter[int] = Counter()
        self._selectors: dict[str, SelectorRules] = {}
        self._globs: dict[str, None] = {}  # the selectors that are not the name of one agent; a set, in order
        self._agents: dict[str, tuple[Agent, AgentRules]] = {}

    def add(self, entry: IndexedRule) -> None:
        """Add a rule under its selector; drop the cached rules of agents that a new selector matches."""
        selector = entry.rule.agent
        selected = self._selectors.get(selector)
        if selected is None:
            selected = self._selectors[selector] = SelectorRules(Index(), Index())
            if not _is_name(selector):
                self._globs[selector] = None
            self._forget_selected(selector)
        _side(selected, entry).add(entry)
        if labels := depth(entry.destination):
            self._depths[labels] += 1
            self.deepest = max(self.deepest, labels)

    def remove(self, entry: IndexedRule) -> None:
        """Remove a rule that is in the catalogue."""
        selector = entry.rule.agent
        selected = self._selectors[selector]
        _side(selected, entry).remove(entry)
        if not selected.deny and not selected.allow:
            del self._selectors[selector]
            self._globs.pop(selector, None)
            self._forget_selected(selector)
        if labels := depth(entry.destination):
            self._depths[labels] -= 1
            if not self._depths[labels]:
                del self._depths[labels]
                self.deepest = max(self._depths, default=0)

    def rules_of(self, agent: Agent) -> AgentRules:
        """Return the rules whose selectors match an agent. The result is cached until the agent's labels change."""
        cached = self._agents.get(agent.name)
        if cached is not None and (cached[0] is agent or cached[0].labels == agent.labels):
            return cached[1]
        names = [agent.name] if _is_name(agent.name) and agent.name in self._selectors else []
        names += [selector for selector in self._globs if selects(selector, agent)]
        selected = [self._selectors[name] for name in names]
        mine = AgentRules(tuple(each.deny for each in selected), tuple(each.allow for each in selected))
        self._agents[agent.name] = agent, mine
        return mine

    def forget(self, agent: str) -> None:
        """Remove an agent that is gone from the cache."""
        self._agents.pop(agent, None)

    def _forget_selected(self, selector: str) -> None:
        """Forget the cached rules of the agents that a new or removed selector matches."""
        if _is_name(selector):
            self._agents.pop(selector, None)
            return
        for name in [name for name, (agent, _) in self._agents.items() if selects(selector, agent)]:
            del self._agents[name]


def selects(selector: str, agent: Agent) -> bool:
    """Return True if an agent selector (`model.Rule.agent`) matches this agent."""
    if selector.startswith(LABEL):
        return any(fnmatchcase(label, selector[len(LABEL) :]) for label in agent.labels)
    return fnmatchcase(agent.name, selector)


def reaching(indexes: Iterable[Index], where: DestinationKeys, proto: int, port: int) -> list[IndexedRule]:
    """Return the rules that match this destination, protocol and port, in no certain order; a rule may come twice."""
    return [
        entry
        for index in indexes
        for bucket in index.reaching(where)
        for entry in bucket
        if entry.proto in (-1, proto)
        and (not covered(entry.rule.app) or proto in (TCP, UDP))  # no application is identified in other protocols
        and (not entry.rule.ports or any(low <= port <= high for low, high in entry.rule.ports))
    ]


def _is_name(selector: str) -> bool:
    """Return True if a selector is a plain agent name, without wildcards or labels."""
    return not selector.startswith(LABEL) and not any(sign in selector for sign in "*?[")


def _side(selected: SelectorRules, entry: IndexedRule) -> Index:
    return selected.allow if entry.rule.action is Action.ACCEPT else selected.deny
