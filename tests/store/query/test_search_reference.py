"""Any query over any rows: SQLite, PostgreSQL and a slow reading in Python find the same."""

from __future__ import annotations

import ipaddress
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import Connection, Engine

from egress.model import Action, Effect, Mode, Reason, Severity
from egress.records.shape import DIRECTIONS, FLOW_STATES, FindingRecord, FlowRecord
from egress.store.database.database import open_database, writing
from egress.store.database.tables import findings, flows
from egress.store.query.search import FIELDS, compile_query
from egress.store.recording.writer import store
from tests.examples import examples
from tests.store import samples
from tests.store.postgres import Server

NOW = samples.START + 3600
ROWS = 120
SIGNATURES = ("mining.stratum", "ssh.unusual-port", "beacon.timing")
TEXTS = ("", "rome-7", "rome-70", "Rome-7", "a b", "100%", "x_y", "[z]", "*", "é", "ü-ber", "a\\b", "tls", "^", "]")
NAMES = (
    "",
    "a.example.com",
    "A.example.com",
    "b.example.org",
    "xn--e1afmkfd.example",
    "a,b",
    'q"q',
    "*.example.com",
    "[",
)
ADDRESSES = (
    "198.51.100.7",
    "198.51.100.0",
    "203.0.113.9",
    "2001:db8::7",
    "::ffff:198.51.100.7",
    "::",
    "not-an-address",
    "",
)
NUMBERS = (0, 1, 22, 443, 8080, 65535)
SIZES = (0, 1, 999, 1000, 1001, 1_500_000, 2**40)


