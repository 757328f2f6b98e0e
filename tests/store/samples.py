"""Sample records for tests: one of each kind, and Hypothesis strategies that generate any."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from egress.model import Action, Direction, Effect, Mode, Reason, Severity, Step, StepSource
from egress.records.eve import line
from egress.records.seals import Sealed, leaf, sealed
from egress.records.shape import (
    FLOW_STATES,
    AnomalyRecord,
    EvidencePacket,
    EvidenceRecord,
    FindingRecord,
    FlowRecord,
    FoldedKind,
    FoldedRecord,
    ProcessRecord,
    ProcessStatus,
    SealRecord,
    SealState,
)
from egress.records.times import MAX_MICROS
from egress.store.recording.seals import stored

START = 1_795_446_362.123456

FLOW = FlowRecord(
    flow_id="00000000000000a1",
    agent="train-1",
    start=START,
    updated=START + 1.5,
    end=None,
    state="established",
    direction="out",
    proto="tcp",
    src="10.77.0.2",
    sport=40000,
    dst="198.51.100.7",
    dport=443,
    community_id="1:wCb3OG7yAFWelaUydu0D+125CLM=",
    app_proto="stratum",
    server_name="pool.example",
    action=Action.REJECT,
    reason=Reason.FINDING,
    rule_id="",
    policy_version=1,
    mode=Mode.ENFORCE,
    packets_out=4,
    packets_in=3,
    bytes_out=1200,
    bytes_in=300,
    unseen_bytes=0,
)

FINDING = FindingRecord(
    finding_id="00000000000000f1",
    flow_id=FLOW.flow_id,
    agent=FLOW.agent,
    time=START + 1.0,
    signature="mining.stratum",
    severity=Severity.HIGH,
    technique="T1496.001",
    summary="A miner logs in to a pool.",
    evidence=b'{"id":1,"method":"mining.subscribe"}\x00\xff',
    effect=Effect.FLOW,
    action=Action.REJECT,
    mode=Mode.ENFORCE,
    proto="tcp",
    src=FLOW.src,
    sport=FLOW.sport,
    dst=FLOW.dst,
    dport=FLOW.dport,
    community_id=FLOW.community_id,
    rule_id="",
    policy_version=1,
)

ANOMALY = AnomalyRecord("train-1", START, Reason.SPOOFED, "source is not the agent's", 3, "192.0.2.9", "", "udp")
EVIDENCE = EvidenceRecord(
    FINDING.finding_id,
    FLOW.flow_id,
    FLOW.agent,
    START + 0.5,
    (
        EvidencePacket(START, Direction.OUT, 52, b"E" * 40),
        EvidencePacket(START + 0.25, Direction.IN, 1500, b"\x00\xff"),
    ),
)
PROCESS = ProcessRecord(
    flow_id=FLOW.flow_id,
    agent=FLOW.agent,
    time=START,
    status=ProcessStatus.FOUND,
    reason="",
    pid=4711,
    inner_pid=12,
    uid=1000,
    exe="/usr/bin/xmrig",
    cmdline="xmrig -o pool.example:443",
    cgroup="/system.slice/docker-" + "3f" * 32 + ".scope",
    runtime="docker",
    container="3f" * 32,
    started=START - 0.5,
)
FOLDED = FoldedRecord(
    agent="train-1",
    time=START + 60.0,
    start=START,
    kind=FoldedKind.FLOW,
    proto="udp",
    dst="198.51.100.7",
    dport=53,
    action=Action.REJECT,
    reason=Reason.DEFAULT,
    signature="",
    count=25_000,
    packets=25_100,
    bytes_out=1_500_000,
    bytes_in=0,
)
SEAL = sealed(
    SealRecord(
        chain="00000000000000c1",
        number=7,
        time=START + 10.0,
        start=START,
        host="gate-1",
        writer="worker-0",
        segment="worker-0-1795446362123456.jsonl",
        state=SealState.RUNNING,
        lines=1,
        lost=0,
        gap="",
        previous="0" * 64,
        digest="0" * 64,
    ),
    leaf(line(FLOW)[:-1]),
)
STORED_SEAL = stored(Sealed(SEAL, leaf(line(FLOW)[:-1])))
STEP = Step(
    agent="train-1",
    episode="conv_5j66UpCp",
    id="call_VSPygqKT",
    tool="bash",
    summary='{"command": "make test"}',
    start=START - 0.5,
    end=START + 4.0,
    until=START + 4.0,
    source=StepSource.API,
    call_id="call_VSPygqKT",
    trace_id="5b8efff798038103d269b633813fc60c",
    span_id="eee19b7ec3c1b174",
    reporter="token:1f9ac3d2 (framework)",
    reported=START + 4.1,
)


def numbered(number: int, **fields: object) -> FlowRecord:
    """A flow with its own id, `number` seconds after the first."""
    flow = replace(FLOW, flow_id=f"{number:016x}", start=START + number, updated=START + number)
    return replace(flow, **fields)  # type: ignore[arg-type]


times = st.integers(0, MAX_MICROS).map(lambda count: count / 1_000_000)
ports = st.integers(0, 65535)
counts = st.integers(0, (1 << 63) - 1)
words = st.text(max_size=20)
_shared = {"sport": ports, "dport": ports, "policy_version": counts}

flows = st.builds(
    FlowRecord,
    **dict.fromkeys(("flow_id", "agent", "proto", "src", "dst", "community_id"), words),
    **dict.fromkeys(("app_proto", "server_name", "rule_id"), words),
    **dict.fromkeys(("packets_out", "packets_in", "bytes_out", "bytes_in", "unseen_bytes"), counts),
    **_shared,
    start=times,
    updated=times,
    end=st.none() | times,
    state=st.sampled_from(FLOW_STATES),
    direction=st.sampled_from(["out", "in"]),
    names=st.lists(words, max_size=3).map(tuple),
)
findings = st.builds(
    FindingRecord,
    **dict.fromkeys(("finding_id", "flow_id", "agent", "signature", "technique", "summary"), words),
    **dict.fromkeys(("proto", "src", "dst", "community_id", "rule_id"), words),
    **_shared,
    time=times,
    evidence=st.binary(max_size=512),
)
anomalies = st.builds(
    AnomalyRecord, **dict.fromkeys(("agent", "detail", "src", "dst", "proto"), words), time=times, count=counts
)
packets = st.builds(
    EvidencePacket, times, st.sampled_from(Direction), st.integers(0, 0xFFFFFFFF), st.binary(max_size=64)
)
evidence = st.builds(
    EvidenceRecord,
    **dict.fromkeys(("finding_id", "flow_id", "agent"), words),
    time=times,
    packets=st.lists(packets, max_size=3).map(tuple),
)
identities = st.integers(0, (1 << 32) - 1)
processes = st.builds(
    ProcessRecord,
    **dict.fromkeys(("flow_id", "agent", "reason", "exe", "cmdline", "cgroup", "runtime", "container"), words),
    **dict.fromkeys(("pid", "inner_pid"), identities),
    time=times,
    uid=st.none() | identities,
    started=st.none() | times,
)
folded = st.builds(
    FoldedRecord,
    **dict.fromkeys(("agent", "proto", "dst", "signature"), words),
    **dict.fromkeys(("count", "packets", "bytes_out", "bytes_in"), counts),
    **dict.fromkeys(("time", "start"), times),
    dport=ports,
)
records = flows | findings | anomalies | evidence | processes | folded


def line_with_name(name: str) -> bytes:
    """A journal line whose server name is any text at all, lone surrogates included."""
    return line(replace(FLOW, server_name=name))
