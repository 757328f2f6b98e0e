"""Workers that are killed, hang, or cannot keep up: the kernel drops meanwhile, and then it goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from demo.stage import Stage
from egress.model import Action, Reason
from tests.lab.gateway import (
    HOSTS,
    LOGIN,
    Peer,
    bound,
    call,
    findings,
    flows,
    guarded,
    outcome,
    paused,
    queue_drops,
    serve,
    status,
    worker,
)
from tests.lab.net import eventually, needs_root

pytestmark = [pytest.mark.lab, needs_root]

PORT, UDP_PORT = 8080, 7001
LENGTH, FLOOD = 64, 2000


@pytest.fixture
def stage() -> Iterator[Stage]:
    with guarded(settings={"queue": {"length": LENGTH}, "watchdog": 4.0}) as running:
        yield running


def opened(stage: Stage) -> list[Peer]:
    """A connection over each family on which a line has gone there and back."""
    callers = [call(stage, host, PORT) for host in HOSTS]
    for caller in callers:
        caller.hears("open")
        caller.send("before")
        caller.hears("got before")
    return callers


def test_a_killed_worker_fails_closed_and_its_successor_goes_on_inspecting(stage: Stage) -> None:
    servers = serve(stage, PORT)
    callers = opened(stage)
    first = worker(stage)
    with paused(status(stage)["pid"]):  # so that it does not replace the worker
        os.kill(first["pid"], signal.SIGKILL)
        eventually(lambda: bound(stage) == 0, "no queue has a listener")
        for caller in callers:
            caller.send("meanwhile")
        late = [call(stage, host, PORT) for host in HOSTS]
        assert [caller.outcome()[0] for caller in late] == ["timeout", "timeout"]  # five seconds of nothing
        assert [server.lines for server in servers] == [["tcp before"]] * 2
        assert [caller.lines[1:] for caller in callers] == [["got before"]] * 2
    for caller in callers:  # TCP sends again what was dropped
        caller.hears("got meanwhile", 20)
    after = worker(stage)
    assert after["restarts"] == 1 and after["alive"] and after["pid"] != first["pid"]
    for caller in callers:
        caller.send(LOGIN)
        caller.hears("ECONNRESET")
    assert all("login" not in line for server in servers for line in server.lines)
    assert [outcome(stage, host, PORT) for host in HOSTS] == ["open", "open"]
    stage.stop()
    found = findings(stage)
    assert sorted((each.signature, each.dst, each.action) for each in found) == [
        ("mining.stratum", host, Action.REJECT) for host in HOSTS
    ]
    assert all(flow.end is not None for flow in flows(stage) if flow.reason is Reason.FINDING)


def test_a_full_queue_drops_is_counted_and_passes(stage: Stage) -> None:
    servers = serve(stage, UDP_PORT)
    flooders = [Peer(stage, stage.agent, "udp", host, str(UDP_PORT)) for host in HOSTS]
    for flooder in flooders:
        flooder.hears("ready")
    with paused(worker(stage)["pid"]):
        for flooder in flooders:
            flooder.send(f"#{FLOOD}")
        for flooder in flooders:
            flooder.hears("sent")
    eventually(lambda: queue_drops(stage) >= 2 * FLOOD - LENGTH - 64, "the drops are counted")
    assert worker(stage)["restarts"] == 0
    doctor = stage.egress("doctor", check=False)
    assert doctor.returncode == 1
    assert f"{queue_drops(stage)} packets dropped by the kernel" in doctor.stdout
    eventually(lambda: sum(len(server.lines) for server in servers) >= LENGTH // 2, "what was queued passes")
    assert sum(len(server.lines) for server in servers) <= LENGTH + 64
    serve(stage, PORT)
    opened(stage)


def test_a_hung_worker_is_replaced(stage: Stage) -> None:
    serve(stage, PORT)
    callers = opened(stage)
    first = worker(stage)["pid"]
    with paused(first):
        for caller in callers:
            caller.send("meanwhile")
        eventually(lambda: worker(stage)["restarts"] == 1 and worker(stage)["alive"], "a successor runs", 15)
        for caller in callers:
            caller.hears("got meanwhile", 20)
    assert worker(stage)["pid"] != first
