"""pcapng: sections, interfaces and packets of both byte orders, and files with false lengths."""

from __future__ import annotations

import io
import struct
import subprocess
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.capture import Frame, frames
from egress.capture.frame import UNKNOWN_LINK
from tests.capture.files import ENHANCED, IP, SIMPLE, Pcapng
from tests.capture.test_pcap import read

TSRESOL, TSOFFSET = 9, 14
NOW = 1_700_000_000


def sample(order: str = "<") -> bytes:
    """Build a file of two sections, three interfaces, every kind of packet block, and an unknown block between."""
    file = Pcapng(order).interface(1).interface(101, 0, (TSRESOL, b"\x09"))
    file.enhanced(NOW * 10**6 + 500_000, bytes(14), 0, 60).enhanced(NOW * 10**9 + 1, IP, 1)
    file.block(0x0ABC, b"unknown").obsolete(NOW * 10**6, IP, 1).simple(bytes(17))
    return file.section(">" if order == "<" else "<").interface(228).enhanced(NOW * 10**6).data


@pytest.mark.parametrize("order", ["<", ">"])
def test_every_block(order: str) -> None:
    got, cut = read(sample(order))
    assert not cut
    assert got == [
        Frame(1, NOW + 0.5, 1, bytes(14), 60),
        Frame(2, NOW + 1e-9, 101, IP, len(IP)),
        Frame(3, NOW / 1000, 101, IP, len(IP)),
        Frame(4, NOW / 1000, 1, bytes(17), 17),  # a simple packet: first interface, no time of its own
        Frame(5, float(NOW), 228, IP, len(IP)),
    ]


