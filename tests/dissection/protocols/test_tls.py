"""TLS in dissection: facts from a hello, and the point from which a direction is opaque."""

from __future__ import annotations

import pytest

from egress.dissection.events import Named, TlsOpened
from egress.dissection.protocol import Form, Identified, Lost, Place, Step
from egress.dissection.protocols.tls import MAX_HELLO, Tls
from egress.model import TCP, App, Direction
from tests.traffic import client_hello

OUT, IN = Place(Form.STREAM, Direction.OUT, TCP), Place(Form.STREAM, Direction.IN, TCP)
HELLO = client_hello("www.example.org")


@pytest.mark.parametrize("size", [1, 100, 10**6])
def test_a_hello_states_the_server_and_ends_what_can_be_learnt(size: int) -> None:
    follower = Tls().follow(HELLO, OUT)
    steps = list[Step]()
    for at in range(0, len(HELLO), size):
        assert not follower.opaque
        steps += follower.feed(HELLO[at : at + size])
    identified, opened, named = steps
    assert identified == Identified(App.TLS, "www.example.org")
    assert isinstance(opened, TlsOpened)
    assert named == Named("www.example.org", hidden=False)
    assert follower.opaque and follower.feed(b"more") == []


def test_a_hello_towards_the_agent_names_no_server() -> None:
    assert [type(step) for step in Tls().follow(HELLO, IN).feed(HELLO)] == [Identified, TlsOpened]


@pytest.mark.parametrize("begin", [b"\x16\x03\x03\x00\x04\x02\x00\x00\x00", b"\x15\x03\x01\x00\x02\x02\x28"])
def test_a_server_is_opaque_from_its_first_bytes_on(begin: bytes) -> None:
    assert Tls.identify(begin, IN) is True
    follower = Tls().follow(begin, IN)
    assert follower.opaque and follower.feed(begin) == []


def test_a_broken_hello_gives_all_its_bytes_back() -> None:
    broken = b"\x16\x03\x01\x00\x05\x01\x00\x00\x80a" + b"no record"
    follower = Tls().follow(broken, OUT)
    assert follower.feed(broken[:10]) == []
    assert follower.feed(broken[10:]) == [Named("", hidden=True), Lost(broken)]


def test_a_hello_without_an_end_is_given_up_and_its_name_is_hidden() -> None:
    begin = b"\x16\x03\x01\x40\x00\x01\x00\xff\x00"
    record = begin[:5] + (begin[5:] + b"a" * 16384)[:16384]
    follower = Tls().follow(record, OUT)
    steps = follower.feed(record)
    assert steps == []
    while not follower.opaque:
        steps += follower.feed(record[:5] + b"a" * 16384)
    assert steps == [Named("", hidden=True)]
    assert 3 * len(record) > MAX_HELLO
