"""DNS queries: whole, byte by byte, with trailing bytes, mutated; and against dpkt and scapy."""

from __future__ import annotations

import struct
from contextlib import suppress

import dpkt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.dns import DNS, DNSQR, DNSRROPT

from egress.errors import MalformedError
from egress.wire.dns import DnsQuery, query
from tests.examples import examples


def name(*labels: bytes) -> bytes:
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def message(
    qname: bytes = name(b"Example", b"COM"),
    flags: int = 0x0100,
    counts: tuple[int, ...] = (1, 0, 0, 0),
    rest: bytes = b"",
) -> bytes:
    return struct.pack("!HHHHHH", 0x1234, flags, *counts) + qname + struct.pack("!HH", 28, 1) + rest


OPT = b"\0" + struct.pack("!HHLH", 41, 1232, 0, 4) + b"\0\x0a\0\0"
PLAIN = message()
EDNS = message(counts=(1, 0, 0, 1), rest=OPT)


def test_a_query() -> None:
    assert query(PLAIN) == query(EDNS) == DnsQuery("example.com", 28, 0x1234)
    assert query(message(b"\0")).name == ""


def test_unusual_bytes_are_escaped() -> None:
    assert query(message(name(b"a.b", b"\xffC\\", b"_tcp"))).name == "a\\046b.\\255c\\092._tcp"


@pytest.mark.parametrize("payload", [PLAIN, EDNS])
def test_every_truncation_and_trailing_bytes(payload: bytes) -> None:
    for size in range(len(payload)):
        with pytest.raises(MalformedError):
            query(payload[:size])
    with pytest.raises(MalformedError, match="do not end"):
        query(payload + b"\0")


@pytest.mark.parametrize(
    "payload, says",
    [
        (b"", "short"),
        (message(flags=0x8180), "answer"),
        (message(flags=0x2800), "standard"),
        (message(counts=(0, 0, 0, 0)), "one question"),
        (message(counts=(2, 0, 0, 0)), "one question"),
        (message(counts=(1, 0, 0, 1)), "cut off"),
        (message(counts=(1, 0xFFFF, 0xFFFF, 0xFFFF)), "cut off"),
        (message(b"\xc0\x0c"), "pointer"),
        (message(b"\x01a\xc0\x0c"), "pointer"),
        (message(b"\x40" + b"a" * 64 + b"\0"), "reserved"),
        (message(b"\x80\0"), "reserved"),
        (message(name(*[b"a" * 63] * 4)), "255"),
        (message(name(b"a")[:-1])[:16], "short"),
        (message(counts=(1, 0, 0, 1), rest=b"\xc0\x1d" + OPT[1:]), "earlier"),  # its own place
        (message(counts=(1, 0, 0, 1), rest=b"\xc0\x0b" + OPT[1:]), "earlier"),  # into the header
        (message(counts=(1, 0, 0, 1), rest=b"\xc0"), "earlier"),
        (message(counts=(1, 0, 0, 1), rest=OPT[:-1]), "do not end"),
    ],
)
def test_what_is_no_query(payload: bytes, says: str) -> None:
    with pytest.raises(MalformedError, match=says):
        query(payload)


def test_a_name_of_255_octets_is_the_longest() -> None:
    assert len(query(message(name(b"a" * 63, b"b" * 63, b"c" * 63, b"d" * 61))).name) == 253
    with pytest.raises(MalformedError, match="255"):
        query(message(name(b"a" * 63, b"b" * 63, b"c" * 63, b"d" * 62)))


def test_later_names_may_point_to_the_question() -> None:
    record = b"\xc0\x0c" + struct.pack("!HHLH", 1, 1, 60, 4) + b"\x0a\0\0\1"
    assert query(message(counts=(1, 1, 0, 0), rest=record)).name == "example.com"


HOST = st.from_regex(r"[a-z0-9_-]{1,30}(\.[a-z0-9-]{1,30}){0,4}", fullmatch=True)


@given(HOST, st.integers(0, 65535), st.integers(1, 255), st.booleans())
def test_agrees_with_dpkt_and_scapy(host: str, ident: int, rtype: int, edns: bool) -> None:
    extra = [DNSRROPT()] if edns else []
    payload = bytes(DNS(id=ident, qd=[DNSQR(qname=host, qtype=rtype)], ar=extra))
    seen, theirs = query(payload), dpkt.dns.DNS(payload)
    assert seen == (theirs.qd[0].name, theirs.qd[0].type, theirs.id) == (host, rtype, ident)


@given(st.binary(max_size=120))
@settings(max_examples=examples(300))
def test_random_bytes(data: bytes) -> None:
    only_an_answer(data)
    only_an_answer(PLAIN[:6] + bytes(6) + data)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), min_size=1, max_size=4), st.integers(0, 60))
@settings(max_examples=examples(400))
def test_mutated_queries(changes: list[tuple[int, int]], end: int) -> None:
    mutated = bytearray(EDNS)
    for at, byte in changes:
        mutated[at % len(mutated)] = byte
    only_an_answer(bytes(mutated[:end]))


def only_an_answer(data: bytes) -> None:
    with suppress(MalformedError):
        seen = query(data)
        assert len(seen.name) <= 4 * 253
        assert seen.name.isascii()
