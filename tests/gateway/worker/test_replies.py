"""Packets that answer a refused one: read back by scapy, which checks their checksums; and the rate of an agent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.packet import Raw

from egress.engine.outcome import Reply
from egress.errors import MalformedError
from egress.gateway.kernel.link import Neighbour
from egress.gateway.worker.replies import RATE, Replies, checksum, packet
from tests.traffic import AGENT4, AGENT6

RESOLVER4, RESOLVER6 = "10.9.9.9", "2001:db8::53"
FAMILIES = pytest.mark.parametrize("v6", [False, True], ids=["IPv4", "IPv6"])


def network(v6: bool) -> IP | IPv6:
    return IPv6(src=AGENT6, dst=RESOLVER6) if v6 else IP(src=AGENT4, dst=RESOLVER4)


def read(raw: bytes) -> IP | IPv6:
    """Read a packet, and check that its checksums are those that scapy computes."""
    found = (IPv6 if raw[0] >> 4 == 6 else IP)(raw)
    again = found.copy()
    if isinstance(again, IP):
        del again.chksum
    del again[UDP if UDP in again else TCP].chksum
    assert bytes(again) == raw
    return found


@FAMILIES
@pytest.mark.parametrize("data", [b"answer", b"odd", b""])
def test_a_datagram_comes_back_from_the_address_it_was_sent_to(data: bytes, v6: bool) -> None:
    found = read(packet(Reply(data), bytes(network(v6) / UDP(sport=4000, dport=53) / Raw(b"query"))))
    assert (found.src, found.dst) == ((RESOLVER6, AGENT6) if v6 else (RESOLVER4, AGENT4))
    assert (found[UDP].sport, found[UDP].dport) == (53, 4000) and bytes(found[UDP].payload) == data


@FAMILIES
def test_a_segment_continues_and_ends_the_stream(v6: bool) -> None:
    options = [("NOP", None), ("NOP", None), ("Timestamp", (111, 222))]
    asked = network(v6) / TCP(sport=4000, dport=53, flags="PA", seq=7, ack=9, options=options) / Raw(b"query")
    found = read(packet(Reply(b"answer", 0xFFFFFFFF, 12), bytes(asked)))
    segment = found[TCP]
    assert (segment.sport, segment.dport, segment.seq, segment.ack) == (53, 4000, 0xFFFFFFFF, 12)
    assert str(segment.flags) == "FPA" and bytes(segment.payload) == b"answer"
    assert dict(segment.options)["Timestamp"] == (222, 111)


@pytest.mark.parametrize("options", [[], [("MSS", 1460), ("EOL", None)], [("SAckOK", b"")], [(8, b"\1")], [(99, b"")]])
def test_without_timestamps_there_are_no_options(options: list[tuple[object, object]]) -> None:
    asked = IP(src=AGENT4, dst=RESOLVER4) / TCP(sport=4000, dport=53, flags="PA", options=options) / Raw(b"query")
    assert read(packet(Reply(b"answer", 1, 2), bytes(asked)))[TCP].options == []


def test_extension_headers_of_the_query_are_left_out() -> None:
    asked = network(True) / IPv6ExtHdrDestOpt() / TCP(sport=4000, dport=53, flags="PA") / Raw(b"query")
    assert read(packet(Reply(b"answer", 1, 2), bytes(asked)))[TCP].dport == 4000


@given(st.binary(max_size=120))
def test_any_bytes_are_answered_or_malformed(raw: bytes) -> None:
    try:
        found = packet(Reply(b"answer"), raw)
    except MalformedError:
        return
    assert found.endswith(b"answer")


@given(st.binary(max_size=60))
def test_a_checksum_over_itself_is_zero(data: bytes) -> None:
    even = data + b"\0" * (len(data) & 1)
    assert checksum(even + checksum(even).to_bytes(2)) == 0


class Wire:
    """The packets that were sent, in place of a link."""

    def __init__(self, fails: bool = False) -> None:
        self.sent: list[tuple[bytes, Neighbour]] = []
        self.fails = fails

    def send(self, data: bytes, to: Neighbour) -> None:
        if self.fails:
            raise OSError("no such device")
        self.sent.append((data, to))


def replies(wire: Wire | None, now: list[float]) -> Replies:
    made = Replies(lambda: now[0])
    made._link = wire  # type: ignore[assignment]
    return made


QUERY = bytes(IP(src=AGENT4, dst=RESOLVER4) / UDP(sport=4000, dport=53) / Raw(b"query"))
SENDER = Neighbour(5, b"\2\0\0\0\0\1")


def test_each_agent_has_a_rate_of_its_own() -> None:
    wire, now = Wire(), [100.0]
    made = replies(wire, now)
    for _ in range(int(RATE) + 50):
        assert made.send(Reply(b"answer"), QUERY, "flooder", SENDER)
    assert (len(wire.sent), made.counters()) == (RATE, {"sent": RATE, "limited": 50, "failed": 0})
    assert made.send(Reply(b"answer"), QUERY, "other", SENDER) and len(wire.sent) == RATE + 1
    now[0] += 0.1
    for _ in range(int(RATE)):
        made.send(Reply(b"answer"), QUERY, "flooder", SENDER)
    assert len(wire.sent) == pytest.approx(RATE + 1 + RATE / 10, abs=1)
    assert {to.interface for _, to in wire.sent} == {5} and wire.sent[0][1].address == SENDER.address
    made.forget("flooder")
    assert len(made._left) == 1


@pytest.mark.parametrize("wire", [None, Wire(fails=True)])
def test_an_answer_that_cannot_be_sent_is_counted(wire: Wire | None) -> None:
    made = replies(wire, [100.0])
    assert not made.send(Reply(b"answer"), QUERY, "a1", SENDER)
    assert made.counters() == {"sent": 0, "limited": 0, "failed": 1}
    assert not replies(Wire(), [100.0]).send(Reply(b"answer"), b"no packet", "a1", SENDER)
