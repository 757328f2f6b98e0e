"""The records: each field is declared once, with its key in JSON, its kind and bound, and its meaning.

The engine and the attribution process make records. Everything else about them is derived from here: the lines of the
journal (`egress.records.layout`), the JSON Schema and docs/records.md (`schema`), and the columns of the database.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

from egress.limits import EVIDENCE_PACKETS
from egress.model import EVIDENCE_BYTES, Action, Direction, Effect, Mode, Reason, Severity
from egress.records.kinds import MAX_LINE, Base64, IndexedText, Number, OrNull, Text, Texts, Timestamp, Word
from egress.records.layout import At, Objects

FLOW_STATES = ("new", "established", "closed", "timeout", "evicted", "shutdown")
DIRECTIONS = ("out", "in")  # by Direction
RECORD_NAMES = 8  # names kept in the record of a flow
PROCESS_CMDLINE, PROCESS_PATH = 4096, 1024  # characters kept of a command line; of an executable's and a cgroup's path
DETAIL_BYTES = 1200  # of an anomaly's detail, which is in an index


class ProcessStatus(StrEnum):
    """The result of the search for the process behind a flow."""

    FOUND = "found"
    GONE = "gone"  # its socket or the process had ended by then
    UNKNOWN = "unknown"  # it could not be searched for, or not be identified


# --- Kinds of value ------------------------------------------------------------------------------------------

TEXT, NAME, PATH = Text(), IndexedText(), Text(most=PROCESS_PATH)
TIME, COUNT, PORT, NUMBER = Timestamp(), Number(), Number("port", 0xFFFF), Number(most=0xFFFFFFFF)
ID = IndexedText("16 hex digits", pattern="^[0-9a-f]{16}$")
DIGEST = IndexedText("64 hex digits", pattern="^[0-9a-f]{64}$")
COMMUNITY_ID = Text("Community ID", pattern="^1:[A-Za-z0-9+/]{27}=$")
ADDRESS = IndexedText("IP address", anyOf=[{"format": "ipv4"}, {"format": "ipv6"}])
PROTOCOL = IndexedText("protocol", pattern="^([0-9]?[a-z][a-z0-9-]*|[0-9]{1,3})$")
MAYBE_ADDRESS = IndexedText("IP address or empty", anyOf=[{"const": ""}, *ADDRESS.schema["anyOf"]])
MAYBE_PROTOCOL = IndexedText("protocol or empty", pattern="^([0-9]?[a-z][a-z0-9-]*|[0-9]{1,3})?$")
SIGNATURE = IndexedText(pattern=r"^[a-z]+\.[a-z0-9-]+$")
TECHNIQUE = Text(pattern=r"^T[0-9]{4}(\.[0-9]{3})?$")

# --- Fields of several records -------------------------------------------------------------------------------

_FlowId = Annotated[str, At("flow_id", ID, "the same in all records of one flow")]
_Agent = Annotated[str, At("agent.name", NAME, "the agent's name")]
_Community = Annotated[str, At("community_id", COMMUNITY_ID, "the flow's id in Suricata, Zeek and other tools")]
_Source = Annotated[str, At("src_ip", ADDRESS, "the side that opened the flow")]
_Destination = Annotated[str, At("dest_ip", ADDRESS, "the other side")]
_SourcePort = Annotated[int, At("src_port", PORT, "0 if the protocol has none")]
_DestinationPort = Annotated[int, At("dest_port", PORT, "0 if the protocol has none")]
_Protocol = Annotated[str, At("proto", PROTOCOL, "tcp, udp, icmp, icmpv6, …, or its number")]
_RuleId = Annotated[str, At("verdict.rule_id", NAME, "the rule that decided; empty if none did")]
_Version = Annotated[int, At("verdict.policy_version", COUNT, "the version of the policy")]
_Mode = Annotated[Mode, At("verdict.mode", Word(Mode), "the agent's mode; monitor: the action was not carried out")]


@dataclass(frozen=True, slots=True)
class FlowRecord:
    """A flow and its verdict.

    It is written when the flow is first judged, when its verdict or protocol changes, after a finding, and at its end.
    The record with the latest timestamp is the valid one.
    """

    event_type: ClassVar[Annotated[str, At("event_type", Word(["flow"]), "the kind of record")]] = "flow"
    flow_id: _FlowId
    agent: _Agent
    start: Annotated[float, At("flow.start", TIME, "its first packet")]
    updated: Annotated[float, At("timestamp", TIME, "when this was so")]
    end: Annotated[float | None, At("flow.end", OrNull(TIME), "its last packet; null while the flow lives")]
    state: Annotated[str, At("flow.state", Word(FLOW_STATES), "of the connection; the last four end the flow")]
    direction: Annotated[
        str, At("flow.direction", Word(DIRECTIONS), "out: the agent opened it; in: the other side did")
    ]
    proto: _Protocol
    src: _Source
    sport: _SourcePort
    dst: _Destination
    dport: _DestinationPort
    community_id: _Community
    app_proto: Annotated[str, At("app_proto", TEXT, "ssh, tls, http, dns, stratum, …; empty while unknown")]
    server_name: Annotated[str, At("flow.server_name", TEXT, "SNI, Host or the queried name, if one was read")]
    action: Annotated[Action, At("verdict.action", Word(Action), "the decision")]
    reason: Annotated[Reason, At("verdict.reason", Word(Reason), "the reason for it")]
    rule_id: _RuleId
    policy_version: _Version
    mode: _Mode
    packets_out: Annotated[int, At("flow.packets_out", COUNT, "packets from the agent")]
    packets_in: Annotated[int, At("flow.packets_in", COUNT, "packets to the agent")]
    bytes_out: Annotated[int, At("flow.bytes_out", COUNT, "IP bytes from the agent")]
    # Of packets that the kernel passed without the gateway the agent's acknowledgements are counted.
    bytes_in: Annotated[int, At("flow.bytes_in", COUNT, "IP bytes to the agent, as seen or as the agent acknowledged")]
    unseen_bytes: Annotated[int, At("flow.unseen_bytes", COUNT, "stream bytes that were never inspected")]
    names: Annotated[
        tuple[str, ...],
        At(
            "flow.names",
            Texts(RECORD_NAMES),
            "names bound to the remote address for this agent at the time, sorted",
            absent=[],
        ),
    ] = ()
    app_expected: Annotated[
        str,
        At(
            "app_proto_expected",
            TEXT,
            "of a flow refused for its application: those that the rule demands, separated by commas",
            absent="",
        ),
    ] = ""


@dataclass(frozen=True, slots=True)
class FindingRecord:
    """A finding: a signature's opinion of a flow, and the resulting decision."""

    event_type: ClassVar[Annotated[str, At("event_type", Word(["alert"]), "the kind of record")]] = "alert"
    finding_id: Annotated[str, At("alert.finding_id", ID, "made from content: equal for equal input")]
    flow_id: _FlowId
    agent: _Agent
    time: Annotated[float, At("timestamp", TIME, "the time of the packet that proved it")]
    signature: Annotated[str, At("alert.signature", SIGNATURE, "family.name, see docs/signatures.md")]
    severity: Annotated[Severity, At("alert.severity", Word(Severity), "how much it matters")]
    technique: Annotated[str, At("alert.technique", TECHNIQUE, "MITRE ATT&CK technique")]
    summary: Annotated[str, At("alert.summary", TEXT, "one sentence that a person can act on")]
    evidence: Annotated[
        bytes, At("alert.evidence", Base64(EVIDENCE_BYTES), f"the bytes it rests on, at most {EVIDENCE_BYTES}")
    ]
    effect: Annotated[
        Effect,
        At(
            "alert.effect",
            Word(Effect),
            "what is refused from now on: this flow, all from this agent to this destination, or nothing",
        ),
    ]
    action: Annotated[
        Action,
        At("verdict.action", Word(Action), "the decision; in mode monitor it was not carried out"),
    ]
    reason: ClassVar[Annotated[Reason, At("verdict.reason", Word(Reason), "always finding")]] = Reason.FINDING
    mode: _Mode
    proto: _Protocol
    src: _Source
    sport: _SourcePort
    dst: _Destination
    dport: _DestinationPort
    community_id: _Community
    rule_id: _RuleId
    policy_version: _Version


