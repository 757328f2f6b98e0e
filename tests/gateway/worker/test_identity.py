"""The agent of a packet: by interface, then by the longest network, never by addresses of other interfaces."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from egress.gateway.pipe.messages import Watched
from egress.gateway.worker.identity import Identity
from egress.model import Agent, Direction

ALONE = Agent("alone", ("10.0.0.0/24",))
WIDE, NARROW = Agent("wide", ("10.1.0.0/16", "fd00::/32")), Agent("narrow", ("10.1.7.0/24", "fd00:0:7::/48"))
IDENTITY = Identity(
    [Watched(ALONE, 5, 100), Watched(WIDE, 6, 102), Watched(NARROW, 6, 104), Watched(Agent("gone", ("::/0",)), 0, 106)]
)


def packet(src: str, dst: str) -> bytes:
    source, target = ip_address(src).packed, ip_address(dst).packed
    return (b"\x45" + bytes(11) if len(source) == 4 else b"\x60" + bytes(7)) + source + target


def test_an_interface_of_one_agent_is_that_agent_whatever_the_source() -> None:
    assert IDENTITY.find(packet("192.0.2.1", "198.51.100.1"), 5, 9) == (ALONE, Direction.OUT)
    assert IDENTITY.find(packet("198.51.100.1", "192.0.2.1"), 9, 5) == (ALONE, Direction.IN)


def test_a_shared_interface_is_told_apart_by_the_longest_network() -> None:
    assert IDENTITY.find(packet("10.1.7.1", "192.0.2.1"), 6, 9) == (NARROW, Direction.OUT)
    assert IDENTITY.find(packet("10.1.8.1", "192.0.2.1"), 6, 9) == (WIDE, Direction.OUT)
    assert IDENTITY.find(packet("fd00:0:7::1", "2001:db8::1"), 6, 9) == (NARROW, Direction.OUT)
    assert IDENTITY.find(packet("2001:db8::1", "fd00:0:8::1"), 9, 6) == (WIDE, Direction.IN)


def test_a_source_of_nobody_is_nobody_even_when_it_goes_to_an_agent() -> None:
    assert IDENTITY.find(packet("192.0.2.1", "10.0.0.1"), 6, 5) is None
    assert IDENTITY.find(packet("10.1.7.1", "10.1.7.2"), 9, 9) is None


def test_between_agents_the_sender_counts() -> None:
    assert IDENTITY.find(packet("10.0.0.1", "10.1.7.1"), 5, 6) == (ALONE, Direction.OUT)
    assert IDENTITY.find(packet("10.1.7.1", "10.0.0.1"), 6, 5) == (NARROW, Direction.OUT)


def test_no_interface_is_nobody() -> None:
    assert IDENTITY.find(packet("10.0.0.1", "10.0.0.2"), 0, 0) is None


@given(st.binary(max_size=60), st.integers(0, 9), st.integers(0, 9))
def test_any_bytes_have_an_answer(raw: bytes, indev: int, outdev: int) -> None:
    found = IDENTITY.find(raw, indev, outdev)
    assert found is None or found[0].name in ("alone", "wide", "narrow")
