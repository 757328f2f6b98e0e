"""A disk that is full: nothing new passes without a record, it is said, and nothing recorded is lost."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from demo.stage import Stage
from egress.model import ACK, SYN, TCP, Action, Reason
from egress.wire.packet import decode
from tests.lab.gateway import HOSTS, POLICY, Witness, anomalies, call, flows, outcome, serve, status, worker
from tests.lab.net import PYTHON, ROOT, eventually, needs_root

pytestmark = [pytest.mark.lab, needs_root]

PORT = 8080
START_SECONDS = 30.0


@pytest.fixture
def stage() -> Iterator[Stage]:
    """The gateway's state_dir is a tmpfs of one megabyte that only it sees; the database is elsewhere."""
    with Stage(POLICY) as built:
        state, database = built.directory / "state", built.directory / "egress.db"
        state.mkdir()
        built.config_file.write_text(
            f'{{"state_dir": "{state}", "run_dir": "{built.directory}/run", "policy": "{built.policy_file}", '
            f'"database": "sqlite:///{database}"}}'
        )
        built.attach("rome-7")
        serve(built, PORT)
        built.log = built.directory / "gateway.log"
        script = f'mount -t tmpfs -o size=1m,mode=755 none {state} && exec "$@"'
        command = [PYTHON, "-m", "egress", "gateway", "--workers", "1", "--config", str(built.config_file)]
        with built.log.open("a") as log:
            built.daemon = subprocess.Popen(
                ["ip", "netns", "exec", built.gateway, "sh", "-c", script, "sh", *command],
                stdout=log, stderr=log, cwd=ROOT,
            )  # fmt: skip
        eventually(lambda: built.status() is not None, "the gateway is up", START_SECONDS)
        yield built


def fill(stage: Stage) -> Path:
    """Use up the space of the journal, to the last byte; returns the file that holds it."""
    path = Path(f"/proc/{status(stage)['pid']}/root{stage.config.state_dir}/filler")
    with path.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while file.write(b"\0" * size):
                    pass
            except OSError:
                continue
    return path


def test_a_full_disk_refuses_what_is_new_and_recovers(stage: Stage) -> None:
    with Witness(stage) as witness:
        _full_and_free_again(stage)
        passed = _opened(witness)
    assert len(passed) >= 4
    assert stage.stop() == 0
    assert all(flow.end is not None for flow in flows(stage))
    assert passed <= _accepted(stage)
    refused = [each for each in anomalies(stage) if each.reason is Reason.RECORDER]
    assert refused and {each.agent for each in refused} == {"rome-7"}


def _full_and_free_again(stage: Stage) -> None:
    before = [call(stage, host, PORT) for host in HOSTS]
    for caller in before:
        caller.hears("open")
    eventually(lambda: len(flows(stage)) == 2, "the first flows are stored")
    filler = fill(stage)
    # Records are short: some fit into what is left of the journal's last page.
    eventually(lambda: _refused(stage), "new flows are refused", 30)
    assert "open" not in [outcome(stage, host, PORT) for host in HOSTS]
    eventually(lambda: not worker(stage)["counters"]["journal"]["healthy"], "status says so")
    doctor = stage.egress("doctor", check=False)
    assert doctor.returncode == 1
    assert "worker 0 journal" in doctor.stdout and "nothing new passes; free space" in doctor.stdout
    for caller in before:  # what was recorded goes on
        caller.send("still here")
        caller.hears("got still here")
    filler.unlink()
    eventually(lambda: bool(worker(stage)["counters"]["journal"]["healthy"]), "it recovers")
    assert [outcome(stage, host, PORT) for host in HOSTS] == ["open", "open"]
    assert worker(stage)["counters"]["journal"]["lost"] == 0
    for caller in before:
        caller.close()


def test_what_passed_is_recorded_even_if_the_worker_dies_while_the_disk_is_full(stage: Stage) -> None:
    with Witness(stage) as witness:
        filler = fill(stage)
        eventually(lambda: _refused(stage), "new flows are refused", 30)
        passed = _opened(witness)
    os.kill(worker(stage)["pid"], signal.SIGKILL)
    filler.unlink()
    eventually(lambda: worker(stage)["restarts"] == 1 and bool(worker(stage)["alive"]), "a successor runs")
    assert [outcome(stage, host, PORT) for host in HOSTS] == ["open", "open"]
    assert stage.stop() == 0
    assert passed <= _accepted(stage)


def _refused(stage: Stage) -> bool:
    return outcome(stage, HOSTS[0], PORT) != "open"


def _opened(witness: Witness) -> set[tuple[str, int]]:
    """The callers whose SYN has come outside."""
    packets = [packet for packet in map(decode, witness.packets()) if packet.proto == TCP]
    return {(str(ip_address(packet.src)), packet.sport) for packet in packets if packet.flags & (SYN | ACK) == SYN}


def _accepted(stage: Stage) -> set[tuple[str, int]]:
    return {(flow.src, flow.sport) for flow in flows(stage) if flow.action is Action.ACCEPT}
