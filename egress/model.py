"""The vocabulary: the types that every package of egress shares. It imports the standard library only.

An *event* is a fact inside the engine (`egress.dissection.events`), a *finding* a signature's opinion of a flow, a
*verdict* the decision on a packet or a flow, and a *record* the output of the engine. Addresses of type bytes are
packed (4 or 16 bytes); records, holds, agents and rules have them as text. Times are seconds since the epoch, UTC, as
float.
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
    """Return the name of an IP protocol number (6: `tcp`), or the number as text if it has no name here."""
    return PROTOCOL_NAMES.get(number, str(number))


# TCP flags, RFC 9293 section 3.1.
FIN, SYN, RST, PSH, ACK, URG = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20


class Direction(IntEnum):
    """The direction of a packet as the agent sees it, independent of which side opened the flow."""

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
    payload: bytes  # the bytes after the transport header, as far as they were captured
    length: int  # bytes of the whole IP packet, by its header; as received where the header has 0 (GSO past 64 KiB)
    missing: int  # payload bytes at the end of the packet that were not captured


class Action(StrEnum):
    """The action of a verdict. A rule's action is ACCEPT or REJECT; an agent's default is any but HOLD."""

    ACCEPT = "accept"
    REJECT = "reject"  # refuse with an answer: TCP reset or ICMP administratively prohibited
    DROP = "drop"  # refuse without an answer
    HOLD = "hold"  # keep it waiting for a person's approval (mode ask)


class Mode(StrEnum):
    """The mode of an agent. Traffic of a quarantined agent is refused in every mode."""

    ENFORCE = "enforce"
    MONITOR = "monitor"  # decide and record, but let everything pass
    ASK = "ask"  # enforce, but traffic that no rule matches waits for a person's approval


class Severity(StrEnum):
    """The severity of a finding."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class Reason(StrEnum):
    """The reason for a verdict, whether it accepts, holds or refuses."""

    RULE = "rule"  # a rule allowed or denied the flow; see rule_id
    DEFAULT = "default"  # no rule matches: the agent's default
    FINDING = "finding"  # a signature made a finding of the flow
    DESTINATION = "destination"  # an earlier finding refused this destination to this agent
    APPLICATION = "application"  # the rule that admitted the flow requires another application protocol
    NAME = "name"  # the name in the bytes (SNI, Host) is not the one the rule allows, or is hidden
    PRIVATE = "private"  # a name rule without `private` would admit it, but its address is not global
    METADATA = "metadata"  # an address at which clouds serve metadata, which no rule names
    QUERY = "query"  # a DNS query for a name that no rule allows
    BUDGET = "budget"  # a budget of the agent is used up
    APPROVAL = "approval"  # mode ask: the flow waits, was denied by a person, or timed out
    QUARANTINE = "quarantine"  # the agent is in quarantine, ordered by a person
    INBOUND = "inbound"  # opened by the other side; no rule allows that
    SPOOFED = "spoofed"  # an agent's packet with a source that is not the agent's
    MALFORMED = "malformed"  # IP or transport headers that are not valid
    TRUNCATED = "truncated"  # bytes that must be inspected did not reach the inspection
    SEQUENCE = "sequence"  # a TCP segment that cannot be placed in the stream or contradicts the connection's state
    MIDSTREAM = "midstream"  # a TCP connection with an unseen beginning, which no recent start of the gateway explains
    MEMCAP = "memcap"  # no room to track another flow, or to hold more bytes for inspection
    RECORDER = "recorder"  # records cannot be written, so no new flow may pass
    ERROR = "error"  # a bug of egress while judging; please report it


class Effect(StrEnum):
    """The scope of the refusal that follows when a finding is enforced."""

    FLOW = "flow"  # this flow is refused from now on
    DESTINATION = "destination"  # this flow, and every later one of the agent to the same destination
    NONE = "none"  # nothing: a suspicion, or from stored history (`egress hunt`)


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
    TUNNEL = "tunnel"
    UNKNOWN = "unknown"  # not identified within the bytes that may identify it

    names_host: bool  # its bytes name the host that the client wants: SNI, Host, :authority

    def __new__(cls, value: str, names_host: bool = False) -> App:
        app = str.__new__(cls, value)
        app._value_ = value
        app.names_host = names_host
        return app


@dataclass(frozen=True, slots=True)
class Finding:
    """A signature's opinion of a flow, with a sentence that a person can act on."""

    signature: str  # family.name
    severity: Severity
    summary: str  # one sentence: the match, its place, and the reason why it matters
    evidence: bytes  # the bytes that prove it, or the measured numbers as text; at most EVIDENCE_BYTES
    technique: str  # MITRE ATT&CK technique, e.g. T1496.001
    effect: Effect = Effect.FLOW


