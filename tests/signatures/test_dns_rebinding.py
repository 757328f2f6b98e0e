"""dns.rebinding: what it says and remembers. `tests/engine/test_engine_addresses.py` has the engine's part."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

from egress.dissection.events import NotBound
from egress.engine.signature import FlowView
from egress.model import Effect, Severity
from signatures.dns_rebinding import MAX_NAMES, QUIET, DnsRebinding

MakeFlow = Callable[..., FlowView]


def event(name: str = "mirror.example.org", address: str = "10.0.0.5", ts: float = 0.0) -> NotBound:
    return NotBound(ts, name, ip_address(address).packed, "mirror")


def test_it_names_the_rule_the_address_and_what_to_do(make_flow: MakeFlow) -> None:
    finding = DnsRebinding().see(event(), make_flow())
    assert finding is not None
    assert (finding.effect, finding.severity, finding.technique) == (Effect.NONE, Severity.MEDIUM, "T1557")
    assert finding.summary == (
        "The name mirror.example.org, allowed by rule mirror, has the address 10.0.0.5, which is not outside."
        " If that is its right address, set private: true in the rule."
    )
    assert finding.evidence == b"mirror.example.org 10.0.0.5"


def test_of_metadata_it_names_the_cloud_and_gives_no_remedy(make_flow: MakeFlow) -> None:
    finding = DnsRebinding().see(event(address="fd00:ec2::254"), make_flow())
    assert finding is not None and "where clouds serve metadata (AWS)." in finding.summary
    assert "private" not in finding.summary


def test_a_name_is_found_once_an_hour_for_each_agent(make_flow: MakeFlow) -> None:
    signature = DnsRebinding()
    assert signature.see(event(), make_flow())
    assert signature.see(event(address="10.0.0.6", ts=QUIET - 1), make_flow()) is None
    assert signature.see(event(ts=1), make_flow(agent="other"))
    assert signature.see(event("other.example.org", ts=1), make_flow())
    assert signature.see(event(ts=QUIET), make_flow())


def test_what_it_remembers_is_bounded(make_flow: MakeFlow) -> None:
    signature = DnsRebinding()
    for number in range(MAX_NAMES + 10):
        assert signature.see(event(f"n{number}.example.org"), make_flow())
    assert len(signature._found) == MAX_NAMES
    assert signature.see(event("n0.example.org", ts=1), make_flow()), "the oldest is forgotten"
