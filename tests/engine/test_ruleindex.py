"""The index finds exactly the rules that a walk over all of them would."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.domain import Pattern, matches
from egress.engine.ruleindex import Bucket, Entry, Index, parse_destination, parse_protocol, place
from egress.model import Action, Rule

destinations = st.one_of(
    st.just("any"),
    st.sampled_from(["10.0.0.1", "10.0.0.0/31", "10.0.0.0/8", "0.0.0.0/0", "::/0", "2001:db8::/32", "2001:db8::1"]),
    st.sampled_from(["x", "a.x", "*.x", "**.x", "*.a.x", "**.a.x", "**.b.a.x", "b.a.x"]),
)
addresses = st.sampled_from(
    [ip_address(text).packed for text in ("10.0.0.1", "10.9.9.9", "8.8.8.8", "2001:db8::1", "::")]
)
names = st.frozensets(st.sampled_from(["x", "a.x", "b.a.x", "c.b.a.x", "y.c.b.a.x", "z.x", ".x", "", "xx"]), max_size=4)


@given(st.lists(destinations, max_size=20), addresses, names)
def test_it_finds_what_a_walk_finds(some: list[str], address: bytes, called: frozenset[str]) -> None:
    index, expected, everywhere = Index(), set(), set()
    for position, text in enumerate(some):
        destination = parse_destination(text)
        pattern = destination if isinstance(destination, Pattern) else None
        index.add(Entry(position, Rule(str(position), Action.ACCEPT, destination=text), pattern, -1), destination)
        if text in ("any", "0.0.0.0/0", "::/0"):
            everywhere.add(position)
        if pattern is not None:
            found = any(matches(pattern, name) for name in called)
        else:
            found = text == "any" or ip_address(address) in ip_network(text)
        if found:
            expected.add(position)
    where = place(address, called, index.deepest)
    assert positions(index.reaching(where)) == expected
    assert positions(index.anywhere()) == everywhere
    assert positions(index.about(where)) == {number for number in expected if some[number] != "any"}


def positions(buckets: list[Bucket]) -> set[int]:
    return {entry.position for bucket in buckets for entry in bucket}


def test_a_name_of_127_labels_is_not_walked_to_the_end() -> None:
    where = place(b"", ["a." * 126 + "x"], 2)
    assert set(where.suffixes) == {"a.x", "x"} and where.parents == ("a." * 125 + "x",)
    assert place(b"", ["a." * 126 + "x"], 0).suffixes == ("x",)


def test_no_address_is_in_no_network() -> None:
    index, destination = Index(), parse_destination("0.0.0.0/0")
    index.add(Entry(0, Rule("r", Action.ACCEPT), None, -1), destination)
    assert not index.reaching(place(b"", (), 0)) and not index.reaching(place(b"abc", (), 0))


@pytest.mark.parametrize("text", ["", "*", "10.0.0.0/33", "a b", "300.0.0.1"])
def test_what_is_no_destination(text: str) -> None:
    with pytest.raises(ValueError):
        parse_destination(text)


def test_protocols() -> None:
    assert [parse_protocol(text) for text in ("", "tcp", "6", "200")] == [-1, 6, 6, 200]
    with pytest.raises(ValueError):
        parse_protocol("smoke")