@pytest.mark.parametrize(
    ("resolution", "ticks"), [(b"\x00", 1), (b"\x03", 1000), (b"\x09", 10**9), (b"\x8a", 1024), (b"\x80", 1)]
)
def test_timestamp_resolution(resolution: bytes, ticks: int) -> None:
    got, _ = read(Pcapng().interface(101, 0, (TSRESOL, resolution)).enhanced(NOW * ticks + ticks // 2).data)
    assert got[0].ts == NOW + (ticks // 2) / ticks


@pytest.mark.parametrize("order", ["<", ">"])
def test_timestamp_offset(order: str) -> None:
    offset = struct.pack(order + "q", -3600)
    got, _ = read(Pcapng(order).interface(101, 0, (1, b"comment"), (TSOFFSET, offset)).enhanced(NOW * 10**6).data)
    assert got[0].ts == NOW - 3600


@given(st.binary(min_size=1, max_size=1), st.binary(min_size=8, max_size=8), st.integers(0, 2**64 - 1))
def test_any_clock(resolution: bytes, offset: bytes, ticks: int) -> None:
    file = Pcapng().interface(101, 0, (TSRESOL, resolution), (TSOFFSET, offset)).enhanced(ticks)
    got, cut = read(file.data)
    assert not cut
    assert got[0].ts == got[0].ts  # a number, not NaN


def test_simple_packet_is_cut_to_the_snap_length() -> None:
    got, _ = read(Pcapng().interface(101, 20).simple(IP[:20], original=len(IP)).data)
    assert (got[0].data, got[0].wire_length) == (IP[:20], len(IP))


def test_packet_of_an_undeclared_interface() -> None:
    got, cut = read(Pcapng().enhanced(1).interface().enhanced(1, IP, 7).enhanced(1).data)
    assert not cut
    assert [frame.link for frame in got] == [UNKNOWN_LINK, UNKNOWN_LINK, 101]


def test_packet_block_too_short_for_its_fields_is_still_counted() -> None:
    got, cut = read(Pcapng().interface().block(ENHANCED, b"").block(SIMPLE, b"").enhanced(1).data)
    assert not cut
    assert [(frame.number, frame.data) for frame in got] == [(1, b""), (2, b""), (3, IP)]


def test_captured_length_beyond_the_block() -> None:
    body = struct.pack("<IIIII", 0, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF) + IP
    got, cut = read(Pcapng().interface().block(ENHANCED, body).data)
    assert not cut
    assert got[0].data == IP


def test_cut_at_every_byte() -> None:
    whole = sample()
    everything, _ = read(whole)
    clean = 0
    for size in range(4, len(whole)):
        got, cut = read(whole[:size])
        assert got == everything[: len(got)]
        clean += not cut
    assert clean == 10  # only between two of the eleven blocks does a cut look like an end


@pytest.mark.parametrize("length", [0, 4, 8, 11, 13, 0xFFFFFFFF])
def test_impossible_block_length(length: int) -> None:
    data = Pcapng().interface().enhanced(1).data + struct.pack("<II", 0x0ABC, length) + bytes(64)
    got, cut = read(data)
    assert len(got) == 1
    assert cut


def test_contradictory_block_length() -> None:
    data = bytearray(Pcapng().interface().enhanced(1).enhanced(2).data)
    data[-4] ^= 4
    got, cut = read(bytes(data))
    assert len(got) == 1
    assert "contradicts itself" in cut


@pytest.mark.parametrize("patch", [(8, b"\0\0\0\0"), (4, b"\x08\0\0\0"), (12, b"\x09\0")])
def test_broken_section(patch: tuple[int, bytes]) -> None:
    data = bytearray(sample())
    data[patch[0] : patch[0] + len(patch[1])] = patch[1]
    got, cut = read(bytes(data))
    assert not got
    assert cut


def test_a_huge_block_is_skipped_in_bounded_memory() -> None:
    huge = Pcapng().interface().block(0x0A, bytes(24_000_000)).enhanced(1)
    stream = io.BytesIO(huge.data)
    tracemalloc.start()
    got = list(frames(stream))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [frame.data for frame in got] == [IP]
    assert peak < 2_000_000


def test_many_interfaces_are_bounded() -> None:
    file = Pcapng()
    one = Pcapng().interface().data[28:]
    file.data += one * 70_000
    got, cut = read(file.enhanced(1, IP, 69_999).enhanced(1, IP, 65_535).data)
    assert not cut
    assert [frame.link for frame in got] == [UNKNOWN_LINK, 101]


@given(st.data())
def test_mutated(data: st.DataObject) -> None:
    file = bytearray(sample(data.draw(st.sampled_from("<>"))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(4, len(file) - 1))
        patch = data.draw(st.binary(min_size=1, max_size=4))
        file[at : at + len(patch)] = patch
    got, _ = read(bytes(file))
    assert [frame.number for frame in got] == list(range(1, len(got) + 1))
    assert sum(len(frame.data) for frame in got) <= len(file)


@given(st.binary(max_size=200))
def test_any_bytes(tail: bytes) -> None:
    got, _ = read(Pcapng().interface().enhanced(1).data + tail)
    assert got[0].data == IP


@pytest.mark.parametrize("order", ["<", ">"])
def test_agrees_with_tshark(tmp_path: Path, order: str) -> None:
    path = tmp_path / "a.pcapng"
    path.write_bytes(sample(order))
    fields = ["frame.time_epoch", "frame.cap_len", "frame.len"]
    asked = [option for name in fields for option in ("-e", name)]
    answer = subprocess.run(
        ["tshark", "-r", str(path), "-T", "fields", *asked], check=True, capture_output=True, text=True, timeout=60
    )
    theirs = [line.split("\t") for line in answer.stdout.splitlines()]
    ours, _ = read(path.read_bytes())
    assert [(len(f.data), f.wire_length) for f in ours] == [(int(cap), int(wire)) for _, cap, wire in theirs]
    times = [(f.ts, float(time)) for f, (time, _, _) in zip(ours, theirs, strict=True) if f.number != 4]
    assert all(abs(our - their) < 1e-6 for our, their in times)  # tshark gives a simple packet no time


def test_agrees_with_scapy(tmp_path: Path) -> None:
    from scapy.utils import RawPcapNgReader

    path = tmp_path / "a.pcapng"
    path.write_bytes(Pcapng().interface(1).enhanced(NOW * 10**6, bytes(60)).enhanced(NOW * 10**6 + 1, IP, 0, 99).data)
    with RawPcapNgReader(str(path)) as reader:
        theirs = [(data, _seconds(meta), meta.wirelen) for data, meta in reader]
    ours, _ = read(path.read_bytes())
    assert [(frame.data, frame.ts, frame.wire_length) for frame in ours] == theirs


def _seconds(meta: Any) -> float:
    """Return scapy's time as a number; scapy declares another type than it returns."""
    return float((meta.tshigh << 32 | meta.tslow) / meta.tsresol)
