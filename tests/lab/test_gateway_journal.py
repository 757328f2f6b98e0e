"""A full disk, a database that is away: the flows that pass, the warnings, and no lost record."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from api.metrics import Metrics
from demo.stage import Stage
from egress.model import ACK, SYN, TCP, Action, Reason
from egress.store.recording.segments import usage
from egress.wire.packet import decode
from tests.lab.gateway import (
    HOSTS,
    POLICY,
    Witness,
    anomalies,
    call,
    flows,
    guarded,
    log,
    outcome,
    serve,
    status,
    worker,
)
from tests.lab.net import PYTHON, ROOT, eventually, needs_root
from tests.store.postgres import Server

pytestmark = [pytest.mark.lab, needs_root]

PORT = 8080
START_SECONDS = 30.0


@pytest.fixture
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """The gateway's state_dir is a tmpfs of one megabyte that only it sees; the database is elsewhere."""
    on_full = getattr(request, "param", "refuse")
    with Stage(POLICY) as built:
        state, database = built.directory / "state", built.directory / "egress.db"
        state.mkdir()
        built.config_file.write_text(
            f'{{"state_dir": "{state}", "run_dir": "{built.directory}/run", "policy": "{built.policy_file}", '
            f'"database": "sqlite:///{database}", "journal": {{"on_full": "{on_full}"}}}}'
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
    assert "worker 0 journal" in doctor.stdout and "new flows are refused; free disk space" in doctor.stdout
    for caller in before:  # recorded flows go on
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


@pytest.mark.parametrize("stage", ["continue"], indirect=True)
def test_who_asked_for_it_goes_on_while_the_disk_is_full_and_it_is_said(stage: Stage) -> None:
    assert "journal.on_full: continue is configured" in log(stage)
    filler = fill(stage)
    eventually(lambda: not worker(stage)["counters"]["journal"]["healthy"] or not _refused(stage), "it is full", 30)
    assert [outcome(stage, host, PORT) for host in HOSTS] == ["open", "open"]
    eventually(lambda: int(worker(stage)["counters"]["unrecorded"]) > 0, "it is counted")
    doctor = stage.egress("doctor", check=False)
    assert doctor.returncode == 1
    assert "ON_FULL CONTINUE" in doctor.stdout and "new flows pass UNRECORDED; free disk space" in doctor.stdout
    eventually(lambda: "new flows pass UNRECORDED, and are counted until it can" in log(stage), "the log says it")
    filler.unlink()
    eventually(lambda: bool(worker(stage)["counters"]["journal"]["healthy"]), "it recovers")
    eventually(lambda: "worker 0 writes its journal again" in log(stage), "the log says it")
    assert stage.stop() == 0
    assert {flow.dst for flow in flows(stage)} == set(HOSTS), "the records that waited in memory are stored"


def test_a_database_that_is_away_lets_the_journal_grow_to_its_bound_and_no_further() -> None:
    bound = 1 << 20
    with contextlib.closing(Server()) as server:
        server.execute("CREATE DATABASE egress")
        settings: dict[str, object] = {"database": server.local_url("egress"), "journal": {"max_bytes": bound}}
        with guarded(settings=settings) as stage:
            serve(stage, PORT)
            caller = call(stage, HOSTS[0], PORT)
            caller.hears("open")
            many = Many(stage)
            server.stop()
            _full(stage, many, bound)
            caller.send("still here")  # recorded flows go on
            caller.hears("got still here")
            server.start()
            eventually(lambda: not status(stage)["journal"]["full"], "there is room again", START_SECONDS)
            before = len(many.arrived())
            eventually(lambda: len(many.arrived()) > before, "new flows pass by themselves")
            many.stop()
            assert status(stage)["journal"]["lost"] == 0
            assert stage.stop() == 0
            stored = [(flow.src, flow.sport, flow.dport) for flow in flows(stage) if flow.action is Action.ACCEPT]
            assert len(set(stored)) == len(stored) and many.arrived() <= set(stored)
            _torn(stage)
            for text in ("of at most 1048576 bytes: new flows are refused until", "the journal has room again"):
                assert text in log(stage)


def _torn(stage: Stage) -> None:
    """Cut a journal off in the middle of a line, as a power failure does, and start again."""
    before = len(flows(stage))
    segment = max(stage.config.journal_dir.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    whole = segment.read_bytes()
    segment.write_bytes(whole + b'{"timestamp":"20')
    stage.start("--workers", "1")
    assert status(stage)["journal"]["healed"] == 1
    assert segment.read_bytes() == whole
    assert f"journal {segment.name} ended with 16 bytes of an unfinished record" in log(stage)
    assert "1 torn ends cut off" in stage.egress("doctor", check=False).stdout
    assert stage.stop() == 0
    assert len(flows(stage)) == before


def _full(stage: Stage, many: Many, bound: int) -> None:
    """Wait until new flows are refused: then no more arrive, and status, doctor and metrics report it."""
    used = 0
    while not status(stage)["journal"]["full"]:
        used = max(used, usage(stage.config.journal_dir))
    assert bound // 2 < used <= bound
    eventually(many.stands, "nothing new passes")
    facts = status(stage)
    assert facts["recorder"]["unread"] > bound // 2
    assert usage(stage.config.journal_dir) <= bound
    doctor = stage.egress("doctor", check=False)
    assert doctor.returncode == 1
    assert "new flows are refused until the recorder has caught up" in doctor.stdout
    assert "behind: " in doctor.stdout, "the recorder is reported, too"
    metrics = "\n".join(map(str, Metrics(stage.control, None, {}).collect()))
    assert "egress_journal_full" in metrics and "egress_recorder_lag_bytes" in metrics


class Many:
    """Flows of one datagram each (`tests.lab.many`) and those of them that arrived."""

    def __init__(self, stage: Stage) -> None:
        self._out, sent = stage.directory / "sink", stage.directory / "sender"
        command = [sys.executable, "-m", "tests.lab.many"]
        stage.lab.popen(stage.outside, [*command, "sink", str(self._out)])
        eventually(lambda: self._out.exists() and bool(self._out.read_text()), "the sink is up")
        self._sender = stage.lab.popen(stage.agent, [*command, "send", str(sent), "1000", "10.99.1.2,fd99:1::2"])
        eventually(lambda: bool(self.arrived()), "datagrams arrive")

    def arrived(self) -> set[tuple[str, int, int]]:
        lines = [line.split() for line in self._out.read_text().splitlines()[1:]]
        return {(host, int(sport), int(dport)) for _, host, sport, dport in lines}

    def stands(self) -> bool:
        before = self._out.stat().st_size
        time.sleep(0.5)
        return self._out.stat().st_size == before

    def stop(self) -> None:
        self._sender.terminate()
        self._sender.wait(START_SECONDS)


def _refused(stage: Stage) -> bool:
    return outcome(stage, HOSTS[0], PORT) != "open"


def _opened(witness: Witness) -> set[tuple[str, int]]:
    """The callers whose SYN has come outside."""
    packets = [packet for packet in map(decode, witness.packets()) if packet.proto == TCP]
    return {(str(ip_address(packet.src)), packet.sport) for packet in packets if packet.flags & (SYN | ACK) == SYN}


def _accepted(stage: Stage) -> set[tuple[str, int]]:
    return {(flow.src, flow.sport) for flow in flows(stage) if flow.action is Action.ACCEPT}
