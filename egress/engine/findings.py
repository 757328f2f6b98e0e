"""The signatures of one engine: passes them the events of flows, and carries out their findings."""

from __future__ import annotations

from collections.abc import Sequence

from egress.dissection.events import DnsAnswered, Event, NotBound
from egress.engine.flow import Flow
from egress.engine.judge import Judge
from egress.engine.outbox import Outbox
from egress.engine.signature import Signature, listeners
from egress.engine.verdicts import Verdicts
from egress.model import Action, Effect, Finding, Reason
from egress.policy.rulebook import exempt


class Findings:
    """Passes each event to the signatures that listen to it.

    A signature refuses a flow at most once, and reports at most one suspicion about it.
    """

    def __init__(self, signatures: Sequence[Signature], judge: Judge, verdicts: Verdicts, outbox: Outbox) -> None:
        self._listeners = listeners(signatures)
        self._judge, self._verdicts, self._outbox = judge, verdicts, outbox

    def see(self, flow: Flow, event: Event, ts: float) -> None:
        """Pass an event to the signatures that listen to it, and carry out their findings.

        A DNS answer causes further events, one for each address in it that a rule with its name does not admit
        (`NotBound`). A flow may have many findings on these, since one flow to a resolver brings the answers for many
        names: the signature limits them itself.
        """
        for signature in self._listeners.get(type(event), ()):
            finding = signature.see(event, flow)
            if finding is not None and (isinstance(event, NotBound) or flow.note_found(_mark(finding))):
                self._flag(flow, finding, ts)
        if isinstance(event, DnsAnswered):
            for each in self._judge.not_bound(flow, event, ts):
                self.see(flow, each, ts)

    def _flag(self, flow: Flow, finding: Finding, ts: float) -> None:
        """Record a finding and refuse its flow, and if the finding demands it the flow's destination.

        A suspicion (effect `none`), or a finding that the flow's rule exempts, is only recorded.
        """
        if finding.effect is Effect.NONE or exempt(flow.rule, finding.signature):
            self._outbox.finding(flow, finding, ts, Action.ACCEPT)
            return
        if finding.effect is Effect.DESTINATION:
            self._judge.refuse_destination(flow, ts)
        flow.condemn()
        flow.identify()
        evidence = flow.evidence
        self._verdicts.refuse(flow, Reason.FINDING, ts)
        self._outbox.finding(flow, finding, ts, Action.REJECT, evidence)
        self._outbox.flow(flow, ts)


def _mark(finding: Finding) -> str:
    """Return the name under which the flow is flagged: after a suspicion its signature can still refuse the flow."""
    return f"{finding.signature} suspected" if finding.effect is Effect.NONE else finding.signature
