"""The compiled rulebook against a slow, obvious reference: the same verdict for any rules, any agent, any flow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egress.model import TCP, UDP, Action, Agent, Policy, PolicyChange, Reason, Rule
from egress.policy.rulebook import Rulebook
from tests.examples import examples
from tests.traffic import START

NAMES = ["x.org", "a.x.org", "b.a.x.org", "c.b.a.x.org", "y.org", "a.y.org", "org"]
COVER = "cloudflare-ech.com"  # the public name of an operator of encrypted hellos
SPELT = [*NAMES, COVER, "A.X.org.", "b!.x.org", ".x.org", "203.0.113.9", "::1", ""]
ADDRESSES = ["203.0.113.9", "203.0.113.200", "8.8.8.8", "2001:db8::9", "2001:db9::", "10.1.2.3", "64:ff9b::a01:203",
             "2002:a01:203::", "169.254.169.254", "64:ff9b::a9fe:a9fe"]  # fmt: skip
NETWORKS = ["any", "203.0.113.9", "203.0.113.0/28", "203.0.0.0/8", "0.0.0.0/0", "2001:db8::/64", "::/0", "2001:db8::9",
            "10.0.0.0/8", "10.1.2.3", "169.254.169.254", "169.254.0.0/16"]  # fmt: skip
INSIDE = ADDRESSES[5:]
METADATA = ADDRESSES[8:]
SAME = {"64:ff9b::a01:203": "10.1.2.3", "64:ff9b::a9fe:a9fe": "169.254.169.254"}  # another name of one host
SENT_ON = SAME | {"2002:a01:203::": "10.1.2.3"}
PATTERNS = [*NAMES, "*.x.org", "**.x.org", "*.a.x.org", "**.org", "*.org", "**.y.org", "**.b.a.x.org"]

rules = st.builds(
    Rule,
    id=st.uuids().map(str),
    action=st.sampled_from([Action.ACCEPT, Action.ACCEPT, Action.REJECT, Action.DROP]),
    agent=st.sampled_from(["*", "*", "a1", "a*", "b1", "label:gpu", "label:t*"]),
    destination=st.sampled_from(NETWORKS) | st.sampled_from(PATTERNS),
    protocol=st.sampled_from(["", "", "tcp", "udp"]),
    ports=st.sampled_from([(), (), ((443, 443),), ((1, 1000),), ((22, 22), (8000, 9000)), ((53, 53),)]),
    app=st.sampled_from(["", "", "tls", "ssh", "dns", "http", "any"]),
    unnamed=st.booleans(),
    private=st.booleans(),
    expires_at=st.none() | st.sampled_from([START - 1, START, START + 1e-6, START + 60]),
    once=st.booleans(),
    position=st.integers(-2, 2),
)
agents = st.builds(
    Agent,
    name=st.sampled_from(["a1", "a2", "b1"]),
    default=st.sampled_from([Action.REJECT, Action.REJECT, Action.ACCEPT, Action.DROP]),
    labels=st.sampled_from([(), ("gpu",), ("t1", "cpu")]),
)


@dataclass
class Target:
    remote: bytes
    rport: int
    proto: int
    outbound: bool
    app: str
    excluded: frozenset[str]
    names: frozenset[str]
    said: str | None
    hidden: bool
    rule: Rule | None


targets = st.builds(
    Target,
    remote=st.sampled_from(ADDRESSES).map(lambda text: ip_address(text).packed),
    rport=st.sampled_from([22, 53, 443, 8080]),
    proto=st.sampled_from([TCP, UDP]),
    outbound=st.sampled_from([True, True, True, False]),
    app=st.sampled_from(["", "", "tls", "ssh", "http2", "unknown"]),
    excluded=st.frozensets(st.sampled_from(["tls", "quic", "ssh", "http"]), max_size=3),
    names=st.frozensets(st.sampled_from([*NAMES, "b!.x.org"]), max_size=3),
    said=st.none() | st.sampled_from(SPELT),
    hidden=st.booleans(),
    rule=st.none(),
)

# --- the reference: each question in full, a walk over all rules, no index -----------------------------


def called(pattern: str, name: str) -> bool:
    labels = name.split(".")
    wanted = pattern.lstrip("*.").split(".")
    more = len(labels) - len(wanted)
    enough = more >= 1 if pattern.startswith("**.") else more == (1 if pattern.startswith("*.") else 0)
    return enough and labels[more:] == wanted


def host(name: str) -> bool:
    return all(label and set(label) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_") for label in name.split("."))


def spelt(name: str) -> str:
    """Spell a name as `SPELT` needs it: lower case, no last dot; an address is not a name."""
    name = name.lower().removesuffix(".")
    return "" if name in ("203.0.113.9", "::1") else name


def named(rule: Rule) -> bool:
    return rule.destination in PATTERNS


def concerns(rule: Rule, who: Agent, spent: set[str], mine: Rule | None) -> bool:
    if rule.expires_at is not None and rule.expires_at <= START:
        return False
    if rule.once and rule.id in spent and not (mine and mine.id == rule.id):
        return False
    if rule.agent.startswith("label:"):
        return any(fnmatchcase(label, rule.agent[6:]) for label in who.labels)
    return fnmatchcase(who.name, rule.agent)


def carried(rule: Rule, target: Target) -> bool:
    protocol = {TCP: "tcp", UDP: "udp"}[target.proto]
    in_ports = not rule.ports or any(target.rport in range(low, high + 1) for low, high in rule.ports)
    return rule.protocol in ("", protocol) and in_ports


def at(rule: Rule, address: bytes, others: dict[str, str]) -> bool:
    """Return True if the rule matches the address, or the other one that it stands for."""
    text = str(ip_address(address))
    spelt = [ip_address(each) for each in (text, others.get(text, text))]
    return not named(rule) and (rule.destination == "any" or any(x in ip_network(rule.destination) for x in spelt))


def fits(rule: Rule, target: Target, said: str | None) -> bool:
    """Return True if the rule matches the name in the bytes, or it is not read yet, or hidden where it may be."""
    matches = not said or (target.hidden and said == COVER) or (host(said) and called(rule.destination, said))
    return matches and (rule.unnamed or not (target.hidden or said == ""))


def called_so(rule: Rule, app: str) -> bool:
    """Return True if the rule's application stands for a protocol."""
    return rule.app in ("", "any", app) or (rule.app, app) == ("http", "http2")


