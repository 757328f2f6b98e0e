"""The records that leave the engine and the attribution process. They are journalled, stored and shown as they are."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from egress.model import Action, Direction, Effect, Mode, Reason, Severity

FLOW_STATES = ("new", "established", "closed", "timeout", "evicted", "shutdown")
DIRECTIONS = ("out", "in")  # by Direction
RECORD_NAMES = 8
PROCESS_CMDLINE, PROCESS_PATH = 4096, 1024  # characters kept of a command line; of an executable's and a cgroup's path


@dataclass(frozen=True, slots=True)
class FlowRecord:
    """A flow's verdict: written when it is first judged, whenever the verdict changes, and at its end."""

    flow_id: str  # 16 hex digits, equal for equal input
    agent: str
    start: float
    updated: float
    end: float | None  # None while it lives
    state: str  # new, established, closed, timeout, evicted, shutdown
    direction: str  # out: the agent opened it; in: it was opened towards the agent
    proto: str
    src: str  # the opener
    sport: int
    dst: str
    dport: int
    community_id: str
    app_proto: str  # ssh, tls, http, dns, stratum, … or "" while unknown
    server_name: str  # SNI, Host or the queried name, where one was read
    action: Action
    reason: Reason
    rule_id: str
    policy_version: int
    mode: Mode  # monitor: the action was not carried out
    packets_out: int
    packets_in: int
    bytes_out: int  # IP bytes from the agent
    bytes_in: int  # IP bytes to the agent, as seen, or as the agent acknowledged where the kernel let them pass
    unseen_bytes: int  # stream bytes that were never inspected (gaps, depth of the settled queue)
    names: tuple[str, ...] = ()  # bound to the remote address for this agent then, sorted; at most RECORD_NAMES


@dataclass(frozen=True, slots=True)
class FindingRecord:
    """A finding with the flow it was made on and what was done about it."""

    finding_id: str  # 16 hex digits, equal for equal input
    flow_id: str
    agent: str
    time: float
    signature: str
    severity: Severity
    technique: str
    summary: str
    evidence: bytes
    effect: Effect
    action: Action  # what the finding led to; monitor mode: what it would have led to
    mode: Mode
    proto: str
    src: str
    sport: int
    dst: str
    dport: int
    community_id: str
    rule_id: str
    policy_version: int


@dataclass(frozen=True, slots=True)
class AnomalyRecord:
    """Packets refused without a flow (spoofed, malformed, truncated, memcap), folded per agent, reason and second."""

    agent: str
    time: float  # of the first one
    reason: Reason
    detail: str
    count: int
    src: str = ""
    dst: str = ""
    proto: str = ""


@dataclass(frozen=True, slots=True)
class EvidencePacket:
    """One packet of a flow that ended in a finding."""

    time: float
    direction: Direction
    length: int  # IP bytes on the wire, of which `data` holds the first
    data: bytes


@dataclass(frozen=True, slots=True)
class EvidenceRecord:
    """The packets a finding rests on, the flow's first ones, bounded by Limits.evidence_packets and evidence_bytes."""

    finding_id: str
    flow_id: str
    agent: str
    time: float
    packets: tuple[EvidencePacket, ...]


class ProcessStatus(StrEnum):
    """What came of looking for the process behind a flow."""

    FOUND = "found"
    GONE = "gone"  # its socket or the process had gone by then
    UNKNOWN = "unknown"  # it could not be looked for, or not be told


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """The process behind a flow, as it was when the flow began; written by the gateway on the agent's host only.

    What is known of a process: executable, cgroup, user and numbers are the kernel's word, `cmdline` the process' own.
    """

    flow_id: str
    agent: str
    time: float  # the flow's start
    status: ProcessStatus
    reason: str  # why it was not found, or how sure it is; may be empty
    pid: int  # the host's number of it; 0 where none was found
    inner_pid: int  # its number in its own pid namespace, as the agent sees it
    uid: int | None  # the host's number of its user, or the socket's where only that was found
    exe: str  # path of the executable, as its own file system has it; at most PROCESS_PATH
    cmdline: str  # arguments as a shell would quote them; at most PROCESS_CMDLINE
    cgroup: str  # at most PROCESS_PATH
    runtime: str  # docker, podman, … as the cgroup's path tells; empty: in no container
    container: str  # the container's id, as its runtime has it
    started: float | None  # when it began; an exec is no beginning


Record = FlowRecord | FindingRecord | AnomalyRecord | EvidenceRecord | ProcessRecord
