"""The vocabulary: what every room of the house calls things (stdlib only).

Words: an *event* is an inward fact (`egress.dissection.events`), a *finding* an opinion, a *verdict* an act,
a *record* what leaves the engine. Addresses are packed (4 or 16 bytes) inside and text only in records.
Times are seconds since the epoch, UTC, as float.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import NamedTuple

TCP, UDP, ICMP, ICMPV6, GRE, ESP, AH, SCTP = 6, 17, 1, 58, 47, 50, 51, 132

PROTOCOL_NAMES: dict[int, str] = {
    ICMP: "icmp",
    TCP: "tcp",
    UDP: "udp",
    41: "6in4",
    GRE: "gre",
    ESP: "esp",
    AH: "ah",
    ICMPV6: "icmpv6",
    SCTP: "sctp",
}
PROTOCOL_NUMBERS: dict[str, int] = {name: number for number, name in PROTOCOL_NAMES.items()}


def protocol_name(number: int) -> str:
    """`tcp` for 6; the number itself, as text, where IANA's name is not one we use."""
    return PROTOCOL_NAMES.get(number, str(number))


# TCP flags, RFC 9293 section 3.1.
FIN, SYN, RST, PSH, ACK, URG = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20


class Direction(IntEnum):
    """Seen from the agent, whoever opened the flow."""

    OUT = 0
    IN = 1


class Packet(NamedTuple):
    """The headers of one IP packet and its transport payload, as `egress.wire.packet.decode` read them."""

    version: int  # 4 or 6
    proto: int  # IANA protocol number of the transport header, after IPv6 extension headers
    src: bytes
    dst: bytes
    sport: int  # TCP, UDP, SCTP: port. ICMP echo: identifier. Otherwise 0
    dport: int  # TCP, UDP, SCTP: port. Otherwise 0
    flags: int  # TCP: the low 8 flag bits. ICMP: type << 8 | code. Otherwise 0
    seq: int  # TCP sequence number, otherwise 0
    ack: int  # TCP acknowledgement number, otherwise 0
    payload: bytes  # what follows the transport header, as much of it as was captured
    length: int  # bytes of the whole IP packet as its header says (a GSO packet: as handed over)
    missing: int  # payload bytes the headers promise but the capture does not hold


class Action(StrEnum):
    ACCEPT = "accept"
    REJECT = "reject"  # refuse and say so: TCP reset or ICMP administratively prohibited
    DROP = "drop"  # refuse silently
    HOLD = "hold"  # kept waiting: a person is asked (mode ask)


class Mode(StrEnum):
    ENFORCE = "enforce"
    MONITOR = "monitor"  # decide and record, but let pass
    ASK = "ask"  # enforce, but what no rule speaks of waits for a person's approval


class Severity(StrEnum):
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class Reason(StrEnum):
    """Why a verdict is what it is. Every refusal has one of these names."""

    RULE = "rule"  # a rule allowed or denied it; see rule_id
    DEFAULT = "default"  # no rule speaks of it: the agent's default
    FINDING = "finding"  # a signature objected
    DESTINATION = "destination"  # an earlier finding refused this destination to this agent
    APPLICATION = "application"  # the rule that opened the flow asks for another application protocol
    NAME = "name"  # the name in the bytes (SNI, Host) is not the one the rule allows, or is hidden
    QUERY = "query"  # a DNS query for a name that no rule allows
    BUDGET = "budget"  # the agent has used up what it may
    APPROVAL = "approval"  # mode ask: waits for a person, or a person said no, or nobody answered in time
    QUARANTINE = "quarantine"  # the agent is cut off by a person's order
    INBOUND = "inbound"  # opened from outside towards the agent; no rule allows that
    SPOOFED = "spoofed"  # an agent's packet with a source that is not the agent's
    MALFORMED = "malformed"  # headers that do not parse
    TRUNCATED = "truncated"  # bytes that had to be inspected did not reach us
    SEQUENCE = "sequence"  # a TCP segment that cannot be put in order: too far ahead, or of no answered connection
    MIDSTREAM = "midstream"  # a TCP connection whose beginning was not seen, long after a restart could explain it
    MEMCAP = "memcap"  # no room to track another undecided flow
    RECORDER = "recorder"  # records cannot be written, so nothing new may pass
    ERROR = "error"  # our own fault while judging it; please report it


class Effect(StrEnum):
    """How far a finding reaches when it is enforced."""

    FLOW = "flow"  # this flow is refused from here on
    DESTINATION = "destination"  # this flow, and every later one of the agent to the same destination
    NONE = "none"  # nowhere: it was found looking back (`egress hunt`), and nothing is refused for it


class App(StrEnum):
    """An application protocol, as dissection identifies it; a flow that is not identified yet has the app ""."""

    SSH = "ssh"
    TLS = "tls", True
    QUIC = "quic", True
    HTTP = "http", True
    HTTP2 = "http2", True
    DNS = "dns"
    STRATUM = "stratum"
    SOCKS = "socks"
    UNKNOWN = "unknown"  # too many bytes have passed for it to be identified any more

    names_host: bool  # its bytes name the host that the client wants: SNI, Host, :authority

    def __new__(cls, value: str, names_host: bool = False) -> App:
        app = str.__new__(cls, value)
        app._value_ = value
        app.names_host = names_host
        return app


