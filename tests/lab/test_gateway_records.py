"""Equal records: a fresh engine that is fed the gateway's capture gives the records that the gateway stored."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from scapy.utils import RawPcapNgReader

import signatures
from demo.scenes import play
from demo.stage import FAMILIES, Stage
from egress.config import Config
from egress.engine.engine import Engine
from egress.model import Agent, Direction, Policy
from egress.policy.file import load_policy
from egress.records.shape import FindingRecord, FlowRecord, Record
from egress.store.policy.agents import list_agents
from tests.lab.gateway import database, findings, flows, status
from tests.lab.net import ROOT, needs_root

pytestmark = [pytest.mark.lab, needs_root]

OUTBOUND = 2  # pcapng enhanced packet block flags, direction bits


@dataclass(frozen=True)
class Captured:
    """One packet as the worker was given it."""

    raw: bytes
    ts: float
    agent: str
    direction: Direction
    wire_length: int | None  # None: the packet is whole
    settled: bool  # it came through the settled queue


@dataclass(frozen=True)
class Run:
    """The files and records of a gateway with --capture."""

    file: Path
    policy_file: Path
    config: Config
    agents: dict[str, Agent]
    policy: Policy
    flows: list[FlowRecord]
    findings: list[FindingRecord]


def captured(path: Path) -> Iterator[Captured]:
    reader = RawPcapNgReader(str(path))
    try:
        for raw, read in reader:
            meta: Any = read  # scapy declares the type of classic pcap
            comment = dict(word.split("=") for word in meta.comments[0].decode().split())
            cut = meta.wirelen > len(raw)
            yield Captured(
                raw,
                (meta.tshigh << 32 | meta.tslow) / meta.tsresol,
                comment["agent"],
                Direction.OUT if meta.direction == OUTBOUND else Direction.IN,
                meta.wirelen if cut else None,
                comment["queue"] == "settled",
            )
    finally:
        reader.close()


def judged_again(run: Run) -> list[Record]:
    """The records of a fresh engine that is given the captured packets in order."""
    engine = Engine(run.config.limits, run.policy, signatures.load(run.config))
    records: list[Record] = []
    ts = 0.0
    for packet in captured(run.file):
        ts = packet.ts
        if ts >= engine.next_tick():
            records += engine.tick(ts)
        agent = run.agents[packet.agent]
        outcome = engine.packet(packet.raw, ts, agent, packet.direction, packet.wire_length, settled=packet.settled)
        records += outcome.records
    return records + list(engine.shutdown(ts))


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with Stage() as stage:
        directory = stage.directory / "captured"
        directory.mkdir()
        stage.attach("rome-7")
        stage.start("--workers", "1", "--capture", str(directory))
        networks = {entry["name"]: tuple(entry["networks"]) for entry in status(stage)["agents"]}
        assert all(attempt.ok for attempt in play(stage))
        assert stage.stop() == 0
        with database(stage) as engine, engine.connect() as connection:
            stored = [entry.agent for entry in list_agents(connection)]
        agents = {each.name: replace(each, networks=networks[each.name]) for each in stored}
        (file,) = directory.iterdir()
        policy = Policy(1, load_policy(stage.policy_file))
        yield Run(file, stage.policy_file, stage.config, agents, policy, flows(stage), findings(stage))


def test_findings_are_equal_to_the_last_field(run: Run) -> None:
    again = [record for record in judged_again(run) if isinstance(record, FindingRecord)]
    assert len(again) >= 8
    assert {record.finding_id: record for record in again} == {record.finding_id: record for record in run.findings}


def test_flows_are_equal_but_for_when_their_end_was_noticed(run: Run) -> None:
    """The last record of each flow; ends are written by timers and at the stop, whose moments no packet tells."""

    def essence(record: FlowRecord) -> tuple[object, ...]:
        return (
            record.agent, record.start, record.direction, record.proto, record.src, record.sport, record.dst,
            record.dport, record.community_id, record.app_proto, record.server_name, record.action, record.reason,
            record.rule_id, record.policy_version, record.mode, record.packets_out, record.packets_in,
            record.bytes_out, record.bytes_in, record.unseen_bytes,
        )  # fmt: skip

    again = {record.flow_id: record for record in judged_again(run) if isinstance(record, FlowRecord)}
    assert len(again) > 30
    assert {key: essence(record) for key, record in again.items()} == {
        record.flow_id: essence(record) for record in run.flows
    }


def test_egress_replay_finds_the_same(run: Run) -> None:
    words = ["replay", "-o", "json", "--policy", str(run.policy_file), str(run.file)]
    for network in run.agents["rome-7"].networks:
        words += ["--agent-net", network]
    done = subprocess.run(
        [sys.executable, "-m", "egress", *words], capture_output=True, text=True, check=False, cwd=ROOT, timeout=60
    )
    assert done.returncode == 3, done.stderr
    report = json.loads(done.stdout)
    assert report["decode_errors"] == report["unattributed"] == 0
    found = sorted((each["signature"], each["flow"]["dst"], each["flow"]["sport"]) for each in report["findings"])
    recorded = sorted((record.signature, record.dst, record.sport) for record in run.findings)
    assert found == recorded
    assert len(FAMILIES) == 2 and {each[0] for each in found} == {"beacon.timing", "mining.stratum", "ssh.unusual-port"}
