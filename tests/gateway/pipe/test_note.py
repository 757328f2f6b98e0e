"""Notes of new flows: each comes back unchanged, other bytes are None, and the sender never waits."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.gateway.pipe.note import MAX_NOTE, MAX_PER_SECOND, NoteSender, begins, encode, parse
from egress.model import Action
from egress.records.shape import FlowRecord
from tests.store import samples

FIRST = replace(samples.FLOW, updated=samples.START, packets_out=0, packets_in=0)

addresses = st.ip_addresses(v=4) | st.ip_addresses(v=6)


@given(
    st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)) | st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6)),
    st.tuples(samples.ports, samples.ports),
    st.sampled_from(["tcp", "udp", "icmpv6", "99"]),
    st.sampled_from(["out", "in"]),
    st.sampled_from(Action),
)
def test_a_note_comes_back(
    ends: tuple[object, object], ports: tuple[int, int], proto: str, direction: str, action: Action
) -> None:
    src, dst = map(str, ends)
    record = replace(FIRST, src=src, dst=dst, sport=ports[0], dport=ports[1], proto=proto, direction=direction)
    note = parse(encode(replace(record, action=action), 7))
    assert note is not None
    assert (note.flow_id, note.agent, note.time, note.interface) == (FIRST.flow_id, FIRST.agent, FIRST.start, 7)
    assert (note.inbound, note.waits) == (direction == "in", action in (Action.REJECT, Action.DROP))
    local, remote = (src, dst) if direction == "out" else (dst, src)
    assert (note.local, note.remote) == (ip_address(local).packed, ip_address(remote).packed)
    assert {note.local_port, note.remote_port} == set(ports)


@given(st.binary(max_size=MAX_NOTE) | st.text().map(str.encode))
def test_garbage_is_no_note(message: bytes) -> None:
    assert parse(message) is None


@given(st.integers(0, 200), st.binary(min_size=1, max_size=3))
def test_a_note_with_other_bytes_in_it_is_read_or_none(at: int, other: bytes) -> None:
    message = encode(FIRST, 7)
    parse(message[:at] + other + message[at + len(other) :])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"10.77.0.2", b"fd00::1"),  # ends of two families
        (b"\t40000\t", b"\t65536\t"),
        (b"\t40000\t", b"\t-1\t"),
        (b"\ttcp\t", b"\t256\t"),
        (b"\tout\t", b"\tup\t"),
        (b"00000000000000a1", b"00000000000000A1"),
        (b"\t7\t", b"\t2147483648\t"),
    ],
)
def test_what_cannot_be_is_no_note(old: bytes, new: bytes) -> None:
    message = encode(FIRST, 7)
    assert parse(message) is not None and old in message
    assert parse(message.replace(old, new)) is None


def test_only_the_first_record_of_a_flow_begins_it() -> None:
    assert begins(FIRST)
    assert not begins(replace(FIRST, packets_out=1)) and not begins(samples.FLOW)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def _numbered(number: int, agent: str = "a") -> FlowRecord:
    return replace(FIRST, flow_id=f"{number:016x}", agent=agent)


def test_a_flood_of_one_agent_is_cut_and_another_is_heard(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    sender = NoteSender(ours)
    for number in range(MAX_PER_SECOND + 10):
        sender.send(_numbered(number), 7)
        theirs.recv(MAX_NOTE, socket.MSG_DONTWAIT) if number < MAX_PER_SECOND else None
    assert (sender.sent, sender.dropped) == (MAX_PER_SECOND, 10)
    assert sender.send(_numbered(1, "b"), 7)
    later = replace(_numbered(2), start=FIRST.start + 1, updated=FIRST.start + 1)
    assert sender.send(later, 7)


def test_what_nobody_reads_is_dropped_and_counted(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    sender = NoteSender(ours)
    sent = [sender.send(_numbered(number), 7) for number in range(100)]
    assert sent[0] and not sent[-1] and sender.sent + sender.dropped == 100
    theirs.close()
    assert not sender.send(_numbered(100), 7)


def test_without_a_socket_nothing_is_said() -> None:
    sender = NoteSender(None)
    assert not sender.send(FIRST, 7) and (sender.sent, sender.dropped) == (0, 0)