EVIDENCE_BYTES = 512


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision on a packet and, unless `packet_only`, on the rest of its flow."""

    action: Action
    reason: Reason
    rule_id: str = ""
    policy_version: int = 0
    settled: bool = False  # accepted, and at most the agent's bytes are still dissected: may use the settled queue
    packet_only: bool = False  # the refusal of one packet, not of its flow (must not mark the connection)


class Measure(StrEnum):
    """The quantity that a budget limits; only outbound traffic counts."""

    BYTES = "bytes"  # IP bytes from the agent
    CONNECTIONS = "connections"  # flows it opened
    DESTINATIONS = "destinations"  # distinct remote addresses


class BudgetSpan(StrEnum):
    """The period of a budget: a clock minute, a clock hour, or EPISODE."""

    MINUTE = "minute"
    HOUR = "hour"
    EPISODE = "episode"  # from attachment until the agent is removed (not the episode of a Step)


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit on one measure of an agent's outbound traffic within one span."""

    measure: Measure
    limit: int
    span: BudgetSpan


AGENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)  # use with fullmatch


@dataclass(frozen=True, slots=True)
class Agent:
    """A watched agent. `networks` are its own CIDRs; a packet that it sends from another source is spoofed."""

    name: str
    networks: tuple[str, ...] = ()
    mode: Mode = Mode.ENFORCE
    default: Action = Action.REJECT
    labels: tuple[str, ...] = ()
    budgets: tuple[Budget, ...] = ()
    quarantined: bool = False  # nothing passes, in any mode


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of the policy. A matching deny rule beats allow rules, and these beat the agent's default.

    An empty protocol, ports or app matches any.
    """

    id: str
    action: Action  # ACCEPT (allow) or REJECT (deny)
    agent: str = "*"  # glob over the agent's name; "label:GLOB": over its labels
    destination: str = "any"  # "any", an address, a CIDR, or a name: exact, "*.x" (one label), "**.x" (one or more)
    protocol: str = ""  # tcp, udp, icmp, … or a number
    ports: tuple[tuple[int, int], ...] = ()  # inclusive ranges
    app: str = ""  # application protocol: ssh, tls, http, dns, …; "any": none is demanded
    exempt: tuple[str, ...] = ()  # signature ids or family.* that this rule silences
    unnamed: bool = (
        False  # a name rule: also admits flows whose bytes hide the name (no SNI), never those that carry another
    )
    expires_at: float | None = None  # the rule ends at this time; None: it does not end
    once: bool = False  # the rule admits one flow and ends
    comment: str = ""
    author: str = ""
    created: float = 0.0
    position: int = 0  # of several matching deny (or allow) rules the lowest decides; equal ones: the first in Policy
    private: bool = False  # a name rule: also admits flows to addresses that are not global, or are of this host


class StepSource(StrEnum):
    """The interface through which a step was reported."""

    API = "api"  # POST /api/v1/agents/{agent}/steps
    OTLP = "otlp"  # a span


@dataclass(frozen=True, slots=True)
class Step:
    """A tool call, as the agent's framework reports it: a claim, whose texts may come from the agent itself."""

    agent: str
    episode: str  # the conversation, session or run it is part of
    id: str  # from the framework, unique within agent and episode; a span's id is its span id
    tool: str
    summary: str  # arguments, shortened
    start: float  # by the framework's clock, or the server's if the framework gave none
    end: float | None  # None while it runs, or if its end was never reported
    until: float  # the end of the time that it counts as running: `end`, or some time after its last report
    source: StepSource
    call_id: str  # the model's id of the tool call
    trace_id: str  # 32 hex digits, or empty
    span_id: str  # 16 hex digits, or empty
    reporter: str  # the actor that reported it
    reported: float  # the time of the report, by the server's clock


@dataclass(frozen=True, slots=True)
class Policy:
    """A numbered, immutable sequence of rules; every verdict names the version that it was made under."""

    version: int = 0
    rules: tuple[Rule, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """The difference between two versions of the policy. An edited rule is both in `removed` and in `added`."""

    base: int  # the version this applies to
    version: int  # the version it makes
    removed: tuple[str, ...] = ()  # rule ids
    added: tuple[Rule, ...] = ()


class HoldState(StrEnum):
    """The state of a hold: pending, decided by a person, timed out, or withdrawn because nothing waits any more."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class Hold:
    """A request for a person's approval in mode ask: for a flow, or for a DNS query."""

    id: str  # the flow's id; for a query 16 hex digits made from agent and name
    flow_id: str
    agent: str
    time: float
    until: float  # the time at which it expires: the flow or query is refused
    proto: str
    dst: str
    dport: int
    names: tuple[str, ...]  # names bound to dst for this agent; for a query the queried name
    query: bool  # a DNS query: approving it allows the name, whatever the protocol and port
    destination: str  # the destination of a rule that would allow it: the only name, else the address
