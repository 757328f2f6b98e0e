"""TLS hellos: whole, byte by byte, spread over records, with trailing bytes, mutated; and against dpkt."""

from __future__ import annotations

import ssl
from contextlib import suppress

import dpkt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from egress.errors import MalformedError
from egress.wire.tls import (
    MAX_HELLO,
    MAX_RECORD,
    MAX_RECORDS,
    ClientHello,
    client_hello,
    handshake_hello,
    looks_like_tls,
    server_hello,
)
from tests.examples import examples


def vector(size: int, data: bytes) -> bytes:
    return len(data).to_bytes(size) + data


def extension(kind: int, data: bytes) -> bytes:
    return kind.to_bytes(2) + vector(2, data)


def sni(*names: bytes) -> bytes:
    return extension(0, vector(2, b"".join(b"\0" + vector(2, name) for name in names)))


def hello(extensions: bytes | None = b"", version: int = 0x0303, ciphers: bytes = b"\x13\x01\xc0\x2b") -> bytes:
    """A ClientHello handshake message."""
    body = version.to_bytes(2) + bytes(32) + vector(1, bytes(32)) + vector(2, ciphers) + vector(1, b"\0")
    return b"\x01" + vector(3, body + (b"" if extensions is None else vector(2, extensions)))


def records(message: bytes, size: int = MAX_RECORD) -> bytes:
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + vector(2, piece) for piece in pieces)


def made_by_openssl(name: str, alpn: list[str]) -> bytes:
    """The first bytes of a real TLS library."""
    context, out = ssl.create_default_context(), ssl.MemoryBIO()
    context.set_alpn_protocols(alpn)
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


FULL = hello(
    extension(0x0A0A, b"")
    + sni(b"Pool.Example.ORG")
    + extension(16, vector(2, vector(1, b"h2") + vector(1, b"http/1.1")))
    + extension(43, vector(1, b"\x3a\x3a\x03\x04\x03\x03"))
    + extension(0xFE0D, b"\0\0\1")
)
EXPECTED = ClientHello("pool.example.org", ("h2", "http/1.1"), 0x0304, (0x1301, 0xC02B), ech=True)
SSL2 = b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10" + bytes(range(21)) + bytes(16)


def test_a_whole_hello() -> None:
    assert client_hello(records(FULL)) == EXPECTED
    assert client_hello(records(FULL) + b"\x14\x03\x03\0\1\1 and more") == EXPECTED


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_a_hello_over_many_records(size: int) -> None:
    assert client_hello(records(FULL, size)) == EXPECTED


@pytest.mark.parametrize("data", [records(FULL), records(FULL, 7), records(hello(None)), SSL2])
def test_byte_by_byte(data: bytes) -> None:
    whole = client_hello(data)
    assert whole is not None
    for size in range(len(data)):
        assert client_hello(data[:size]) is None
        assert looks_like_tls(data[:size]) in (None, True)
    assert looks_like_tls(data) is True
    assert client_hello(data + b"trailing") == whole


def test_a_hello_without_records() -> None:
    assert handshake_hello(FULL) == EXPECTED
    for message in (*(FULL[:size] for size in range(len(FULL))), FULL + b"\0", b"\2" + FULL[1:]):
        with pytest.raises(MalformedError):
            handshake_hello(message)


def test_what_openssl_sends() -> None:
    seen = client_hello(made_by_openssl("api.example.com", ["h2", "http/1.1"]))
    assert seen is not None
    assert seen[:3] == ("api.example.com", ("h2", "http/1.1"), 0x0304)
    assert 0x1301 in seen.ciphers
    assert not seen.ech


def test_without_extensions_the_legacy_version_counts() -> None:
    assert client_hello(records(hello(None, version=0x0301))) == ClientHello(
        "", (), 0x0301, (0x1301, 0xC02B), ech=False
    )


def test_ssl2_format_has_no_names() -> None:
    seen = client_hello(SSL2)
    assert seen is not None
    assert (seen.server_name, seen.version, seen.ciphers[:2]) == ("", 0x0301, (0x000102, 0x030405))


def test_a_trailing_dot_is_no_part_of_the_name() -> None:
    seen = client_hello(records(hello(sni(b"a.example."))))
    assert seen is not None
    assert seen.server_name == "a.example"


