"""Whole conversations of each application protocol: the bytes of both sides in their order, real ones where possible.

TLS is made by OpenSSL in this process, SSH and mining come from the golden captures of the lab.
"""

from __future__ import annotations

import ssl
import struct
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from egress.capture import frames
from egress.capture.link import ip_packet
from egress.model import SYN, TCP, App, Direction
from egress.wire.http2 import PREFACE
from egress.wire.packet import decode
from egress.wire.websocket import BINARY, CLOSE, PING, TEXT
from tests.traffic import AGENT4, SERVER4, client_hello, tcp
from tests.wire.test_dns import message, name
from tests.wire.test_dns_answer import framed
from tests.wire.test_dns_answer import message as answer
from tests.wire.test_http2 import END_HEADERS, frame, get, request
from tests.wire.test_quic import Client, crypto, hello, other

OUT, IN = Direction.OUT, Direction.IN
Turn = tuple[Direction, bytes]
CAPTURES = Path(__file__).parent.parent / "captures"


def tls(version: ssl.TLSVersion, *, size: int = 60_000, resumed: bool = False) -> list[Turn]:
    """A handshake (the second of two, if `resumed`), then `size` bytes each way, by OpenSSL."""
    contexts = _contexts()
    for context in contexts:
        context.minimum_version = context.maximum_version = version
    session: ssl.SSLSession | None = None
    turns: list[Turn] = []
    for _ in range(1 + resumed):
        turns, session = _exchange(*contexts, session, size)
    return turns


@cache
def _contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    client, server = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a.example")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, SHA256())
    )
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with NamedTemporaryFile() as file:
        file.write(plain + signed.public_bytes(Encoding.PEM))
        file.flush()
        server.load_cert_chain(file.name)
    return client, server


def _exchange(
    client: ssl.SSLContext, server: ssl.SSLContext, session: ssl.SSLSession | None, size: int
) -> tuple[list[Turn], ssl.SSLSession | None]:
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(down, up, server_hostname="a.example", session=session)
    far = server.wrap_bio(up, down, server_side=True)
    turns: list[Turn] = []

    def carry() -> None:
        for direction, source in ((OUT, up), (IN, down)):
            if data := source.read():
                turns.append((direction, data))
                source.write(data)

    for step in (*(near.do_handshake, far.do_handshake) * 3, lambda: near.write(bytes(size)), lambda: far.read(size)):
        _try(step)
        carry()
    far.write(bytes(size))
    carry()
    _try(lambda: near.read(size))
    _try(near.unwrap)
    carry()
    return turns, near.session


def _try(step: Callable[[], object]) -> None:
    with suppress(ssl.SSLError):  # it wants more bytes, or has not read all before it closes
        step()


def captured(folder: str, port: int) -> list[Turn]:
    """The first connection to a port in a golden capture: its payloads in the order in which they were sent."""
    turns: list[Turn] = []
    opener = None
    with (CAPTURES / folder / "capture.pcapng").open("rb") as stream:
        for each in frames(stream):
            raw = ip_packet(each.link, each.data)
            packet = decode(raw) if raw is not None else None
            if packet is None or packet.proto != TCP or port not in (packet.sport, packet.dport):
                continue
            opener = opener or (packet.src, packet.sport)
            if opener not in ((packet.src, packet.sport), (packet.dst, packet.dport)) or not packet.payload:
                continue
            turns.append((OUT if (packet.src, packet.sport) == opener else IN, packet.payload))
    assert turns
    return turns


def frame_of(kind: int, payload: bytes, *, mask: bytes = b"", fin: bool = True, compressed: bool = False) -> bytes:
    """A WebSocket frame."""
    size = len(payload)
    length = size if size < 126 else 126 if size < 1 << 16 else 127
    head = bytes([kind | fin << 7 | compressed << 6, length | bool(mask) << 7])
    head += b"" if length < 126 else struct.pack("!H" if length == 126 else "!Q", size)
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload)) if mask else head + payload


UPGRADE = b"GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n"
CHANGED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
POST = b"POST /x HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
H2 = PREFACE + frame(4) + request(get()) + frame(0, b"x" * 300, 1, 1) + frame(4, b"", 1) + frame(0x2A, b"grease")
H2_ANSWER = frame(4, struct.pack("!HL", 3, 100)) + frame(4, b"", 1)
H2_ANSWER += frame(1, b"\x88", END_HEADERS, 1) + frame(6, bytes(8))
MASK = b"\x01\x80\xfe\x37"

HTTP: list[list[Turn]] = [
    captured("curl-ipv4", 80),
    [(OUT, b"GET /old HTTP/1.0\r\n\r\n"), (IN, b"HTTP/1.0 200 OK\r\n\r\nuntil the end\x00\x01")],
    [(OUT, GET + POST + GET), (IN, OK * 3)],
    [(OUT, b"\r\n" + GET), (IN, OK)],
    [(OUT, UPGRADE % b"h2c"), (IN, OK), (OUT, GET), (IN, OK)],  # an upgrade that the server declines
    [(OUT, UPGRADE % b"h2c"), (IN, CHANGED % b"h2c" + H2_ANSWER), (OUT, H2)],
    [
        (OUT, UPGRADE % b"websocket"),
        (IN, CHANGED % b"websocket" + frame_of(TEXT, b"hi")),
        (OUT, frame_of(TEXT, b"a" * 70000, mask=MASK, fin=False) + frame_of(PING, b"!", mask=MASK)),
        (OUT, frame_of(0, b"b" * 200, mask=MASK) + frame_of(BINARY, bytes(9), mask=MASK, compressed=True)),
        (IN, frame_of(CLOSE, b"\x03\xe8")),
        (OUT, frame_of(CLOSE, b"\x03\xe8", mask=MASK)),
    ],
    [
        (OUT, b"CONNECT b.example:80 HTTP/1.1\r\nHost: b.example:80\r\n\r\n"),
        (IN, b"HTTP/1.1 200 Connection established\r\n\r\n"),
        (OUT, GET),
        (IN, OK),
    ],
    [(IN, b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")],
    [(OUT, GET * 2), (IN, b"HTTP/1.1 204 No Content\r\n\r\nbytes that no answer has" + OK)],
]


def fragmented_hello(size: int) -> bytes:
    """A ClientHello in records of `size` bytes each."""
    handshake = client_hello("a.example")[5:]
    parts = [handshake[at : at + size] for at in range(0, len(handshake), size)]
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2) + part for part in parts)


