"""Rules of other programs that use mark bits: read from iptables' text and from nftables' expressions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.gateway.kernel import nftables as nft
from egress.gateway.kernel.overlap import ALL, MarkUser, in_expressions, in_iptables, unused

OURS = 0x0F000000


@pytest.mark.parametrize(
    ("line", "overlaps"),
    [
        ("-A FORWARD -j MARK --set-xmark 0x0/0xffff0000", True),  # Calico's default mask
        ("-A FORWARD -j MARK --set-xmark 0x1000000/0x1000000", True),
        ("-A PREROUTING -j CONNMARK --set-xmark 0x2000000/0xffffffff", True),
        ("-A PREROUTING -j CONNMARK --save-mark --nfmask 0xff000000 --ctmask 0xff000000", True),
        ("-A FORWARD -m mark --mark 0x1000000/0x1000000 -j ACCEPT", True),
        ("-A FORWARD -m connmark ! --mark 0x0/0xf000000 -j ACCEPT", True),
        ("-A FORWARD -p tcp -j MARK --set-xmark 0x1/0xff", False),
        ("-A PREROUTING -j MARK --set-xmark 0xca6c/0xffffffff", False),  # wg-quick
        ("-A PREROUTING -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff", False),
        ("-A FORWARD -m mark --mark 0x1 -j ACCEPT", False),
        ('-A FORWARD -m comment --comment "says \\"--mark 0x1000000/0x1000000" -j ACCEPT', False),
        ("-A FORWARD -p tcp --dport 1 -j ACCEPT", False),
    ],
)
def test_a_line_of_iptables(line: str, overlaps: bool) -> None:
    found = in_iptables(line, "iptables -t mangle")
    assert (found is not None and found.overlaps(OURS)) == overlaps


def test_a_native_rule_that_sets_or_reads_bits() -> None:
    assert in_expressions(b"".join([nft.meta(nft.MARK), nft.bits(~OURS, 1 << 24), nft.set_mark()])) == (OURS, 1 << 24)
    assert in_expressions(b"".join([nft.ct(nft.CT_MARK), nft.bits(OURS), nft.equal32(1 << 24)])) == (OURS, 1 << 24)
    assert in_expressions(b"".join([nft.meta(nft.MARK), nft.equal32(7)])) == (ALL, 7)
    assert in_expressions(b"".join([nft.meta(nft.IIFNAME), nft.within("agents"), nft.verdict(nft.ACCEPT)])) is None


def test_four_free_bits_are_proposed() -> None:
    assert unused([]) == 0xF0000000
    assert unused([MarkUser("", 0xFF000000, 0), MarkUser("", ALL, 0xF00000)]) == 0xF0000
    assert unused([MarkUser("", 0xFFFFFFF0, 0), MarkUser("", 0x8, 0)]) is None


@given(st.binary(max_size=200))
def test_no_bytes_of_a_rule_raise(data: bytes) -> None:
    in_expressions(data)
