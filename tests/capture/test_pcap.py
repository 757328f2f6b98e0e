"""The classic format: every variant, every truncation, and agreement with scapy's reader."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.capture import Frame, NotACaptureError, TruncatedError, frames
from egress.capture.frame import MAX_FRAME
from tests.capture.files import IP, MICROS, MODIFIED, NANOS, pcap


def read(data: bytes) -> tuple[list[Frame], str]:
    """Read the frames of a file, and the reason if it ends early."""
    out: list[Frame] = []
    try:
        for frame in frames(io.BytesIO(data)):
            out.append(frame)  # noqa: PERF402 - the frames before an error count
    except TruncatedError as cut:
        return out, str(cut)
    return out, ""


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("magic", [MICROS, NANOS, MODIFIED])
def test_every_variant(order: str, magic: int) -> None:
    half = 500_000_000 if magic == NANOS else 500_000
    got, cut = read(pcap([(1_700_000_000, half, IP), (1_700_000_001, 0, b"")], order=order, magic=magic, extra=7))
    assert not cut
    assert got == [
        Frame(1, 1_700_000_000.5, 101, IP, len(IP) + 7),
        Frame(2, 1_700_000_001.0, 101, b"", 7),
    ]


def test_upper_bits_of_the_link_type_are_not_the_link_type() -> None:
    got, _ = read(pcap([(0, 0, IP)], link=0x24000001))  # an Ethernet frame check sequence of 4 bytes
    assert got[0].link == 1


@pytest.mark.parametrize("magic", [MICROS, MODIFIED])
def test_cut_at_every_byte(magic: int) -> None:
    whole = pcap([(1, 0, IP), (2, 0, IP)], magic=magic)
    complete = [24, (len(whole) + 24) // 2, len(whole)]
    for size in range(4, len(whole) + 1):
        got, cut = read(whole[:size])
        assert len(got) == sum(size >= end for end in complete[1:])
        assert bool(cut) == (size not in complete)


@pytest.mark.parametrize("data", [b"", b"\0", b"GIF89a", b"\xa1\xb2\xc3", b"\x1f\x8b\x08\0rest"])
def test_another_file_is_not_a_capture(data: bytes) -> None:
    with pytest.raises(NotACaptureError):
        list(frames(io.BytesIO(data)))


def test_a_record_that_claims_too_much_ends_the_reading() -> None:
    data = pcap([(1, 0, IP)]) + struct.pack("<IIII", 2, 0, MAX_FRAME + 1, MAX_FRAME + 1)
    got, cut = read(data + bytes(MAX_FRAME + 1))
    assert len(got) == 1
    assert "frame 2 claims 262145 bytes" in cut


@given(st.binary(max_size=200))
def test_any_bytes(tail: bytes) -> None:
    got, _ = read(pcap([(1, 0, IP)]) + tail)
    assert got[0].data == IP
    assert sum(len(frame.data) for frame in got) <= len(IP) + len(tail)


@given(st.integers(0, 200), st.binary(min_size=1, max_size=8))
def test_mutated(at: int, patch: bytes) -> None:
    data = bytearray(pcap([(1, 0, IP), (2, 0, IP), (3, 0, IP)]))
    at %= len(data)
    data[at : at + len(patch)] = patch
    try:
        got, _ = read(bytes(data))
    except NotACaptureError:
        assert at < 4
    else:
        assert [frame.number for frame in got] == list(range(1, len(got) + 1))
        assert sum(len(frame.data) for frame in got) <= len(data)


def test_agrees_with_scapy(tmp_path: Path) -> None:
    from scapy.layers import inet
    from scapy.layers.l2 import Ether
    from scapy.utils import RawPcapReader, wrpcap

    path = tmp_path / "a.pcap"
    packets = [Ether() / inet.IP(dst="192.0.2.1") / inet.UDP() / bytes(size) for size in (0, 1, 1400)]
    wrpcap(str(path), packets)
    got, cut = read(path.read_bytes())
    with RawPcapReader(str(path)) as reader:
        theirs = [(data, meta.sec + meta.usec / 1e6, meta.wirelen) for data, meta in reader]
    assert not cut
    assert [(frame.data, frame.ts, frame.wire_length) for frame in got] == theirs
