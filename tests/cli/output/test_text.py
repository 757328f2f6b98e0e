"""Text for people: no hostile character reaches the terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.cli.output.text import endpoint, hexdump, plain, size, when


@given(st.text(st.characters()))
def test_plain_text_prints_as_itself(text: str) -> None:
    assert plain(text).isprintable()
    assert not text.isprintable() or plain(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("\r\n\x00\x9b", "\\r\\n\\x00\\x9b"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\ud800", "\\ud800"),
        ("bücher.example", "bücher.example"),
    ],
)
def test_control_and_direction_are_written_out(text: str, shown: str) -> None:
    assert plain(text) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (999_960, "1.0 MB"), (2_000_000, "2.0 MB"), (10**18, "1000.0 PB")],
)
def test_sizes(count: int, shown: str) -> None:
    assert size(count) == shown


def test_endpoints_and_times() -> None:
    assert endpoint("192.0.2.7", 443) == "192.0.2.7:443"
    assert endpoint("2001:db8::7", 443) == "[2001:db8::7]:443"
    assert endpoint("192.0.2.7", 0) == "192.0.2.7"
    assert when(1_795_446_362.1239) == "2026-11-23 15:06:02.123"


@given(st.binary(max_size=100))
def test_hexdump_shows_every_byte(data: bytes) -> None:
    lines = hexdump(data)
    assert all(text.isascii() and text.isprintable() for text in lines)
    assert bytes.fromhex("".join(text[6:54].replace(" ", "") for text in lines)) == data
