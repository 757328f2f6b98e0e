"""Damage to the journal's directory and disk: the gateway recovers without a restart, and reports what is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from api.metrics import Metrics
from demo.stage import Stage
from tests.lab.gateway import HOSTS, call, flows, guarded, log, outcome, serve, status, worker
from tests.lab.net import eventually, needs_root

pytestmark = [pytest.mark.lab, needs_root]

PORT = 8080


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