def make(seed: int) -> tuple[list[FlowRecord], list[FindingRecord]]:
    """Rows that are alike in many fields, so that terms hold for some and not for others."""
    at = random.Random(seed)
    flowed = [
        replace(
            samples.FLOW, flow_id=f"{at.getrandbits(64):016x}", agent=at.choice(TEXTS), start=NOW - at.choice(NUMBERS),
            updated=NOW - at.choice((0, 1, 60, 7200)), state=at.choice(FLOW_STATES), direction=at.choice(DIRECTIONS),
            proto=at.choice(("tcp", "udp", "icmp", "47")), src=at.choice(ADDRESSES), dst=at.choice(ADDRESSES),
            dport=at.choice(NUMBERS), app_proto=at.choice(TEXTS), server_name=at.choice(NAMES),
            action=at.choice(list(Action)), reason=at.choice(list(Reason)), rule_id=at.choice(TEXTS),
            policy_version=at.choice((0, 1, 2)), mode=at.choice(list(Mode)), packets_out=at.choice(SIZES),
            packets_in=at.choice(SIZES), bytes_out=at.choice(SIZES), bytes_in=at.choice(SIZES),
            names=tuple(sorted({at.choice(NAMES[1:]) for _ in range(at.randrange(3))})),
        )
        for _ in range(ROWS)
    ]  # fmt: skip
    found = [
        replace(
            samples.FINDING, finding_id=f"{at.getrandbits(64):016x}", flow_id=at.choice(flowed).flow_id,
            signature=at.choice(SIGNATURES), severity=at.choice(list(Severity)), effect=at.choice(list(Effect)),
        )
        for _ in range(ROWS // 2)
    ]  # fmt: skip
    return flowed, found


FLOWS, FINDINGS = make(7)


# --- the reference: each term read by itself, without a parser, a glob or an index of ours --------------------


def matches(text: str, pattern: str) -> bool:
    """A glob of the shell, character by character."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(matches(text[at:], pattern[1:]) for at in range(len(text) + 1))
    if not text:
        return False
    if pattern[0] == "[":
        end = pattern.index("]", 3 if pattern[1] in "!^" else 2)
        members, rest = pattern[1:end], pattern[end + 1 :]
        negated = members[0] in "!^"
        listed = members[1:] if negated else members
        inside = re.fullmatch("(.)-(.)", listed)
        held = inside[1] <= text[0] <= inside[2] if inside else text[0] in listed
        return held != negated and matches(text[1:], rest)
    return pattern[0] in ("?", text[0]) and matches(text[1:], pattern[1:])


def within(address: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def number(text: str) -> int:
    units = {"k": 10**3, "m": 10**6, "g": 10**9}
    digits = text.rstrip("bB").lower()
    return int(digits[:-1]) * units[digits[-1]] if digits[-1] in units else int(digits)


def compared(have: int, operator: str, value: str) -> bool:
    if operator == ":" and "-" in value:
        low, high = value.split("-")
        return number(low) <= have <= number(high)
    want = number(value)
    return {":": have == want, "<": have < want, "<=": have <= want, ">": have > want, ">=": have >= want}[operator]


def made(flow: FlowRecord) -> list[FindingRecord]:
    return [each for each in FINDINGS if each.flow_id == flow.flow_id]


GLOBS: dict[str, Callable[[FlowRecord], list[str]]] = {
    "agent": lambda flow: [flow.agent],
    "app": lambda flow: [flow.app_proto],
    "rule": lambda flow: [flow.rule_id],
    "proto": lambda flow: [flow.proto],
    "name": lambda flow: [flow.server_name, *flow.names],
    "signature": lambda flow: [each.signature for each in made(flow)],
}
COUNTS: dict[str, Callable[[FlowRecord], int]] = {
    "port": lambda flow: flow.dport,
    "policy": lambda flow: flow.policy_version,
    "bytes": lambda flow: flow.bytes_out + flow.bytes_in,
    "bytes_out": lambda flow: flow.bytes_out,
    "bytes_in": lambda flow: flow.bytes_in,
    "packets": lambda flow: flow.packets_out + flow.packets_in,
}
WORDS: dict[str, tuple[tuple[str, ...], Callable[[FlowRecord], list[str]]]] = {
    "action": (tuple(Action), lambda flow: [flow.action]),
    "reason": (tuple(Reason), lambda flow: [flow.reason]),
    "mode": (tuple(Mode), lambda flow: [flow.mode]),
    "direction": (DIRECTIONS, lambda flow: [flow.direction]),
    "state": (FLOW_STATES, lambda flow: [flow.state]),
    "severity": (tuple(Severity), lambda flow: [each.severity for each in made(flow)]),
    "effect": (tuple(Effect), lambda flow: [each.effect for each in made(flow)]),
}
OTHERS = ("dest", "src", "flow", "finding", "since", "until")
KNOWN = [*GLOBS, *COUNTS, *WORDS, *OTHERS]
AGO = {"0s": 0, "1m": 60, "90m": 5400, "1h": 3600, "1d": 86400}


def holds(flow: FlowRecord, field: str, operator: str, value: str) -> bool:
    if field in GLOBS:
        return any(matches(text, value) for text in GLOBS[field](flow))
    if field in COUNTS:
        return compared(COUNTS[field](flow), operator, value)
    if field in WORDS:
        return value in WORDS[field][1](flow)
    if field in ("dest", "src"):
        return within(flow.dst if field == "dest" else flow.src, value)
    if field == "flow":
        return flow.flow_id.startswith(value)
    if field == "finding":
        return any(each.finding_id.startswith(value) for each in made(flow))
    return flow.updated >= NOW - AGO[value] if field == "since" else flow.start <= NOW - AGO[value]


# --- queries, with what they mean ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Term:
    field: str
    operator: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Not:
    sign: str
    of: Tree


@dataclass(frozen=True)
class Both:
    word: str
    left: Tree
    right: Tree


Tree = Term | Not | Both

PATTERNS = st.sampled_from(
    [text for text in (*TEXTS, *NAMES, *SIGNATURES, "tcp", "47") if text and not set(text) & set('"[')]
) | st.sampled_from(
    [
        "*",
        "?*",
        "rome-?",
        "[rR]ome-*",
        "[!r]*",
        "*.example.com",
        "*a*",
        "[a-z]*",
        "ssh.*",
        "*%",
        "x?y",
        "[[]z]",
        "[]]",
        "[^]]*",
        "é",
        "?-*",
        "a\\*",
        "*,*",
    ]
)
COUNTED = st.sampled_from(["0", "1", "22", "443", "65535", "999", "1kb", "1001", "2m", "1g", "0-0", "1-443", "1k-2mb"])
NETWORKS = st.sampled_from(
    [
        "198.51.100.7",
        "198.51.100.0/24",
        "0.0.0.0/0",
        "::/0",
        "2001:db8::/32",
        "::ffff:198.51.100.7",
        "203.0.113.8/31",
        "::",
    ]
)


def values(one: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(one, min_size=1, max_size=3).map(tuple)


def terms(field: str) -> st.SearchStrategy[Term]:
    equal = st.sampled_from([":", "=", "!=", "!:"])
    if field in COUNTS:
        single = COUNTED.filter(lambda text: "-" not in text)
        ordered = st.builds(Term, st.just(field), st.sampled_from(["<", "<=", ">", ">="]), values(single))
        return ordered | st.builds(Term, st.just(field), equal, values(COUNTED))
    if field in GLOBS:
        one = PATTERNS
    elif field in WORDS:
        one = st.sampled_from(WORDS[field][0])
    elif field in ("dest", "src"):
        one = NETWORKS
    elif field in ("flow", "finding"):
        ids = [each.flow_id for each in FLOWS] if field == "flow" else [each.finding_id for each in FINDINGS]
        one = st.builds(lambda whole, size: whole[:size], st.sampled_from(ids), st.integers(1, 16))
    else:
        one = st.sampled_from(list(AGO))
    return st.builds(Term, st.just(field), equal, values(one))


TREES: st.SearchStrategy[Tree] = st.recursive(
    st.sampled_from(KNOWN).flatmap(terms),
    lambda inner: (
        st.builds(Both, st.sampled_from([" ", " and ", " AND ", " or ", "  or  "]), inner, inner)
        | st.builds(Not, st.sampled_from(["-", "not ", "NOT "]), inner)
    ),
    max_leaves=5,
)


def written(tree: Tree) -> str:
    match tree:
        case Term():
            texts = (f'"{each}"' if set(each) & set(" ,()") else str(each) for each in tree.values)
            return f"{tree.field}{tree.operator}{','.join(texts)}"
        case Not():
            return f"{tree.sign}({written(tree.of)})"
        case Both():
            return f"({written(tree.left)}{tree.word}{written(tree.right)})"


def true(tree: Tree, flow: FlowRecord) -> bool:
    match tree:
        case Term():
            sign = tree.operator if tree.operator[0] in "<>" else ":"
            return any(holds(flow, tree.field, sign, each) for each in tree.values) != tree.operator.startswith("!")
        case Not():
            return not true(tree.of, flow)
        case Both():
            left, right = true(tree.left, flow), true(tree.right, flow)
            return (left or right) if tree.word.strip() == "or" else (left and right)


@pytest.fixture(scope="module")
def both(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Connection]]:
    """The rows in SQLite and in PostgreSQL."""
    urls = {
        "sqlite": f"sqlite:///{tmp_path_factory.mktemp('search') / 'egress.db'}",
        "postgresql": server.new("template_egress"),
    }
    engines: list[Engine] = []
    connections = {}
    for name, url in urls.items():
        engines.append(open_database(url))
        with writing(engines[-1]) as filling:
            store(filling, [*FLOWS, *FINDINGS])
        connections[name] = engines[-1].connect()
    yield connections
    for connection in connections.values():
        connection.close()
    for engine in engines:
        engine.dispose()
    server.drop(urls["postgresql"])


@pytest.mark.slow
@given(tree=TREES)
@settings(max_examples=examples(150), deadline=None, suppress_health_check=list(HealthCheck))
@example(tree=Term("agent", ":", ("[]]",)))
@example(tree=Term("name", "!=", ("*",)))
@example(tree=Not("-", Term("signature", ":", ("ssh.*",))))
def test_every_database_finds_what_the_reference_finds(both: dict[str, Connection], tree: Tree) -> None:
    query = written(tree)
    wanted = {flow.flow_id for flow in FLOWS if true(tree, flow)}
    of_findings = {each.finding_id for each in FINDINGS if each.flow_id in wanted}
    for name, connection in both.items():
        found = set(connection.scalars(sa.select(flows.c.flow_id).where(compile_query(query, flows, NOW))))
        assert found == wanted, (name, query)
        if not _about_findings(tree):
            condition = compile_query(query, findings, NOW)
            assert set(connection.scalars(sa.select(findings.c.finding_id).where(condition))) == of_findings, (
                name,
                query,
            )


def _about_findings(tree: Tree) -> bool:
    """Asked of findings, such a term is about that finding and not about its flow's others."""
    match tree:
        case Term():
            return tree.field in ("signature", "severity", "finding", "effect")
        case Not():
            return _about_findings(tree.of)
        case Both():
            return _about_findings(tree.left) or _about_findings(tree.right)


def test_the_reference_knows_fields_that_there_are() -> None:
    assert len(set(KNOWN)) == len(KNOWN) > 20
    assert set(KNOWN) <= set(FIELDS)


def test_the_rows_tell_terms_apart() -> None:
    """A reference that says yes to all would agree with a database that does."""
    for field, value in (("agent", "rome-*"), ("name", "*.example.com"), ("dest", "0.0.0.0/0"), ("signature", "ssh.*")):
        assert 0 < sum(holds(flow, field, ":", value) for flow in FLOWS) < ROWS
