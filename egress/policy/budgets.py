"""Budgets in use: bytes, connections and distinct destinations of an agent in a minute, an hour or an episode.

Minutes and hours are fixed windows, aligned to the epoch: one number for each, the same after a restart, and easy to
explain. The disadvantage: across a boundary an agent may use up to twice its limit within one span. An episode lasts
until `forget`. Use above the limit is counted too, so that an exceeded budget stays exceeded until its window ends, and
a small packet does not pass after a large one was refused. A clock that steps back by less than a span keeps its
window; a larger step begins another.
"""

from __future__ import annotations

import math

from egress.model import Agent, Budget, BudgetSpan, Measure

SECONDS: dict[BudgetSpan, float] = {BudgetSpan.MINUTE: 60.0, BudgetSpan.HOUR: 3600.0, BudgetSpan.EPISODE: math.inf}


class Budgets:
    """The use of the budgets of all agents of one engine. A packet costs a few comparisons, however much was used."""

    def __init__(self) -> None:
        self._meters: dict[str, _Meter] = {}

    def note_flow(self, agent: Agent, remote: bytes, ts: float) -> Budget | None:
        """Count a flow that the agent opens to `remote` (packed); return the budget that it exceeds, if any.

        A destination that is refused for a budget does not count as visited.
        """
        return self._meter(agent).opened(remote, ts) if agent.budgets else None

    def note_bytes(self, agent: Agent, size: int, ts: float) -> Budget | None:
        """Count `size` IP bytes that the agent sends; return the budget that they exceed, if any."""
        return self._meter(agent).sent(size, ts) if agent.budgets else None

    def used(self, agent: Agent, ts: float) -> tuple[tuple[Budget, int], ...]:
        """Return each budget in force with its use in the window of `ts` (destinations: at most the limit)."""
        return tuple((count.budget, count.used(ts)) for count in self._meter(agent).counts) if agent.budgets else ()

    def forget(self, agent: str) -> None:
        """Remove the counts of an agent that is gone; its episode is over."""
        self._meters.pop(agent, None)

    def _meter(self, agent: Agent) -> _Meter:
        """Return the counts of an agent; if its budgets were edited, new ones that take over the use so far."""
        meter = self._meters.get(agent.name)
        if meter is None or meter.budgets is not agent.budgets:
            meter = self._meters[agent.name] = _Meter(agent.budgets, meter)
        return meter


def renews(budget: Budget, ts: float) -> float:
    """Return the time, in seconds, at which the window of `ts` ends and the budget is renewed; an episode: infinity."""
    span = SECONDS[budget.span]
    return (ts // span + 1) * span if math.isfinite(span) else math.inf


class _Meter:
    """The counts of one agent. Of two budgets for the same measure and span the stricter one counts."""

    __slots__ = ("_bytes", "_connections", "_destinations", "budgets", "counts")

    def __init__(self, budgets: tuple[Budget, ...], before: _Meter | None) -> None:
        self.budgets = budgets
        old = {(count.budget.measure, count.budget.span): count for count in before.counts} if before else {}
        strictest: dict[tuple[Measure, BudgetSpan], Budget] = {}
        for budget in sorted(budgets, key=lambda budget: budget.limit, reverse=True):
            strictest[budget.measure, budget.span] = budget
        self.counts: list[_Count] = [_Count(budget, old.get(key)) for key, budget in strictest.items()]
        self._bytes, self._connections, self._destinations = (
            tuple(count for count in self.counts if count.budget.measure is measure)
            for measure in (Measure.BYTES, Measure.CONNECTIONS, Measure.DESTINATIONS)
        )

    def sent(self, size: int, ts: float) -> Budget | None:
        """Count bytes; return the first budget that they exceed, if any."""
        return _add(self._bytes, size, ts)

    def opened(self, remote: bytes, ts: float) -> Budget | None:
        """Count a new flow to `remote`; return the first budget that it exceeds, if any."""
        exceeded = _add(self._connections, 1, ts)
        if exceeded is not None:
            return exceeded
        for count in self._destinations:
            if not count.has_room(remote, ts):
                return count.budget
        for count in self._destinations:
            count.visit(remote)
        return None


def _add(counts: tuple[_Count, ...], size: int, ts: float) -> Budget | None:
    """Add to each count; return the first budget that is exceeded, if any."""
    exceeded = None
    for count in counts:
        if count.add(size, ts) and exceeded is None:
            exceeded = count.budget
    return exceeded


class _Count:
    """The use of one budget in its present window; it is kept when the limit is edited."""

    __slots__ = ("_begin", "_end", "_seen", "_span", "_total", "budget")

    def __init__(self, budget: Budget, before: _Count | None) -> None:
        self.budget = budget
        self._span = SECONDS[budget.span]
        self._begin: float = before._begin if before else math.inf  # a span before the window: clocks step back
        self._end: float = before._end if before else -math.inf
        self._total: int = before._total if before else 0
        self._seen: set[bytes] = before._seen if before else set()

    def add(self, size: int, ts: float) -> bool:
        """Add to the use; return True if it exceeds the limit now."""
        if not self._begin <= ts < self._end:
            self._renew(ts)
        self._total += size
        return self._total > self.budget.limit

    def has_room(self, remote: bytes, ts: float) -> bool:
        """Return True if this destination is within the limit."""
        if not self._begin <= ts < self._end:
            self._renew(ts)
        return remote in self._seen or len(self._seen) < self.budget.limit

    def visit(self, remote: bytes) -> None:
        """Remember a destination for which `has_room` returned True, so that the set stays within the limit."""
        self._seen.add(remote)

    def used(self, ts: float) -> int:
        return self._total + len(self._seen) if self._begin <= ts < self._end else 0

    def _renew(self, ts: float) -> None:
        self._end = renews(self.budget, ts)
        self._begin = self._end - 2 * self._span if math.isfinite(self._end) else -math.inf
        self._total = 0
        self._seen.clear()
