"""Dissection: ordered bytes in, events out. It states facts and holds no opinions.

Each direction of a TCP flow is a *Side*. Its bytes go to every cheap reader at once (SSH identification, JSON
messages) beside identification of TLS and HTTP, so that no byte is judged by one guess alone: what looks like a TLS
hello or an HTTP request may be a line that its receiver skips. HTTP is followed message by message; when it ends
(CONNECT, Upgrade, or bytes that are not HTTP where a message should begin), and after a SOCKS handshake,
identification starts over on what follows. TLS is followed up to its hello and is opaque after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from egress.dissection.events import (
    DnsAnswered,
    DnsAsked,
    Event,
    HttpAsked,
    Named,
    SshPacket,
    SshSpoken,
    StratumSpoken,
    TlsOpened,
)
from egress.dissection.lookup import Lookup
from egress.errors import MalformedError
from egress.model import EVIDENCE_BYTES, TCP, UDP, App, Direction, Packet
from egress.wire import http, http2, quic, socks, tls
from egress.wire.jsonrpc import JsonStream, JsonText
from egress.wire.loosejson import LooseLines
from egress.wire.ssh import SshIdent, SshStream
from egress.wire.stratum import classify

HEAD_BYTES = 32768  # bytes kept to identify a protocol or to complete a TLS hello
OFTEN, SELDOM = 4096, 256  # a hello is tried with every segment at first, later only each so many bytes
SHORTEST = 20  # bytes of a JSON text; `{"method":"getwork"}`, the shortest that says anything, has 20
NESTING = 4  # protocols inside one another that are followed
DATAGRAMS = 8  # UDP datagrams a direction after which an unknown protocol stays unknown
DNS_PORT = 53
QUIC_LONG_HEADER, QUIC_LONG_BIT = 0xC0, 0x80  # RFC 9000 section 17.2: header form and fixed bit
QUIC_VERSIONS = (quic.V1.to_bytes(4), quic.V2.to_bytes(4))
QUIC_FIRST = 1200  # bytes at least of a datagram with an Initial, RFC 9000 section 14.1


class Dissector:
    """Both sides of one flow. `app` and `server_name` are what has been identified so far; `port` is the server's."""

    __slots__ = ("_datagrams", "_lookup", "_quic", "_sides", "answers", "app", "server_name")

    def __init__(self, port: int = 0) -> None:
        self.app: App | Literal[""] = ""
        self.server_name = ""
        self.answers = http.ResponseStream()  # told of each request, so that it knows what an answer is to
        self._lookup = Lookup() if port == DNS_PORT else None
        self._quic: quic.QuicHello | None = None
        self._sides = (Side(self, Direction.OUT), Side(self, Direction.IN))
        self._datagrams = 0

    def feed(self, direction: Direction, data: bytes) -> Iterator[Event]:
        """The next bytes of one direction of a TCP flow, in order."""
        if self._lookup is not None:
            yield from self._looked_up(self._lookup.segment(direction, data))
        yield from self._sides[direction].feed(data)

    def datagram(self, packet: Packet, direction: Direction) -> Iterator[Event]:
        """One packet of a flow that is not TCP."""
        self._datagrams += 1
        data = packet.payload
        if packet.proto != UDP or not data:
            return
        if self._lookup is not None:
            yield from self._looked_up(self._lookup.message(direction, data))
        elif direction is Direction.OUT:
            yield from self._quic_hello(data)

    def opaque(self, proto: int) -> bool:
        """Whether nothing more can be learnt from the bytes of this flow."""
        if proto == TCP:
            return all(side.opaque for side in self._sides)
        return proto == UDP and self._lookup is None and self._datagrams >= DATAGRAMS

    def asks_again(self, *, by_name: bool) -> bool:
        """Whether the next message may ask for another name, however many came before.

        A resolver's flow; and one that a name rule admits (`by_name`) and whose requests can be read.
        """
        if self._lookup is not None and self._lookup.seen:
            return True
        return by_name and self.app in (App.HTTP, App.HTTP2)

    def _looked_up(self, found: Iterator[DnsAsked | DnsAnswered]) -> Iterator[Event]:
        for event in found:
            if isinstance(event, DnsAsked) and event.query is not None:
                self.named(App.DNS, event.query.name)
            yield event

    def _quic_hello(self, data: bytes) -> Iterator[Event]:
        """QUIC begins with an Initial in a datagram of 1200 bytes or more; later ones may open other connections."""
        if self._quic is None:
            long = data[0] & QUIC_LONG_HEADER == QUIC_LONG_HEADER and len(data) >= QUIC_FIRST
            if not long or (self.app and not begins_quic(data)):
                return
            self._quic = quic.QuicHello()
            self.named(App.QUIC)
        elif not data[0] & QUIC_LONG_BIT and self._quic.done:
            return
        if self._quic.failed:
            return
        try:
            hello = self._quic.feed(data)
        except MalformedError:
            yield Named("", hidden=True)
            return
        if hello is not None:
            self.named(App.QUIC, hello.server_name)
            yield TlsOpened(Direction.OUT, hello)
            yield Named(hello.server_name, hello.ech)

    def named(self, app: App, server_name: str = "") -> None:
        """Identification: an inner protocol replaces the one that carried it."""
        self.app = app
        if server_name:
            self.server_name = server_name


