"""Two agents of one worker: one floods, and the connections that the other sets up meanwhile are measured."""

from __future__ import annotations

import json
import statistics
import sys
from typing import NamedTuple

from demo.stage import Stage
from tests.lab.flood import CONTENT
from tests.lab.gateway import HOSTS, POLICY, serve
from tests.lab.test_gateway_agents import namespace

RULES = POLICY + "  - {id: dns, action: allow, destination: 10.99.2.2, protocol: udp, ports: 53}\n"


SECONDS, LONGER = 1.5, 3.0  # of measurement, of a flood


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

    def beside(self, kind: str, seconds: float = SECONDS) -> SetUps:
        """Measure the set-ups of one agent for some seconds while the other sends this kind of traffic."""
        words = [sys.executable, "-m", "tests.lab.flood", kind, HOSTS[0], str(seconds + LONGER - SECONDS)]
        flood = self.stage.lab.popen(self.stage.agent, words)
        try:
            words = [sys.executable, "-m", "tests.lab.setups", HOSTS[0], str(CONTENT), str(seconds)]
            out, _ = self.stage.lab.popen(self.by, words).communicate(timeout=60)
        finally:
            flood.kill()
            flood.communicate()
        found = json.loads(out)
        return SetUps(statistics.median(found["took"] or [float("inf")]), found["failed"])