@cache
def conversations() -> dict[App, list[list[Turn]]]:
    """Some conversations over TCP for each protocol."""
    v12, v13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
    ssl2 = b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10" + b"\x00\x00\x2f" * 7 + bytes(16)
    server = b"\x16\x03\x03\x00\x05\x02\x00\x00\x01\x00"
    ssh = captured("ssh-22-ipv4", 22)
    query, reply = framed(message(name(b"a", b"example"))), framed(answer())
    return {
        App.TLS: [
            tls(v12),
            tls(v13),
            tls(v12, resumed=True, size=100),
            tls(v13, resumed=True, size=100),
            [(OUT, fragmented_hello(1)), (IN, server)],
            [(OUT, fragmented_hello(50)), (IN, server)],
            [(OUT, ssl2), (IN, server), (OUT, b"\x14\x03\x01\x00\x01\x01")],
            [(OUT, client_hello("a.example") + b"\x17\x03\x03\x00\x03abc"), (IN, b"\x15\x03\x03\x00\x02\x02\x28")],
        ],
        App.SSH: [
            ssh,
            [(IN, b"Welcome\r\nPlease wait \xe2\x80\xa6\n"), *ssh],  # lines before the server's identification
            [(IN, b"SSH-1.99-old\n"), (OUT, b"SSH-1.5-older\n"), (IN, bytes([0, 0, 0, 11, *bytes(5), 2, *bytes(10)]))],
        ],
        App.HTTP: HTTP,
        App.HTTP2: [[(OUT, H2), (IN, H2_ANSWER)]],
        App.DNS: [[(OUT, query * 3), (IN, reply * 3)], [(OUT, query), (IN, reply), (OUT, query)]],
        App.STRATUM: [
            captured("stratum-whole-ipv4", 443),
            [(OUT, b'{"id":1,"method":"mining.subscribe","params":["a\\"b\\\\"]}\n'), (IN, b'{"a":[1,{"b":null}]}\n')],
            [(OUT, b'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n{"method":"getwork"}'), (IN, OK)],
        ],
        App.SOCKS: [
            [
                (OUT, b"\5\1\0"),
                (IN, b"\5\0"),
                (OUT, b"\5\1\0\1\1\2\3\4\0\x50"),
                (IN, b"\5\0\0\1\0\0\0\0\0\0"),
                (OUT, GET),
            ],
            [(OUT, b"\4\1\0\x50\1\2\3\4me\0"), (IN, b"\0\x5a" + bytes(6)), (OUT, b"anything\xff")],
        ],
    }


SYN_PACKET = tcp(AGENT4, SERVER4, 40000, 3333, SYN, 1, 0)
_MACS = bytes(12)


def _frame(packet: bytes) -> bytes:
    """An Ethernet frame around an IP packet."""
    return _MACS + (b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet


def vxlan(packet: bytes) -> bytes:
    return b"\x08\0\0\0\0\x12\x34\0" + _frame(packet)


def geneve(packet: bytes, options: bytes = bytes(8)) -> bytes:
    return bytes([len(options) // 4, 0]) + b"\x65\x58\0\x12\x34\0" + options + _frame(packet)


def gre(packet: bytes, *, key: bytes = b"", bridged: bool = False) -> bytes:
    kind = b"\x65\x58" if bridged else b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd"
    return (b"\x20\0" if key else b"\0\0") + kind + key + (_frame(packet) if bridged else packet)


@cache
def datagrams() -> dict[App, list[list[Turn]]]:
    """Some conversations over UDP for each protocol."""
    first = Client().seal(crypto(0, hello(b"a.example")).ljust(1162, b"\0"))
    greased = b"\xca" + (0x1A2A3A4A).to_bytes(4) + b"\x08" + bytes(8) + b"\x00" + bytes(1200)
    negotiation = b"\x80" + bytes(4) + b"\0\x08" + bytes(8) + (1).to_bytes(4)
    short = b"\x41" + bytes(40)
    return {
        App.QUIC: [
            [(OUT, first), (IN, other(2)), (OUT, other(2)), (IN, short), (OUT, short), (OUT, b"\x01" + bytes(30))],
            [(OUT, greased), (IN, negotiation), (OUT, first)],
        ],
        App.DNS: [[(OUT, message(name(b"a", b"example"))), (IN, answer())]],
        App.TUNNEL: [[(OUT, vxlan(SYN_PACKET)), (IN, geneve(SYN_PACKET)), (OUT, vxlan(SYN_PACKET))]],
    }