@pytest.mark.parametrize(
    "data, says",
    [
        (b"GET / HTTP/1.1\r\n\r\n", "not a TLS"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "not a TLS"),
        (b"\x16\x02\x01", "not a TLS"),
        (b"\x16\x03\x05", "not a TLS"),
        (b"\x16\x03\x01\x00\x00", "not a TLS"),
        (b"\x16\x03\x01\x40\x01", "not a TLS"),
        (b"\x16\x03\x01\x00\x04\x02", "not a TLS"),
        (records(FULL, 9)[:14] + b"\x15\x03\x01\0\2\1\0", "interrupts"),
        (records(FULL, 9)[:14] + b"\x16\x03\x01\0\0", "out of range"),
        (records(b"\x01" + (MAX_HELLO + 1).to_bytes(3) + bytes(8)), "ClientHello length"),
        (records(hello(bytes(MAX_RECORDS)), 1), "too many records"),
        (records(hello(sni(b"a.example") + sni(b"b.example"))), "repeated"),
        (records(hello(sni(b"a.example", b"b.example"))), "two TLS server names"),
        (records(hello(sni(b"a\0.example"))), "host name"),
        (records(hello(sni(b"\xc3\xa4.example"))), "host name"),
        (records(hello(sni(b""))), "host name"),
        (records(hello(sni(b"a" * 256))), "host name"),
        (records(hello(extension(0, b"\0\x09\0\0\x05a.ex"))), "exceeds"),
        (records(hello(extension(0, vector(2, b"\0\0\1a") + b"x"))), "after the end"),
        (records(hello(extension(16, vector(2, vector(1, b""))))), "empty TLS application"),
        (records(hello(extension(43, vector(1, b"\3\4\3")))), "odd length"),
        (records(hello(ciphers=b"")), "without cipher"),
        (records(hello(ciphers=b"\x13")), "odd length"),
        (records(hello(version=0x0505)), "not a TLS"),
        (records(b"\x01" + vector(3, hello()[4:] + b"x")), "after the TLS"),
        (records(b"\x01\0\0\0"), "ClientHello length"),
        (records(b"\x01\0\0\1x"), "exceeds"),
        (SSL2[:5] + b"\0\x16" + SSL2[7:], "SSLv2"),
        (b"\x80\x2e\x02", "SSLv2"),
    ],
)
def test_what_is_no_hello(data: bytes, says: str) -> None:
    with pytest.raises(MalformedError, match=says):
        client_hello(data)


def test_a_large_hello_is_read_and_a_larger_one_is_not() -> None:
    room = MAX_HELLO - len(hello(extension(21, b""))) + 4
    fits = client_hello(records(hello(extension(21, bytes(room)))))
    assert fits is not None
    with pytest.raises(MalformedError, match="ClientHello length"):
        client_hello(records(b"\x01" + vector(3, bytes(MAX_HELLO + 1))))


def test_quick_identification() -> None:
    assert looks_like_tls(b"") is None
    assert looks_like_tls(b"\x16\x03\x01\x02\x00") is None
    assert looks_like_tls(b"\x16\x03\x01\x02\x00\x01") is True
    assert looks_like_tls(b"\x16\x03\x03\x00\x7a\x02") is False  # a server's
    assert looks_like_tls(b"\x17\x03\x03") is False
    assert looks_like_tls(SSL2[:11]) is True
    assert looks_like_tls(b"\x80\x01\x02") is False
    assert looks_like_tls(b'{"id":1}') is False


def test_server_side() -> None:
    assert server_hello(b"\x16\x03\x03\x00\x7a\x02") is True
    assert server_hello(b"\x16\x03\x03\x00\x7a\x01") is False
    assert server_hello(b"\x15\x03\x03\x00\x02\x02\x28") is True
    assert server_hello(b"\x15\x03\x03\x00\x02\x03") is False
    assert server_hello(b"\x15\x03\x03\x00\x03") is False
    assert server_hello(b"HTTP/1.1 400 Bad Request") is False
    for answer in (b"\x16\x03\x03\x00\x7a\x02", b"\x15\x03\x01\x00\x02\x02"):
        assert all(server_hello(answer[:size]) is None for size in range(len(answer)))


LABEL = st.from_regex(r"[a-z0-9-]{1,20}(\.[a-z]{1,8}){0,3}", fullmatch=True)


@given(LABEL, st.lists(st.sampled_from(["h2", "http/1.1", "x"]), max_size=3), st.integers(1, 300))
def test_agrees_with_dpkt(name: str, alpn: list[str], size: int) -> None:
    extensions = sni(name.encode())
    if alpn:
        extensions += extension(16, vector(2, b"".join(vector(1, item.encode()) for item in alpn)))
    message = hello(extensions)
    seen = client_hello(records(message, size))
    theirs = dpkt.ssl.TLSHandshake(message).data
    found = dict(theirs.extensions)
    assert seen is not None
    assert seen.server_name.encode() == found[0][5:]
    assert seen.alpn == tuple(alpn)
    assert list(seen.ciphers) == [suite.code for suite in theirs.ciphersuites]


@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4), st.integers(1, 200), st.integers(0, 900)
)
@settings(max_examples=examples(300))
def test_mutations_give_an_answer(changes: list[tuple[int, int]], size: int, end: int) -> None:
    data = bytearray(records(FULL, size))
    for at, byte in changes:
        data[at % len(data)] = byte
    answers(bytes(data[:end]))


@given(st.sampled_from([b"", b"\x16\x03\x01", b"\x16\x03\x01\0\x40\1\0\0\x3c\3\3", SSL2[:7]]), st.binary(max_size=200))
@settings(max_examples=examples(300))
@example(b"", b"")
def test_random_bytes_give_an_answer(start: bytes, data: bytes) -> None:
    answers(start + data)


def answers(data: bytes) -> None:
    """A value, None or MalformedError, and the answer on a prefix is never taken back."""
    final: ClientHello | str | None = None
    for size in range(0, len(data) + 1, 3):
        try:
            now: ClientHello | str | None = client_hello(data[:size])
        except MalformedError as error:
            now = str(error)
        assert final is None or now == final
        final = now
    for test in (looks_like_tls, server_hello):
        said = [test(data[:size]) for size in range(min(len(data), 20) + 1)]
        known = [answer for answer in said if answer is not None]
        assert said == [None] * (len(said) - len(known)) + known[:1] * len(known)
