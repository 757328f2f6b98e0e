"""Ends the inspection of a flow when its further bytes can prove nothing, and begins it again when they can."""

from __future__ import annotations

from egress.dissection.registry import REGISTRY
from egress.engine.conformance import break_off, follow_settled
from egress.engine.flow import Flow
from egress.engine.judge import Judge
from egress.engine.outbox import Outbox
from egress.engine.patterns import Patterns
from egress.engine.stage import Stage
from egress.engine.tracker import Tracker
from egress.engine.verdicts import Verdicts
from egress.limits import Limits
from egress.model import UDP, Action, Direction, Mode, Reason

OUT, IN = Direction.OUT, Direction.IN


class Settling:
    """Decides how deeply each flow of one engine is inspected; counts the flows that were reopened."""

    def __init__(
        self, limits: Limits, judge: Judge, verdicts: Verdicts, tracker: Tracker, patterns: Patterns, outbox: Outbox
    ) -> None:
        self._limits, self._judge, self._verdicts = limits, judge, verdicts
        self._tracker, self._patterns, self._outbox = tracker, patterns, outbox

    def identify(self, flow: Flow, ts: float) -> None:
        """Copy the protocol and name that dissection found to the flow; judge it again if the protocol is new.

        A new protocol is recorded even if the verdict stays.
        """
        if flow.identify() and not self._verdicts.rejudge(flow, ts):
            self._outbox.flow(flow, ts)

    def settle_if_due(self, flow: Flow, ts: float) -> None:
        """Settle a flow that can prove nothing more.

        It is so if no later byte can give a fact, or after `Limits.settle_bytes` from the agent. If only the other side
        has sent that many, the flow is LISTENING until its agent has, too: a server cannot end the inspection by
        talking. A flow whose agent has more than `Limits.max_buffered` bytes under inspection is settled if the agent
        is monitored, and otherwise refused. A flow that may still ask for another name goes on.
        """
        listening = flow.stage is Stage.LISTENING
        if (listening and flow.proto == UDP) or self._is_asked_again(flow):
            return
        full = not self._tracker.charge(flow)
        heard = flow.heard(self._limits.settle_bytes)
        done = full or heard[OUT] or (flow.dissector is not None and flow.dissector.opaque(flow.proto))
        if not done and (listening or not heard[IN]):
            return
        if not flow.app:
            flow.give_up_identifying()
            self._verdicts.rejudge(flow, ts)
        if full and flow.who.mode is not Mode.MONITOR and flow.outcome.verdict.action is Action.ACCEPT:
            self._verdicts.refuse(flow, Reason.MEMCAP, ts)
            self._outbox.flow(flow, ts)
        if flow.outcome.verdict.action is Action.ACCEPT:
            # QUIC may open further connections, with other names, on a pair of ports in use: always listen.
            self._settle(flow, listening=not done or flow.app in REGISTRY.reconnecting)

    def break_off(self, flow: Flow, ts: float) -> None:
        """Exclude TLS for a settled flow whose agent sent bytes that are no TLS record.

        The flow is judged again if its rule demands a protocol.
        """
        break_off(flow)
        if flow.demanded:
            self._verdicts.rejudge(flow, ts)

    def reopen(self, flow: Flow) -> None:
        """Inspect a settled flow again, for it showed a byte pattern or a new QUIC connection.

        The packet that showed it came through the settled queue and may be cut: the bytes that are there are judged,
        and the next packet comes at full depth.
        """
        self._outbox.counts["reopened"] += 1
        flow.reopen()

    def _is_asked_again(self, flow: Flow) -> bool:
        """Return True if a later message may ask for another name, and there is room to go on reading.

        Drops the bytes that were acknowledged.
        """
        if flow.dissector is None or not flow.dissector.asks_again(by_name=self._judge.by_name(flow)):
            return False
        flow.trim()
        return self._tracker.charge(flow)

    def _settle(self, flow: Flow, *, listening: bool) -> None:
        """Settle a flow: with `listening` its agent's bytes are still dissected, else they are scanned only."""
        flow.settle(listening=listening)
        if listening:
            flow.stop_hearing()
            self._tracker.charge(flow)
        else:
            flow.scan_on(self._patterns.scan())
            follow_settled(flow)
            self._tracker.release(flow)
