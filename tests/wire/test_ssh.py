"""SSH's plain-text phase: identification lines, KEXINIT, packets up to NEWKEYS, SSH-1, and hostile bytes."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.wire.ssh import MAX_HEAD, MAX_LINES, MAX_PACKET, SshFact, SshIdent, SshMessage, SshStream

IDENT = b"SSH-2.0-OpenSSH_9.7 Debian-1\r\n"
NAMES = [
    b"curve25519-sha256,kex-strict-c-v00@openssh.com",
    b"ssh-ed25519",
    b"aes128-ctr,aes256-ctr",
    b"c2",
    b"m1",
    b"m2",
]


def packet(payload: bytes, padding: int = 4) -> bytes:
    """RFC 4253 section 6, without cipher."""
    padding += -(5 + len(payload) + padding) % 8
    return (1 + len(payload) + padding).to_bytes(4) + bytes([padding]) + payload + bytes(padding)


def kexinit(lists: list[bytes], *, guess: bool = False) -> bytes:
    lists = lists + [b"none"] * (8 - len(lists)) + [b"", b""]
    body = b"".join(len(names).to_bytes(4) + names for names in lists)
    return packet(b"\x14" + bytes(16) + body + bytes([guess]) + bytes(4))


def packet1(number: int, data: bytes) -> bytes:
    """SSH-1.5: length, padding to a multiple of 8, type, data, CRC."""
    body = bytes([number]) + data
    length = len(body) + 4
    return length.to_bytes(4) + bytes(8 - length % 8) + body + zlib.crc32(body).to_bytes(4)


def whole(data: bytes) -> list[SshFact]:
    return SshStream().feed(data)


def pieces(data: bytes, size: int) -> list[SshFact]:
    stream = SshStream()
    return [fact for at in range(0, len(data), size) for fact in stream.feed(data[at : at + size])]


def shape(facts: list[SshFact]) -> list[object]:
    """Facts without what depends on how much of the identification line was there."""
    return [(fact.proto, fact.line_number) if isinstance(fact, SshIdent) else fact for fact in facts]


@pytest.mark.parametrize(
    ("data", "proto", "software", "line", "number"),
    [
        (IDENT, "2.0", "OpenSSH_9.7 Debian-1", IDENT.rstrip(), 1),
        (b"SSH-2.0-Go\n", "2.0", "Go", b"SSH-2.0-Go", 1),
        (b"SSH-1.99-Cisco-1.25\n", "1.99", "Cisco-1.25", b"SSH-1.99-Cisco-1.25", 1),
        (b"SSH-1.5-1.2.27\n", "1.5", "1.2.27", b"SSH-1.5-1.2.27", 1),
        (b"SSH-2.0-", "2.0", "", b"SSH-2.0-", 1),  # not waiting for the rest
        (b"SSH- 02.\t+0-x\r\n", "2.0", "x", b"SSH- 02.\t+0-x", 1),  # what sscanf accepts
        (b"SSH-chisel-v3-client\r\n", "chisel", "v3-client", b"SSH-chisel-v3-client", 1),
        (b"SSH-whatever\n", "whatever", "", b"SSH-whatever", 1),
        (b"SSH-2.0-\xff\x00x\n", "2.0", "\ufffd\x00x", b"SSH-2.0-\xff\x00x", 1),
        (b"Welcome\r\n\r\nSSH is fine\nSSH-2.0-x\r\n", "2.0", "x", b"SSH-2.0-x", 4),
        (b"\n" * (MAX_LINES - 1) + b"SSH-2.0-x\n", "2.0", "x", b"SSH-2.0-x", MAX_LINES),
        (b"a" * 15000 + b"\nSSH-2.0-x\n", "2.0", "x", b"SSH-2.0-x", 2),
    ],
)
def test_identification(data: bytes, proto: str, software: str, line: bytes, number: int) -> None:
    stream = SshStream()
    assert stream.feed(data) == [SshIdent(proto, software, line, number)]
    assert stream.identified and not stream.done
    assert shape(pieces(data, 1)) == [(proto, number)]


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0",
        b"ssh-2.0-x\n",
        b" SSH-2.0-x\n",
        b"hello SSH-2.0-x\n",
        b"hello\nSSH-keys-are-nice\n",  # a text about SSH
        b"hello\nSSH-x.0-y\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01SSH-2.0-x",
        b"",
    ],
)
def test_not_an_identification(data: bytes) -> None:
    stream = SshStream()
    assert stream.feed(data) == []
    assert not stream.identified and not stream.done


def test_the_segment_with_the_second_dash_is_the_one() -> None:
    stream = SshStream()
    facts = [stream.feed(IDENT[at : at + 1]) for at in range(len(IDENT))]
    assert [bool(found) for found in facts].index(True) == len(b"SSH-2.0-") - 1
    assert sum(map(len, facts)) == 1


@pytest.mark.parametrize(
    "data", [b"\n" * MAX_LINES + b"SSH-2.0-x\n", b"a" * MAX_HEAD + b"\nSSH-2.0-x\n", b"SSH-2.0-" + b"a" * MAX_HEAD]
)
def test_the_limits_end_it(data: bytes) -> None:
    for size in (1, 100, len(data)):
        stream = SshStream()
        for at in range(0, len(data), size):
            stream.feed(data[at : at + size])
        assert stream.done
        assert stream.identified == data.startswith(b"SSH-")
        assert stream.feed(IDENT) == []


def test_key_exchange_up_to_newkeys() -> None:
    data = IDENT + kexinit(NAMES, guess=True) + packet(b"\x1e" + bytes(36)) + packet(b"\x15") + b"\xde\xad" * 50
    stream = SshStream()
    ident, first, init, newkeys = stream.feed(data)
    assert isinstance(ident, SshIdent) and stream.done
    assert isinstance(first, SshMessage) and first.number == 20 and first.kex is not None and first.version == 2
    kex = first.kex
    assert kex.kex == ("curve25519-sha256", "kex-strict-c-v00@openssh.com")
    assert (kex.host_keys, kex.ciphers_c2s, kex.ciphers_s2c) == (
        ("ssh-ed25519",),
        ("aes128-ctr", "aes256-ctr"),
        ("c2",),
    )
    assert (kex.macs_c2s, kex.macs_s2c, kex.compression_c2s, kex.guess) == (("m1",), ("m2",), ("none",), True)
    assert (init, newkeys) == (SshMessage(30), SshMessage(21))
    for size in (1, 2, 7, 100):
        assert shape(pieces(data, size)) == shape(whole(data))


def test_a_kexinit_that_overruns_is_a_message_without_lists() -> None:
    for payload in (b"\x14", b"\x14" + bytes(16) + b"\xff" * 8, b"\x14" + bytes(16) + bytes(40)):
        assert whole(IDENT + packet(payload))[1:] == [SshMessage(20)]


@pytest.mark.parametrize("number", [2, 3])
def test_ssh_1_shows_its_first_packet(number: int) -> None:
    for length in range(20, 30):
        data = b"SSH-1.5-OpenSSH_2.3\n" + packet1(number, bytes(length)) + b"more"
        stream = SshStream()
        assert stream.feed(data)[1:] == [SshMessage(number, None, 1)]
        assert stream.done
        assert shape(pieces(data, 1)) == shape(whole(data))


def test_protocol_1_99_is_read_as_what_follows() -> None:
    ident = b"SSH-1.99-x\n"
    assert whole(ident + packet1(2, bytes(30)))[1:] == [SshMessage(2, None, 1)]
    both = whole(ident + kexinit(NAMES) + packet(b"\x1f" + bytes(90)))[1:]
    assert [(fact.number, fact.version) for fact in both if isinstance(fact, SshMessage)] == [(20, 2), (31, 2)]


@pytest.mark.parametrize(
    "packets",
    [
        (MAX_PACKET + 1).to_bytes(4) + b"\x04\x14",
        b"\xff\xff\xff\xff\x04\x14",
        b"\0\0\0\0\x04\x14",
        b"\0\0\0\x05\x04\x14",  # no room for a payload
        b"HTTP/1.1 400 Bad Request",
        packet(b"\x02x") * 65,
    ],
)
def test_what_is_not_a_key_exchange_ends_it(packets: bytes) -> None:
    stream = SshStream()
    stream.feed(IDENT + packets)
    assert stream.identified and stream.done


def test_the_longest_packet_is_read() -> None:
    payload = b"\x04" + bytes(MAX_PACKET - 30)
    assert whole(IDENT + packet(payload))[1:] == [SshMessage(4)]


@pytest.mark.parametrize(
    "text",
    [
        b"SSH-2.0-billsSSH_3.6.3q3<CR><LF> is an example in RFC 4253",
        b"SSH-2.0-billsSSH_3.6.3q3 is an example in RFC 4253\nand so is this\n",
        b"SSH-2.0-OpenSSH_9.7\r\nis what a server says\r\n",
        b"SSH-2.0-OpenSSH_9.7\n",
        b"SSH-2.0-" + b"x" * 400 + b"\r\n",
        b"A word before: SSH-2.0-OpenSSH_9.7\r\n",
    ],
)
def test_a_body_that_quotes_ssh_is_text(text: bytes) -> None:
    stream = SshStream(exact=True)
    assert stream.feed(text) == [] and not stream.identified


@pytest.mark.parametrize("size", [1, 7, 40, 4000])
@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_ssh_in_a_body_is_read_however_it_is_cut(end: bytes, size: int) -> None:
    stream = SshStream(exact=True)
    data = b"SSH-2.0-OpenSSH_9.7" + end + kexinit(NAMES)
    facts = [fact for at in range(0, len(data), size) for fact in stream.feed(data[at : at + size])]
    ident, message = facts
    assert isinstance(ident, SshIdent) and ident.line == b"SSH-2.0-OpenSSH_9.7"
    assert isinstance(message, SshMessage) and message.kex is not None


def test_an_identification_alone_in_a_body_may_be_a_text_until_a_packet_follows() -> None:
    stream = SshStream(exact=True)
    assert [(type(fact), stream.identified) for fact in stream.feed(IDENT)] == [(SshIdent, False)]
    assert [(type(fact), stream.identified) for fact in stream.feed(kexinit(NAMES))] == [(SshMessage, True)]
    stream = SshStream(exact=True)
    stream.feed(IDENT)
    assert stream.feed(b"is what a server says\n") == [] and stream.done and not stream.identified


CHUNKS = st.lists(
    st.binary(max_size=20)
    | st.sampled_from([IDENT, b"SSH-", b"2.0-", b"1.99-", b"1.5-", b"\n", b"\r\n", b"text\n", kexinit(NAMES)])
    | st.sampled_from([packet(b"\x1e1234"), packet(b"\x15"), packet1(2, b"12345"), b"\0\0\0\x0c\x0a\x15"]),
    max_size=12,
)


@given(CHUNKS, st.integers(1, 40))
def test_segmentation_changes_nothing_and_nothing_is_raised(chunks: list[bytes], size: int) -> None:
    data = b"".join(chunks)
    stream = SshStream()
    once = [fact for chunk in chunks for fact in stream.feed(chunk)]
    assert shape(once) == shape(whole(data)) == shape(pieces(data, size))


@pytest.mark.parametrize("exact", [False, True])
@given(st.lists(st.binary(max_size=3000), max_size=40))
def test_what_is_kept_is_bounded(exact: bool, chunks: list[bytes]) -> None:
    stream = SshStream(exact=exact)
    for chunk in [IDENT, *chunks]:
        stream.feed(chunk)
        assert len(stream._buffer) <= MAX_PACKET + 12 + len(chunk)
