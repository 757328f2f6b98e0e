"""DNS answers and framing over TCP: what binds an address to a name; against dpkt and scapy, and hostile bytes."""

from __future__ import annotations

import struct
from contextlib import suppress
from ipaddress import ip_address
from itertools import pairwise

import dpkt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.dns import DNS, DNSQR, DNSRR, DNSRRHTTPS, DNSRROPT, SvcParam, dns_compress

from egress.errors import MalformedError
from egress.wire.dns import (
    AAAA,
    CNAME,
    DNAME,
    HTTPS,
    MAX_CHAIN,
    MAX_RECORDS,
    MAX_TTL,
    A,
    Bound,
    DnsAnswer,
    DnsRecord,
    DnsStream,
    addresses_of,
    answer,
    query,
)
from tests.examples import examples

ONE, TWO, SIX = ip_address("192.0.2.1").packed, ip_address("192.0.2.2").packed, ip_address("2001:db8::6").packed
ASKED = b"\x03WWW\x07example\x03org\0"  # at offset 12
WWW = b"\xc0\x0c"
CDN = b"\x03cdn\xc0\x18"  # .org of the question


def record(owner: bytes, rtype: int, data: bytes, ttl: int = 300, rclass: int = 1) -> bytes:
    return owner + struct.pack("!HHIH", rtype, rclass, ttl, len(data)) + data


def message(*records: bytes, others: tuple[bytes, ...] = (), qclass: int = 1, flags: int = 0x8180) -> bytes:
    """`others` are split over the authority and additional sections."""
    authority = len(others) // 2
    counts = (1, len(records), authority, len(others) - authority)
    head = struct.pack("!HHHHHH", 7, flags, *counts) + ASKED + struct.pack("!HH", 1, qclass)
    return head + b"".join(records + others)


def service(priority: int, target: bytes, *parameters: tuple[int, bytes]) -> bytes:
    return struct.pack("!H", priority) + target + b"".join(struct.pack("!HH", k, len(v)) + v for k, v in parameters)


CHAIN = message(record(WWW, CNAME, CDN, 60), record(CDN, A, ONE, 20), record(CDN, AAAA, SIX, 90))


def test_aliases_lead_to_addresses() -> None:
    seen = answer(CHAIN)
    assert seen == DnsAnswer(
        7,
        "www.example.org",
        1,
        0,
        (
            DnsRecord("www.example.org", CNAME, 60, "cdn.org"),
            DnsRecord("cdn.org", A, 20, ONE),
            DnsRecord("cdn.org", AAAA, 90, SIX),
        ),
    )
    names = ("www.example.org", "cdn.org")
    assert addresses_of(seen) == (Bound(names, ONE, 20), Bound(names, SIX, 60))


def test_the_order_of_the_records_does_not_matter() -> None:
    seen = answer(
        message(record(b"\x01b\0", A, ONE), record(b"\x01a\0", CNAME, b"\x01b\0"), record(WWW, CNAME, b"\x01a\0"))
    )
    assert addresses_of(seen) == (Bound(("www.example.org", "a", "b"), ONE, 300),)


def test_an_address_of_another_name_binds_nothing() -> None:
    assert addresses_of(answer(message(record(CDN, A, ONE)))) == ()
    assert addresses_of(answer(message(record(WWW, DNAME, CDN), record(CDN, A, ONE)))) == ()


def test_loops_and_long_chains_end() -> None:
    assert addresses_of(answer(message(record(WWW, CNAME, CDN), record(CDN, CNAME, WWW)))) == ()
    assert addresses_of(answer(message(record(WWW, CNAME, WWW), record(WWW, A, ONE))))[0].names == ("www.example.org",)
    names = [WWW] + [bytes([2]) + b"%02d\0" % number for number in range(MAX_CHAIN)]
    links = [record(owner, CNAME, target) for owner, target in pairwise(names)]
    assert len(addresses_of(answer(message(*links, record(names[MAX_CHAIN - 1], A, ONE))))[0].names) == MAX_CHAIN
    assert addresses_of(answer(message(*links, record(names[MAX_CHAIN], A, ONE)))) == ()


def test_other_sections_give_addresses_on_the_way_and_nothing_else() -> None:
    others = (
        record(CDN, CNAME, b"\x01x\0"),
        record(CDN, A, TWO, 5),
        record(b"\x01x\0", A, ONE),
        record(WWW, AAAA, SIX),
    )
    seen = answer(message(record(WWW, CNAME, CDN), others=others))
    assert {(each.name, each.value) for each in seen.records[1:]} == {("cdn.org", TWO), ("www.example.org", SIX)}
    assert {each.address for each in addresses_of(seen)} == {TWO, SIX}


def test_other_classes_bind_nothing() -> None:
    assert answer(message(record(WWW, A, ONE, rclass=3))).records == ()
    assert answer(message(record(WWW, A, ONE), qclass=3)).records == ()


def test_an_absurd_ttl_is_none() -> None:
    assert answer(message(record(WWW, A, ONE, MAX_TTL))).records[0].ttl == MAX_TTL
    assert answer(message(record(WWW, A, ONE, MAX_TTL + 1))).records[0].ttl == 0


