"""The life of a flow: its stages, one table of the moves between them, and the only code that makes a move.

A stage determines the treatment of the flow's next packet. The decision (`verdict`) and its effect (`outcome`) differ
in monitor mode only, where everything passes except the traffic of a quarantined agent: there a refusal is recorded,
and the flow stays under inspection.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from functools import lru_cache

from egress.engine.outcome import Outcome
from egress.model import Action, Agent, Mode, Reason, Verdict


class Stage(StrEnum):
    """The treatment of a flow's next packet."""

    NEW = "new"  # the flow is not judged yet
    HELD = "held"  # answered with HOLD until the flow's hold is over
    UNDECIDED = "undecided"  # passes; every byte is inspected
    LISTENING = "listening"  # settled for the kernel, but the agent's bytes are still inspected
    SETTLED = "settled"  # passes; counted, timed and scanned for byte patterns
    REFUSED = "refused"  # answered with the refusal again
    FORGOTTEN = "forgotten"  # the flow has left its table: a packet of it begins another flow


class Move(StrEnum):
    """An event in the life of a flow."""

    PASS = "pass"  # the verdict lets it pass
    WAIT = "wait"  # the verdict puts it on hold
    REFUSE = "refuse"  # the verdict refuses it
    OVERLOOK = "overlook"  # the verdict refuses it, but its agent is only monitored
    LISTEN = "listen"  # the server has said enough, or the protocol may open further connections (QUIC)
    SETTLE = "settle"  # it can prove nothing more
    REOPEN = "reopen"  # a settled flow showed a byte pattern or a new QUIC connection
    FORGET = "forget"  # it ended, timed out, made room, or its agent is gone


_JUDGED = {Move.PASS: Stage.UNDECIDED, Move.REFUSE: Stage.REFUSED, Move.OVERLOOK: Stage.UNDECIDED}
_HOLDS = {Move.WAIT: Stage.HELD}
_ENDS = {Move.FORGET: Stage.FORGOTTEN}

# Every legal move. A flow is put on hold by its first packet or by a DNS query in its bytes, so never while it is
# settled or refused. A refused flow passes again only when time or its agent's mode has changed its verdict.
MOVES: dict[Stage, dict[Move, Stage]] = {
    Stage.NEW: _JUDGED | _HOLDS | _ENDS,
    Stage.HELD: _JUDGED | _HOLDS | _ENDS,
    Stage.UNDECIDED: _JUDGED | _HOLDS | _ENDS | {Move.LISTEN: Stage.LISTENING, Move.SETTLE: Stage.SETTLED},
    Stage.LISTENING: _JUDGED | _HOLDS | _ENDS | {Move.PASS: Stage.LISTENING, Move.SETTLE: Stage.SETTLED},
    Stage.SETTLED: _JUDGED | _ENDS | {Move.PASS: Stage.SETTLED, Move.REOPEN: Stage.UNDECIDED},
    Stage.REFUSED: _JUDGED | _ENDS,
    Stage.FORGOTTEN: {},
}
KERNEL_SETTLED = frozenset((Stage.LISTENING, Stage.SETTLED))  # may use the settled queue: large packets (GSO)


UNJUDGED = Verdict(Action.REJECT, Reason.DEFAULT)


class MoveError(RuntimeError):
    """A move that the table does not have: a bug in egress."""


