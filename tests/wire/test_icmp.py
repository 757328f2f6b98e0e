"""An ICMP error comes in only if it quotes a packet of a known flow."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from egress.model import ICMP, ICMPV6, TCP
from egress.wire.icmp import answers_known
from egress.wire.packet import decode
from tests.traffic import AGENT4, AGENT6, SERVER4, SERVER6, ip_packet, tcp


def error(kind: int, quoted: bytes, *, six: bool = False) -> bytes:
    source, target, proto = ("2001:db8::1", AGENT6, ICMPV6) if six else ("192.0.2.1", AGENT4, ICMP)
    return ip_packet(source, target, proto, struct.pack("!BBHL", kind, 1, 0, 0) + quoted)


def test_which_errors_count() -> None:
    for six, ends, kinds in ((False, (AGENT4, SERVER4), {3, 11, 12}), (True, (AGENT6, SERVER6), {1, 2, 3, 4})):
        quoted = tcp(*ends, 40000, 443, 2, 1, 0)
        packet = decode(quoted)
        key = (TCP, packet.src, 40000, packet.dst, 443)
        for kind in range(20):
            known = answers_known(decode(error(kind, quoted[:60], six=six)), {key: None})
            assert known is (kind in kinds), (six, kind)
        assert not answers_known(decode(error(3, quoted, six=six)), {})


@given(st.binary(max_size=80), st.booleans())
def test_no_quotation_raises(quoted: bytes, six: bool) -> None:
    assert not answers_known(decode(error(3, quoted, six=six)), {})


def test_a_quotation_cut_before_the_ports_names_no_flow() -> None:
    quoted = tcp(AGENT4, SERVER4, 40000, 443, 2, 1, 0)
    packet = decode(quoted)
    for cut in range(28):
        assert not answers_known(decode(error(3, quoted[:cut])), {(TCP, packet.src, 40000, packet.dst, 443): None})