def test_rcode_with_its_upper_bits() -> None:
    assert answer(message(flags=0x8183)).rcode == 3
    assert answer(message(others=(record(b"\0", 41, b"", 1 << 24, 1232),), flags=0x8180)).rcode == 16


def test_a_service_binding_is_an_alias_with_hints() -> None:
    hints = ((1, b"\x02h2"), (4, ONE + TWO), (5, b"config"), (6, SIX))
    seen = answer(message(record(WWW, HTTPS, service(1, b"\x03svc\0", *hints), 50)))
    assert seen.records == (
        DnsRecord("www.example.org", HTTPS, 50, "svc", ech=True),
        DnsRecord("svc", A, 50, ONE),
        DnsRecord("svc", A, 50, TWO),
        DnsRecord("svc", AAAA, 50, SIX),
    )
    assert [each.address for each in addresses_of(seen)] == [ONE, TWO, SIX]
    assert addresses_of(seen)[0].names == ("www.example.org", "svc")


def test_a_service_at_its_owner_and_an_alias_to_nothing() -> None:
    here = answer(message(record(WWW, HTTPS, service(1, b"\0", (4, ONE)))))
    assert addresses_of(here) == (Bound(("www.example.org",), ONE, 300),)
    nowhere = answer(message(record(WWW, HTTPS, service(0, b"\0", (4, ONE), (5, b"x")))))
    assert nowhere.records == (DnsRecord("www.example.org", HTTPS, 300, ""),)
    alias = answer(message(record(WWW, HTTPS, service(0, b"\x01a\0", (4, ONE))), record(b"\x01a\0", A, TWO)))
    assert addresses_of(alias) == (Bound(("www.example.org", "a"), TWO, 300),)


FULL = message(
    record(WWW, CNAME, CDN),
    record(CDN, HTTPS, service(1, b"\0", (4, ONE), (6, SIX))),
    others=(record(b"\0", 41, b"", 0, 1232), record(CDN, A, TWO)),
)


def test_every_truncation_and_trailing_bytes() -> None:
    assert len(addresses_of(answer(FULL))) == 3
    for size in range(len(FULL)):
        with pytest.raises(MalformedError):
            answer(FULL[:size])
    with pytest.raises(MalformedError, match="do not end"):
        answer(FULL + b"\0")


@pytest.mark.parametrize(
    "payload, says",
    [
        (message(flags=0x0100), "query"),
        (message(record(WWW, A, ONE[:3])), "wrong length"),
        (message(record(WWW, AAAA, ONE)), "wrong length"),
        (message(record(WWW, CNAME, CDN + b"\0")), "after the name"),
        (message(record(WWW, CNAME, CDN[:-1])), "earlier"),
        (message(record(b"\xc0\x25", A, ONE)), "earlier"),  # its own place
        (message(record(b"\xc0\x0b", A, ONE)), "earlier"),  # into the header
        (message(record(b"\xc0\x27\xc0\x25", A, ONE)), "earlier"),  # forwards
        (message(record(WWW, HTTPS, service(1, CDN))), "earlier"),  # compressed where it must not be
        (message(record(WWW, HTTPS, b"\0")), "service binding is cut off"),
        (message(record(WWW, HTTPS, service(1, b"\0") + b"\0\4\0")), "parameter is cut off"),
        (message(record(WWW, HTTPS, service(1, b"\0", (6, SIX), (4, ONE)))), "out of order"),
        (message(record(WWW, HTTPS, service(1, b"\0", (4, ONE), (4, ONE)))), "out of order"),
        (message(record(WWW, HTTPS, service(1, b"\0") + b"\0\4\0\5" + ONE)), "out of order or cut off"),
        (message(record(WWW, HTTPS, service(1, b"\0", (4, b"")))), "hint of a wrong length"),
        (message(record(WWW, HTTPS, service(1, b"\0", (6, ONE)))), "hint of a wrong length"),
        (message(record(WWW, HTTPS, service(1, b"\0", (4, ONE * (MAX_RECORDS + 1))))), "too many"),
        (message(*[record(WWW, A, ONE)] * (MAX_RECORDS + 1)), "too many"),
        (message(*[record(WWW, A, ONE)] * MAX_RECORDS, others=(record(WWW, A, ONE),)), "too many"),
        (message(record(b"\x3f" + b"a" * 63 + b"\x3f" + b"b" * 63 + WWW, 2, b"")), None),
        (message(record((b"\x3f" + b"a" * 63) * 3 + b"\x2b" + b"b" * 43 + WWW, 2, b"")), None),  # 255 octets
        (message(record((b"\x3f" + b"a" * 63) * 3 + b"\x2e" + b"b" * 46 + WWW, 2, b"")), "255"),
    ],
)
def test_what_is_no_answer(payload: bytes, says: str | None) -> None:
    if says is None:
        answer(payload)
        return
    with pytest.raises(MalformedError, match=says):
        answer(payload)


