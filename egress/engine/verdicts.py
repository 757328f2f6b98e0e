"""The verdicts of flows: sets them, re-judges flows when something changes, and puts flows on hold.

In mode ask the first packet of a flow waits if no rule matches the flow and none of its packets has passed, and so does
a query for a name that no rule matches (`egress.engine.holds`). A flow to an address that a name rule matches, but does
not admit because it is not outside (reason `private`), waits as well. A deny rule, a finding, a budget, an address of
metadata or a refused destination refuses at once. A flow on hold is judged again by the first packet that comes when
its hold is over: only then is it admitted and counted, so a `once` rule that ends the hold of many flows lets one pass,
and the others wait again.

Where time or a change of the rules concerns many flows, they are judged again TURN at a time, in `tick`, and each at
the latest before its next packet. A closed flow keeps its verdict, unless another packet of it comes.
"""

from __future__ import annotations

from collections import deque

from egress.engine.flow import Flow
from egress.engine.holds import APPROVED, DENIED, EXPIRED, WITHDRAWN, Holds, asks, identity
from egress.engine.judge import Judge
from egress.engine.outbox import Outbox
from egress.engine.stage import Stage
from egress.engine.tracker import TURN, Tracker
from egress.model import ICMP, ICMPV6, Action, Agent, Hold, Mode, Policy, PolicyChange, Reason, Verdict
from egress.policy.affected import ChangeScope
from egress.wire.icmp import ERRORS, ERRORS_V6

_ASKED = frozenset((Reason.DEFAULT, Reason.PRIVATE))  # in mode ask a person decides on these refusals
_COUNTED = frozenset((Reason.PRIVATE, Reason.METADATA))  # reasons that `egress doctor` explains