@dataclass(frozen=True, slots=True)
class AnomalyRecord:
    """Packets refused without a flow, folded: those of one agent, for one reason, within about a second.

    The first of them may have a record of its own, before that of its repetitions.
    """

    event_type: ClassVar[Annotated[str, At("event_type", Word(["anomaly"]), "the kind of record")]] = "anomaly"
    agent: Annotated[str, At("agent.name", NAME, "the agent's name; empty if the packet belongs to no agent")]
    time: Annotated[float, At("timestamp", TIME, "the time of the first packet, or of the report of its repetitions")]
    reason: Annotated[Reason, At("anomaly.reason", Word(Reason), "the reason for the refusal")]
    detail: Annotated[
        str, At("anomaly.detail", IndexedText(most_bytes=DETAIL_BYTES), "the exact cause, of the first packet")
    ]
    count: Annotated[int, At("anomaly.count", COUNT, "the number of packets")]
    src: Annotated[str, At("src_ip", MAYBE_ADDRESS, "the source of the first packet; empty if it is unknown")] = ""
    dst: Annotated[str, At("dest_ip", MAYBE_ADDRESS, "its destination; empty if it is unknown")] = ""
    proto: Annotated[str, At("proto", MAYBE_PROTOCOL, "its protocol; empty if it is unknown")] = ""


