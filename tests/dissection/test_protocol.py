"""The parts of a protocol: those that a new one inherits, and those that it must define."""

from __future__ import annotations

import pytest

from egress.dissection.events import Named
from egress.dissection.protocol import DatagramProtocol, Follower, Form, LineProtocol, Place, StreamProtocol, named
from egress.model import TCP, Direction

OUT, IN = Place(Form.STREAM, Direction.OUT, TCP), Place(Form.STREAM, Direction.IN, TCP)


def test_only_the_agents_side_states_the_name_of_the_server() -> None:
    assert named(OUT, "a.test") == [Named("a.test", hidden=False)]
    assert named(OUT, "", hidden=True) == [Named("", hidden=True)]
    assert named(IN, "a.test") == []


def test_a_follower_hides_no_line_and_is_not_opaque_unless_it_says_so() -> None:
    follower = Follower()
    assert follower.beside is None and not follower.opaque


def test_a_datagram_reopens_no_flow_unless_its_protocol_says_so() -> None:
    assert not DatagramProtocol.reopens(b"x")


def test_a_protocol_that_recognises_nothing_is_incomplete() -> None:
    for recognise in (StreamProtocol.identify, DatagramProtocol.identify):
        with pytest.raises(NotImplementedError):
            recognise(b"", OUT)
    with pytest.raises(NotImplementedError):
        LineProtocol.reader(OUT)