class Life:
    """The verdict and the stage of a flow, and the facts that outlast both. Only these methods write any of them.

    A method whose move is not in MOVES raises MoveError.
    """

    __slots__ = (
        "admitted",
        "condemned",
        "hold",
        "objection",
        "opened",
        "outcome",
        "partial",
        "refused_before",
        "stage",
        "verdict",
        "who",
    )

    def __init__(self, who: Agent, *, partial: bool) -> None:
        self.who = who
        self.stage = Stage.NEW
        self.verdict, self.outcome = UNJUDGED, _outcome(UNJUDGED)
        self.hold = ""  # id of the hold it waits for (`egress.engine.holds`)
        self.partial = partial  # not seen from its beginning, or reopened after it had settled
        self.opened = False  # the other side has answered
        self.admitted = False  # counted against its rule and its agent's budgets
        self.objection: Verdict | None = None  # a refused query or approval, a used-up budget: until the rules change
        self.condemned = (
            False  # refused for a finding: no change of the rules ends that, and it is never forgotten early
        )
        self.refused_before = False

    @property
    def refused(self) -> bool:
        """True if the verdict is not ACCEPT: the flow is refused, or on hold. A monitored one passes anyway."""
        return self.verdict.action is not Action.ACCEPT

    @property
    def monitored(self) -> bool:
        """True if a refusal is only recorded: mode monitor, and no quarantine."""
        return self.who.mode is Mode.MONITOR and not self.who.quarantined

    def decide(self, verdict: Verdict, hold: str = "") -> bool:
        """Set the verdict; `hold` is the id of the hold that it waits for. True for the first refusal of the flow."""
        refused = verdict.action not in (Action.ACCEPT, Action.HOLD)
        if not refused:
            self._move(Move.WAIT if verdict.action is Action.HOLD else Move.PASS)
        else:
            self._move(Move.OVERLOOK if self.monitored else Move.REFUSE)
        self.hold = hold
        settled = self.stage in KERNEL_SETTLED
        verdict = verdict if verdict.settled is settled else replace(verdict, settled=settled)
        overlooked = refused and self.stage is not Stage.REFUSED
        self.verdict = _outcome(verdict).verdict
        self.outcome = _outcome(replace(verdict, action=Action.ACCEPT) if overlooked else verdict)
        first = refused and not self.refused_before
        self.refused_before = self.refused_before or refused
        return first

    def settle(self, *, listening: bool) -> None:
        """Let the flow use the kernel's settled queue; `listening`: the agent's bytes are still inspected."""
        self._move(Move.LISTEN if listening else Move.SETTLE)
        self._mark(settled=True)

    def reopen(self) -> None:
        """Inspect a settled flow again, as one that was picked up in mid-stream."""
        self._move(Move.REOPEN)
        self.partial = True
        self._mark(settled=False)

    def forget(self) -> None:
        """End the flow: it has left its table."""
        self._move(Move.FORGET)

    def adopt(self, who: Agent) -> None:
        """Take over the agent's new mode, default, labels or quarantine."""
        self.who = who

    def admit(self) -> None:
        """Note that the flow was counted against its rule and its agent's budgets."""
        self.admitted = True

    def open(self) -> None:
        """Note that the other side has answered."""
        self.opened = True

    def set_objection(self, objection: Verdict | None) -> None:
        """Set the refusal that stands until the rules change; None: they have changed."""
        self.objection = objection

    def condemn(self) -> None:
        """Note that the flow is refused for a finding; the caller sets the verdict with `decide`."""
        self.condemned = True

    def _mark(self, *, settled: bool) -> None:
        """Set `settled` in the verdict and the outcome."""
        self.verdict = _outcome(replace(self.verdict, settled=settled)).verdict
        self.outcome = _outcome(replace(self.outcome.verdict, settled=settled))

    def _move(self, move: Move) -> None:
        """Change the stage as MOVES says. Raises MoveError."""
        try:
            self.stage = MOVES[self.stage][move]
        except KeyError:
            raise MoveError(f"a flow that is {self.stage} cannot {move}") from None


@lru_cache(maxsize=4096)
def _outcome(verdict: Verdict) -> Outcome:
    """Return the outcome with this verdict and no records: one object for all flows that share it."""
    return Outcome(verdict)


def table() -> str:
    """Write the moves as text, for docs/architecture.md: a row for each stage, a column for each move."""
    rows = [["", *Move], *([stage, *(moves.get(move, "·") for move in Move)] for stage, moves in MOVES.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
