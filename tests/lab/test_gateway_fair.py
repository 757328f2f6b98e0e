"""One agent floods; the connections of its neighbour on the same worker are all made, nearly as fast as before."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from demo.stage import Stage
from tests.lab.flood import CONTENT, KINDS
from tests.lab.gateway import HOSTS, POLICY, findings, queue_drops, serve, status
from tests.lab.net import eventually, needs_root
from tests.lab.test_gateway_agents import namespace

pytestmark = [pytest.mark.lab, needs_root]

SECONDS, LONGER = 1.5, 3.0  # of measurement, of a flood
SLACK = 30.0  # milliseconds: the flood, its receiver and the tests beside it share the processors with the worker
RULES = "  - {id: dns, action: allow, destination: 10.99.2.2, protocol: udp, ports: 53}\n"


class SetUps(NamedTuple):
    """Connections that were tried one after another."""

    median: float  # milliseconds
    failed: int


class Neighbours:
    """Two agents of one worker."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.by = namespace(stage, "by", 3, "agent1")
        serve(stage, CONTENT)
        stage.attach("red")
        stage.egress("agent", "add", "by", "--netns", self.by)
        stage.start("--workers", "1")

    def beside(self, kind: str) -> SetUps:
        """Measure the set-ups of one agent while the other sends this."""
        words = [sys.executable, "-m", "tests.lab.flood", kind, HOSTS[0], str(LONGER)]
        flood = self.stage.lab.popen(self.stage.agent, words)
        try:
            words = [sys.executable, "-m", "tests.lab.setups", HOSTS[0], str(CONTENT), str(SECONDS)]
            out, _ = self.stage.lab.popen(self.by, words).communicate(timeout=60)
        finally:
            flood.kill()
            flood.communicate()
        found = json.loads(out)
        return SetUps(statistics.median(found["took"] or [float("inf")]), found["failed"])


@pytest.fixture(scope="module")
def neighbours() -> Iterator[Neighbours]:
    with Stage(POLICY + RULES, {"queue": {"length": 256}}) as stage:  # short: overrun on any machine
        yield Neighbours(stage)


@pytest.fixture(scope="module")
def quiet(neighbours: Neighbours) -> SetUps:
    """Set-ups beside an agent that burns a processor and sends nothing."""
    return neighbours.beside("control")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "control"])
def test_a_flood_costs_its_neighbour_no_connection(neighbours: Neighbours, quiet: SetUps, kind: str) -> None:
    found = neighbours.beside(kind)
    assert found.failed == quiet.failed == 0
    assert found.median <= 2 * quiet.median + SLACK
    assert queue_drops(neighbours.stage, "by") == 0, "its own queues have room"


def test_a_flooder_is_named(neighbours: Neighbours) -> None:
    stage = neighbours.stage
    neighbours.beside("udp, refused")
    eventually(lambda: queue_drops(stage, "red") > 0, "the flooder's queue overran")
    eventually(lambda: any(each.signature == "dos.flood" for each in findings(stage)), "the finding is stored")
    assert {each.agent for each in findings(stage) if each.signature == "dos.flood"} == {"red"}
    doctor = stage.egress("doctor", check=False)
    assert doctor.returncode == 1
    assert "queues of red" in doctor.stdout and "queues of by" not in doctor.stdout
    assert sorted(agent["queue"] for agent in status(stage)["agents"]) == [7400, 7402]