class Verdicts:
    """Sets the verdicts of all flows of one engine; counts the flows that were ever refused."""

    def __init__(self, judge: Judge, holds: Holds, tracker: Tracker, outbox: Outbox) -> None:
        self._judge, self._holds, self._tracker, self._outbox = judge, holds, tracker, outbox
        self.expiry = judge.next_expiry(float("-inf"))  # when the next rule expires: `expire` is due
        self._due: deque[Flow] = deque()  # flows that are to be judged again; a packet may have caused that meanwhile

    # --- one flow ---------------------------------------------------------------------------------------

    def admit(self, flow: Flow, ts: float) -> None:
        """Set the first verdict of a new flow; no record is written."""
        verdict, hold = self._held_back(flow, self._judge.admit(flow, ts), ts)
        self._decide(flow, verdict, ts, hold)

    def rejudge(self, flow: Flow, ts: float) -> bool:
        """Judge a flow again after its rules, agent, protocol or name changed; flows on hold are left alone.

        Returns True if the verdict changed; then a record of the flow was written.
        """
        if flow.condemned:
            if flow.monitored is (flow.stage is Stage.REFUSED):  # the agent's mode has changed
                self._decide(flow, flow.verdict, ts)
            return False
        return not flow.hold and self._judge_anew(flow, ts)

    def resume(self, flow: Flow, ts: float) -> None:
        """Judge a flow whose hold is over, and write a record if the verdict changed."""
        self._judge_anew(flow, ts)

    def refuse(self, flow: Flow, reason: Reason, ts: float) -> None:
        """Refuse a flow for a reason that is not in the rules; the caller writes the record."""
        self._decide(flow, self._judge.refusal(reason, flow.verdict.rule_id), ts)

    def object_to(self, flow: Flow, reason: Reason, ts: float) -> None:
        """Refuse a flow until the rules change, and write a record of it."""
        objection = self._judge.refusal(reason)
        flow.set_objection(objection)
        self._decide(flow, objection, ts)
        self._outbox.flow(flow, ts)

    def waits(self, flow: Flow) -> bool:
        """Return True if the flow's hold is still pending."""
        return flow.hold in self._holds.pending

    def is_asked(self, flow: Flow, name: str) -> bool:
        """Return True if the hold of a query for this name is pending."""
        return identity(flow, name) in self._holds.pending

    def _judge_anew(self, flow: Flow, ts: float) -> bool:
        """Set the present verdict of a flow; return True, and write a record, if it is another one."""
        old = flow.verdict
        verdict = self._judge.verdict(flow, ts) if flow.admitted else self._judge.admit(flow, ts)
        verdict, hold = self._held_back(flow, verdict, ts)
        self._decide(flow, verdict, ts, hold)
        changed = (old.action, old.reason, old.rule_id) != (verdict.action, verdict.reason, verdict.rule_id)
        if changed:
            self._outbox.flow(flow, ts)
        return changed

    def _decide(self, flow: Flow, verdict: Verdict, ts: float, hold: str = "") -> None:
        """Set a flow's verdict; end the inspection of a flow that is refused."""
        if flow.decide(verdict, hold):
            self._outbox.counts["refused"] += 1
            if verdict.reason in _COUNTED:
                self._outbox.counts[verdict.reason.value] += 1
        expires_at = None if flow.rule is None else flow.rule.expires_at
        if expires_at is not None and ts < expires_at:  # a clock set back revives rules
            self.expiry = min(self.expiry, expires_at)
        if flow.stage is Stage.REFUSED:
            self._tracker.release(flow)
            self._tracker.watch(flow)

    def _held_back(self, flow: Flow, verdict: Verdict, ts: float) -> tuple[Verdict, str]:
        """Return the verdict and "", or (in mode ask, if a person must decide) HOLD and the id of the hold."""
        if flow.who.mode is not Mode.ASK:
            return verdict, ""
        query = flow.take_wanted()
        if verdict.action is Action.ACCEPT:
            if not query:
                return verdict, ""
        elif verdict.reason not in _ASKED or not _is_new(flow):
            return verdict, ""
        elif self._judge.refuses_destination(flow, ts):
            return self._judge.refusal(Reason.DESTINATION), ""
        hold = self._holds.ask(flow, query, ts, by_name=self._judge.is_outside(flow.remote))
        if hold:
            return self._judge.on_hold(), hold
        refusal = self._judge.refusal(Reason.APPROVAL)
        flow.set_objection(refusal)
        return refusal, ""

    # --- change -----------------------------------------------------------------------------------------

    def set_policy(self, policy: Policy, ts: float) -> None:
        """Judge by other rules from now on, live flows included; a flow that only rules refused may try again."""
        self._judge.set_policy(policy)
        self.expiry = self._judge.next_expiry(ts)
        for flow in self._tracker.flows():
            self._wait(flow, True)
        self._review_due(ts)
        self._review_holds(ts)

    def change_policy(self, change: PolicyChange, ts: float) -> None:
        """Judge by changed rules from now on; only the flows that the change can affect are judged again.

        Raises ValueError, and changes nothing, if the change does not fit the policy in force.
        """
        scope = self._judge.change_policy(change)
        if self.expiry > ts:  # else rules have expired whose flows are judged again by the next tick only
            self.expiry = self._judge.next_expiry(ts)
        who, mine = None, False
        for flow in self._tracker.flows():  # in order of agents, so that `includes_agent` is called once for each
            if flow.who is not who:
                who = flow.who
                mine = scope.includes_agent(who)
            if mine:
                self._wait(flow, scope if flow.due is None else True)
        self._review_due(ts)
        self._review_holds(ts)

    def change_agent(self, agent: Agent, ts: float) -> None:
        """Apply an agent's new mode, default, labels or quarantine to its holds: those not allowed any more end.

        Its flows are judged again with their next packets (`adopt`).
        """
        for hold in self._holds.of(agent.name):
            self._holds.first(hold.id).adopt(agent)
            if asks(agent):
                self._review_hold(hold, ts)
            else:
                self._holds.end(hold.id, WITHDRAWN)

    def adopt(self, flow: Flow, agent: Agent, ts: float) -> None:
        """Judge a flow of an agent that has changed.

        A refused one is forgotten instead, unless a finding refused it: the packet then begins another flow.
        """
        self.change_agent(agent, ts)
        if not flow.condemned and flow.stage is Stage.REFUSED:
            self._tracker.forget(flow, ts, "closed")
            return
        flow.adopt(agent)
        self.rejudge(flow, ts)

    def deny(self, identifier: str, ts: float) -> None:
        """End a hold that a person denied, and refuse the flows that wait for it."""
        self._holds.cool(identifier, ts)
        self._end_hold(identifier, DENIED, ts)

    def tick(self, ts: float) -> None:
        """Refuse the flows of holds that timed out and of queries that waited long enough; judge flows that are due.

        Flows are due when rules have expired or were changed: TURN of them are judged in one call.
        """
        for flow, identifier in self._holds.impatient(ts):
            flow.renew(ts)
            self.object_to(flow, Reason.APPROVAL, ts)
            self._holds.release(identifier)
        for hold in self._holds.late(ts):
            self._end_hold(hold.id, EXPIRED, ts)
        if ts >= self.expiry:
            self.expire(ts)
        self._review_due(ts)

    def expire(self, ts: float) -> None:
        """Mark each flow that a rule admitted to be judged again before its next packet, since a rule has expired."""
        self.expiry = self._judge.next_expiry(ts)
        for flow in self._tracker.flows():
            if flow.rule is not None:
                self._wait(flow, flow.due is not None and flow.due is not False)

    def next_tick(self) -> float:
        """Return the time at which `tick` has something to do; in the past while flows wait to be judged again."""
        return float("-inf") if self._due else min(self.expiry, self._holds.due)

    def review(self, flow: Flow, ts: float) -> None:
        """Judge a flow that is due; after a change of the rules, one that only rules refused is forgotten instead."""
        scope, flow.due = flow.due, None
        if scope is None or flow.stage is Stage.FORGOTTEN:
            return
        if scope is False:
            self.rejudge(flow, ts)
        elif scope is True or self._judge.affected(flow, scope, ts):
            self._rules_changed(flow, ts)

    def _review_due(self, ts: float) -> None:
        """Judge the next TURN flows that are due, except closed ones."""
        for _ in range(min(TURN, len(self._due))):
            flow = self._due.popleft()
            if flow.state != "closed":  # one that is over keeps its verdict, unless another packet of it comes
                self.review(flow, ts)

    def _wait(self, flow: Flow, scope: ChangeScope | bool) -> None:
        """Note that a flow must be judged again, and why (`Flow.due`)."""
        if flow.due is None:
            self._due.append(flow)
        flow.due = scope

    def forget(self, agent: str) -> None:
        """Withdraw the holds of an agent that is gone, and forget its names, budgets and refused destinations."""
        for hold in self._holds.of(agent):
            self._holds.end(hold.id, WITHDRAWN)
        if self._due:
            self._due = deque(flow for flow in self._due if flow.agent != agent)
        self._judge.forget(agent)

    def _rules_changed(self, flow: Flow, ts: float) -> None:
        """Judge a flow whose rules have changed; one that only rules refused is forgotten instead."""
        if flow.hold or flow.condemned:
            return
        if flow.refused:
            self._tracker.forget(flow, ts, "closed")
            return
        flow.forget_found()  # a signature that a rule exempted so far may object now
        flow.set_objection(None)
        self.rejudge(flow, ts)

    def _review_holds(self, ts: float) -> None:
        """End the holds that the changed rules answer."""
        for hold in tuple(self._holds.pending.values()):
            self._review_hold(hold, ts)

    def _review_hold(self, hold: Hold, ts: float) -> None:
        """End a hold if the rules now allow its flow or query, or a rule denies it."""
        query = hold.names[0] if hold.query else ""
        verdict = self._judge.preview(self._holds.first(hold.id), query, ts)
        if verdict.action is Action.ACCEPT:
            self._holds.end(hold.id, APPROVED)
        elif verdict.rule_id and verdict.reason not in _ASKED:
            self._holds.end(hold.id, DENIED)

    def _end_hold(self, identifier: str, state: str, ts: float) -> None:
        """End a hold with a refusal of all flows that wait for it, until the rules change."""
        hold = self._holds.end(identifier, state)
        for flow in self._tracker.flows(hold.agent) if hold is not None else ():
            if flow.hold == identifier:
                flow.renew(ts)  # it is remembered as long from now on as other refused flows
                self.object_to(flow, Reason.APPROVAL, ts)


def _is_new(flow: Flow) -> bool:
    """Return True if the agent opened this flow, none of its packets has passed, and it is no ICMP error.

    The agent's kernel sends those by itself, for example when an answer comes after its socket was closed.
    """
    errors = ERRORS if flow.proto == ICMP else ERRORS_V6 if flow.proto == ICMPV6 else ()
    began = flow.picked_up or flow.admitted or flow.packets_out or flow.packets_in
    return flow.outbound and not began and flow.icmp >> 8 not in errors
