"""dns.rebinding: a DNS answer gives a name that an allow rule matches an address that is not outside.

The zone of the name decides which addresses it has, so it could turn a rule for a host outside into one for a host
inside: the gateway, another agent, a private network, a cloud's metadata. The name rule does not admit such an address
(reason `private`), and that alone is the defence. Names with private addresses are common where a resolver serves an
organisation (split horizon), so the finding refuses nothing. A rule with `private: true` admits them, and ends it.

One finding an hour for each agent and name. Evaded by: an address that is global by its form, but inside here.
"""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import ip_address

from egress.dissection.events import Event, NotBound
from egress.engine.signature import FlowView, Signature, printable
from egress.model import EVIDENCE_BYTES, Effect, Finding, Severity
from egress.policy.metadata import cloud_at

QUIET = 3600.0  # seconds between two findings for an agent and a name
MAX_NAMES = 4096  # agents and names that are remembered; beyond it the oldest is forgotten


class DnsRebinding(Signature):
    """See the module's docstring."""

    id = "dns.rebinding"
    severity = Severity.MEDIUM
    technique = "T1557"  # Adversary-in-the-Middle; ATT&CK has no technique of its own for rebinding
    listens = (NotBound,)

    def __init__(self) -> None:
        self._found: OrderedDict[tuple[str, str], float] = OrderedDict()  # the oldest first

    def see(self, event: Event, flow: FlowView) -> Finding | None:
        if not isinstance(event, NotBound) or self._is_known(flow.agent, event.name, event.ts):
            return None
        address, name = ip_address(event.address), printable(event.name, 80)
        cloud = cloud_at(event.address)
        what = f"where clouds serve metadata ({cloud})" if cloud else "which is not outside"
        remedy = "" if cloud else " If that is its right address, set private: true in the rule."
        summary = f"The name {name}, allowed by rule {event.rule_id}, has the address {address}, {what}.{remedy}"
        evidence = f"{name} {address}".encode()[:EVIDENCE_BYTES]
        return Finding(self.id, self.severity, summary, evidence, self.technique, Effect.NONE)

    def _is_known(self, agent: str, name: str, ts: float) -> bool:
        """Return True if there was a finding for this agent and name less than QUIET seconds ago; else note it."""
        last = self._found.get((agent, name))
        if last is not None and 0 <= ts - last < QUIET:
            return True
        self._found[agent, name] = ts
        self._found.move_to_end((agent, name))
        if len(self._found) > MAX_NAMES:
            self._found.popitem(last=False)
        return False
