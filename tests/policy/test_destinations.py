"""Refused destinations expire unless tried, and are bounded."""

from __future__ import annotations

from egress.policy.destinations import MAX_DESTINATIONS, Destinations


def test_a_refused_destination_expires_unless_it_is_tried() -> None:
    destinations = Destinations(100.0)
    destinations.remember("a", b"\1\2\3\4", 0.0)
    assert destinations.refused("a", b"\1\2\3\4", 99.0)
    assert destinations.refused("a", b"\1\2\3\4", 198.0)
    assert not destinations.refused("b", b"\1\2\3\4", 198.0)
    assert not destinations.refused("a", b"\1\2\3\4", 298.0)


def test_filling_the_list_frees_nothing_and_touches_no_other_agent() -> None:
    destinations = Destinations(100.0)
    destinations.remember("b", b"\1\2\3\4", 0.0)
    for number in range(MAX_DESTINATIONS + 10):
        assert not destinations.refused("a", b"\1\2\3\4", 0.0) or number >= MAX_DESTINATIONS
        destinations.remember("a", number.to_bytes(4, "big"), 0.0)
    assert destinations.refused("a", (0).to_bytes(4, "big"), 1.0)
    assert destinations.refused("a", b"never seen before", 1.0)
    assert not destinations.refused("b", b"never seen before", 1.0)
    assert not destinations.refused("a", b"never seen before", 100.0)


def test_they_go_with_their_agent() -> None:
    destinations = Destinations(100.0)
    for agent in ("a", "b"):
        destinations.remember(agent, b"\1\2\3\4", 0.0)
    destinations.forget("a")
    assert not destinations.refused("a", b"\1\2\3\4", 1.0)
    assert destinations.refused("b", b"\1\2\3\4", 1.0)
