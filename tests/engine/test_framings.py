"""The protocols that a flow may still be: those demanded, all others, in mid-stream, and after bytes were not seen."""

from __future__ import annotations

from egress.engine.framings import Framings
from egress.model import TCP, UDP, App, Direction
from tests.dissection.conversations import GET
from tests.traffic import client_hello

OUT, IN = Direction.OUT, Direction.IN
HELLO = client_hello("a.example")
DEMANDED: frozenset[str] = frozenset((App.TLS, App.QUIC))


def test_the_bytes_exclude_protocols_one_by_one() -> None:
    framings = Framings(TCP, DEMANDED)
    framings.begin(DEMANDED, (HELLO[:3], b""))
    assert framings.excluded == {App.QUIC} and not framings.exhausted  # QUIC is not over TCP
    framings.feed(OUT, b"\xff\xff\xff")
    assert framings.excluded == DEMANDED and not framings.exhausted
    framings.begin(framings.others(), (GET, b""))
    assert framings.proven() == App.HTTP and not framings.exhausted
    framings.feed(OUT, b"\0")
    assert framings.proven() == "" and framings.others() == frozenset()


def test_what_cannot_be_compared_any_more_is_excluded() -> None:
    framings = Framings(TCP, DEMANDED)
    framings.begin({App.SSH, App.UNKNOWN, "another"}, None)
    assert framings.excluded == {App.SSH, "another"}


def test_in_mid_stream_only_protocols_that_show_where_a_message_begins() -> None:
    framings = Framings(TCP, DEMANDED)
    framings.pick_up((App.SSH, App.TLS, App.QUIC))
    assert framings.excluded == {App.SSH, App.QUIC}
    assert framings.records() is not None
    framings.lose(OUT)
    framings.feed(OUT, b"anything")
    assert framings.records() is None and App.TLS not in framings.excluded


def test_quic_proves_nothing_by_its_framing() -> None:
    framings = Framings(UDP, DEMANDED)
    framings.begin((App.QUIC,), (b"", b""))
    assert framings.proven() == "" and framings.records() is None
