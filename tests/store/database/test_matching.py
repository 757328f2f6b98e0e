"""Globs, networks and names in lists mean the same on every database."""

from __future__ import annotations

import ipaddress

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import Engine

from egress.store.database.columns import Names, Plain
from egress.store.database.matching import any_name, glob, inside
from egress.store.database.tables import flows
from egress.store.recording.writer import store
from tests.examples import examples
from tests.store import samples

SETTINGS = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(150), deadline=None
)
patterns = st.text(st.sampled_from("ab-*?[]!^z\\.\n$(é"), max_size=8)
texts = st.text(st.sampled_from("ab-[]!^z\\.\n$(é*?"), max_size=5)


@pytest.fixture
def either(sqlite_engine: Engine, postgresql_engine: Engine) -> tuple[Engine, Engine]:
    return sqlite_engine, postgresql_engine


def _ask(engine: Engine, condition: sa.ColumnElement[bool]) -> bool:
    with engine.connect() as connection:
        return bool(connection.scalar(sa.select(condition)))


@SETTINGS
@given(pattern=patterns, text=texts)
def test_both_read_a_glob_alike(either: tuple[Engine, Engine], pattern: str, text: str) -> None:
    small, large = (_ask(engine, glob(sa.literal(text, Plain()), pattern)) for engine in either)
    assert small == large


@SETTINGS
@given(pattern=patterns, names=st.lists(texts, max_size=3))
def test_both_find_the_same_names(either: tuple[Engine, Engine], pattern: str, names: list[str]) -> None:
    asked = [_ask(engine, any_name(sa.literal(tuple(names), Names()), pattern)) for engine in either]
    each = [_ask(either[0], glob(sa.literal(name, Plain()), pattern)) for name in names]
    assert asked == [any(each), any(each)]


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("train-*", "train-1", True),
        ("train-*", "Train-1", False),
        ("*", "", True),
        ("?", "", False),
        ("a.c*", "abcd", False),
        ("[!a-c]x*", "dx", True),
        ("[!a-c]x*", "bx", False),
        ("[]]", "]", True),
        ("[a-", "a", False),
        ("[z-a]*", "b", False),
        ("*\U0001f600", "x\U0001f600", True),
        ("a*", "a\nb", True),
        ("*\0", "a\0", True),  # as stored
    ],
)
def test_globs(engine: Engine, pattern: str, text: str, expected: bool) -> None:
    assert _ask(engine, glob(sa.literal(text, Plain()), pattern)) is expected


def test_a_long_pattern_is_answered(engine: Engine) -> None:
    assert _ask(engine, glob(sa.literal("a" * 60, Plain()), "*a" * 60)) is True
    assert _ask(engine, glob(sa.literal("x", Plain()), "[a-z]?" * 700)) is False


def test_names_that_no_json_reader_takes(engine: Engine) -> None:
    hostile = ("a\0b", "\ud800", 'q"uote', "back\\slash")
    for name, pattern in zip(hostile, ("a*b", "*ud800", 'q"*', "back?slash"), strict=True):
        assert _ask(engine, any_name(sa.literal((name,), Names()), pattern))
    assert not _ask(engine, any_name(sa.literal(hostile, Names()), "a*slash"))


@pytest.mark.parametrize(
    ("address", "network", "expected"),
    [
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("2001:db8::7", "2001:db8::/32", True),
        ("::ffff:c000:207", "::ffff:192.0.2.7", True),
        ("::ffff:192.0.2.7", "::ffff:192.0.2.7", True),
        ("198.51.101.7", "198.51.100.0/23", True),
        ("198.51.10.7", "198.51.100.0/24", False),
        ("", "0.0.0.0/0", False),
        ("pool.example", "::/0", False),
    ],
)
def test_networks(engine: Engine, address: str, network: str, expected: bool) -> None:
    assert _ask(engine, inside(sa.literal(address, Plain()), ipaddress.ip_network(network))) is expected


_ADDRESSES = st.builds(
    lambda *octets: ".".join(map(str, octets)), *(st.sampled_from([0, 1, 10, 19, 100, 198, 255]) for _ in range(4))
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(40), deadline=None)
@given(addresses=st.sets(_ADDRESSES, max_size=8), around=_ADDRESSES, length=st.integers(0, 31))
def test_networks_of_a_column_that_an_index_has(engine: Engine, addresses: set[str], around: str, length: int) -> None:
    network = ipaddress.ip_network(f"{around}/{length}", strict=False)
    with engine.connect() as connection:
        store(connection, [samples.numbered(number, dst=each) for number, each in enumerate(addresses)])
        found = set(connection.scalars(sa.select(flows.c.dst).where(inside(flows.c.dst, network))))
        connection.rollback()
    assert found == {each for each in addresses if ipaddress.ip_address(each) in network}
