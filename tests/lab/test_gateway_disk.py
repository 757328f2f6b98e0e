"""Damage to the journal's directory and disk: the gateway recovers without a restart, and reports what is missing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator

import pytest

from api.metrics import Metrics
from demo.stage import Stage
from egress.gateway.journal import sealing
from egress.records.seals import CUT_OFF
from egress.store.database import tables
from tests.lab.gateway import HOSTS, call, database, flows, guarded, log, outcome, serve, status, worker
from tests.lab.net import eventually, needs_root

pytestmark = [pytest.mark.lab, needs_root]

PORT = 8080


def run(command: list[str]) -> None:
    subprocess.run(command, check=True)


@pytest.fixture
def stage() -> Iterator[Stage]:
    with guarded() as built:
        serve(built, PORT)
        yield built


def test_a_deleted_journal_directory_is_made_again_without_a_restart(stage: Stage) -> None:
    before = stage.config.journal_dir.stat()
    caller = call(stage, HOSTS[0], PORT)
    caller.hears("open")
    eventually(lambda: bool(flows(stage)), "the first flow is stored")
    shutil.rmtree(stage.config.journal_dir)
    eventually(lambda: status(stage)["journal"]["restored"] == 1, "the directory is made again")
    eventually(lambda: bool(worker(stage)["counters"]["journal"]["healthy"]), "the worker writes again")
    eventually(lambda: [outcome(stage, host, PORT) for host in HOSTS] == ["open", "open"], "new flows pass")
    after = stage.config.journal_dir.stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
    caller.send("still here")
    caller.hears("got still here")
    assert (worker(stage)["restarts"], status(stage)["recorder"]["restarts"]) == (0, 0)
    doctor = stage.egress("doctor", check=False)
    assert doctor.returncode == 1 and "ITS DIRECTORY WAS DELETED OR CHANGED 1 times" in doctor.stdout
    assert "egress_journal_restored" in "\n".join(map(str, Metrics(stage.control, None, {}).collect()))
    assert "was deleted: it is as it was again" in log(stage)
    caller.close()
    assert stage.stop() == 0
    assert {flow.dst for flow in flows(stage)} == set(HOSTS)
    assert all(flow.end is not None for flow in flows(stage))
    verified = stage.egress("verify")
    assert "gap    seal" in verified.stdout and sealing.REMOVED in verified.stdout


def test_records_are_sealed_and_what_is_changed_later_is_found(stage: Stage) -> None:
    assert [outcome(stage, host, PORT) for host in HOSTS] == ["open", "open"]
    os.kill(worker(stage)["pid"], signal.SIGKILL)
    eventually(lambda: worker(stage)["restarts"] == 1 and bool(worker(stage)["alive"]), "a successor runs")
    assert [outcome(stage, host, PORT) for host in HOSTS] == ["open", "open"]
    assert stage.stop() == 0
    assert re.search(r"records of worker 0: seal \d+, head [0-9a-f]{64}", log(stage))
    verified = stage.egress("verify")
    assert " 0 faults" in verified.stdout and CUT_OFF in verified.stdout
    (head,) = re.findall(r"head   worker-0 of \S+: seal \d+, ([0-9a-f]{64})", verified.stdout)
    stage.egress("verify", "--head", head)
    with database(stage) as engine, engine.begin() as connection:
        connection.execute(tables.flows.update().values(bytes_out=1))
    found = stage.egress("verify", check=False)
    assert found.returncode == 3 and "was changed: it is not the line that was sealed" in found.stderr


def test_another_disk_a_full_one_and_a_damaged_segment_cost_no_restart(stage: Stage) -> None:
    """The journal is on a small file system of its own, which fills up and has room again."""
    assert [outcome(stage, host, PORT) for host in HOSTS] == ["open", "open"]
    journal = stage.config.journal_dir
    before = journal.stat()
    mount = ["mount", "-t", "tmpfs", "-o", f"size=2m,mode=700,uid={before.st_uid},gid={before.st_gid}", "none"]
    run(["nsenter", "-m", "-t", str(status(stage)["pid"]), *mount, str(journal)])
    inside = ["nsenter", "-m", "-t", str(worker(stage)["pid"])]
    eventually(lambda: bool(worker(stage)["counters"]["journal"]["failures"]), "the worker notices")
    eventually(lambda: [outcome(stage, host, PORT) for host in HOSTS] == ["open", "open"], "it goes on there", 30)
    # Not `mount -o remount,ro`: the worker has a file open for writing, and the kernel refuses.
    filler = f"cat /dev/zero > {journal}/filler; true"
    run([*inside, "sh", "-c", filler])
    eventually(lambda: outcome(stage, HOSTS[0], PORT) != "open", "nothing new passes", 30)
    run([*inside, "rm", f"{journal}/filler"])
    eventually(lambda: [outcome(stage, host, PORT) for host in HOSTS] == ["open", "open"], "it recovers", 30)
    garbage = "head -c 3000 /dev/urandom >> $(ls -t " + str(journal) + "/worker-*.jsonl | head -1)"
    run([*inside, "sh", "-c", garbage + "; echo >> $(ls -t " + str(journal) + "/worker-*.jsonl | head -1)"])
    eventually(lambda: status(stage)["recorder"].get("garbage", 0) > 0, "it is set aside", 30)
    assert [outcome(stage, host, PORT) for host in HOSTS] == ["open", "open"]
    eventually(lambda: len(flows(stage)) >= 6, "the flows are stored", 30)
    assert (worker(stage)["restarts"], status(stage)["recorder"]["restarts"]) == (0, 0)
    assert stage.stop() == 0
