"""Events: the facts that dissection states about a flow, in the order the bytes came. Signatures listen to them."""

from __future__ import annotations

from typing import NamedTuple

from egress.model import Direction
from egress.wire.dns import DnsAnswer, DnsQuery
from egress.wire.http import HttpRequest
from egress.wire.ssh import SshIdent, SshMessage
from egress.wire.stratum import StratumCall
from egress.wire.tls import ClientHello


class Opened(NamedTuple):
    """The peer answered: TCP handshake completed, or the first reply of any other protocol (UDP: the first packet)."""

    start: float  # when the flow's first packet was seen, seconds
    ts: float  # when it was answered


class Burst(NamedTuple):
    """The agent spoke first after both sides had been silent for at least `Limits.idle_gap` seconds."""

    ts: float


class SshSpoken(NamedTuple):
    direction: Direction
    ident: SshIdent


class SshPacket(NamedTuple):
    """An SSH binary packet before encryption starts."""

    direction: Direction
    message: SshMessage


class StratumSpoken(NamedTuple):
    direction: Direction
    call: StratumCall
    text: bytes  # the JSON as it was on the wire, cut to EVIDENCE_BYTES
    carrier: str  # "tcp" for JSON lines, "http" for a request body


class TlsOpened(NamedTuple):
    direction: Direction
    hello: ClientHello


class HttpAsked(NamedTuple):
    direction: Direction
    request: HttpRequest


class DnsAsked(NamedTuple):
    direction: Direction
    query: DnsQuery | None  # None: bytes for a resolver that could not be read; it may read them


class DnsAnswered(NamedTuple):
    """An answer to a query that the agent sent on this flow."""

    direction: Direction
    answer: DnsAnswer


class Named(NamedTuple):
    """The bytes say whom this connection is for (SNI, Host, :authority): `name` is "" where they say it to nobody."""

    name: str
    hidden: bool  # it is there, encrypted (ECH), or in bytes that could not be read


class Inconsistent(NamedTuple):
    """A TCP segment repeats bytes already seen with other content (Ptacek & Newsham 1998, section 5.3)."""

    direction: Direction
    seq: int  # where the first differing byte stands
    before: bytes
    after: bytes


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
    | Named
    | Inconsistent
)
