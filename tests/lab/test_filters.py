"""Every process that handles what agents send runs under a system call filter, and does its work under it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.gateway import HOSTS, flows, guarded, outcome, serve, status
from tests.lab.net import eventually, needs_root

pytestmark = [pytest.mark.lab, needs_root]


def filtered(pid: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return "Seccomp:\t2" in lines and "NoNewPrivs:\t1" in lines


def test_worker_attribution_and_recorder_are_filtered_and_work() -> None:
    with guarded() as stage:
        serve(stage, 8080)
        found = status(stage)
        pids = [found["workers"][0]["pid"], found["attribution"]["pid"], found["recorder"]["pid"]]
        eventually(lambda: all(map(filtered, pids)), "all are filtered")
        assert [outcome(stage, host, 8080) for host in HOSTS] == ["open", "open"]
        eventually(lambda: {flow.dst for flow in flows(stage)} == set(HOSTS), "the flows are recorded")
        eventually(lambda: status(stage)["attribution"]["counters"]["found"] >= 2, "and attributed")
        assert status(stage)["attribution"]["counters"]["confined"] is True
        assert stage.stop() == 0
