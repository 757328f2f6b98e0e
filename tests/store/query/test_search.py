"""The query language against a slow reading of the same records, and what its errors say."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import Connection, Engine

from egress.errors import InputError
from egress.model import Action, Mode, Reason
from egress.records.shape import FlowRecord
from egress.store.database.database import writing
from egress.store.database.tables import findings, flows
from egress.store.query.search import FIELDS, InvalidQueryError, compile_query, is_selective, one
from egress.store.recording.writer import store
from tests.examples import examples
from tests.store import samples

NOW = samples.START + 3600
FLOWS = {
    "mined": samples.FLOW,
    "ssh": samples.numbered(
        2, agent="rome-7", dst="203.0.113.9", dport=22, app_proto="ssh", action=Action.ACCEPT, reason=Reason.RULE,
        rule_id="git", bytes_out=2_000_000, names=("git.example.com", "www.example.com"),
    ),
    "dns": samples.numbered(
        3, agent="rome-8", proto="udp", dst="2001:db8::53", dport=53, app_proto="dns", server_name="a.example.com",
        reason=Reason.QUERY, mode=Mode.MONITOR,
    ),
    "late": samples.numbered(
        4, agent="zed", updated=NOW - 60, dport=8080, packets_out=5000, server_name="A.example.org"
    ),
}  # fmt: skip


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    with writing(engine) as filling:
        store(filling, [*FLOWS.values(), samples.FINDING])
    with engine.connect() as connection:
        yield connection


def found(connection: Connection, query: str) -> set[str]:
    ids = set(connection.scalars(sa.select(flows.c.flow_id).where(compile_query(query, flows, NOW))))
    return {name for name, flow in FLOWS.items() if flow.flow_id in ids}


EXPECTED: dict[str, set[str]] = {
    "": {"mined", "ssh", "dns", "late"},
    "agent:rome-*": {"ssh", "dns"},
    "agent:rome-7,zed": {"ssh", "late"},
    "-agent:rome-*": {"mined", "late"},
    "agent!:rome-*": {"mined", "late"},
    "signature:mining.*": {"mined"},
    "not signature:mining.* and -proto:udp": {"ssh", "late"},
    "dest:203.0.113.0/24": {"ssh"},
    "dest:2001:db8::/32": {"dns"},
    "name:*.example.com": {"ssh", "dns"},
    "name:www.example.com": {"ssh"},
    "name:g*.com port:22": {"ssh"},
    "name:g*w.example.com": set(),
    "port:22-60": {"ssh", "dns"},
    "port>=53 port<8080 proto:udp": {"dns"},
    "bytes>1mb or packets>=5000": {"ssh", "late"},
    "(app:ssh or app:dns) and not agent:rome-8": {"ssh"},
    "action:accept": {"ssh"},
    "reason:query mode:monitor": {"dns"},
    "since:2m": {"late"},
    "rule:git": {"ssh"},
    'agent:"rome-7"': {"ssh"},
    "app:dns or app:ssh agent:rome-7": {"ssh", "dns"},
    f"flow:{2:016x}": {"ssh"},
}


def test_what_it_finds(connection: Connection) -> None:
    assert {query: found(connection, query) for query in EXPECTED} == EXPECTED


def test_a_finding_is_found_by_its_flow_and_a_flow_by_its_finding(connection: Connection) -> None:
    for query, count in {"port>=1": 1, "agent:nobody": 0, "signature:mining.*": 1, "-signature:mining.*": 0}.items():
        condition = compile_query(query, findings, NOW)
        assert len(connection.execute(sa.select(findings).where(condition)).all()) == count, query
    assert connection.execute(sa.select(findings).where(one("signature", "mining.*", findings, NOW))).all()
    with pytest.raises(InputError, match="must be an address"):
        one("dest", "example.org", flows, NOW)


@pytest.mark.parametrize(
    ("query", "column", "says"),
    [
        ("rome-7", 1, "is not a term: write field:value"),
        ("agent:rome-7 and", 14, "not expected"),
        ("(agent:a", 9, "ends too early"),
        ("agent:a)", 8, "not expected"),
        ("agent:", 7, "ends too early"),
        ("colour:red", 1, "unknown field colour; the fields are agent"),
        ("agent:a dest:example.org", 14, "name:"),
        ("agent>a", 6, "cannot be compared"),
        ("port:http", 6, "must be a number"),
        ("port:99999999999999999999", 6, "must be a number"),
        ("action:pass", 8, "must be one of accept"),
        ("since:yesterday", 7, "must be an age"),
        ("flow:xyz", 6, "first digits"),
        ("agent:a or or agent:b", 12, "not expected"),
        ("port:8100-8000", 6, "smaller number first"),
        ('agent:"a', 7, "the quote that begins here is not closed"),
        ("AGENT:a", 1, "unknown field 'AGENT'; the fields are agent"),
        ("port:1 name:[a", 13, "has a [ without a ]"),
    ],
)
def test_what_it_says_of_mistakes(query: str, column: int, says: str) -> None:
    with pytest.raises(InvalidQueryError) as mistake:
        compile_query(query, flows, NOW)
    assert mistake.value.column == column, mistake.value
    assert says in mistake.value.reason
    assert "\n" not in str(mistake.value)


def test_it_is_bounded() -> None:
    with pytest.raises(InvalidQueryError, match="nested parentheses"):
        compile_query("-" * 40 + "agent:a", flows, NOW)
    with pytest.raises(InvalidQueryError, match="at most"):
        compile_query("agent:a " * 1000, flows, NOW)
    with pytest.raises(InvalidQueryError, match="at most 300 values"):
        compile_query("port:" + ",".join("1" * 301), flows, NOW)


def test_the_largest_query_is_one_that_every_database_takes(connection: Connection) -> None:
    lists = " or ".join(f"name:{','.join(['*a'] * 100)}" for _ in range(3))
    deep = "-(" * 15 + lists + ")" * 15
    assert found(connection, deep) == set(FLOWS)


@pytest.mark.parametrize(
    ("query", "selective"),
    [
        ("", False),
        ("port:443", False),
        ("signature:mining.*", True),
        ("signature=mining.*", True),
        ("signature!:mining.*", False),
        ("-signature:mining.*", False),
        ("not (severity:high since:2h)", False),
        ("port:443 (finding:ab or flow:cd) -app:tls", True),
        ("since:2h or port:443", False),
        ("since:2h app:dns or flow:ab", True),
        ("name:since", False),
        ('agent:"signature:x or since"', False),
    ],
)
def test_few_flows_match_a_selective_query(query: str, selective: bool) -> None:
    assert is_selective(query) is selective


PIECES = ["agent", "port", "name", "and", "or", "not", "-", "(", ")", ":", ">", "=", ",", '"', " ", "a", "1", "*", "\0"]


@given(st.lists(st.sampled_from(PIECES), max_size=24).map("".join) | st.text(max_size=40))
@settings(max_examples=examples(300))
def test_any_text_is_a_condition_or_a_mistake_with_its_place(text: str) -> None:
    try:
        compile_query(text, flows, NOW)
    except InvalidQueryError as mistake:
        assert 1 <= mistake.column <= len(text) + 1


TERMS = {
    "agent:rome-*": lambda flow: flow.agent.startswith("rome-"),
    "agent:zed": lambda flow: flow.agent == "zed",
    "port:22": lambda flow: flow.dport == 22,
    "port>60": lambda flow: flow.dport > 60,
    "proto:udp": lambda flow: flow.proto == "udp",
    "bytes>1mb": lambda flow: flow.bytes_out + flow.bytes_in > 1_000_000,
    "signature:mining.*": lambda flow: flow.flow_id == samples.FINDING.flow_id,
    "name:*.com": lambda flow: any(name.endswith(".com") for name in (flow.server_name, *flow.names)),
}
Tree = str | tuple[str, "Tree", "Tree"] | tuple[str, "Tree"]
TREES = st.recursive(
    st.sampled_from(list(TERMS)),
    lambda inner: (
        st.tuples(st.sampled_from([" ", " and ", " or "]), inner, inner)
        | st.tuples(st.sampled_from(["-", "not "]), inner)
    ),
    max_leaves=6,
)


def written(tree: Tree) -> str:
    if isinstance(tree, str):
        return tree
    if len(tree) == 2:
        return f"{tree[0]}{written(tree[1])}"
    return f"({written(tree[1])}{tree[0]}{written(tree[2])})"


def holds(tree: Tree, flow: FlowRecord) -> bool:
    if isinstance(tree, str):
        return bool(TERMS[tree](flow))
    if len(tree) == 2:
        return not holds(tree[1], flow)
    left, right = holds(tree[1], flow), holds(tree[2], flow)
    return (left or right) if tree[0] == " or " else (left and right)


@given(TREES)
@settings(max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_and_or_not_mean_what_they_say(connection: Connection, tree: Tree) -> None:
    assert found(connection, written(tree)) == {name for name, flow in FLOWS.items() if holds(tree, flow)}


def test_every_field_is_explained() -> None:
    assert all(re.fullmatch(r"\S.{5,80}", field.about) for field in FIELDS.values())