@dataclass(frozen=True, slots=True)
class EvidencePacket:
    """One packet of a flow with a finding."""

    time: Annotated[float, At("timestamp", TIME, "when it was seen")]
    direction: Annotated[Direction, At("direction", Word(DIRECTIONS, Direction), "out: from the agent")]
    length: Annotated[int, At("length", NUMBER, "IP bytes on the wire")]
    data: Annotated[bytes, At("data", Base64(MAX_LINE), "the first of these bytes, from the IP header on")]


@dataclass(frozen=True, slots=True)
class EvidenceRecord:
    """Packets that a finding may rest on: the first and the last ones of its flow up to then."""

    event_type: ClassVar[Annotated[str, At("event_type", Word(["evidence"]), "the kind of record")]] = "evidence"
    finding_id: Annotated[str, At("evidence.finding_id", ID, "the alert that the packets belong to")]
    flow_id: _FlowId
    agent: _Agent
    time: Annotated[float, At("timestamp", TIME, "the time of the finding")]
    # Limits.evidence_packets and evidence_bytes bound them.
    packets: Annotated[
        tuple[EvidencePacket, ...],
        At("evidence.packets", Objects(EvidencePacket, EVIDENCE_PACKETS), "in the order in which they were seen"),
    ]


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """The process behind a flow, as it was when the flow began.

    It is written on the agent's own host, later than the flow's first record. Executable, cgroup, user and numbers are
    facts of the kernel; the command line is the process's own claim.
    """

    event_type: ClassVar[Annotated[str, At("event_type", Word(["process"]), "the kind of record")]] = "process"
    flow_id: _FlowId
    agent: _Agent
    time: Annotated[float, At("timestamp", TIME, "the flow's start")]
    status: Annotated[
        ProcessStatus,
        At(
            "process.status",
            Word(ProcessStatus),
            "gone: the socket or the process had ended; unknown: it could not be searched for, or not be identified",
        ),
    ]
    reason: Annotated[str, At("process.reason", PATH, "why it was not found, or how certain it is; may be empty")]
    pid: Annotated[int, At("process.pid", NUMBER, "its number on the host; 0 if none was found")]
    inner_pid: Annotated[int, At("process.inner_pid", NUMBER, "its number in its pid namespace, as the agent sees it")]
    uid: Annotated[
        int | None,
        At("process.uid", OrNull(NUMBER), "its user's number on the host, or the socket's if only that was found"),
    ]
    exe: Annotated[str, At("process.exe", PATH, "path of the executable, in the file system of the process")]
    cmdline: Annotated[
        str,
        At("process.cmdline", Text(most=PROCESS_CMDLINE), "arguments, quoted as for a shell: the process's own words"),
    ]
    cgroup: Annotated[str, At("process.cgroup", PATH, "path of its cgroup")]
    runtime: Annotated[
        str, At("process.runtime", PATH, "docker, podman, …, from the cgroup's path; empty: no container")
    ]
    container: Annotated[str, At("process.container", PATH, "the container's id in its runtime")]
    started: Annotated[float | None, At("process.started", OrNull(TIME), "when it began; an exec does not count")]