@dataclass(frozen=True, slots=True)
class Finding:
    """A signature's opinion of a flow, in one sentence a person can act on."""

    signature: str  # family.name
    severity: Severity
    summary: str  # what matched, where, why it matters
    evidence: bytes  # the bytes (or the numbers, as text) it rests on; at most EVIDENCE_BYTES
    technique: str  # MITRE ATT&CK technique, e.g. T1496.001
    effect: Effect = Effect.FLOW


EVIDENCE_BYTES = 512


@dataclass(frozen=True, slots=True)
class Verdict:
    """What happens to a packet and, unless `packet_only`, to the rest of its flow."""

    action: Action
    reason: Reason
    rule_id: str = ""
    policy_version: int = 0
    settled: bool = False  # accepted and opaque from here on: may take the GSO queue
    packet_only: bool = False  # a refusal of this packet that says nothing of its flow (must not mark the connection)


class Measure(StrEnum):
    """What a budget counts, all of it outbound."""

    BYTES = "bytes"  # IP bytes from the agent
    CONNECTIONS = "connections"  # flows it opened
    DESTINATIONS = "destinations"  # distinct remote addresses


class BudgetSpan(StrEnum):
    """Over which time; an episode is the agent's life behind the gateway."""

    MINUTE = "minute"
    HOUR = "hour"
    EPISODE = "episode"


@dataclass(frozen=True, slots=True)
class Budget:
    measure: Measure
    limit: int
    span: BudgetSpan


AGENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)  # of an agent, to be matched whole


@dataclass(frozen=True, slots=True)
class Agent:
    """Who is watched. `networks` are the CIDRs that are the agent's own; any other source is spoofed."""

    name: str
    networks: tuple[str, ...] = ()
    mode: Mode = Mode.ENFORCE
    default: Action = Action.REJECT
    labels: tuple[str, ...] = ()
    budgets: tuple[Budget, ...] = ()
    quarantined: bool = False  # cut off: nothing passes, in any mode


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of policy. Deny beats allow beats the agent's default; empty means any."""

    id: str
    action: Action  # ACCEPT (allow) or REJECT (deny)
    agent: str = "*"  # glob over the agent's name; "label:GLOB": over its labels
    destination: str = "any"  # "any", an address, a CIDR, or a name: exact, "*.x" (one label), "**.x" (one or more)
    protocol: str = ""  # tcp, udp, icmp, … or a number
    ports: tuple[tuple[int, int], ...] = ()  # inclusive ranges
    app: str = ""  # application protocol: ssh, tls, http, dns, …
    exempt: tuple[str, ...] = ()  # signature ids or family.* that this rule silences
    unnamed: bool = False  # a name rule: also where the bytes hide the name (ECH, no SNI); else that is refused
    expires_at: float | None = None  # seconds since the epoch from which on it says nothing; None: forever
    once: bool = False  # admits one flow and is spent
    comment: str = ""
    author: str = ""
    created: float = 0.0
    position: int = 0  # among rules of a kind the lower speaks first; equal ones in the policy's order


class StepSource(StrEnum):
    """How we were told of a step."""

    API = "api"  # POST /api/v1/agents/{agent}/steps
    OTLP = "otlp"  # a span


@dataclass(frozen=True, slots=True)
class Step:
    """A tool call of an agent, as its framework tells of it: a claim, whose texts may come from the agent itself."""

    agent: str
    episode: str  # the conversation, session or run it is part of
    id: str  # the framework's own, unique within agent and episode; of a span its span id
    tool: str
    summary: str  # arguments, cut
    start: float  # by the framework's clock, unless it left that to ours
    end: float | None  # None while it is under way, and for ever where its framework died meanwhile
    until: float  # when it stops to count as under way: `end`, or without one a while after it was last told of
    source: StepSource
    call_id: str  # what the model calls the tool call
    trace_id: str  # 32 hex digits, or empty
    span_id: str  # 16 hex digits, or empty
    reporter: str  # the actor that told of it
    reported: float  # when that was, by our clock


@dataclass(frozen=True, slots=True)
class Policy:
    """A numbered, immutable set of rules; every verdict names the version it was made under."""

    version: int = 0
    rules: tuple[Rule, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """What leads from one version of the policy to a later one. A rule that was edited is in both: out, then in."""

    base: int  # the version this applies to
    version: int  # the version it makes
    removed: tuple[str, ...] = ()  # rule ids
    added: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class Hold:
    """What waits for a person in mode ask: a flow's first packet, or a query for a name."""

    id: str  # the flow's id; a query's: 16 hex digits of agent and name
    flow_id: str
    agent: str
    time: float
    until: float  # refused from then on
    proto: str
    dst: str
    dport: int
    names: tuple[str, ...]  # bound to dst for this agent; a query: the name it asks for
    query: bool  # a DNS query: approving it allows the name, whatever the protocol and port
    destination: str  # what a rule that allows it would say: the only name, else the address
