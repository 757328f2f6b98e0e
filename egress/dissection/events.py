"""Events: the facts that dissection states about a flow, in the order of its bytes. Signatures listen to them."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from egress.model import Direction
from egress.wire.dns import DnsAnswer, DnsQuery
from egress.wire.http import HttpRequest
from egress.wire.ssh import SshIdent, SshMessage
from egress.wire.stratum import StratumCall
from egress.wire.tls import ClientHello


class Opened(NamedTuple):
    """The flow was answered: its TCP handshake is complete, or (other protocols) the other side sent a first packet.

    In a TCP flow whose handshake may be missing (monitored, picked up in mid-stream) data of either side counts, too.
    """

    start: float  # when the flow's first packet was seen, seconds
    ts: float  # when it was answered


class Turn(Enum):
    """The kind of a turn: of the request with which the agent ends a silence (`egress.engine.turns`)."""

    OTHER = "other"
    REPEAT = "repeat"  # the request of the two turns before, which got the same answer both times
    TOLD = "told"  # the request of the two turns before, but the last answer differs from the one before
    PING = "ping"  # a keep-alive; if the turn before was one, too, it got no more than its due answer


class Burst(NamedTuple):
    """The agent sent first after both sides had been silent for at least `Limits.idle_gap` seconds."""

    ts: float
    turn: Turn = Turn.OTHER


class SshSpoken(NamedTuple):
    """An SSH identification line (RFC 4253 section 4.2)."""

    direction: Direction
    ident: SshIdent
    alone: bool = False  # in the content of another protocol, with nothing after it yet: it may be a text about SSH


class SshPacket(NamedTuple):
    """An SSH packet before encryption starts."""

    direction: Direction
    message: SshMessage


class StratumSpoken(NamedTuple):
    """A message of a mining protocol, from either side."""

    direction: Direction
    call: StratumCall
    text: bytes  # the JSON as sent, cut to EVIDENCE_BYTES
    carrier: str  # "http" inside HTTP, else "tcp"


class TlsOpened(NamedTuple):
    """A ClientHello, over TCP or in QUIC."""

    direction: Direction
    hello: ClientHello


class HttpAsked(NamedTuple):
    """The head of an HTTP/1 request."""

    direction: Direction
    request: HttpRequest


class DnsAsked(NamedTuple):
    """A message that the agent sent to a resolver."""

    direction: Direction
    query: DnsQuery | None  # None: it could not be read here; the resolver may be able to
    message: bytes = b""  # as it was sent


class DnsAnswered(NamedTuple):
    """An answer to a query that the agent sent on this flow."""

    direction: Direction
    answer: DnsAnswer


class NotBound(NamedTuple):
    """A DNS answer binds a name to an address that name rules do not admit, such as a private one (`Rule.private`)."""

    ts: float
    name: str  # the name that was asked for
    address: bytes  # packed
    rule_id: str


class Named(NamedTuple):
    """The name of the server in the agent's bytes (SNI, Host, :authority), or "" if they contain none."""

    name: str
    hidden: bool  # the name is encrypted (ECH), or in bytes that could not be read


class Inconsistent(NamedTuple):
    """A TCP segment that repeats bytes with other content (Ptacek & Newsham 1998, section 5.3)."""

    direction: Direction
    seq: int  # sequence number of the first byte that differs
    before: bytes  # the bytes from there on as they were sent first, at most 64
    after: bytes  # and as they were repeated


class Unread(NamedTuple):
    """Carried bytes were not dissected, or only by line protocols.

    The flow has reached a bound of depth, number or amount.
    """

    size: int  # 0: a flow in carried packets was given up, and what follows of it is read without its beginning


class Overrun(NamedTuple):
    """The kernel dropped packets of the flow's agent: it sent more than the gateway could judge."""

    dropped: int  # packets


Event = (
    Opened
    | Burst
    | SshSpoken
    | SshPacket
    | StratumSpoken
    | TlsOpened
    | HttpAsked
    | DnsAsked
    | DnsAnswered
    | NotBound
    | Named
    | Inconsistent
    | Unread
    | Overrun
)