def begins_quic(data: bytes) -> bool:
    """Whether a datagram may open a QUIC connection of a version that servers speak."""
    return len(data) >= QUIC_FIRST and data[0] & QUIC_LONG_HEADER == QUIC_LONG_HEADER and data[1:5] in QUIC_VERSIONS


class Side:
    """One direction of a TCP flow."""

    __slots__ = (
        "_body_json", "_body_ssh", "_direction", "_flow", "_head", "_http", "_http2", "_inner_at", "_json", "_loose",
        "_nesting", "_ssh", "_state", "_tried", "opaque",
    )  # fmt: skip

    def __init__(self, flow: Dissector, direction: Direction) -> None:
        self._flow = flow
        self._direction = direction
        self._nesting = 0
        self._begin()

    def _begin(self) -> None:
        """Forget what was identified: a new protocol begins with the next byte."""
        self._state = "unknown"
        self._head = b""
        self._tried = 0
        self._http: http.RequestStream | http.ResponseStream | None = None
        self._ssh: SshStream | None = SshStream()
        self._json: JsonStream | None = JsonStream(SHORTEST)
        self._loose = LooseLines()
        self._http2: http2.H2RequestStream | None = None
        self._body_ssh: SshStream | None = None
        self._body_json = JsonStream(SHORTEST)
        self._inner_at = 0  # length of a SOCKS handshake
        self.opaque = False

    def feed(self, data: bytes) -> Iterator[Event]:
        whole = self._identify(data) if self._state == "unknown" else data
        nesting = self._nesting
        if self._state == "tls":
            yield from self._tls(whole)
            if self._state == "tls":
                yield from self._plain(data)
        elif self._state == "http":
            yield from self._follow_http(whole)
            if self._state == "http" and self._nesting == nesting and self._http is not self._flow.answers:
                yield from self._lines(data, "http")
        elif self._state == "http2":
            yield from self._follow_http2(whole)
            yield from self._plain(data)
        elif self._state == "socks":
            yield from self._inner(whole[self._inner_at :])
        else:
            yield from self._plain(data)

    def _identify(self, data: bytes) -> bytes:
        """Try to name the protocol; returns the bytes its follower must be given."""
        head = self._head = self._head + data
        preface = http.is_h2_preface(head)
        hello, answer = tls.looks_like_tls(head), tls.server_hello(head)
        message = False if preface is None else http.starts_http(head)
        proxied = socks.handshake(head)
        if preface:
            self._flow.named(App.HTTP2)
            self._state = "http2"
        elif hello or answer:
            self._flow.named(App.TLS)
            self._state = "tls"
            self.opaque = bool(answer)
        elif message:
            self._flow.named(App.HTTP)
            self._state = "http"
        elif proxied:
            self._flow.named(App.SOCKS)
            self._state = "socks"
            self._inner_at = proxied
        elif None not in (preface, hello, answer, message, proxied) or len(head) >= HEAD_BYTES:
            self._state = "plain"
        if self._state == "unknown":
            return data
        self._head = b""
        return data if self._state == "plain" else head

    def _plain(self, data: bytes) -> Iterator[Event]:
        """A protocol of lines, or none we know: SSH and JSON may begin at any line."""
        if self._ssh is not None:
            yield from self._read_ssh(self._ssh, data)
        yield from self._lines(data, "tcp")

    def _lines(self, data: bytes, carrier: str) -> Iterator[Event]:
        if self._json is not None:
            yield from self._stated(self._json.feed(data), carrier)
            yield from self._stated(self._loose.feed(data), carrier)

    def _read_ssh(self, reader: SshStream, data: bytes) -> Iterator[Event]:
        for fact in reader.feed(data):
            if isinstance(fact, SshIdent):
                self._flow.named(App.SSH)
                yield SshSpoken(self._direction, fact)
            else:
                yield SshPacket(self._direction, fact)
        if not reader.done:
            return
        if reader is self._body_ssh:
            self._body_ssh = None
        else:
            self._ssh = None
            self.opaque = reader.identified or self.opaque

    def _stated(self, texts: list[JsonText], carrier: str) -> Iterator[Event]:
        for value, text in texts:
            call = classify(value)
            if call is not None:
                if call.proof:
                    self._flow.named(App.STRATUM, call.pool)
                yield StratumSpoken(self._direction, call, text[:EVIDENCE_BYTES], carrier)

    def _tls(self, data: bytes) -> Iterator[Event]:
        if self.opaque:
            return
        head = self._head = self._head + data
        if len(head) > OFTEN and len(head) - self._tried < SELDOM:
            return
        self._tried = len(head)
        try:
            hello = tls.client_hello(head)
        except MalformedError:
            yield from self._name("", hidden=True)
            yield from self._fall_back(head)
            return
        if hello is not None:
            self.opaque = True
            self._flow.named(App.TLS, hello.server_name)
            yield TlsOpened(self._direction, hello)
            yield from self._name(hello.server_name, hidden=hello.ech)
        if self.opaque or len(head) >= HEAD_BYTES:
            if not self.opaque:
                yield from self._name("", hidden=True)
            self.opaque = True
            self._head = b""

    def _follow_http(self, data: bytes) -> Iterator[Event]:
        if self._http is None:
            answers = data.lstrip(b"\r\n").startswith(b"HTTP/")
            self._http = self._flow.answers if answers else http.RequestStream()
        stream = self._http
        try:
            items = stream.feed(data)
        except MalformedError:
            yield from self._messages(stream, stream.salvage)
            yield from self._name("", hidden=True)
            yield from self._fall_back(data)
            return
        yield from self._messages(stream, items)

    def _follow_http2(self, data: bytes) -> Iterator[Event]:
        """Whom each request of a cleartext HTTP/2 connection is for; only the client begins with a preface."""
        if self._http2 is None:
            self._http2 = http2.H2RequestStream()
            data = data[len(http.H2_PREFACE) :]
        try:
            requests = self._http2.feed(data)
        except MalformedError:
            yield from self._name("", hidden=True)
            return
        for request in requests:
            self._flow.named(App.HTTP2, request.authority)
            yield from self._name(request.authority)

    def _name(self, name: str, *, hidden: bool = False) -> Iterator[Event]:
        """Only the agent's side says whom it wants."""
        if self._direction is Direction.OUT:
            yield Named(name, hidden)

    def _messages(
        self,
        stream: http.RequestStream | http.ResponseStream,
        items: Sequence[http.HttpRequest | http.HttpResponse | http.Body | http.Opaque],
    ) -> Iterator[Event]:
        for item in items:
            if isinstance(item, (http.HttpRequest, http.HttpResponse)):
                self._body_json = JsonStream(SHORTEST)
                self._body_ssh = SshStream(exact=True)
            if isinstance(item, http.HttpRequest):
                self._flow.answers.asked(item)
                self._flow.named(App.HTTP, item.host)
                yield HttpAsked(self._direction, item)
                yield from self._name(item.host)
            elif isinstance(item, http.Body):
                yield from self._body(item, asked=isinstance(stream, http.RequestStream))
            elif isinstance(item, http.Opaque):
                yield from self._inner(item.data)
                return

    def _body(self, body: http.Body, *, asked: bool) -> Iterator[Event]:
        """Mining over HTTP (getwork, getblocktemplate) has its calls in request bodies; answers only quote."""
        if asked:
            yield from self._stated(self._body_json.feed(body.data), "http")
        if self._body_ssh is not None:
            yield from self._read_ssh(self._body_ssh, body.data)

    def _inner(self, data: bytes) -> Iterator[Event]:
        """What follows a protocol switch is a stream of its own."""
        self._nesting += 1
        if self._nesting > NESTING:
            yield from self._fall_back(data)
            return
        self._begin()
        if data:
            yield from self.feed(data)

    def _fall_back(self, data: bytes) -> Iterator[Event]:
        """It was not what it began as: read it as a protocol nobody knows."""
        self._begin()
        self._state = "plain"
        yield from self._plain(data)
