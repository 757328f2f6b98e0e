"""Checks if the rules allow an agent to reach a destination. Sends no packet, spends no `once` rule, writes nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import ip_address

from egress.errors import InputError
from egress.model import PROTOCOL_NUMBERS, SCTP, TCP, UDP, Action, Agent, App, Mode, Reason, Rule, Verdict
from egress.policy.domain import canonical, is_address, normalise
from egress.policy.rulebook import Rulebook
from egress.policy.ruletext import InvalidRuleError, read_rule
from egress.policy.special import MAPPED, embedded, same_host
from egress.whatif.subject import NAMING, Target

MAX_TEXT = 1024  # characters of a destination

_TARGET = re.compile(
    r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<host>[^/:\[\]]*))(?::(?P<port>[0-9]{1,5}))?(?:/(?P<proto>[a-z0-9]+))?"
)
_REASONS = {
    Reason.APPLICATION: "rule {rule} allows it for another application protocol only",
    Reason.NAME: "rule {rule} allows this address by another name only",
    Reason.PRIVATE: "rule {rule} allows this name at global addresses only; if the address is right, set private: true"
    " in the rule",
    Reason.METADATA: "clouds serve metadata at this address, so only an allow rule for exactly this address admits it",
    Reason.DEFAULT: "no rule allows it, and the agent's default is to refuse",
    Reason.APPROVAL: "no rule matches, and the agent is in mode ask",
    Reason.QUARANTINE: "the agent is in quarantine",
}


_ASKED = frozenset((Reason.DEFAULT, Reason.PRIVATE))  # in mode ask a person decides on these refusals


class InvalidQuestionError(InputError):
    """A question that is not valid; `field` names its invalid field."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field


