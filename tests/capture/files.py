"""Builders of capture files, block by block, so that a test can make any detail right or wrong."""

from __future__ import annotations

import struct

IP = bytes.fromhex("4500001c000100004011 0000 0a000001 0a000002 0035 0035 0008 0000".replace(" ", ""))
SECTION, INTERFACE, PACKET, SIMPLE, ENHANCED = 0x0A0D0D0A, 1, 2, 3, 6


MICROS, NANOS, MODIFIED = 0xA1B2C3D4, 0xA1B23C4D, 0xA1B2CD34


def pcap(
    frames: list[tuple[int, int, bytes]], *, order: str = "<", magic: int = MICROS, link: int = 101, extra: int = 0
) -> bytes:
    """Build a pcap file; frames are (seconds, fraction, data); each had `extra` more bytes on the wire."""
    out = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, link)
    for seconds, fraction, data in frames:
        out += struct.pack(order + "IIII", seconds, fraction, len(data), len(data) + extra)
        out += struct.pack(order + "IHBx", 3, 0x0800, 4) if magic == MODIFIED else b""
        out += data
    return out


class Pcapng:
    """A pcapng file that a test builds."""

    def __init__(self, order: str = "<") -> None:
        self.order = order
        self.data = b""
        self.section(order)

    def block(self, kind: int, body: bytes) -> Pcapng:
        body += bytes(-len(body) % 4)
        size = struct.pack(self.order + "I", len(body) + 12)
        self.data += struct.pack(self.order + "I", kind) + size + body + size
        return self

    def section(self, order: str) -> Pcapng:
        self.order = order
        return self.block(SECTION, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))

    def interface(self, link: int = 101, snaplen: int = 0, *options: tuple[int, bytes]) -> Pcapng:
        body = struct.pack(self.order + "HHI", link, 0, snaplen)
        for code, value in options:
            body += struct.pack(self.order + "HH", code, len(value)) + value + bytes(-len(value) % 4)
        return self.block(INTERFACE, body + (bytes(4) if options else b""))

    def enhanced(self, ticks: int, data: bytes = IP, interface: int = 0, original: int = 0) -> Pcapng:
        head = struct.pack(
            self.order + "IIIII", interface, ticks >> 32, ticks & 0xFFFFFFFF, len(data), original or len(data)
        )
        return self.block(ENHANCED, head + data)

    def obsolete(self, ticks: int, data: bytes = IP, interface: int = 0) -> Pcapng:
        head = struct.pack(self.order + "HHIIII", interface, 0, ticks >> 32, ticks & 0xFFFFFFFF, len(data), len(data))
        return self.block(PACKET, head + data)

    def simple(self, data: bytes = IP, original: int = 0) -> Pcapng:
        return self.block(SIMPLE, struct.pack(self.order + "I", original or len(data)) + data)
