"""Golden captures (made by `python -m tests.lab.record` from the real gateway): replay finds what the gateway found."""

from __future__ import annotations

import json
from ipaddress import ip_network
from pathlib import Path

import pytest

from egress.model import Policy
from egress.policyfile import parse_policy
from egress.replay import Report, replay

CAPTURES = Path(__file__).parent / "captures"
EXPECTED: dict[str, list[dict[str, object]]] = json.loads((CAPTURES / "expected.json").read_text())
AGENT_NETS = [ip_network("10.99.1.0/24"), ip_network("fd99:1::/64")]
ANY_SSH = Policy(1, parse_policy('rules: [{action: allow, exempt: ["ssh.*", "mining.*", "beacon.*"]}]', "test"))


def found(report: Report) -> list[dict[str, object]]:
    return [{"signature": each.record.signature, "frame": each.frame} for each in report.findings]


def test_every_capture_is_expected_and_small() -> None:
    assert {path.name for path in CAPTURES.iterdir()} == {*EXPECTED, "expected.json"}
    assert all((CAPTURES / name).stat().st_size < 50_000 for name in EXPECTED)
    assert sum(not findings for findings in EXPECTED.values()) >= 6  # and as many in which there is nothing to find


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("networks", [AGENT_NETS, []], ids=["agent-net", "openers"])
def test_replay_finds_it_on_the_packet_on_which_the_gateway_did(name: str, networks: list[object]) -> None:
    report = replay(CAPTURES / name, Policy(), networks)  # type: ignore[arg-type]
    assert found(report) == EXPECTED[name]
    assert (report.decode_errors, report.unattributed, report.truncated) == (0, 0, "")
    assert report.packets >= 4 and report.flows >= 1


@pytest.mark.parametrize("name", EXPECTED)
def test_a_rule_that_exempts_the_signatures_silences_them(name: str) -> None:
    assert found(replay(CAPTURES / name, ANY_SSH, AGENT_NETS)) == []