def demands(rule: Rule, target: Target) -> set[str]:
    """Return the protocols that the rule asks of the target; empty: it asks none."""
    if rule.app in ("", "any"):
        https = not rule.app and named(rule) and target.rport == 443 and (443, 443) in rule.ports
        return {"tls", "quic"} if https else set()
    return {"http", "http2"} if rule.app == "http" else {rule.app}


def in_order(some: list[Rule]) -> list[Rule]:
    return sorted(some, key=lambda rule: rule.position)


def reference(some: list[Rule], who: Agent, target: Target, spent: set[str]) -> tuple[Action, Reason, str]:
    said = None if target.said is None else spelt(target.said)
    mine = [rule for rule in in_order(some) if concerns(rule, who, spent, target.rule) and carried(rule, target)]
    for rule in mine:
        names = {*target.names, said} if said else target.names
        meant = at(rule, target.remote, SENT_ON) or (
            named(rule) and any(called(rule.destination, name) for name in names)
        )
        if rule.action is not Action.ACCEPT and meant and called_so(rule, target.app):
            return rule.action, Reason.RULE, rule.id
    if not target.outbound:
        return who.default, Reason.DEFAULT if who.default is Action.ACCEPT else Reason.INBOUND, ""
    near, text = None, str(ip_address(target.remote))
    for rule in mine:
        bound = named(rule) and any(host(name) and called(rule.destination, name) for name in target.names)
        if rule.action is not Action.ACCEPT or not (bound or at(rule, target.remote, SAME)):
            continue
        if text in METADATA and target.rport != 53 and rule.destination != "169.254.169.254":
            continue
        wanted = demands(rule, target)
        possible = {target.app} if target.app else wanted
        if wanted and not (wanted & possible) - target.excluded:
            near = near or (Reason.APPLICATION, rule.id)
        elif bound and text in INSIDE and not rule.private:
            near = near or (Reason.PRIVATE, rule.id)
        elif not bound or fits(rule, target, said):
            return Action.ACCEPT, Reason.RULE, rule.id
        else:
            near = near or (Reason.NAME, rule.id)
    if text in METADATA and target.rport != 53:
        return Action.REJECT if who.default is Action.ACCEPT else who.default, Reason.METADATA, ""
    if near and who.default is not Action.ACCEPT:
        return who.default, *near
    return who.default, Reason.DEFAULT, ""


def query_reference(some: list[Rule], who: Agent, name: str, spent: set[str]) -> tuple[Action, Reason, str]:
    name = name.lower().removesuffix(".")
    everywhere = ("any", "0.0.0.0/0", "::/0")
    mine = [rule for rule in in_order(some) if concerns(rule, who, spent, None)]
    for rule in mine:
        meant = rule.destination in everywhere or (named(rule) and called(rule.destination, name))
        if (
            rule.action is not Action.ACCEPT
            and meant
            and not (rule.protocol or rule.ports or rule.app not in ("", "any"))
        ):
            return rule.action, Reason.QUERY, rule.id
    if who.default is Action.ACCEPT:
        return Action.ACCEPT, Reason.DEFAULT, ""
    for rule in mine:
        dns = rule.app == "dns" or set(rule.ports) == {(53, 53)}
        by_name = named(rule) and host(name) and called(rule.destination, name)
        if rule.action is Action.ACCEPT and (by_name or (rule.destination in everywhere and not dns)):
            return Action.ACCEPT, Reason.RULE, rule.id
    return who.default, Reason.QUERY, ""


