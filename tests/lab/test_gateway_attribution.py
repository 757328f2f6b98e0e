"""The process behind a flow, through the whole gateway: named, shown, never in a packet's way."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bench.attribution import compiled, measure
from demo.stage import Stage
from egress.records.shape import FlowRecord, ProcessRecord, ProcessStatus
from egress.store.database import tables
from egress.store.query.processes import by_flow
from egress.store.query.reader import Filter
from tests.lab.gateway import HOSTS, call, database, flows, gone, guarded, outcome, paused, serve, status, worker
from tests.lab.net import TIMEOUT, eventually, needs_root

pytestmark = [pytest.mark.lab, needs_root]

POLICY = "rules:\n  - {action: allow, destination: any, ports: [8080, 7000-7099, 20000-21000]}\n"


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with guarded(POLICY) as made:
        serve(made, 8080)
        yield made


def attribution(stage: Stage) -> dict[str, Any]:
    found: dict[str, Any] = status(stage)["attribution"]
    return found


def opened(stage: Stage, query: str, count: int = 1) -> list[tuple[FlowRecord, ProcessRecord]]:
    """The newest flows that match, each with its process, once so many have one."""
    found: list[tuple[FlowRecord, ProcessRecord]] = []

    def complete() -> bool:
        with database(stage) as engine, engine.connect() as connection:
            listed = flows(stage, Filter(query=query, now=time.time()))
            known = by_flow(connection, [flow.flow_id for flow in listed])
            found[:] = [(flow, known[flow.flow_id]) for flow in listed if flow.flow_id in known]
        return len(found) >= count

    eventually(complete, f"{count} processes of {query}")
    return found


@contextmanager
def calling(stage: Stage, host: str) -> Iterator[None]:
    """A connection that stays open within the block."""
    peer = call(stage, host, 8080)
    assert peer.outcome()[0] == "open"
    yield
    peer.close()


@pytest.mark.parametrize("host", HOSTS)
def test_who_was_let_through(stage: Stage, host: str) -> None:
    with calling(stage, host):
        (flow, process), *_ = opened(stage, f"dest:{host} port:8080 proto:tcp")
    assert process.status is ProcessStatus.FOUND and process.time == flow.start
    assert "tests.lab.peer tcp" in process.cmdline and f"{host} 8080" in process.cmdline


@pytest.mark.parametrize("host", HOSTS)
def test_who_was_refused_and_ended_at_once(stage: Stage, host: str) -> None:
    """The refusal waits for the look-up, because bash ends when it is refused."""
    for _ in range(3):
        stage.lab.run(stage.agent, ["bash", "-c", f"exec 3<>/dev/tcp/{host}/9"])
    found = opened(stage, f"dest:{host} port:9", 3)
    assert [process.status for _, process in found].count(ProcessStatus.FOUND) >= 2, found
    assert "/dev/tcp" in next(process.cmdline for _, process in found if process.exe)


def test_it_is_shown_everywhere(stage: Stage) -> None:
    with calling(stage, HOSTS[0]):
        flow, process = opened(stage, f"dest:{HOSTS[0]} port:8080 proto:tcp")[-1]
    assert f"pid {process.pid}" in stage.egress("show", "flow", flow.flow_id).stdout
    listed = stage.egress("query", f"pid:{process.pid}", "-o", "json").stdout
    assert json.loads(listed)["flows"][0]["process"]["cmdline"] == process.cmdline
    assert process.exe in stage.egress("query", "--count-by", "process").stdout
    assert f"pid {process.pid}" in stage.egress("observe", "-n", "100").stdout
    doctor = stage.egress("doctor", check=False).stdout
    line = next(line for line in doctor.splitlines() if " attribution " in line)
    assert line.startswith("ok") and f"pid {attribution(stage)['pid']}" in line and " found" in line


@pytest.mark.parametrize("life", [20, 100])
def test_short_lived_processes_are_caught(stage: Stage, life: int, tmp_path: Path) -> None:
    """The share that is caught has a bound here that holds on a busy machine; bench.attribution measures it."""
    tmp_path.chmod(0o755)
    row = measure(stage, compiled(stage.directory), "udp", HOSTS[0], 20000 + life, life, 0, 10)
    assert row.wrong == 0 and row.missing == 0 and row.right >= 5, row


def test_a_process_that_hangs_is_in_nobodys_way_and_is_replaced() -> None:
    with guarded(POLICY, settings={"watchdog": 3.0}) as stage:
        serve(stage, 8080)
        hung = attribution(stage)["pid"]
        with paused(hung):
            assert outcome(stage, HOSTS[0], 8080) == "open"
            began = time.monotonic()
            assert outcome(stage, HOSTS[0], 9) != "open"
            assert time.monotonic() - began < TIMEOUT
            eventually(lambda: worker(stage)["counters"]["attribution"]["vain"] >= 1, "a refusal waited in vain")
            eventually(lambda: attribution(stage)["pid"] not in (hung, None), "another one runs", 30.0)
        assert attribution(stage)["restarts"] == 1 and gone(hung)
        with calling(stage, HOSTS[1]):
            found = [process for _, process in opened(stage, f"dest:{HOSTS[1]} port:8080")]
        assert found[0].status is ProcessStatus.FOUND


def test_a_namespace_ends_although_it_was_looked_into(stage: Stage) -> None:
    """The look-up holds no reference to the namespace, so its link disappears with it."""
    pid = attribution(stage)["pid"]
    held = [str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()]
    assert sum("net:[" in link or "ns/net" in link for link in held) <= 1, held


def test_it_can_be_switched_off() -> None:
    with guarded(POLICY, settings={"attribution": False}) as stage:
        serve(stage, 8080)
        assert outcome(stage, HOSTS[0], 8080) == "open"
        assert outcome(stage, HOSTS[0], 9) != "open"
        eventually(lambda: len(flows(stage)) == 2, "both flows are stored")
        with database(stage) as engine, engine.connect() as connection:
            assert connection.scalar(sa.select(sa.func.count()).select_from(tables.processes)) == 0
        assert attribution(stage)["enabled"] is False
        assert "disabled" in stage.egress("doctor", check=False).stdout
        assert "not looked up" in stage.egress("show", "flow", flows(stage)[0].flow_id).stdout
