"""Patterns are found across packets, in any of many streams."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from egress.engine.patterns import Patterns
from signatures import load

PATTERNS = Patterns(load())


@given(
    st.binary(max_size=60), st.sampled_from([b"SSH-2.0-OpenSSH", b'{"method":"mining.subscribe"}']), st.integers(1, 9)
)
def test_a_pattern_is_found_wherever_it_is_cut(noise: bytes, text: bytes, size: int) -> None:
    scan, quiet = PATTERNS.scan(), PATTERNS.scan()
    assert scan is not None and quiet is not None
    data = noise + b"\n" + text
    assert [scan.hit(data[at : at + size]) for at in range(0, len(data), size)][-1]
    assert scan.hit(b"and it stays found")
    assert not quiet.hit(b"\x17\x03\x03")


def test_without_patterns_there_is_nothing_to_scan() -> None:
    assert Patterns([]).scan() is None


def test_a_scan_outlives_what_made_it() -> None:
    scan = Patterns(load()).scan()
    assert scan is not None and scan.hit(b"SSH-2.0-x")
