"""Monitor mode: everything is decided and recorded, and passes."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from demo.stage import POOL, Stage
from egress.model import Action, Mode, Reason
from tests.lab.gateway import HOSTS, findings, flows, guarded, outcome, serve
from tests.lab.net import needs_root

pytestmark = [pytest.mark.lab, needs_root]

POOL_PORT, FORBIDDEN = 443, 9000


@pytest.fixture
def stage() -> Iterator[Stage]:
    with guarded(attach=("--mode", "monitor")) as running:
        yield running


def test_the_miner_is_let_pass_and_written_down(stage: Stage) -> None:
    heard = stage.directory / "pool.heard"
    stage.serve_peer("pool", POOL, POOL_PORT, str(heard))
    serve(stage, FORBIDDEN)
    for host, segment in zip(POOL, ("1400", "1"), strict=True):
        mined = stage.lab.run(
            stage.agent, [sys.executable, "-m", "demo.peers", "miner", host, str(POOL_PORT), segment], 20.0
        )
        assert (mined.returncode, mined.stdout) == (0, "miner: share accepted\n")
    assert [outcome(stage, host, FORBIDDEN) for host in HOSTS] == ["open", "open"]
    assert stage.stop() == 0
    assert heard.read_text().split() == ["mining.subscribe", "mining.authorize", "mining.submit"] * 2
    assert {(found.signature, found.dst, found.action, found.mode) for found in findings(stage)} == {
        ("mining.stratum", host, Action.REJECT, Mode.MONITOR) for host in POOL
    }
    recorded = {(flow.dst, flow.dport): (flow.action, flow.reason, flow.mode) for flow in flows(stage)}
    assert recorded == {(host, POOL_PORT): (Action.REJECT, Reason.FINDING, Mode.MONITOR) for host in POOL} | {
        (host, FORBIDDEN): (Action.REJECT, Reason.DEFAULT, Mode.MONITOR) for host in HOSTS
    }
    (mining,) = [flow for flow in flows(stage) if flow.dst == POOL[0]]
    assert mining.packets_out > 5 and mining.bytes_in > 200  # what passed after the refusal is counted, too