def test_a_pointer_may_lead_to_a_pointer_but_not_for_ever() -> None:
    at = 12 + len(ASKED) + 4 + 12
    steps = [0xC00C] + [0xC000 + at + 2 * number for number in range(200)]
    ladder = b"".join(step.to_bytes(2) for step in steps)
    assert addresses_of(answer(message(record(WWW, 16, ladder), record(ladder[200:202], A, ONE)))) != ()
    with pytest.raises(MalformedError, match="earlier"):
        answer(message(record(WWW, 16, ladder), record(ladder[300:302], A, ONE)))


def framed(*messages: bytes) -> bytes:
    return b"".join(len(each).to_bytes(2) + each for each in messages)


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 50, 10_000])
def test_messages_over_tcp_in_any_pieces(cut: int) -> None:
    sent = [CHAIN, FULL, bytes(12), CHAIN]
    data, stream, got = framed(*sent) + b"\0\x20more", DnsStream(), []
    for at in range(0, len(data), cut):
        got += stream.feed(data[at : at + cut])
    assert got == sent


def test_over_tcp_a_length_below_a_header_ends_it_for_good() -> None:
    stream = DnsStream()
    for data in (framed(CHAIN) + b"\0\x0b", b"", b"x" * 99):
        with pytest.raises(MalformedError, match="short"):
            stream.feed(data)


HOST = st.from_regex(r"[a-z0-9_-]{1,20}(\.[a-z0-9-]{1,20}){0,3}", fullmatch=True)
TTL = st.integers(0, MAX_TTL)
ADDRESS = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)


@pytest.mark.slow
@given(st.lists(HOST, min_size=1, max_size=5, unique=True), st.lists(TTL, min_size=9, max_size=9), st.data())
@settings(max_examples=examples(150))
def test_agrees_with_dpkt_and_scapy(names: list[str], ttls: list[int], data: st.DataObject) -> None:
    addresses = data.draw(st.lists(ADDRESS, min_size=1, max_size=4))
    links = [
        DNSRR(rrname=owner, type="CNAME", rdata=target, ttl=ttl)
        for owner, target, ttl in zip(names, names[1:], ttls, strict=False)
    ]
    ends = [
        DNSRR(rrname=names[-1], type="AAAA" if ":" in each else "A", rdata=each, ttl=ttl)
        for each, ttl in zip(addresses, ttls[5:], strict=False)
    ]
    records = data.draw(st.permutations(links + ends))
    made = DNS(qr=1, qd=[DNSQR(qname=names[0])], an=records, ar=[DNSRROPT()])
    payload = bytes(dns_compress(made)) if data.draw(st.booleans()) else bytes(made)
    seen, dissected = answer(payload), DNS(payload)

    theirs = [(rr.name, rr.type, rr.ttl, rr.cname if rr.type == CNAME else rr.rdata) for rr in dpkt.dns.DNS(payload).an]
    assert [each[:4] for each in seen.records] == theirs
    assert [each.name + "." for each in seen.records] == [rr.rrname.decode() for rr in dissected.an]
    least = min(ttls[: len(names) - 1], default=MAX_TTL)
    expected = {(tuple(names), ip_address(rr.rdata).packed, min(least, rr.ttl)) for rr in ends}
    assert set(addresses_of(seen)) == expected


def test_service_bindings_as_scapy_makes_them() -> None:
    parameters = [SvcParam(key="alpn", value=["h3", "h2"]), SvcParam(key="ipv4hint", value=["192.0.2.1", "192.0.2.2"])]
    binding = DNSRRHTTPS(rrname="www.example.org", ttl=9, svc_priority=1, target_name="svc.net.", svc_params=parameters)
    seen = answer(bytes(DNS(qr=1, qd=[DNSQR(qname="www.example.org", qtype=65)], an=[binding])))
    assert addresses_of(seen) == tuple(Bound(("www.example.org", "svc.net"), each, 9) for each in (ONE, TWO))


@given(st.binary(max_size=200))
@settings(max_examples=examples(300))
def test_random_bytes(data: bytes) -> None:
    only_an_answer(data)
    only_an_answer(CHAIN[:6] + b"\0\3\0\0\0\0" + ASKED + b"\0\1\0\1" + data)


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=examples(400))
def test_mutated_answers(changes: list[tuple[int, int]]) -> None:
    mutated = bytearray(FULL)
    for at, byte in changes:
        mutated[at % len(mutated)] = byte
    only_an_answer(bytes(mutated))


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_random_streams_keep_less_than_a_message(chunks: list[bytes]) -> None:
    stream, whole = DnsStream(), DnsStream()
    got: list[bytes] = []
    with suppress(MalformedError):
        for chunk in chunks:
            got += stream.feed(chunk)
        assert whole.feed(b"".join(chunks)) == got


def only_an_answer(data: bytes) -> None:
    with suppress(MalformedError):
        query(data)
    with suppress(MalformedError):
        seen = answer(data)
        assert len(seen.records) <= MAX_RECORDS
        for bound in addresses_of(seen):
            assert len(bound.address) in (4, 16)
            assert bound.names[0] == seen.name
            assert 0 <= bound.ttl <= MAX_TTL
            assert len(set(bound.names)) == len(bound.names) <= MAX_CHAIN
