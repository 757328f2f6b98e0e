"""Quoted text from the wire is printable and short; addresses have their usual form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.dissection.events import Burst, DnsAsked, Opened
from egress.engine.signature import Signature, endpoint, listeners, printable
from signatures.beacon_timing import BeaconTiming
from signatures.mining_stratum import MiningStratum


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        ("XMRig/6.21.0", 64, "XMRig/6.21.0"),
        (b"SSH-2.0-\x1b[31m\r\n", 64, "SSH-2.0-?[31m??"),
        ("é\u202e\ud800\x7f", 64, "????"),
        ("abcdef", 6, "abcdef"),
        ("abcdefg", 6, "abcdef…"),
        (b"abcdefg", 6, "abcdef…"),
        ("", 6, ""),
    ],
)
def test_printable(text: str | bytes, limit: int, expected: str) -> None:
    assert printable(text, limit) == expected


@given(st.text() | st.binary(), st.integers(0, 50))
def test_printable_is_bounded(text: str | bytes, limit: int) -> None:
    clean = printable(text, limit)
    assert len(clean) <= limit + 1
    assert all(" " <= char <= "~" for char in clean.removesuffix("…"))


def test_endpoint() -> None:
    assert endpoint(bytes([203, 0, 113, 9]), 443) == "203.0.113.9:443"
    assert endpoint(bytes.fromhex("20010db8" + "00" * 11 + "09"), 22) == "[2001:db8::9]:22"


def test_listeners_are_found_by_the_type_of_an_event() -> None:
    first, second = BeaconTiming(), MiningStratum()
    found = listeners([first, second])
    expected: dict[type, list[Signature]] = {}
    for each in (first, second):
        for event in each.listens:
            expected[event] = [*expected.get(event, []), each]
    assert found == expected and found[Burst] == [first]
    assert DnsAsked not in found and Opened not in listeners([])
