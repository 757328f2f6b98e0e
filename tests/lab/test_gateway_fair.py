"""One agent floods; the connections of its neighbour on the same worker are all made, nearly as fast as before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from demo.stage import Stage
from tests.lab.flood import KINDS
from tests.lab.gateway import findings, queue_drops, status
from tests.lab.neighbours import RULES, Neighbours, SetUps
from tests.lab.net import eventually, needs_root

pytestmark = [pytest.mark.lab, needs_root]

SLACK = 30.0  # milliseconds: the flood, its receiver and the tests beside it share the processors with the worker


@pytest.fixture(scope="module")
def neighbours() -> Iterator[Neighbours]:
    with Stage(RULES, {"queue": {"length": 256}}) as stage:  # short: overrun on any machine
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
