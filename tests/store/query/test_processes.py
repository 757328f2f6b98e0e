"""Processes beside their flows: found again, asked for, counted and followed, on both databases."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from sqlalchemy.engine import Engine

from egress.records.shape import FlowRecord, ProcessRecord, ProcessStatus
from egress.store.database.database import writing
from egress.store.query.counting import count_by
from egress.store.query.processes import by_flow
from egress.store.query.reader import Filter, findings, flow_details, flows
from egress.store.query.story import agent_story, flow_story
from egress.store.query.tail import Tail
from egress.store.recording.writer import store
from tests.store import samples

CURL, GONE, MINER, SILENT = (samples.numbered(number) for number in (1, 2, 3, 4))


def process_of(flow: FlowRecord, **fields: object) -> ProcessRecord:
    made = replace(samples.PROCESS, flow_id=flow.flow_id, agent=flow.agent, time=flow.start)
    return replace(made, **fields)  # type: ignore[arg-type]


PROCESSES = [
    process_of(CURL, exe="/usr/bin/curl", cmdline="curl -s 'https://x/?a b'", pid=12, runtime="", container=""),
    process_of(GONE, status=ProcessStatus.GONE, pid=0, exe="", cmdline="", runtime="", container="", inner_pid=0),
    process_of(MINER, inner_pid=7, uid=None, started=None),
]
FOUND = replace(samples.FINDING, flow_id=MINER.flow_id)


@pytest.fixture
def filled(engine: Engine) -> Engine:
    with writing(engine) as connection:
        store(connection, [*PROCESSES, CURL, GONE, MINER, SILENT, FOUND])
    return engine


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("process:curl", [CURL]),
        ("process:/usr/bin/curl", [CURL]),
        ("process:*/curl", [CURL]),
        ('process:"curl -s*"', [CURL]),
        ("process:cur", []),
        ("process:*pool.example*", [MINER]),
        ("process:*", [CURL, MINER]),
        ("-process:*", [GONE, SILENT]),
        ("process:curl,xmrig", [CURL, MINER]),
        ("pid:4711", [MINER]),
        ("pid:7", [MINER]),
        ("pid:1-100", [CURL, MINER]),
        ("container:3f3f", [MINER]),
        ("container:docker", [MINER]),
        ("container:*", [MINER]),
        ("-container:*", [CURL, GONE, SILENT]),
        ("container:ab", []),
        ("attribution:gone", [GONE]),
        ("attribution:found,unknown", [CURL, MINER]),
        ("-attribution:found -attribution:gone", [SILENT]),
        ("signature:mining.* process:xmrig", [MINER]),
        ("signature:mining.* process:curl", []),
    ],
)
def test_flows_are_found_by_their_process(filled: Engine, query: str, wanted: list[FlowRecord]) -> None:
    assert list(flows(filled, Filter(query=query))) == wanted


def test_findings_are_found_by_their_flows_process(filled: Engine) -> None:
    assert list(findings(filled, Filter(query="process:xmrig"))) == [FOUND]
    assert list(findings(filled, Filter(query="process:curl"))) == []


def test_flows_come_with_their_process(filled: Engine) -> None:
    assert [told.process for told in flow_details(filled, Filter())] == [*PROCESSES, None]
    assert flow_story(filled, MINER.flow_id).process == PROCESSES[2]
    assert flow_story(filled, SILENT.flow_id).process is None
    assert [told.process for told in flow_story(filled, SILENT.flow_id).before] == PROCESSES
    with filled.connect() as connection:
        assert by_flow(connection, [GONE.flow_id, "ff"]) == {GONE.flow_id: PROCESSES[1]}


def test_counts_say_who_was_not_found(filled: Engine) -> None:
    counted = {each.values[0]: each.flows for each in count_by(filled, Filter(), ["process"])}
    assert counted == {"/usr/bin/curl": 1, "/usr/bin/xmrig": 1, "(gone)": 1, "(not looked for)": 1}
    pairs = {each.values for each in count_by(filled, Filter(), ["pid", "container"])}
    assert pairs == {
        ("12", ""), ("4711", samples.PROCESS.container), ("(gone)",) * 2, ("(not looked for)",) * 2,
    }  # fmt: skip
    signed = list(count_by(filled, Filter(), ["signature", "process"]))
    assert [(each.values, each.flows, each.findings) for each in signed] == [
        (("mining.stratum", "/usr/bin/xmrig"), 1, 1)
    ]
    assert [each.values for each in count_by(filled, Filter(query="process:curl"), ["process"])] == [("/usr/bin/curl",)]
    assert {each.values[0] for each in agent_story(filled, CURL.agent).processes} == set(counted)


def test_processes_are_followed(engine: Engine) -> None:
    everything, curls = Tail(engine, Filter()), Tail(engine, Filter(query="process:curl"))
    assert everything.newest(10) == curls.newest(10) == []
    now = round(time.time(), 3)
    begun = [replace(flow, start=now, updated=now) for flow in (CURL, MINER)]
    opened = [process_of(begun[0], exe="/usr/bin/curl"), process_of(begun[1])]
    with writing(engine) as connection:
        store(connection, [*begun, *opened])
    assert {record for record in everything.later() if isinstance(record, ProcessRecord)} == set(opened)
    assert [record for record in curls.later() if isinstance(record, ProcessRecord)] == opened[:1]
    assert everything.later() == []
