"""The IP packet of a frame: behind VLAN tags and labels, or none; `tests/capture/test_link.py` has the link layers."""

from __future__ import annotations

import pytest

from egress.errors import MalformedError
from egress.wire.ethertype import ethernet

PACKET = b"\x45" + bytes(19)
MACS = bytes(12)


def test_the_packet_behind_tags() -> None:
    assert ethernet(MACS + b"\x08\x00" + PACKET) == PACKET
    assert ethernet(MACS + b"\x81\x00\0\1\x08\x00" + PACKET) == PACKET
    assert ethernet(MACS + b"\x08\x06" + bytes(28)) is None
    with pytest.raises(MalformedError):
        ethernet(MACS + b"\x08\x00")
