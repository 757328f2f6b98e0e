"""The config message's bytes, against the kernel's own headers."""

from __future__ import annotations

import struct

from egress.gateway.kernel import nfnetlink


def attributes(message: bytes) -> list[tuple[int, bytes]]:
    found, offset = [], 20
    while offset < len(message):
        length, kind = struct.unpack_from("=HH", message, offset)
        found.append((kind, message[offset + 4 : offset + length]))
        offset += length + (-length % 4)
    assert offset == len(message)
    return found


def test_one_message_holds_everything_and_flags_stand_once() -> None:
    message = nfnetlink.config_message(7400, 9, copy_range=65531, length=4096, flags=nfnetlink.GSO)
    length, kind, flags, sequence, port = struct.unpack_from("=IHHII", message)
    assert (length, kind, flags, sequence, port) == (len(message), 3 << 8 | 2, 5, 9, 0)  # NLM_F_REQUEST | NLM_F_ACK
    assert struct.unpack_from(">BBH", message, 16) == (0, 0, 7400)
    found = attributes(message)
    assert sorted(found) == [
        (2, struct.pack(">IB", 65531, 2)),
        (3, struct.pack(">I", 4096)),
        (4, struct.pack(">I", 5)),  # mask: fail-open and GSO are both decided
        (5, struct.pack(">I", 4)),
    ]
