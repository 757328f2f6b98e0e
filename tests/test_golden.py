"""Golden captures: replay finds what the gateway found, on the same packet.

A case is a folder of tests/captures; a new folder is a new test. It holds:

    capture.pcapng   the packets, less than 50 kB
    policy.yaml      the rules in force
    expected.json    agent_nets: the agents' networks; findings: signature and frame of each, in order

`python -m tests.lab.record` writes them, from the real gateway.
"""

from __future__ import annotations

import json
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from egress.model import Policy
from egress.policy.file import load_policy, parse_policy
from egress.replay import Network, Report, replay

FILES = {"capture.pcapng", "policy.yaml", "expected.json"}
CASES = sorted(path for path in (Path(__file__).parent / "captures").iterdir() if path.is_dir())
NAMES = [path.name for path in CASES]
ANY_SSH = Policy(1, parse_policy('rules: [{action: allow, exempt: ["ssh.*", "mining.*", "beacon.*"]}]', "test"))


def expected(case: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((case / "expected.json").read_text())
    return document


def agent_nets(case: Path) -> list[Network]:
    return [ip_network(network) for network in expected(case)["agent_nets"]]


def found(report: Report) -> list[dict[str, object]]:
    return [{"signature": each.record.signature, "frame": each.frame} for each in report.findings]


def test_every_case_is_whole_and_small() -> None:
    assert len(CASES) >= 16
    for case in CASES:
        assert {path.name for path in case.iterdir()} == FILES, case.name
        assert (case / "capture.pcapng").stat().st_size < 50_000, case.name
        assert expected(case).keys() == {"agent_nets", "findings"}, case.name
    assert sum(not expected(case)["findings"] for case in CASES) >= 6  # and as many cases without a finding


@pytest.mark.parametrize("case", CASES, ids=NAMES)
@pytest.mark.parametrize("openers", [False, True], ids=["agent-net", "openers"])
@pytest.mark.parametrize("ruled", [False, True], ids=["no-rules", "policy"])
def test_replay_finds_it_on_the_packet_on_which_the_gateway_did(case: Path, openers: bool, ruled: bool) -> None:
    policy = Policy(1, load_policy(case / "policy.yaml")) if ruled else Policy()
    report = replay(case / "capture.pcapng", policy, [] if openers else agent_nets(case))
    assert found(report) == expected(case)["findings"]
    assert (report.decode_errors, report.unattributed, report.truncated) == (0, 0, "")
    assert report.packets >= 4 and report.flows >= 1


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_a_rule_that_exempts_the_signatures_silences_them(case: Path) -> None:
    assert found(replay(case / "capture.pcapng", ANY_SSH, agent_nets(case))) == []
