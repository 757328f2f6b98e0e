"""docs/reliability.md as `make chaos` writes it: totals, marks for faults that did not hold, and faults not done."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.chaos.faults import FAULTS
from bench.chaos.page import page, summary
from bench.chaos.traffic import CANARY, CONTENT, PROBE, SSH, kind_of
from bench.chaos.trial import Fault, Result
from egress.model import ACK, PSH, SYN
from tests.traffic import AGENT4, AGENT6, SERVER4, SERVER6, tcp, udp

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reliability.md"


def nothing(_: object) -> None:
    """Inject nothing."""


CONTROL, GOOD, BAD, LOST, SKIPPED = (
    (Fault("control", "Controls", nothing, open=True), Result("control", 100, 100, 4, 4)),
    (Fault("good", "Faults", nothing), Result("good", 200, 0, 8, 0, 50, 0, 1.26)),
    (Fault("bad", "Faults", nothing), Result("bad", 300, 7, 8, 1, 60, 0)),
    (Fault("lost", "Faults", nothing), Result("lost", 300, 0, 8, 0, 60, 2)),
    (Fault("skipped", "Faults", nothing), Result("skipped", note="not done: there is no nft")),
)


def test_the_page_has_each_trial_and_marks_those_that_did_not_hold() -> None:
    text = page([CONTROL, GOOD, BAD, LOST, SKIPPED], 500.0, "2026-11-30 20:00")
    rows = {line.split("  ")[0]: line.split() for line in text.splitlines() if "  " in line and line[0].isalpha()}
    assert rows["control"] == ["control", "100", "100", "4", "4", "-", "-", "0.0"]
    assert rows["good"] == ["good", "200", "0", "8", "0", "50", "0", "1.3"]
    assert rows["bad"] == ["bad", "(!)", "300", "7", "8", "1", "60", "0", "0.0"]
    assert rows["lost"][1] == "(!)" and rows["skipped"][1:] == ["-"] * 7
    assert "- skipped: not done: there is no nft." in text
    assert max(map(len, text.splitlines())) <= 120


def test_the_totals_leave_out_what_is_open_by_design() -> None:
    told = " ".join(summary([CONTROL, GOOD, BAD, LOST]).split())
    assert told == (
        "Of 3 trials with a gateway 1 held: 7 of 800 canaries and 1 of 24 contents got out, and 2 of 170 allowed flows"
        " have no record."
    )


def test_names_of_faults_are_unique_and_fit_the_page() -> None:
    names = [fault.name for fault in FAULTS]
    assert len(names) == len(set(names)) > 30 and max(map(len, names)) <= 70


def test_the_committed_page_was_written_by_a_run_of_these_faults() -> None:
    text = PAGE.read_text()
    assert [fault.name for fault in FAULTS if fault.name not in text] == []


@pytest.mark.parametrize(("source", "target"), [(AGENT4, SERVER4), (AGENT6, SERVER6)])
def test_the_witness_knows_the_traffic(source: str, target: str) -> None:
    assert kind_of(udp(source, target, 1234, CANARY, b"canary")) == "canary"
    assert kind_of(tcp(source, target, 1234, CANARY, SYN, 1, 0)) == "canary"
    assert kind_of(udp(source, target, 1234, PROBE, b"probe")) == f"probe {source} 1234"
    assert kind_of(tcp(source, target, 1234, SSH, PSH | ACK, 1, 1, CONTENT)) == "content"
    for other in (
        tcp(source, target, 1234, CANARY, ACK, 1, 1),
        tcp(source, target, 1234, SSH, PSH | ACK, 1, 1, b"SSH-2.0-x\r\n"),
        udp(source, target, 1234, 53, b"x"),
        b"\0",
    ):
        assert kind_of(other) == ""