@dataclass(frozen=True, slots=True)
class Question:
    """A question: may the agent open a flow to this destination?"""

    destination: str  # a name in any spelling, or an address
    protocol: str = "tcp"  # tcp, udp, icmp, … or a number
    port: int = 0  # 0: the protocol has no ports
    app: str = ""  # application protocol: ssh, tls, …; "": not known yet
    address: str = ""  # with a name: the address that the agent has resolved it to; "": any


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of the rules. `action` is the verdict; in mode monitor a refused flow passes nevertheless."""

    allowed: bool
    action: Action
    reason: Reason
    rule_id: str
    policy_version: int
    resolvable: bool | None  # True: the agent may query the name; None: the question has an address
    explanation: str  # one sentence
    conditions: tuple[str, ...]  # sentences: the conditions of the answer, and the facts that it does not consider


def check(rules: Rulebook, agent: Agent, question: Question, ts: float, gate_queries: bool = True) -> Answer:
    """Judge a flow that the agent might open at time `ts`. Raises InvalidQuestionError.

    `gate_queries`: the gateway refuses DNS queries for names that no rule allows.
    """
    target, name = _target(question)
    verdict, rule = rules.decide(agent, target, ts)
    resolvable = None
    if name:
        asked, _ = rules.may_resolve(agent, name, ts)
        resolvable = not gate_queries or asked.action is Action.ACCEPT
    verdict = _overruled(agent, verdict)
    if verdict.reason is Reason.QUARANTINE:
        resolvable = None if resolvable is None else False
    allowed = verdict.action is Action.ACCEPT
    conditions = [*_about_name(rules, rule, question, name, resolvable, allowed), *_about_address(target.remote)]
    if allowed:
        conditions += _about_rule(rule, question, rules.demands(rule, target))
        conditions += _refused_later(rules, agent, target, ts)
        conditions.append("Budgets, findings and destinations refused for earlier findings are not considered.")
    elif agent.mode is Mode.MONITOR and verdict.reason is not Reason.QUARANTINE:
        conditions.append("The agent is in mode monitor: the refusal is recorded, but the flow passes.")
    explanation = _explain(agent, question, name, verdict)
    return Answer(
        allowed, verdict.action, verdict.reason, verdict.rule_id, rules.version, resolvable, explanation,
        tuple(conditions),
    )  # fmt: skip


def read_target(text: str, app: str = "") -> Question:
    """Parse HOST:PORT or [IPV6]:PORT, either with a suffix like /udp, or HOST/icmp. Raises InputError."""
    form = "write HOST:PORT, [IPV6]:PORT or HOST:PORT/udp, such as example.org:443"
    bare, slash, protocol = text.rpartition("/")
    if slash and protocol in PROTOCOL_NUMBERS and _is_v6(bare):
        text = f"[{bare}]/{protocol}"
    match = _TARGET.fullmatch(text) if len(text) <= MAX_TEXT else None
    if match is None or (match["v6"] is not None and not _is_v6(match["v6"])):
        raise InputError(f"{ascii(text)[:80]} is not a destination with a port: {form}")
    protocol = match["proto"] or "tcp"
    if protocol not in PROTOCOL_NUMBERS:  # a number could be meant as a prefix length
        raise InputError(f"{ascii(text)[:80]}: {protocol} must be one of {', '.join(sorted(PROTOCOL_NUMBERS))}; {form}")
    if match["port"] is None and PROTOCOL_NUMBERS[protocol] in (TCP, UDP, SCTP):
        raise InputError(f"{ascii(text)[:80]} has no port: {form}")
    question = Question(match["v6"] or match["host"] or "", protocol, int(match["port"] or 0), app)
    _target(question)
    return question


def _is_v6(text: str) -> bool:
    return ":" in text and is_address(text)


def _target(question: Question) -> tuple[Target, str]:
    """Return the target of a question, and the name in its canonical spelling ("" for an address).

    Raises InvalidQuestionError.
    """
    proto = _protocol(question.protocol)
    _port(question.port, proto)
    _app(question.app, proto)
    text = question.destination
    if not text or len(text) > MAX_TEXT:
        raise InvalidQuestionError("destination", "is empty or too long; write a name or an address")
    address = _address(text)
    if address is not None:
        if question.address and _address(question.address) != address:
            raise InvalidQuestionError("address", "the destination is an address; leave this out")
        return Target(proto, address, question.port, question.app), ""
    try:
        name = normalise(text)
    except ValueError as error:
        raise InvalidQuestionError("destination", f"{ascii(text)[:80]} {error}") from None
    bound = _address(question.address) if question.address else b""
    if bound is None:
        raise InvalidQuestionError(
            "address", f"{ascii(question.address)[:80]} is not an address; write one like 192.0.2.7"
        )
    said = name if question.app in NAMING else None
    names = frozenset((canonical(name),))
    return Target(proto, bound, question.port, question.app, names=names, said=said), name


def _protocol(text: str) -> int:
    """Return the number of a protocol given by name or number. Raises InvalidQuestionError."""
    if text in PROTOCOL_NUMBERS:
        return PROTOCOL_NUMBERS[text]
    if re.fullmatch("[0-9]{1,3}", text, re.ASCII) and int(text) <= 255:
        return int(text)
    known = ", ".join(sorted(PROTOCOL_NUMBERS))
    raise InvalidQuestionError("protocol", f"{ascii(text)[:80]} must be one of {known} or a number from 0 to 255")


def _port(port: int, proto: int) -> None:
    """Raise InvalidQuestionError for a port that is out of range, or missing, or that the protocol does not have."""
    if proto in (TCP, UDP, SCTP):
        if not 1 <= port <= 65535:
            raise InvalidQuestionError("port", f"{port} must be from 1 to 65535")
    elif port:
        raise InvalidQuestionError("port", "this protocol has no ports; leave it out")


def _app(app: str, proto: int) -> None:
    """Raise InvalidQuestionError for an application protocol that a rule could not have."""
    if not app:
        return
    if proto not in (TCP, UDP):
        raise InvalidQuestionError("app", "only tcp and udp carry an application protocol; leave it out")
    try:
        read_rule({"action": "deny", "app": app})
    except InvalidRuleError as error:
        raise InvalidQuestionError("app", str(error).removeprefix("app: ")) from None


def _address(text: str) -> bytes | None:
    """Pack an address, a mapped one (::ffff:192.0.2.1) as the IPv4 address that packets carry; None for other text."""
    if "%" in text:
        return None
    try:
        packed = ip_address(text.removeprefix("[").removesuffix("]") if ":" in text else text).packed
    except ValueError:
        return None
    return packed[12:] if packed.startswith(MAPPED) and len(packed) == 16 else packed


def _overruled(agent: Agent, verdict: Verdict) -> Verdict:
    """Return the verdict after quarantine, which overrides rules, and mode ask, which holds flows without a rule."""
    if agent.quarantined:
        return replace(verdict, action=Action.REJECT, reason=Reason.QUARANTINE, rule_id="")
    if agent.mode is Mode.ASK and verdict.action is Action.REJECT and verdict.reason in _ASKED:
        return replace(verdict, action=Action.HOLD, reason=Reason.APPROVAL, rule_id="")
    return verdict


def _about_name(
    rules: Rulebook, rule: Rule | None, question: Question, name: str, resolvable: bool | None, allowed: bool
) -> list[str]:
    """Return the conditions of an answer that concern the name, as sentences."""
    if not name:
        said = "It was judged as an address; if the agent has resolved a name to it, rules by name may match, too."
        return [said]
    conditions = []
    if allowed and rule is not None and rules.named(rule):
        conditions.append(f"Only at an address that the agent itself has resolved {name} to.")
        if not question.address and not rule.private:
            conditions.append("Only at a global address, and not at one of this host or of an agent.")
        if rule.unnamed:
            conditions.append(f"If the bytes contain a name (SNI, Host) it must match {rule.destination}.")
        elif question.app in ("", *NAMING):
            conditions.append(f"The name in the bytes (SNI, Host), if there is one, must match {rule.destination}.")
    if not question.address:
        conditions.append(
            "Rules by address were not considered: the name's address is not known here; it can be given."
        )
    if allowed and not resolvable:
        conditions.append(f"The agent may not query {name}, so it must know the address from elsewhere.")
    return conditions


def _about_address(address: bytes) -> list[str]:
    """Return a sentence if the IPv6 address embeds IPv4 ones, whose rules match as well."""
    inner = ", ".join(str(ip_address(each)) for each in embedded(address))
    if not inner:
        return []
    if same_host(address):
        return [f"The address stands for {inner}, in IPv6: rules for that match as well."]
    return [f"Packets for the address may be sent on to {inner}: deny rules for that match as well."]


def _about_rule(rule: Rule | None, question: Question, demanded: frozenset[str]) -> list[str]:
    """Return the conditions that the rule sets: application protocol, expiry, a single flow."""
    if rule is None:
        return []
    conditions = []
    if demanded and not question.app:
        conditions.append(f"Only while its bytes are those of {' or '.join(sorted(demanded))}, from the first one on.")
    if rule.expires_at is not None:
        until = datetime.fromtimestamp(rule.expires_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        conditions.append(f"The rule expires at {until}.")
    if rule.once:
        conditions.append("The rule admits one flow and is then spent.")
    return conditions


def _refused_later(rules: Rulebook, agent: Agent, target: Target, ts: float) -> list[str]:
    """Return sentences on deny rules for an application protocol, which match only once it is identified."""
    if target.app or target.proto not in (TCP, UDP):
        return []
    conditions = []
    for app in App:
        verdict, _ = rules.decide(agent, replace(target, app=app), ts)
        if verdict.action is not Action.ACCEPT and verdict.reason is Reason.RULE:
            conditions.append(f"Refused by rule {verdict.rule_id} once it is identified as {app}.")
    return conditions


def _explain(agent: Agent, question: Question, name: str, verdict: Verdict) -> str:
    """Write the verdict and its reason as one sentence."""
    port = f" port {question.port}" if question.port else ""
    app = f" ({question.app})" if question.app else ""
    where = f"{name or question.destination}, {question.protocol}{port}{app}"
    rule = verdict.rule_id
    if verdict.action is Action.ACCEPT:
        why = f"rule {rule} allows it" if verdict.reason is Reason.RULE else "no rule forbids it; its default is allow"
        return f"{agent.name} may reach {where}: {why}."
    why = f"rule {rule} denies it" if verdict.reason is Reason.RULE else _REASONS[verdict.reason].format(rule=rule)
    if verdict.action is Action.HOLD:
        return f"{agent.name} would wait for a person's approval to reach {where}: {why}."
    return f"{agent.name} may not reach {where}: {why}."
