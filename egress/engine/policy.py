"""Rules to verdicts. One written order: deny, allow, the agent's default; a finding overrides an allow.

A rule that names an application protocol admits a flow while its protocol is unknown (nobody can send a
byte through a connection that may not open) and is asked again when it is identified, or when it has said
too much to be identified.
"""

from __future__ import annotations

import ipaddress
from fnmatch import fnmatchcase
from typing import NamedTuple, Protocol

from egress.model import (
    PROTOCOL_NUMBERS,
    TCP,
    UDP,
    Action,
    Agent,
    Policy,
    Reason,
    Rule,
    Verdict,
)

UNKNOWN = "unknown"  # `app` of a flow that has said too much to be identified


class Subject(Protocol):
    """What policy looks at: the part of a flow that rules speak of."""

    proto: int
    remote: bytes
    rport: int
    outbound: bool
    app: str


class Matcher(NamedTuple):
    """A rule, ready to be compared: addresses as integers, the protocol as a number."""

    rule: Rule
    size: int  # packed address length; 0: any
    network: int
    mask: int
    proto: int  # -1: any
    ports: tuple[tuple[int, int], ...]

    def reaches(self, subject: Subject) -> bool:
        """Whether the rule speaks of this destination, whatever the application protocol."""
        if self.proto not in (-1, subject.proto):
            return False
        if self.rule.app and subject.proto not in (TCP, UDP):  # nothing is identified in other protocols
            return False
        if self.size and (
            self.size != len(subject.remote) or int.from_bytes(subject.remote) & self.mask != self.network
        ):
            return False
        return not self.ports or any(low <= subject.rport <= high for low, high in self.ports)


def matcher(rule: Rule) -> Matcher:
    """Compile one rule. Raises ValueError where a destination or protocol is none (the reader checks first)."""
    size = network = mask = 0
    if rule.destination != "any":
        parsed = ipaddress.ip_network(rule.destination, strict=False)
        size, network, mask = parsed.max_prefixlen // 8, int(parsed.network_address), int(parsed.netmask)
    if not rule.protocol:
        proto = -1
    elif rule.protocol in PROTOCOL_NUMBERS:
        proto = PROTOCOL_NUMBERS[rule.protocol]
    else:
        proto = int(rule.protocol)
    return Matcher(rule, size, network, mask, proto, rule.ports)


class Rulebook:
    """A policy compiled; the rules of each agent are picked out once."""

    def __init__(self, policy: Policy) -> None:
        self.version = policy.version
        self._matchers = tuple(matcher(rule) for rule in policy.rules)
        self._agents: dict[str, tuple[tuple[Matcher, ...], tuple[Matcher, ...]]] = {}

    def _rules_of(self, agent: str) -> tuple[tuple[Matcher, ...], tuple[Matcher, ...]]:
        rules = self._agents.get(agent)
        if rules is None:
            mine = [each for each in self._matchers if fnmatchcase(agent, each.rule.agent)]
            deny = tuple(each for each in mine if each.rule.action is not Action.ACCEPT)
            allow = tuple(each for each in mine if each.rule.action is Action.ACCEPT)
            rules = self._agents[agent] = (deny, allow)
        return rules

    def decide(self, agent: Agent, subject: Subject) -> tuple[Verdict, Rule | None]:
        """The verdict of the rules, with the allow rule that admits the flow (None: the default, or refused)."""
        deny, allow = self._rules_of(agent.name)
        for each in deny:
            if each.reaches(subject) and each.rule.app in ("", subject.app):
                return Verdict(each.rule.action, Reason.RULE, each.rule.id, self.version), None
        if not subject.outbound:
            reason = Reason.DEFAULT if agent.default is Action.ACCEPT else Reason.INBOUND
            return Verdict(agent.default, reason, "", self.version), None
        other_app = ""
        for each in allow:
            if not each.reaches(subject):
                continue
            if each.rule.app in ("", subject.app) or not subject.app:
                return Verdict(Action.ACCEPT, Reason.RULE, each.rule.id, self.version), each.rule
            other_app = each.rule.id
        if other_app and agent.default is not Action.ACCEPT:
            return Verdict(agent.default, Reason.APPLICATION, other_app, self.version), None
        return Verdict(agent.default, Reason.DEFAULT, "", self.version), None


def exempt(rule: Rule | None, signature: str) -> bool:
    """Whether the rule that admitted a flow silences this signature (by id or `family.*`)."""
    return rule is not None and any(fnmatchcase(signature, pattern) for pattern in rule.exempt)
