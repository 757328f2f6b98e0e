"""QUIC Initials: the vectors of RFC 9001 and RFC 9369, hellos in pieces, hostile clients, and random bytes.

`Client` seals packets with code of its own (HKDF of the cryptography package, AES-GCM); it is checked against the RFCs.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from contextlib import suppress
from hashlib import sha256
from itertools import permutations

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from hypothesis import given, settings
from hypothesis import strategies as st

from egress.errors import MalformedError
from egress.wire.quic import MAX_CONNECTIONS, MAX_CRYPTO, MAX_DATAGRAMS, MAX_FRAMES, QuicHello
from egress.wire.quickeys import V1, V2
from egress.wire.tls import ClientHello
from tests.examples import examples

DCID = bytes.fromhex("8394c8f03e515708")
SALTS = {V1: "38762cf7f55934b34d179ae6a4c80cadccbb7f0a", V2: "0dede3def700a6db819381be6e269dcbf9bd2ed9"}
LABELS = {V1: "quic", V2: "quicv2"}
INITIAL, ZERO_RTT, HANDSHAKE, RETRY = range(4)

# RFC 9001 appendix A.2; RFC 9369 uses the same one.
RFC_HELLO = bytes.fromhex(
    "010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e86804fe3a47f06a2b69484c00000413011302010000c000000010000e0000"
    "0b6578616d706c652e636f6dff01000100000a00080006001d0017001800100007000504616c706e0005000501000000000033002600240"
    "01d00209370b2c9caa47fbabaf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b0003020304000d0010000e0403050306030203"
    "080408050806002d00020101001c00024001003900320408ffffffffffffffff05048000ffff07048000ffff0801100104800075300901100f"
    "088394c8f03e51570806048000ffff"
)
# The protected packet: its first 32 bytes, its last 16 (the tag over all of it), and the SHA-256 of the whole.
RFC_PACKETS = {
    V1: (
        "c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11",
        "e221af44860018ab0856972e194cd934",
        "73fa0210cb4a5a17dc10b9dc98e5cc359ba1c20fe7c0e93a9e1dcb473c37e097",
    ),
    V2: (
        "d76b3343cf088394c8f03e5157080000449ea0c95e82ffe67b6abcdb4298b485",
        "a18b2faa745b6fe189cf772a9f84cbfc",
        "b0b766fe7e762577072d3365cc4f9635809210cba301a67f8457f5e6fdac5c68",
    ),
}


def varint(number: int) -> bytes:
    for power in range(4):
        if number < 1 << (8 << power) - 2:
            return (number | power << (8 << power) - 2).to_bytes(1 << power)
    raise ValueError(number)


def crypto(offset: int, data: bytes) -> bytes:
    return b"\x06" + varint(offset) + varint(len(data)) + data


def expand(secret: bytes, label: str, size: int) -> bytes:
    name = b"tls13 " + label.encode()
    info = size.to_bytes(2) + bytes([len(name)]) + name + b"\0"
    return HKDFExpand(algorithm=SHA256(), length=size, info=info).derive(secret)


class Client:
    """Seals packets as the client of a connection; `secret` names the side for packets of a server."""

    def __init__(self, keys_of: bytes = DCID, version: int = V1, side: str = "client in") -> None:
        salt = bytes.fromhex(SALTS[version])
        secret = expand(HKDF.extract(SHA256(), salt, keys_of), side, 32)
        self.version, self.dcid = version, keys_of
        self.key, self.iv, self.hp = (
            expand(secret, f"{LABELS[version]} {what}", size) for what, size in (("key", 16), ("iv", 12), ("hp", 16))
        )

    def seal(
        self,
        frames: bytes,
        number: int = 0,
        dcid: bytes | None = None,
        size: int = 4,
        token: bytes = b"",
        first: int = 0,
    ) -> bytes:
        dcid = self.dcid if dcid is None else dcid
        kind = (INITIAL + (self.version == V2)) % 4
        head = (
            bytes([0xC0 | kind << 4 | first | size - 1]) + self.version.to_bytes(4) + varint(len(dcid)) + dcid + b"\0"
        )
        head += varint(len(token)) + token + (0x4000 | size + len(frames) + 16).to_bytes(2)
        sent = (number & (1 << 8 * size) - 1).to_bytes(size)
        nonce = (int.from_bytes(self.iv) ^ number).to_bytes(12)
        body = AESGCM(self.key).encrypt(nonce, frames, head + sent)
        sample = (sent + body)[4:20]
        mask = Cipher(algorithms.AES(self.hp), modes.ECB()).encryptor().update(sample)
        masked = bytes(a ^ b for a, b in zip(sent, mask[1:], strict=False))
        return bytes([head[0] ^ mask[0] & 0x0F]) + head[1:] + masked + body


def other(kind: int, version: int = V1, dcid: bytes = DCID, body: bytes = bytes(40)) -> bytes:
    """A long packet that is not an Initial."""
    kind = (kind + (version == V2)) % 4
    return bytes([0xC0 | kind << 4]) + version.to_bytes(4) + varint(len(dcid)) + dcid + b"\0" + varint(len(body)) + body


def hello(name: bytes, extra: bytes = b"") -> bytes:
    sni = b"\0" + len(name).to_bytes(2) + name
    extensions = b"\0\0" + (len(sni) + 2).to_bytes(2) + len(sni).to_bytes(2) + sni + extra
    body = b"\3\3" + bytes(32) + b"\0\0\2\x13\x01\1\0" + len(extensions).to_bytes(2) + extensions
    return b"\1" + len(body).to_bytes(3) + body


def one(datagrams: Iterable[bytes]) -> str:
    """The only name that a flow of these datagrams gives."""
    reader = QuicHello()
    names = {seen.server_name for each in datagrams if (seen := reader.feed(each))}
    assert len(names) == 1
    assert reader.done
    return names.pop()


@pytest.mark.parametrize("version", [V1, V2])
def test_the_packet_of_the_rfc(version: int) -> None:
    packet = Client(version=version).seal(crypto(0, RFC_HELLO).ljust(1162, b"\0"), 2)
    head, tag, digest = RFC_PACKETS[version]
    assert packet.startswith(bytes.fromhex(head)) and packet.endswith(bytes.fromhex(tag))
    assert sha256(packet).hexdigest() == digest
    reader = QuicHello()
    assert reader.feed(packet) == ClientHello("example.com", ("alpn",), 0x0304, (0x1301, 0x1302), ech=False)
    assert reader.done and not reader.failed


LONG = hello(b"a.example", b"\0\x33" + (3000).to_bytes(2) + bytes(3000))


def pieces(message: bytes, size: int) -> list[bytes]:
    return [crypto(at, message[at : at + size]) for at in range(0, len(message), size)]


def test_a_hello_over_datagrams_in_any_order() -> None:
    client = Client()
    for order in permutations(pieces(LONG, 1000)):
        assert one(client.seal(frame, number) for number, frame in enumerate(order)) == "a.example"


@pytest.mark.parametrize("size", [1, 2, 7])
def test_byte_by_byte(size: int) -> None:
    message, client = hello(b"a.example"), Client()
    sent = pieces(message, size)
    random.Random(size).shuffle(sent)
    reader = QuicHello()
    whole = [reader.feed(client.seal(b"".join(sent[at : at + 5]), at)) for at in range(0, len(sent), 5)]
    assert whole[:-1] == [None] * (len(whole) - 1)
    assert whole[-1] and whole[-1].server_name == "a.example"


def test_all_frames_of_an_initial() -> None:
    ack = b"\x02" + varint(9) + varint(70000) + varint(1) + b"\0\1\2"
    ecn = b"\x03" + varint(9) + b"\0\0\3" + varint(5) + b"\0" + varint(1 << 40)
    close = b"\x1c" + varint(0x128) + b"\6" + varint(3) + b"bye"
    frames = b"\0\0\1" + ack + crypto(0, hello(b"a.example")) + ecn + b"\0" * 9 + close
    assert one([Client().seal(frames)]) == "a.example"


def test_coalesced_packets_and_padding_behind_them() -> None:
    first, second = pieces(hello(b"a.example"), 60)
    client = Client()
    assert one([client.seal(first, 0) + client.seal(second, 1) + other(ZERO_RTT)]) == "a.example"
    assert one([client.seal(first, 0) + client.seal(second, 1) + bytes(400)]) == "a.example"
    assert one([client.seal(first, 0) + client.seal(second, 1) + other(HANDSHAKE) + b"\x40short"]) == "a.example"


@pytest.mark.parametrize("version", [V1, V2])
def test_a_retry_changes_the_keys(version: int) -> None:
    message = crypto(0, hello(b"a.example"))
    again = Client(b"chosen by server"[:20], version)
    assert one([Client(version=version).seal(message), again.seal(message, 1, token=b"token" * 20)]) == "a.example"


def test_version_negotiation_starts_over() -> None:
    reserved = bytes([0xC0]) + bytes.fromhex("1a2a3a4a") + bytes(1195)
    assert one([reserved, Client(version=V2).seal(crypto(0, hello(b"a.example")))]) == "a.example"


def test_later_packets_bear_the_id_the_server_chose() -> None:
    first, second = pieces(hello(b"a.example"), 60)
    client = Client()
    assert (
        one([client.seal(first), client.seal(second, 1, b"server"), client.seal(b"\2\1\0\0\0", 2, b"")]) == "a.example"
    )


def test_a_second_hello_after_a_hello_retry_request_also_in_the_other_version() -> None:
    first, second = hello(b"a.example"), hello(b"b.example")
    for version in (V1, V2):
        reader = QuicHello()
        assert reader.feed(Client().seal(crypto(0, first)))
        seen = reader.feed(Client(version=version).seal(crypto(len(first), second), 1, b"server"))
        assert seen and seen.server_name == "b.example"


def test_a_second_connection_is_read_too() -> None:
    reader = QuicHello()
    for number in range(3 * MAX_CONNECTIONS):
        name = b"%d.example" % number
        seen = reader.feed(Client(b"connection%02d" % number).seal(crypto(0, hello(name))))
        assert seen and seen.server_name == name.decode()
        assert reader.feed(b"\x40" + bytes(50)) is None


def test_short_packet_numbers() -> None:
    client, reader = Client(), QuicHello()
    sent = pieces(hello(b"a.example"), 40)
    for number, size, frame in zip((0x12345678, 0x123456F0, 0x12345655), (4, 1, 2), sent, strict=False):
        reader.feed(client.seal(frame, number, size=size))
    assert reader.done


def malformed(says: str, *datagrams: bytes, reader: QuicHello | None = None) -> None:
    reader = reader or QuicHello()
    for each in datagrams[:-1]:
        reader.feed(each)
    for again in (says, "before"):
        with pytest.raises(MalformedError, match=again):
            reader.feed(datagrams[-1])
        assert reader.failed


GOOD = crypto(0, hello(b"a.example"))


@pytest.mark.parametrize(
    "datagram, says",
    [
        (b"", "not a QUIC"),
        (b"\x40" + bytes(30), "not a QUIC"),
        (bytes(1200), "not a QUIC"),
        (b"\xc0\0\0\0", "cut off"),
        (b"\xc0\0\0\0\0" + bytes(30), "version 0x00000000"),
        (b"\xc0\xff\0\0\x1d" + bytes(1200), "version 0xff00001d"),
        (b"\xc3Q046" + bytes(1200), "version 0x51303436"),
        (b"\x80\0\0\0\1" + bytes(60), "fixed bit"),
        (b"\xc0\0\0\0\1\x15" + bytes(60), "connection ID"),
        (b"\xc0\0\0\0\1\0\0\0\x13" + bytes(60), "too short"),
        (b"\xc0\0\0\0\1\0\0\0\x40\x50" + bytes(60), "cut off"),
        (b"\xc0\0\0\0\1\0\0\0\x14" + bytes(20), "no key"),
        (Client(side="server in").seal(GOOD), "no key"),
        (Client(b"other id").seal(GOOD, dcid=DCID), "no key"),
        (Client().seal(GOOD, first=4), "reserved bits"),
        (other(RETRY), "continues"),
        (other(HANDSHAKE), "continues"),
        (other(HANDSHAKE, V2), "continues"),
        (Client().seal(b""), "without frames"),
        (Client().seal(b"\x08\0\0\0"), "not allowed in a QUIC Initial"),
        (Client().seal(b"\x40\x06" + GOOD[1:]), "not allowed in a QUIC Initial"),  # a frame type spelled long
        (Client().seal(b"\x1d\0\0\0"), "not allowed in a QUIC Initial"),
        (Client().seal(b"\x06\0\x40"), "cut off"),
        (Client().seal(b"\x06\0\5abcd"), "cut off"),
        (Client().seal(b"\2\0\0" + varint(1 << 61) + b"\0"), "cut off"),
        (Client().seal(crypto(MAX_CRYPTO - 1, b"ab")), "too long"),
        (Client().seal(crypto((1 << 62) - 1, b"a")), "too long"),
        (Client().seal(b"\1" * (MAX_FRAMES + 1)), "too many frames"),
        (Client().seal(crypto(0, b"\2\0\0\4abcd")), "not a TLS"),
        (Client().seal(crypto(0, b"\1\x01\0\0")), "not a TLS"),
        (Client().seal(crypto(0, b"\1\0\0\4abcd")), "exceeds"),
        (Client().seal(GOOD) + Client(b"another").seal(GOOD), "two connections"),
        (other(ZERO_RTT) * 9, "too many QUIC packets"),
        (Client().seal(crypto(0, hello(b"a.example") + hello(b"b.example"))), "two TLS server names"),
    ],
)
def test_what_is_refused(datagram: bytes, says: str) -> None:
    malformed(says, datagram)


def test_bytes_sent_twice_must_be_the_same() -> None:
    client, part = Client(), pieces(LONG, 1000)
    changed = crypto(990, LONG[990:1000] + b"\1" + LONG[1001:1100])
    assert (
        one([client.seal(part[1]), client.seal(crypto(990, LONG[990:1200]), 1), *map(client.seal, part)]) == "a.example"
    )
    malformed("differ", client.seal(part[1]), client.seal(changed, 1))
    malformed("differ", *map(client.seal, part), client.seal(changed, 1))  # also after the hello


def test_what_is_undecided_ends() -> None:
    malformed("without a ClientHello", *[Client().seal(b"\1\1\1\1")] * MAX_DATAGRAMS)
    malformed("without a ClientHello", *[other(ZERO_RTT)] * MAX_DATAGRAMS)


def test_an_initial_that_cannot_be_opened_is_refused_after_the_hello_too() -> None:
    malformed("no key", Client().seal(GOOD), Client(b"unseen").seal(GOOD, dcid=b"server"))


def test_memory_is_bounded() -> None:
    reader = QuicHello()
    for number in range(3 * MAX_CONNECTIONS):
        client = Client(b"connection%02d" % number)
        reader.feed(client.seal(crypto(MAX_CRYPTO - 1000, bytes(1000))))
        assert sum(map(len, reader._connections)) <= MAX_CRYPTO
        assert len(reader._connections) <= MAX_CONNECTIONS


@pytest.mark.parametrize("version", [V1, V2])
def test_every_truncation(version: int) -> None:
    packet = Client(version=version).seal(GOOD)
    for size in range(len(packet)):
        with pytest.raises(MalformedError):
            QuicHello().feed(packet[:size])
    assert QuicHello().feed(packet + b"\0trailing")


@given(st.binary(max_size=100), st.sampled_from([b"", b"\xc0\0\0\0\1", b"\xd0k3C\xcf", b"\xc0\0\0\0\1\0\0\0\x40\x30"]))
@settings(max_examples=examples(300))
def test_random_datagrams(data: bytes, start: bytes) -> None:
    only_a_hello([start + data])


@given(st.lists(st.binary(min_size=4, max_size=60), max_size=4))
@settings(max_examples=examples(200))
def test_random_frames(packets: list[bytes]) -> None:
    only_a_hello(Client().seal(frames, number) for number, frames in enumerate(packets))


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=3))
@settings(max_examples=examples(300))
def test_mutated_hellos_and_packets(changes: list[tuple[int, int]]) -> None:
    message, packet = bytearray(GOOD), bytearray(Client().seal(GOOD))
    for at, byte in changes:
        message[at % len(message)] = byte
        packet[at % len(packet)] = byte
    only_a_hello([Client().seal(bytes(message))])
    only_a_hello([bytes(packet)])


@given(st.data())
@settings(max_examples=examples(60))
def test_how_a_hello_is_cut_never_matters(data: st.DataObject) -> None:
    """Any cuts, overlaps, order, repetition, coalescing, packet numbers, version."""
    client = Client(data.draw(st.binary(min_size=8, max_size=20)), data.draw(st.sampled_from([V1, V2])))
    message = hello(b"cut.example", b"\0\x33" + (200).to_bytes(2) + bytes(range(200)))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(message) - 1), max_size=6)))
    over = data.draw(st.integers(0, 20))
    frames = [crypto(at, message[at : end + over]) for at, end in zip([0, *cuts], [*cuts, len(message)], strict=True)]
    frames = data.draw(st.permutations(frames + frames[:2]))
    start = data.draw(st.integers(0, 1 << 31))
    packets = [client.seal(frame, start + number) for number, frame in enumerate(frames)]
    joined = data.draw(st.integers(0, 3))
    assert one([b"".join(packets[:joined]), *packets[joined:]] if joined else packets) == "cut.example"


def only_a_hello(datagrams: Iterable[bytes]) -> None:
    reader = QuicHello()
    with suppress(MalformedError):
        for each in datagrams:
            seen = reader.feed(each)
            assert seen is None or (isinstance(seen, ClientHello) and reader.done)
        assert not reader.failed
        return
    assert reader.failed
