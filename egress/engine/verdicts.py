"""The verdicts of flows: how one is set, asked for again, put off, and changed with the policy.

What is decided (`Flow.verdict`) and what happens (`Flow.outcome`) differ in monitor mode only, where everything passes
but what a quarantined agent sends or is sent.

In mode ask a flow's first packet waits where no rule speaks of it and nothing of it has passed, and so does a query for
a name that no rule is about (`egress.engine.holds`). Whatever a deny rule, a finding, a budget or a refused destination
says is said at once. A flow that waits is judged again by the first packet that comes when its hold is over: only then
is it admitted and counted, so a `once` rule that ends the wait of many lets one pass and the others wait again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from egress.engine.flow import Flow
from egress.engine.holds import APPROVED, DENIED, EXPIRED, WITHDRAWN, Holds, asks
from egress.engine.judge import Judge
from egress.engine.outcome import Outcome
from egress.engine.records import flow_record
from egress.engine.tracker import Tracker
from egress.limits import Limits
from egress.model import Action, Agent, Hold, Mode, Policy, PolicyChange, Reason, Verdict
from egress.records.shape import Record


class Verdicts:
    """Of all flows of one engine; `counts` gets how many were refused, once or more, or held."""

    def __init__(
        self, limits: Limits, policy: Policy, tracker: Tracker, counts: Counter[str], *, gate_queries: bool
    ) -> None:
        self.judge = Judge(limits, policy, gate_queries=gate_queries)
        self.holds = Holds(limits, counts)
        self._tracker, self._counts = tracker, counts
        self._expiry = self.judge.rules.next_expiry(float("-inf"))  # when a rule falls silent next

    # --- one flow ---------------------------------------------------------------------------------------

    def admit(self, flow: Flow, ts: float) -> None:
        """The first verdict of a new flow."""
        self.decide(flow, self._put_off(flow, self.judge.admit(flow, ts), ts))

    def again(self, flow: Flow, ts: float) -> tuple[Record, ...]:
        """Rules, agent, application protocol or what the bytes say have changed; nothing does for one that waits."""
        if flow.condemned:
            self.decide(flow, flow.verdict)
        if flow.condemned or flow.hold:
            return ()
        old = flow.verdict
        verdict = self.judge.again(flow, ts) if flow.admitted else self.judge.admit(flow, ts)
        verdict = self._put_off(flow, verdict, ts)
        if old.settled and verdict.action is Action.ACCEPT:
            verdict = replace(verdict, settled=True)
        self.decide(flow, verdict)
        changed = (old.action, old.reason, old.rule_id) != (verdict.action, verdict.reason, verdict.rule_id)
        return (flow_record(flow, ts, flow.state),) if changed else ()

    def decide(self, flow: Flow, verdict: Verdict) -> None:
        """Set a flow's verdict and what it means for its packets."""
        flow.verdict = verdict
        if flow.rule is not None and flow.rule.expires_at is not None:  # a clock set back revives rules
            self._expiry = min(self._expiry, flow.rule.expires_at)
        if verdict.action is Action.ACCEPT or verdict.action is Action.HOLD:
            flow.outcome = Outcome(verdict)
            return
        if not flow.refused_before:
            flow.refused_before = True
            self._counts["refused"] += 1
        flow.hold = ""
        if flow.who.mode is Mode.MONITOR and not flow.who.quarantined:
            flow.outcome = Outcome(replace(verdict, action=Action.ACCEPT))
            return
        flow.outcome = Outcome(verdict)
        self._tracker.release(flow)
        self._tracker.timers.watch(flow)

    def refuse(self, flow: Flow, reason: Reason) -> None:
        """Refuse a flow for what no rule knows of."""
        self.decide(flow, self.judge.refuse(reason, flow.verdict.rule_id))

    def waits(self, flow: Flow) -> bool:
        """Whether a flow's hold is still pending."""
        return flow.hold in self.holds.pending

    def _put_off(self, flow: Flow, verdict: Verdict, ts: float) -> Verdict:
        """In mode ask: a person is asked first."""
        if flow.who.mode is not Mode.ASK:
            return verdict
        query, flow.wants = flow.wants, ""
        if verdict.action is Action.ACCEPT:
            if not query:
                return verdict
        elif verdict.reason is not Reason.DEFAULT or not _is_new(flow):
            return verdict
        elif self.judge.destinations.refused(flow.agent, flow.remote, ts):
            return self.judge.refuse(Reason.DESTINATION)
        flow.hold = self.holds.ask(flow, query, ts)
        if not flow.hold:
            flow.objection = self.judge.refuse(Reason.APPROVAL)
            return flow.objection
        return Verdict(Action.HOLD, Reason.APPROVAL, "", self.judge.rules.version, packet_only=True)

    # --- change -----------------------------------------------------------------------------------------

    def set_policy(self, policy: Policy, ts: float) -> tuple[Record, ...]:
        """Judge by other rules from now on, live flows included; what rules alone refused may try again."""
        self.judge.change(policy)
        self._expiry = self.judge.rules.next_expiry(ts)
        records = [record for flow in self._tracker.flows() for record in self._changed(flow, ts)]
        self._review(ts)
        return tuple(records)

    def change_policy(self, change: PolicyChange, ts: float) -> tuple[Record, ...]:
        """The same for changed rules; only the flows that they may concern are judged again.

        ValueError, and nothing is changed: the change does not fit the policy in force.
        """
        concern = self.judge.apply(change)
        if self._expiry > ts:  # else flows that it has not been told to yet may be of no concern to this change
            self._expiry = self.judge.rules.next_expiry(ts)
        records: list[Record] = []
        who, mine = None, False
        for flow in self._tracker.flows():  # by agent, so the first question is rarely asked
            if flow.who is not who:
                who = flow.who
                mine = concern.concerns_agent(who)
            if mine and self.judge.concerned(flow, concern, ts):
                records += self._changed(flow, ts)
        self._review(ts)
        return tuple(records)

    def change_agent(self, agent: Agent, ts: float) -> None:
        """The agent of this name has another mode, default or labels, or was quarantined or released.

        Its flows are judged anew with their next packets; what waits and may not any more is over now.
        """
        for hold in self.holds.of(agent.name):
            self.holds.first(hold.id).who = agent
            if asks(agent):
                self._ask_again(hold, ts)
            else:
                self.holds.end(hold.id, WITHDRAWN)

    def under(self, flow: Flow, agent: Agent, ts: float) -> tuple[Record, ...]:
        """Judge a flow of an agent that has changed; what no finding refused is forgotten, and may try again."""
        self.change_agent(agent, ts)
        if not flow.condemned and flow.outcome.verdict.action not in (Action.ACCEPT, Action.HOLD):
            return (self._tracker.forget(flow, ts, "closed"),)
        flow.who = agent
        return self.again(flow, ts)

    def answer(self, identifier: str, ts: float) -> tuple[Record, ...]:
        """A person said no: refuse what waits for this hold."""
        return self._deny(identifier, DENIED, ts)

    def tick(self, ts: float) -> tuple[Record, ...]:
        """Holds that nobody answered, and rules that have fallen silent: what they admitted is judged again."""
        records = [record for hold in self.holds.late(ts) for record in self._deny(hold.id, EXPIRED, ts)]
        if ts >= self._expiry:
            self._expiry = self.judge.rules.next_expiry(ts)
            flows = [flow for flow in self._tracker.flows() if flow.rule is not None and flow.state != "closed"]
            records += [record for flow in flows for record in self.again(flow, ts)]
        return tuple(records)

    def next_tick(self) -> float:
        return min(self._expiry, self.holds.due)

    def forget(self, agent: str) -> None:
        """The agent is gone."""
        for hold in self.holds.of(agent):
            self.holds.end(hold.id, WITHDRAWN)
        self.judge.forget(agent)

    def _changed(self, flow: Flow, ts: float) -> tuple[Record, ...]:
        """The rules about a flow are others. One that is over keeps what it was allowed."""
        if flow.state == "closed" or flow.hold or flow.condemned:
            return ()
        if flow.refused:
            return (self._tracker.forget(flow, ts, "closed"),)
        flow.found.clear()  # what a rule exempted so far may be a finding now
        flow.objection = None
        return self.again(flow, ts)

    def _review(self, ts: float) -> None:
        for hold in tuple(self.holds.pending.values()):
            self._ask_again(hold, ts)

    def _ask_again(self, hold: Hold, ts: float) -> None:
        """End a hold if the rules have come to speak of it."""
        query = hold.names[0] if hold.query else ""
        verdict = self.judge.would_pass(self.holds.first(hold.id), query, ts)
        if verdict.action is Action.ACCEPT:
            self.holds.end(hold.id, APPROVED)
        elif verdict.rule_id:
            self.holds.end(hold.id, DENIED)

    def _deny(self, identifier: str, state: str, ts: float) -> tuple[Record, ...]:
        """A hold ends in a refusal of all that waits for it, until the rules change."""
        hold = self.holds.end(identifier, state)
        records: list[Record] = []
        for flow in self._tracker.flows(hold.agent) if hold is not None else ():
            if flow.hold == identifier:
                flow.objection = self.judge.refuse(Reason.APPROVAL)
                flow.last = ts  # for as long from now on as other refused flows
                self.decide(flow, flow.objection)
                records.append(flow_record(flow, ts, flow.state))
        return tuple(records)


def _is_new(flow: Flow) -> bool:
    """Whether this is the beginning of a flow that the agent opens."""
    return flow.outbound and not (flow.picked_up or flow.admitted or flow.packets_out or flow.packets_in)
