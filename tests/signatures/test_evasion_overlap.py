"""evasion.tcp-overlap: one contradiction is a finding, and it quotes both versions."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from egress.dissection.events import Burst, Inconsistent
from egress.dissection.stream import Stream
from egress.engine.signature import FlowView
from egress.model import EVIDENCE_BYTES, Direction, Severity
from signatures.evasion_overlap import EvasionOverlap

MakeFlow = Callable[..., FlowView]


def test_a_contradiction_in_a_real_stream(make_flow: MakeFlow) -> None:
    stream = Stream(strict=True, capacity=65536)
    stream.feed(1000, b"GET /harmless")
    stream.feed(1005, b"miningpool")
    assert stream.conflict is not None
    finding = EvasionOverlap().see(Inconsistent(Direction.OUT, *stream.conflict), make_flow())
    assert finding is not None
    assert (finding.signature, finding.severity, finding.technique) == ("evasion.tcp-overlap", Severity.HIGH, "T1001")
    assert finding.summary == (
        "The agent sent 203.0.113.9:443 two versions of the same TCP bytes (sequence number 1005: first 'harmless',"
        " then 'miningpo'): a way to show an inspector other bytes than the receiver gets."
    )
    assert finding.evidence == b"harmless | miningpo"


def test_the_other_direction(make_flow: MakeFlow) -> None:
    finding = EvasionOverlap().see(Inconsistent(Direction.IN, 7, b"a", b"b"), make_flow())
    assert finding is not None and finding.summary.startswith("203.0.113.9:443 sent the agent two versions")


def test_other_events_are_nothing(make_flow: MakeFlow) -> None:
    assert EvasionOverlap().see(Burst(1.0), make_flow()) is None


@given(st.binary(max_size=2000), st.binary(max_size=2000), st.integers(0, 2**32 - 1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bounded_and_printable(make_flow: MakeFlow, before: bytes, after: bytes, seq: int) -> None:
    finding = EvasionOverlap().see(Inconsistent(Direction.OUT, seq, before, after), make_flow())
    assert finding is not None
    assert len(finding.evidence) <= EVIDENCE_BYTES and len(finding.summary) < 400
    assert all(" " <= char <= "~" or char == "…" for char in finding.summary)
