"""What a detector looks like: a plain class in one file of `signatures/`, fed with events, answering with findings."""

from __future__ import annotations

from typing import Protocol

from egress.dissection.events import Event
from egress.model import Finding, Rule, Severity


class FlowView(Protocol):
    """What a signature may read of a flow."""

    agent: str
    proto: int
    local: bytes  # packed address of the agent's side
    lport: int
    remote: bytes  # packed address of the other side
    rport: int
    outbound: bool  # the agent opened it
    picked_up: bool  # first seen in mid-stream: nobody can say who opened it
    app: str  # application protocol once identified: ssh, tls, http, dns, stratum, …
    rule: Rule | None  # the allow rule that admitted it

    @property
    def server_port(self) -> int: ...

    def scratch(self, signature: str) -> dict[str, object]:
        """State of one signature on this flow; it lives and dies with the flow. Keep it bounded."""
        ...


class Signature(Protocol):
    """One detector. An engine owns one instance, so an instance may keep (bounded) state of its own.

    `see` is called for each event whose type is in `listens`; a finding is the only way to object.
    It must not raise, must run in bounded time and memory, and must read no clock: time is in the events.
    """

    id: str
    severity: Severity
    technique: str
    listens: tuple[type, ...]

    def see(self, event: Event, flow: FlowView) -> Finding | None: ...
