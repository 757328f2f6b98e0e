"""dos.flood: the agent sends more packets than the gateway can judge, so that the kernel drops some of them.

Each agent has queues of its own, so a flood costs the agent itself and not its neighbours. Agents behind one interface
share those of one of them: there the flooder is not known, and nothing is found. Nothing is refused because
of it: honest work may overrun a queue, too, on a busy host. The finding is of the agent's newest flow, at most once
every ten minutes. Evaded by: sending a little less.
"""

from __future__ import annotations

from egress.dissection.events import Event, Overrun
from egress.engine.signature import FlowView, Signature, endpoint
from egress.model import Effect, Finding, Severity


class DosFlood(Signature):
    """Reports an agent whose packets overran its queues (see the module's docstring)."""

    id = "dos.flood"
    severity = Severity.MEDIUM
    technique = "T1499.002"  # Service Exhaustion Flood
    listens = (Overrun,)

    def see(self, event: Event, flow: FlowView) -> Finding | None:
        if not isinstance(event, Overrun):
            return None
        newest = endpoint(flow.remote, flow.rport)
        lost = f"{event.dropped} packets were dropped"
        summary = f"The agent sent more than its gateway could judge: {lost}. Its newest flow is to {newest}."
        proof = f"{event.dropped} packets dropped".encode()
        return Finding(self.id, self.severity, summary, proof, self.technique, Effect.NONE)
