"""The index finds exactly the rules that a walk over all of them would."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.model import Action, Rule
from egress.policy.domain import Pattern, matches
from egress.policy.index import (
    POSITION,
    Bucket,
    Index,
    IndexedRule,
    depth,
    destination_keys,
    parse_destination,
    parse_protocol,
)

destinations = st.one_of(
    st.just("any"),
    st.sampled_from(["10.0.0.1", "10.0.0.0/31", "10.0.0.0/8", "0.0.0.0/0", "::/0", "2001:db8::/32", "2001:db8::1"]),
    st.sampled_from(["x", "a.x", "*.x", "**.x", "*.a.x", "**.a.x", "**.b.a.x", "b.a.x"]),
)
addresses = st.sampled_from(
    [ip_address(text).packed for text in ("10.0.0.1", "10.9.9.9", "8.8.8.8", "2001:db8::1", "::")]
)
names = st.frozensets(st.sampled_from(["x", "a.x", "b.a.x", "c.b.a.x", "y.c.b.a.x", "z.x", ".x", "", "xx"]), max_size=4)


def entry(number: int, text: str, position: int = 0) -> IndexedRule:
    return IndexedRule(
        (position, number), Rule(str(number), Action.ACCEPT, destination=text), parse_destination(text), -1
    )


def reaches(text: str, address: bytes, called: frozenset[str]) -> bool:
    destination = parse_destination(text)
    if isinstance(destination, Pattern):
        return any(matches(destination, name) for name in called)
    return text == "any" or ip_address(address) in ip_network(text)


def numbers(buckets: list[Bucket]) -> set[int]:
    assert all(bucket == sorted(bucket, key=POSITION) for bucket in buckets)
    return {entry.position[1] for bucket in buckets for entry in bucket}


@given(st.lists(st.tuples(destinations, st.integers(-2, 2)), max_size=20), addresses, names, st.data())
def test_it_finds_what_a_walk_finds(
    some: list[tuple[str, int]], address: bytes, called: frozenset[str], data: st.DataObject
) -> None:
    index = Index()
    entries = {number: entry(number, text, position) for number, (text, position) in enumerate(some)}
    for each in entries.values():
        index.add(each)
    for number in data.draw(st.lists(st.sampled_from(sorted(entries)), unique=True)) if entries else ():
        index.remove(entries.pop(number))
    assert len(index) == len(entries)
    where = destination_keys(address, called, max((depth(each.destination) for each in entries.values()), default=0))
    texts = {number: each.rule.destination for number, each in entries.items()}
    found = {number for number, text in texts.items() if reaches(text, address, called)}
    assert numbers(index.reaching(where)) == found
    assert numbers(index.specific(where)) == {number for number in found if texts[number] != "any"}
    everywhere = {number for number, text in texts.items() if text in ("any", "0.0.0.0/0", "::/0")}
    assert numbers(index.anywhere()) == everywhere


def test_an_index_that_has_lost_its_rules_is_as_small_as_a_new_one() -> None:
    """Empty tables that stay behind would add up over a million edits."""
    texts = ["any", "10.0.0.1", "10.0.0.0/8", "2001:db8::/32", "a.x", "*.a.x", "**.a.x"]
    index, fresh = Index(), Index()
    entries = [entry(number, text) for number, text in enumerate(texts)]
    for each in entries:
        index.add(each)
    assert not any(getattr(index, slot) == getattr(fresh, slot) for slot in Index.__slots__)
    for each in entries:
        index.remove(each)
    assert all(getattr(index, slot) == getattr(fresh, slot) for slot in Index.__slots__)


def test_the_depth_of_a_destination() -> None:
    texts = ["any", "10.0.0.1", "b.a.x", "*.b.a.x", "**.x", "**.b.a.x"]
    assert [depth(parse_destination(text)) for text in texts] == [0, 0, 0, 0, 1, 3]


def test_a_name_of_127_labels_is_not_walked_to_the_end() -> None:
    where = destination_keys(b"", ["a." * 126 + "x"], 2)
    assert set(where.suffixes) == {"a.x", "x"} and where.parents == ("a." * 125 + "x",)
    assert destination_keys(b"", ["a." * 126 + "x"], 0).suffixes == ("x",)


def test_no_address_is_in_no_network() -> None:
    index = Index()
    index.add(entry(0, "0.0.0.0/0"))
    assert not index.reaching(destination_keys(b"", (), 0)) and not index.reaching(destination_keys(b"abc", (), 0))


@pytest.mark.parametrize("text", ["", "*", "10.0.0.0/33", "a b", "300.0.0.1"])
def test_what_is_no_destination(text: str) -> None:
    with pytest.raises(ValueError):
        parse_destination(text)


def test_protocols() -> None:
    assert [parse_protocol(text) for text in ("", "tcp", "6", "200")] == [-1, 6, 6, 200]
    with pytest.raises(ValueError):
        parse_protocol("smoke")
