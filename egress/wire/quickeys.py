"""The keys of QUIC's Initial packets, derived from a connection ID (RFC 9001 section 5; version 2: RFC 9369)."""

from __future__ import annotations

from hashlib import sha256
from hmac import digest
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from egress.errors import MalformedError

V1, V2 = 0x00000001, 0x6B3343CF
SAMPLE = 16  # bytes of the sample that protects the header (RFC 9001 section 5.4.2)


class Version(NamedTuple):
    """The constants of a version of QUIC from which its keys and packet types follow."""

    salt: bytes  # RFC 9001 section 5.2, RFC 9369 section 3.3.1
    label: bytes
    shift: int  # how far long packet types are moved (RFC 9369 section 3.2)


VERSIONS = {
    V1: Version(bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a"), b"quic", 0),
    V2: Version(bytes.fromhex("0dede3def700a6db819381be6e269dcbf9bd2ed9"), b"quicv2", 1),
}


class InitialKeys:
    """The client's Initial keys for one connection ID and version (RFC 9001 section 5): they decrypt its packets.

    The constructor raises KeyError for a version that is not in VERSIONS.
    """

    __slots__ = ("_aead", "_iv", "_mask")

    def __init__(self, dcid: bytes, version: int) -> None:
        salt, label, _ = VERSIONS[version]
        secret = _expand(digest(salt, dcid, sha256), b"client in", 32)
        self._aead = AESGCM(_expand(secret, label + b" key", 16))
        self._iv = int.from_bytes(_expand(secret, label + b" iv", 12))
        self._mask = Cipher(algorithms.AES(_expand(secret, label + b" hp", 16)), modes.ECB())

    def open(self, data: bytes, at: int, largest: int) -> tuple[int, bytes] | None:
        """Decrypt an Initial packet; return (packet number, frames), or None if these keys do not decrypt it.

        `data`: the packet from its first byte to its last. `at`: the offset of its protected packet number; at least
        SAMPLE + 4 bytes must follow it. `largest`: the highest packet number so far, or -1. Raises MalformedError if
        reserved bits of the header are set.
        """
        mask = self._mask.encryptor().update(data[at + 4 : at + 4 + SAMPLE])
        first = data[0] ^ mask[0] & 0x0F
        size = (first & 3) + 1
        number = bytes(a ^ b for a, b in zip(data[at : at + size], mask[1:], strict=False))
        full = _whole_number(int.from_bytes(number), 8 * size, largest)
        nonce = (self._iv ^ full).to_bytes(12)
        try:
            frames = self._aead.decrypt(nonce, data[at + size :], bytes([first]) + data[1:at] + number)
        except InvalidTag:
            return None
        if first & 0x0C:
            raise MalformedError("QUIC packet with reserved bits")
        return full, frames


def _expand(secret: bytes, label: bytes, size: int) -> bytes:
    """Derive a secret: HKDF-Expand-Label of at most one block (RFC 8446 section 7.1)."""
    name = b"tls13 " + label
    info = size.to_bytes(2) + bytes([len(name)]) + name + b"\0"
    return digest(secret, info + b"\1", sha256)[:size]


def _whole_number(number: int, bits: int, largest: int) -> int:
    """Return the full packet number for its low `bits` bits and the largest number so far (RFC 9000 appendix A.3)."""
    window = 1 << bits
    near = (largest + 1) & -window | number
    if near <= largest + 1 - window // 2 and near < (1 << 62) - window:
        return near + window
    return near - window if near > largest + 1 + window // 2 and near >= window else near
