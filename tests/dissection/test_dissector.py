"""Dissection states facts: the protocol, for any segmentation, and the stream after a protocol switch."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egress.dissection.dissector import Dissector
from egress.dissection.events import DnsAsked, Event, HttpAsked, Named, SshSpoken, StratumSpoken, TlsOpened
from egress.dissection.registry import Registry
from egress.dissection.side import HEAD_BYTES
from egress.model import TCP, UDP, Direction
from egress.wire.http import MAX_HEAD
from egress.wire.jsonrpc import MAX_TEXT
from egress.wire.loosejson import MAX_LINE
from egress.wire.packet import decode
from egress.wire.ssh import MAX_PACKET
from tests.examples import examples
from tests.traffic import AGENT4, SERVER4, client_hello, udp

OUT, IN = Direction.OUT, Direction.IN
SUBSCRIBE = b'{"id":1,"method":"mining.subscribe","params":["cgminer/4.11"]}\n'
GET = b"GET /x HTTP/1.1\r\nHost: www.Example.org:8080\r\n\r\n"
CONNECT = b"CONNECT pool.example.org:3333 HTTP/1.1\r\nHost: pool.example.org:3333\r\n\r\n"


def events(
    data: bytes, size: int = 10**6, direction: Direction = OUT, dissector: Dissector | None = None
) -> list[Event]:
    dissector = dissector or Dissector()
    out: list[Event] = []
    for at in range(0, len(data), size):
        out += dissector.feed(direction, data[at : at + size])
    return out


def kinds(found: list[Event]) -> list[type]:
    return [type(event) for event in found if not isinstance(event, Named)]


def named(found: list[Event]) -> list[tuple[str, bool]]:
    return [(event.name, event.hidden) for event in found if isinstance(event, Named)]


@pytest.mark.parametrize("size", [10**6, 13, 1])
@pytest.mark.parametrize("direction", [OUT, IN])
@pytest.mark.parametrize(
    ("data", "expected", "app"),
    [
        (SUBSCRIBE, [StratumSpoken], "stratum"),
        (SUBSCRIBE + SUBSCRIBE, [StratumSpoken, StratumSpoken], "stratum"),
        (b"junk line\n" + SUBSCRIBE, [StratumSpoken], "stratum"),
        (b"SSH-2.0-Go\r\n", [SshSpoken], "ssh"),
        (b"220 welcome\r\nSSH-2.0-Go\r\n", [SshSpoken], "ssh"),
        (GET, [HttpAsked], "http"),
        (GET + GET, [HttpAsked, HttpAsked], "http"),
        (CONNECT + SUBSCRIBE, [HttpAsked, StratumSpoken], "stratum"),
        (CONNECT + b"SSH-2.0-Go\r\n", [HttpAsked, SshSpoken], "ssh"),
        (CONNECT + GET, [HttpAsked, HttpAsked], "http"),
        (GET + SUBSCRIBE, [HttpAsked, StratumSpoken], "stratum"),
        (GET + b"SSH-2.0-Go\r\n", [HttpAsked, SshSpoken], "ssh"),
        (b"EHLO mail.example.org\r\n", [], ""),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [], "http2"),
    ],
)
def test_events_do_not_depend_on_segmentation(
    data: bytes, expected: list[type], app: str, size: int, direction: Direction
) -> None:
    dissector = Dissector()
    assert kinds(events(data, size, direction, dissector)) == expected
    assert dissector.app == app


def test_stratum_in_a_request_body_is_named_with_its_carrier() -> None:
    body = b'{"id":0,"method":"getblocktemplate","params":[{"capabilities":["coinbasetxn"]}]}'
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    found = events(head + body, 7)
    assert kinds(found) == [HttpAsked, StratumSpoken, StratumSpoken]  # as a body, and as a line
    assert {event.carrier for event in found if isinstance(event, StratumSpoken)} == {"http"}


@pytest.mark.parametrize("size", [10**6, 1])
@pytest.mark.parametrize(
    "decoy",
    [
        b"GET / HTTP/1.1\n",
        b"GET / HTTP/1.1\n\nGET / HTTP/1.1\n",
        b"POST / HTTP/1.1\nTransfer-Encoding: chunked\n\n",
        b"\x16\x03\x01\x3f\xff\x01\n",
        client_hello("www.example.org") + b"\n",
        b"\x05\x01\x00\x05\x01\x00\x03\x08pool.com\x0d\x05",
        b"\x05\x02\x00\x02\x01\x01u\x01p\x05\x01\x00\x01\x01\x02\x03\x04\x0d\x05",
        b"\x04\x01\x0d\x05\x00\x00\x00\x01user\x00pool.com\x00",
    ],
)
def test_bytes_that_resemble_another_protocol_hide_no_line(decoy: bytes, size: int) -> None:
    """A pool that skips unreadable lines, or is behind a proxy, still reads the call."""
    assert StratumSpoken in kinds(events(decoy + SUBSCRIBE, size))


@pytest.mark.parametrize("size", [10**6, 1])
def test_ssh_through_a_socks_proxy_is_ssh(size: int) -> None:
    dissector = Dissector()
    granted = b"\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"
    assert SshSpoken in kinds(events(granted + b"SSH-2.0-Go\r\n", size, IN, dissector))
    assert dissector.app == "ssh"


@pytest.mark.parametrize(
    ("first", "rest", "ssh"),
    [
        (b"SSH-2.0-Go\r\n", b"", True),
        (b"x" * 100, b"SSH-2.0-Go\r\n", False),
        (b"", b"SSH-agent-forwarding explained\n", False),
    ],
)
def test_ssh_inside_http_stands_at_the_start_of_a_body(first: bytes, rest: bytes, ssh: bool) -> None:
    """Downloads are cut into segments anywhere: the first bytes of a segment do not identify a protocol."""
    dissector = Dissector()
    events(GET, dissector=dissector)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(first + rest)
    found = [event for part in (head + first, rest) for event in events(part, 10**6, IN, dissector)]
    assert (SshSpoken in kinds(found)) == ssh


def test_only_a_query_names_port_53_dns() -> None:
    dissector = Dissector()
    list(dissector.datagram(decode(udp(AGENT4, SERVER4, 7, 53, b"x" * 100)), OUT))
    assert dissector.app == ""


def test_stratum_quoted_in_an_answer_is_no_event() -> None:
    dissector = Dissector()
    events(GET, dissector=dissector)
    page = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(SUBSCRIBE) + SUBSCRIBE
    assert events(page, direction=IN, dissector=dissector) == []


@pytest.mark.parametrize("size", [10**6, 100, 1])
def test_tls_is_opaque_once_both_hellos_were_seen(size: int) -> None:

    dissector = Dissector()
    found = events(client_hello("www.example.org"), size, dissector=dissector)
    assert kinds(found) == [TlsOpened]
    assert (dissector.app, dissector.server_name) == ("tls", "www.example.org")
    assert not dissector.opaque(TCP)
    events(b"\x16\x03\x03\x00\x04\x02\x00\x00\x00", size, IN, dissector)
    assert dissector.opaque(TCP)


def test_dns_queries_are_read_and_dns_never_becomes_opaque() -> None:
    query = b"\x12\x34\x01\x00\x00\x01" + bytes(6) + b"\x03WWW\x07example\x03org\x00\x00\x01\x00\x01"
    dissector = Dissector(53)
    for _ in range(20):
        (event,) = dissector.datagram(decode(udp(AGENT4, SERVER4, 999, 53, query)), OUT)
        assert isinstance(event, DnsAsked) and event.query is not None and event.query.name == "www.example.org"
    assert dissector.app == "dns" and not dissector.opaque(UDP)


def test_empty_datagrams_make_no_resolver_opaque() -> None:
    """A resolver is listened to for ever: no number of datagrams may end that."""
    dissector = Dissector(53)
    for _ in range(20):
        assert list(dissector.datagram(decode(udp(AGENT4, SERVER4, 999, 53, b"")), OUT)) == []
    assert not dissector.opaque(UDP)


def test_unknown_datagrams_become_opaque() -> None:
    dissector = Dissector()
    for _ in range(8):
        assert not dissector.opaque(UDP)
        assert list(dissector.datagram(decode(udp(AGENT4, SERVER4, 999, 9999, b"abc")), OUT)) == []
    assert dissector.opaque(UDP)


PIECES = [SUBSCRIBE, GET, CONNECT, b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"\x16\x03\x01", b"{", b"["]
TALK = st.lists(st.tuples(st.sampled_from([OUT, IN]), st.binary(max_size=200) | st.sampled_from(PIECES)), max_size=30)
MOST = 2 * (HEAD_BYTES + MAX_HEAD + MAX_TEXT + MAX_LINE + MAX_PACKET)  # bytes held by the readers of both directions


def held(root: object) -> int:
    """Count the bytes in all strings of bytes that are reachable from an object of the dissection."""
    seen, wait, size = {id(root)}, [root], 0
    while wait:
        item = wait.pop()
        size += len(item) if isinstance(item, (bytes, bytearray)) else 0
        for each in gc.get_referents(item):
            ours = type(each).__module__.startswith("egress") or isinstance(each, (bytes, bytearray, list, tuple, dict))
            if ours and id(each) not in seen and not isinstance(each, Registry):
                seen.add(id(each))
                wait.append(each)
    return size


@settings(max_examples=examples(200), deadline=None)
@given(TALK)
def test_nothing_makes_it_raise(parts: list[tuple[Direction, bytes]]) -> None:
    dissector = Dissector()
    for direction, data in parts:
        list(dissector.feed(direction, data))


@pytest.mark.slow
@pytest.mark.parametrize("filler", [b"a", b"{", b'"', b"\0", b"\n", b" ", b"[\n"])
@pytest.mark.parametrize("begin", [*PIECES, b"", b"POST / HTTP/1.1\nA: ", b"\x16\x03\x01\x40\0\x01\0\xff\0", b"A"])
def test_it_keeps_a_bounded_part_of_what_it_has_seen(begin: bytes, filler: bytes) -> None:
    dissector = Dissector()
    for direction in (OUT, IN):
        list(dissector.feed(direction, begin))
        for _ in range(20):
            list(dissector.feed(direction, filler * 8000))
    assert held(dissector) <= MOST


def test_a_dissector_is_freed_without_the_garbage_collector() -> None:
    """The worker collects garbage seldom: with a reference cycle in each flow an agent could fill its memory."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + b"HTTP/1.1 101 S\r\n\r\n{"
    beginnings = [
        *PIECES,
        client_hello("a.test"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x05\x01\x00\x05\x01",
        GET + answer,
    ]
    gc.collect()
    gc.disable()
    try:
        for data in beginnings:
            dissector = Dissector(53)
            found = [*dissector.feed(OUT, data), *dissector.feed(IN, answer), *dissector.feed(IN, data)]
            list(dissector.datagram(decode(udp(AGENT4, SERVER4, 7, 443, bytes([0xC0, 0, 0, 0, 1]) + bytes(1300))), OUT))
            del dissector, found
            assert gc.collect() == 0, data
    finally:
        gc.enable()


def test_a_hello_does_not_walk_the_readers_of_lines() -> None:
    """A hello is binary: its zeros would end many lines, each read by itself."""
    lines = 0

    def count(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        nonlocal lines
        lines += event == "line"
        return count if frame.f_code.co_filename.endswith(("jsonrpc.py", "loosejson.py")) else None

    dissector = Dissector()
    sys.settrace(count)
    try:
        found = list(dissector.feed(OUT, client_hello("www.example.org")))
    finally:
        sys.settrace(None)
    assert kinds(found) == [TlsOpened]
    assert 0 < lines < 100
