"""The quota of records of each agent: beyond it flows, findings and refusals are counted together, never dropped.

Each agent has a token bucket: `Limits.records_agent` records in a burst, refilled at `records_agent_day` a day. A flow
takes its tokens when it begins: one for its first record, one for its last. While the bucket is empty, records are
folded: each minute one record for each destination and decision has the number of flows and their bytes. Destinations
beyond the first DESTINATIONS of a minute are counted together, so that a minute costs a bounded number of records.

The first flow, finding or refusal of its kind in a minute (the same decision by the same rule) has records of its own
all the same: no kind of decision is without an example.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address

from egress.engine.flow import Flow
from egress.limits import Limits
from egress.model import Action, Finding, Reason, protocol_name
from egress.records.shape import AnomalyRecord, FoldedKind, FoldedRecord

MINUTE = 60.0  # seconds from the first folded record to the record that counts it
DAY = 86400.0
FLOW_TOKENS = 2  # records of a flow: its first and its last
EVIDENCE_BYTES = 1024  # bytes of packets that cost one token
DESTINATIONS = 16  # counted one by one in a minute
PROTOCOLS = 16  # counted one by one for the destinations beyond them
KINDS = 64  # kinds of decisions whose first record in a minute needs no token

_Key = tuple[FoldedKind, str, str, int, Action, Reason, str]


@dataclass(slots=True)
class _Count:
    """The counts of a folded record."""

    count: int = 0
    packets: int = 0
    sent: int = 0
    received: int = 0


@dataclass(slots=True)
class _Account:
    """The tokens of one agent, and its counts in the current minute."""

    tokens: float
    filled: float  # when tokens were last added
    began: float = float("inf")  # of the minute; infinity: none has begun
    kinds: set[tuple[object, ...]] = field(default_factory=set)
    counts: dict[_Key, _Count] = field(default_factory=dict)
    folded: int = 0  # flows, findings and refused packets counted so far


class Folding:
    """Decides which records are written one by one, and counts the others. Without a quota (0) all are written."""

    def __init__(self, limits: Limits) -> None:
        self._most, self._rate = float(limits.records_agent), limits.records_agent_day / DAY
        self._accounts: dict[str, _Account] = {}
        self.due = float("inf")  # when to call `take`

    def flow(self, flow: Flow, ts: float, ended: str) -> bool:
        """Take tokens for a record of a flow. True: it is to be written; False: it was folded, that is, only counted.

        `ended` is why the flow ended, "" for a record before its end.
        """
        if not self._most:
            return True
        recorded = flow.recorded
        if recorded is None:
            recorded = flow.record(self._admits(flow.agent, FLOW_TOKENS, ts, _kind(flow)))
        elif recorded and not ended:
            return self._changed(flow, ts)
        if not recorded:
            self._fold_flow(flow, ts, ended)
        return recorded

    def finding(self, flow: Flow, finding: Finding, action: Action, ts: float) -> bool:
        """Take a token for a finding. True: it and its flow's later records are to be written; False: it was folded."""
        if not self._most or self._admits(flow.agent, 1, ts, (finding.signature, action)):
            return flow.record(True)
        self._note(
            flow.agent, ts, self._key(flow, FoldedKind.ALERT, action, Reason.FINDING, finding.signature)
        ).count += 1
        return False

    def evidence(self, flow: Flow, size: int, ts: float) -> bool:
        """Take tokens for the packets of a finding, `size` bytes in all; False: too few, they are not to be written."""
        return not self._most or self._takes(flow.agent, -(-size // EVIDENCE_BYTES), ts)

    def anomaly(self, record: AnomalyRecord, action: Action, ts: float) -> bool:
        """Take a token for a record of refused packets. True: it is to be written; False: it was folded."""
        if not self._most or self._admits(record.agent, 1, ts, (record.reason,)):
            return True
        key = (FoldedKind.ANOMALY, record.proto, "", 0, action, record.reason, "")
        note = self._note(record.agent, ts, key)
        note.count += record.count
        note.packets += record.count
        return False

    def take(self, ts: float) -> list[FoldedRecord]:
        """Return the counts of the agents whose minute is over, as records, and empty them."""
        records: list[FoldedRecord] = []
        for agent, account in list(self._accounts.items()):
            if ts >= account.began + MINUTE:
                records += self._end_minute(agent, account, ts)
                self._fill(account, ts)
                if account.tokens >= self._most:
                    del self._accounts[agent]
        self.due = min((account.began for account in self._accounts.values()), default=float("inf")) + MINUTE
        return records

    def release(self, agent: str, ts: float) -> list[FoldedRecord]:
        """Forget an agent that is gone, and return its counts as records."""
        account = self._accounts.pop(agent, None)
        return [] if account is None else self._end_minute(agent, account, ts)

    def agents(self) -> list[str]:
        """Return the names of the agents with an account."""
        return list(self._accounts)

    def status(self) -> dict[str, int]:
        """Return the number of flows, findings and refused packets that were folded, by agent.

        An agent's number begins anew if its bucket is full at the end of a minute with folded records.
        """
        return {agent: account.folded for agent, account in self._accounts.items() if account.folded}

    def _end_minute(self, agent: str, account: _Account, ts: float) -> list[FoldedRecord]:
        """Make the records of a minute, and begin the next one."""
        records = [
            FoldedRecord(agent, ts, account.began, *key, note.count, note.packets, note.sent, note.received)
            for key, note in account.counts.items()
        ]
        account.began, account.kinds, account.counts = float("inf"), set(), {}
        return records

    def _changed(self, flow: Flow, ts: float) -> bool:
        """Take a token for a record between a flow's first and last; True: write it. A refusal always is."""
        refused = flow.verdict.action is not Action.ACCEPT
        return self._takes(flow.agent, 1, ts, owed=refused) or refused

    def _admits(self, agent: str, tokens: int, ts: float, kind: tuple[object, ...]) -> bool:
        """Take tokens and return True; with too few, True for the first of its kind in this minute only."""
        if self._takes(agent, tokens, ts):
            return True
        account = self._minute(agent, ts)
        if kind in account.kinds or len(account.kinds) >= KINDS:
            return False
        account.kinds.add(kind)
        return True

    def _takes(self, agent: str, tokens: int, ts: float, *, owed: bool = False) -> bool:
        """Take tokens and return True; with too few, take them only if `owed`, and return False."""
        account = self._account(agent, ts)
        self._fill(account, ts)
        enough = account.tokens >= tokens
        if enough or owed:
            account.tokens = max(account.tokens - tokens, -self._most)
        return enough

    def _account(self, agent: str, ts: float) -> _Account:
        """Return the account of an agent; a new one has a full bucket."""
        account = self._accounts.get(agent)
        if account is None:
            account = self._accounts[agent] = _Account(self._most, ts)
        return account

    def _fill(self, account: _Account, ts: float) -> None:
        """Add the tokens for the time since they were last added, up to a full bucket."""
        if ts > account.filled:
            account.tokens = min(account.tokens + (ts - account.filled) * self._rate, self._most)
        account.filled = ts  # also when the clock was set back

    def _minute(self, agent: str, ts: float) -> _Account:
        """Return the account of an agent with its minute begun."""
        account = self._account(agent, ts)
        if ts < account.began:  # none has begun, or the clock was set back
            account.began = ts
            self.due = min(self.due, ts + MINUTE)
        return account

    def _fold_flow(self, flow: Flow, ts: float, ended: str) -> None:
        """Count a flow at its first record, and its packets and bytes at its last."""
        verdict = flow.verdict
        note = self._note(flow.agent, ts, self._key(flow, FoldedKind.FLOW, verdict.action, verdict.reason))
        if not ended:
            note.count += 1
            return
        note.packets += flow.packets_out + flow.packets_in
        note.sent += flow.bytes_out
        note.received += flow.bytes_in

    def _note(self, agent: str, ts: float, key: _Key) -> _Count:
        """Return the counts under a key, or a wider one where there are too many; count one for the agent's total."""
        account = self._minute(agent, ts)
        account.folded += 1
        if key not in account.counts:
            kind, proto, _, _, *decision = key
            if len(account.counts) >= DESTINATIONS:
                key = (kind, proto, "", 0, *decision)  # type: ignore[assignment]
            if key not in account.counts and len(account.counts) >= DESTINATIONS + PROTOCOLS:
                key = (kind, "", "", 0, *decision)  # type: ignore[assignment]
        return account.counts.setdefault(key, _Count())

    def _key(self, flow: Flow, kind: FoldedKind, action: Action, reason: Reason, signature: str = "") -> _Key:
        """Return the key of the counts for a flow or finding: its kind, destination and decision."""
        port = flow.rport if flow.outbound else flow.lport
        return kind, protocol_name(flow.proto), str(ip_address(flow.remote)), port, action, reason, signature


def _kind(flow: Flow) -> tuple[object, ...]:
    """Return the kind of a flow's decision, of which the first in a minute is written without a token."""
    verdict = flow.verdict
    return flow.proto, flow.outbound, verdict.action, verdict.reason, verdict.rule_id