class FoldedKind(StrEnum):
    """The kind of records that a folded record counts."""

    FLOW = "flow"
    ALERT = "alert"
    ANOMALY = "anomaly"


@dataclass(frozen=True, slots=True)
class FoldedRecord:
    """Flows, findings or refused packets of one agent that have no records of their own, counted together.

    It is written each minute while an agent is over its quota of records (`limits.records_agent`). Nothing is refused
    for that. Of each kind of decision the first one in a minute has records of its own all the same.
    """

    event_type: ClassVar[Annotated[str, At("event_type", Word(["folded"]), "the kind of record")]] = "folded"
    agent: _Agent
    time: Annotated[float, At("timestamp", TIME, "when the counts ended")]
    start: Annotated[float, At("folded.start", TIME, "when the counts began")]
    kind: Annotated[FoldedKind, At("folded.kind", Word(FoldedKind), "what is counted")]
    proto: Annotated[str, At("proto", MAYBE_PROTOCOL, "empty if there are several")]
    dst: Annotated[str, At("dest_ip", MAYBE_ADDRESS, "the other side; empty if there are several")]
    dport: Annotated[int, At("dest_port", PORT, "0 if the protocol has none, or there are several")]
    action: Annotated[Action, At("verdict.action", Word(Action), "the decision about each of them")]
    reason: Annotated[Reason, At("verdict.reason", Word(Reason), "the reason for it")]
    signature: Annotated[str, At("folded.signature", NAME, "of the findings; empty for other kinds")]
    count: Annotated[int, At("folded.count", COUNT, "how many got this decision")]
    packets: Annotated[int, At("folded.packets", COUNT, "packets of the flows that ended with it, or refused packets")]
    bytes_out: Annotated[int, At("folded.bytes_out", COUNT, "IP bytes from the agent, of the flows that ended with it")]
    bytes_in: Annotated[int, At("folded.bytes_in", COUNT, "IP bytes to the agent, of the flows that ended with it")]


class SealState(StrEnum):
    """The place of a seal in its segment."""

    OPENED = "opened"  # the first line
    RUNNING = "running"
    CLOSED = "closed"  # the last line: the next segment follows
    STOPPED = "stopped"  # the last line: the writer ended in order
    TAIL = "tail"  # not in the segment: made for lines after the last seal of a writer that was killed


@dataclass(frozen=True, slots=True)
class SealRecord:
    """A hash over the lines of a journal since the seal before, and over that seal: the seals of a writer are a chain.

    It is written at both ends of a segment, and within it after 10 s or 64 KiB of lines.
    """

    event_type: ClassVar[Annotated[str, At("event_type", Word(["seal"]), "the kind of record")]] = "seal"
    chain: Annotated[str, At("seal.chain", ID, "random: the chain, which goes on over restarts of its writer")]
    number: Annotated[int, At("seal.number", COUNT, "its place in the chain: 1, 2, 3, …")]
    time: Annotated[float, At("timestamp", TIME, "when it was written")]
    start: Annotated[float, At("seal.start", TIME, "the time of the first line that it covers; without any, its own")]
    host: Annotated[str, At("seal.host", NAME, "the gateway's name")]
    writer: Annotated[str, At("seal.writer", NAME, "worker-0, …, process-0")]
    segment: Annotated[str, At("seal.segment", NAME, "the file that it is in")]
    state: Annotated[SealState, At("seal.state", Word(SealState), "its place in that file")]
    lines: Annotated[int, At("seal.lines", COUNT, "lines that it covers")]
    lost: Annotated[int, At("seal.lost", COUNT, "records that could not be written since the seal before")]
    gap: Annotated[str, At("seal.gap", PATH, "what may be missing before it, and why; empty: nothing")]
    previous: Annotated[str, At("seal.previous", DIGEST, "the digest of the seal before; zeros for the first")]
    digest: Annotated[str, At("seal.digest", DIGEST, "SHA-256 over `previous`, the covered lines and the other fields")]


Record = FlowRecord | FindingRecord | AnomalyRecord | EvidenceRecord | ProcessRecord | FoldedRecord
JournalLine = Record | SealRecord