# --- and the comparison -------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=examples(300))
@given(st.lists(rules, max_size=12), st.lists(st.tuples(agents, targets), min_size=1, max_size=4), st.data())
def test_a_flow_is_judged_as_the_reference_judges_it(
    some: list[Rule], flows: list[tuple[Agent, Target]], data: st.DataObject
) -> None:
    book = Rulebook(Policy(7, tuple(some)))
    spent = set()
    for rule in some:
        if rule.once and data.draw(st.booleans()):
            book.spend(rule)
            spent.add(rule.id)
    again = Rulebook(Policy(7, tuple(some)), book)
    for who, target in flows:
        target.rule = data.draw(st.sampled_from([None, *some]))
        verdict, admitting = book.decide(who, target, START)
        assert (verdict.action, verdict.reason, verdict.rule_id) == reference(some, who, target, spent)
        assert admitting is None or (verdict.reason is Reason.RULE and admitting in some)
        assert again.decide(who, target, START) == (verdict, admitting)


@pytest.mark.slow
@settings(max_examples=examples(200))
@given(st.lists(rules, max_size=12), agents, st.sampled_from([name for name in SPELT if name and ":" not in name]))
def test_a_query_is_judged_as_the_reference_judges_it(some: list[Rule], who: Agent, name: str) -> None:
    book = Rulebook(Policy(7, tuple(some)))
    verdict, _ = book.may_resolve(who, name, START)
    assert (verdict.action, verdict.reason, verdict.rule_id) == query_reference(some, who, name, set())


@pytest.mark.slow
@given(st.lists(rules, max_size=12), agents, targets)
def test_only_an_expiry_changes_a_verdict_as_time_goes_by(some: list[Rule], who: Agent, target: Target) -> None:
    book = Rulebook(Policy(7, tuple(some)))
    now = START - 2
    while now < START + 61:
        until = min(book.next_expiry(now), START + 100)
        assert until > now
        assert book.decide(who, target, now) == book.decide(who, target, until - 1e-6)
        now = until


# --- a policy reached by edits ------------------------------------------------------------------------


@st.composite
def changes(draw: st.DrawFn, live: list[Rule], version: int) -> PolicyChange:
    """Remove, add, edit and restore some rules; no added rule has the id of a rule that stays."""
    gone = draw(st.lists(st.sampled_from(live), unique_by=id, max_size=4)) if live else []
    edited = [draw(st.just(rule) | rules.map(partial(renamed, rule.id))) for rule in gone if draw(st.booleans())]
    added = draw(st.permutations(edited + draw(st.lists(rules, max_size=3))))
    return PolicyChange(version, version + 1, tuple(rule.id for rule in gone), tuple(added))


def renamed(rule_id: str, rule: Rule) -> Rule:
    return replace(rule, id=rule_id)


def after(live: list[Rule], change: PolicyChange) -> list[Rule]:
    return [rule for rule in live if rule.id not in change.removed] + list(change.added)


@pytest.mark.slow
@settings(max_examples=examples(300))
@given(
    st.lists(rules, max_size=8),
    st.lists(st.tuples(agents, targets, st.sampled_from(NAMES)), min_size=1, max_size=3),
    st.data(),
)
def test_a_policy_reached_by_edits_is_the_policy_compiled_at_once(
    live: list[Rule], flows: list[tuple[Agent, Target, str]], data: st.DataObject
) -> None:
    book = Rulebook(Policy(0, tuple(live)))
    spent: dict[str, Rule] = {}
    hits: dict[str, tuple[int, float]] = {}
    for version in range(data.draw(st.integers(1, 4))):
        for rule in live:
            book.hit(rule.id, START + version)
            hits[rule.id] = hits.get(rule.id, (0, 0.0))[0] + 1, START + version
            if rule.once and data.draw(st.booleans()):
                book.spend(rule)
                spent[rule.id] = rule
        for who, target, _ in flows:
            book.decide(who, target, START)  # so that it has something to remember
        before, change = live, data.draw(changes(live, version))
        live = after(before, change)
        by_id = {rule.id: rule for rule in live}
        spent = {rule_id: rule for rule_id, rule in spent.items() if by_id.get(rule_id) == rule}
        hits = {rule_id: hit for rule_id, hit in hits.items() if rule_id in by_id}
        fresh = Rulebook(Policy(version + 1, tuple(live)), book)
        book.apply(change)
        assert book.version == version + 1 and book.hits == hits
        for who, target, name in flows:
            target.rule = data.draw(st.sampled_from([None, *before, *live]))
            verdict, admitting = book.decide(who, target, START)
            assert (verdict.action, verdict.reason, verdict.rule_id) == reference(live, who, target, set(spent))
            assert (verdict, admitting) == fresh.decide(who, target, START)
            asked, _ = book.may_resolve(who, name, START)
            assert (asked.action, asked.reason, asked.rule_id) == query_reference(live, who, name, set(spent))
        moments = [START - 2, START - 1, START, START + 1, START + 60]
        assert [book.next_expiry(ts) for ts in moments] == [fresh.next_expiry(ts) for ts in moments]
        assert all(book.named(rule) == fresh.named(rule) for rule in (*before, *live))
