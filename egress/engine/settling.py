"""From undecided to settled and back: when a flow's bytes have told all they can, and when they are read again."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from egress.engine.flow import Flow
from egress.engine.outcome import Outcome
from egress.engine.patterns import Patterns
from egress.engine.records import flow_record
from egress.engine.tracker import Tracker
from egress.engine.verdicts import Verdicts
from egress.limits import Limits
from egress.model import UDP, Action, App, Direction, Mode, Reason
from egress.records.shape import Record

OUT, IN = Direction.OUT, Direction.IN


class Settling:
    """For all flows of one engine; `counts` gets how many were taken back."""

    def __init__(
        self, limits: Limits, tracker: Tracker, verdicts: Verdicts, patterns: Patterns, counts: Counter[str]
    ) -> None:
        self._limits, self._tracker, self._verdicts, self._patterns = limits, tracker, verdicts, patterns
        self._counts = counts

    def identified(self, flow: Flow, ts: float) -> tuple[Record, ...]:
        """Take over what dissection learnt; a new application protocol asks the rules again."""
        if not flow.identify():
            return ()
        return self._verdicts.again(flow, ts) or (flow_record(flow, ts, flow.state),)

    def settle_if_due(self, flow: Flow, ts: float) -> tuple[Record, ...]:
        """A flow that can prove nothing more is settled: opaque, or past the bytes any proof needs.

        Where only the other side has said that much, the kernel may settle the flow, but its agent is listened to
        until it has: a server cannot talk the inspection away.
        """
        if flow.listening and flow.proto == UDP:
            return ()
        if flow.dissector is not None and flow.dissector.asks_again(by_name=self._verdicts.judge.by_name(flow)):
            flow.trim()
            if self._tracker.charge(flow):
                return ()
        full = not self._tracker.charge(flow)
        told = flow.told(self._limits.settle_bytes)
        done = full or told[OUT] or (flow.dissector is not None and flow.dissector.opaque(flow.proto))
        if not done and (flow.listening or not told[IN]):
            return ()
        records: tuple[Record, ...] = ()
        if not flow.app:
            flow.app = App.UNKNOWN
            records = self._verdicts.again(flow, ts)
        if full and flow.who.mode is not Mode.MONITOR and flow.outcome.verdict.action is Action.ACCEPT:
            self._verdicts.refuse(flow, Reason.MEMCAP)
            return (*records, flow_record(flow, ts, flow.state))
        if flow.outcome.verdict.action is Action.ACCEPT:
            flow.verdict = replace(flow.verdict, settled=True)
            flow.outcome = Outcome(replace(flow.outcome.verdict, settled=True))
            # QUIC opens other connections, with other names, on a pair of ports in use: it is listened to for ever.
            flow.listening = not done or flow.app == App.QUIC
            if not flow.listening:
                flow.scan = self._patterns.scan()
                if flow.scan is not None and flow.streams is not None:
                    flow.scan.follow(flow.streams[OUT].history)
                self._tracker.release(flow)
            else:
                flow.stop_hearing()
                self._tracker.charge(flow)
        return records

    def reopen(self, flow: Flow) -> None:
        """A settled flow showed a pattern: look closely again, as at one picked up in mid-stream.

        The packet that showed it came through the settled queue and may be cut: what is there is judged, and the next
        one comes at full depth.
        """
        self._counts["reopened"] += 1
        flow.partial = True
        flow.listening = False
        flow.scan = None
        flow.verdict = replace(flow.verdict, settled=False)
        flow.outcome = Outcome(replace(flow.outcome.verdict, settled=False))
