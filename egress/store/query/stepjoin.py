"""Joins an agent's flows, findings and refusals by time with its steps (tool calls), or with the gaps between them.

An event belongs to the steps that were under way when it began, both ends included; with more than `PARALLEL` of them,
to those that began last. There is no tolerance at either end for clocks that differ: an agent that knew of one would
hide in it. Instead the distance between traffic and the tool calls beside it is shown.

The join works in memory, without a database. Times are whole microseconds, in ascending order.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import NamedTuple

from egress.store.recording.steps import PARALLEL

LISTED = 5  # flows listed per step, plus as many that were refused or have findings
SHOWN = 10_000  # flows listed in a whole episode, plus as many again: an answer of about ten megabytes
LABELS = 100_000  # distinct destinations counted in a whole episode

Interval = tuple[int, int]  # first and last microsecond, both included


class SentFlow(NamedTuple):
    """The part of a flow that the join needs."""

    flow_id: str
    start: int
    last: int | None  # its last packet; None: its end is not recorded
    label: str  # its destination
    refused: bool
    bytes_out: int
    bytes_in: int


@dataclass(slots=True)
class Traffic:
    """The traffic of a step, or of a gap between steps."""

    flows: int = 0
    refused: int = 0
    bytes_out: int = 0
    bytes_in: int = 0
    alive: int = 0  # flows that began earlier and were still alive
    packets: int = 0  # packets refused without a flow
    signatures: Counter[str] = field(default_factory=Counter)  # findings made in this time, by signature
    destinations: Counter[str] = field(default_factory=Counter)  # flows by destination; "" counts all beyond LABELS
    listed: list[str] = field(default_factory=list)  # ids of the first flows
    notable: list[str] = field(default_factory=list)  # ids of the first that were refused or have findings

    def __bool__(self) -> bool:
        """True with a flow, a finding or a refused packet; flows that were still alive do not count."""
        return bool(self.flows or self.signatures or self.packets)

    @property
    def findings(self) -> int:
        """The number of findings."""
        return self.signatures.total()


@dataclass(slots=True)
class Gap:
    """A time without a step under way."""

    start: int
    end: int
    traffic: Traffic = field(default_factory=Traffic)


def merged(intervals: Iterable[Interval]) -> list[Interval]:
    """Merge intervals, sorted by their start, into as few as possible that do not overlap."""
    found: list[Interval] = []
    for start, end in intervals:
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


class Join:
    """Adds flows, findings and refusals to the `traffic` of the steps of an episode, or to `gaps` between steps.

    An event in steps of other episodes only is in neither. Call `flows`, `findings` and `refusals` once each, with
    everything in the order of time; then `settle`.
    """

    def __init__(self, steps: Sequence[Interval], busy: Sequence[Interval], window: Interval) -> None:
        """`steps`: of the episode, by start. `busy`: `merged` from all steps of the agent. `window`: the time shown."""
        self.traffic = [Traffic() for _ in steps]
        self.gaps = [Gap(*gap) for gap in _between(busy, window)]
        self.total = Traffic()  # each flow once, without those of other episodes
        self.elsewhere = 0  # flows that began only in steps of another episode
        self._steps, self._starts = steps, [start for start, _ in steps]
        self._gap_starts = [gap.start for gap in self.gaps]
        self._alive = [0] * (len(steps) + 1)  # the change in the number of flows still alive, from step to step
        self._labels = 0
        self._shown = Counter[bool]()

    def flows(self, sent: Iterable[SentFlow], notable: frozenset[str] = frozenset()) -> None:
        """Add flows; `notable` has the ids of those with findings."""
        sweep = _Sweep(self._steps)
        for flow in sent:
            found = self._traffic_at(sweep.at(flow.start), flow.start)
            if not found:
                self.elsewhere += 1
            for traffic in (*found, self.total) if found else ():
                self._add(traffic, flow, flow.refused or flow.flow_id in notable)
            self._live_on(flow)

    def findings(self, made: Iterable[tuple[int, str]]) -> None:
        """Add findings, each as (time, signature)."""
        sweep = _Sweep(self._steps)
        for when, signature in made:
            found = self._traffic_at(sweep.at(when), when)
            for traffic in (*found, self.total) if found else ():
                traffic.signatures[signature] += 1

    def refusals(self, folded: Iterable[tuple[int, int]]) -> None:
        """Add packets refused without a flow, each record as (time, number of packets)."""
        sweep = _Sweep(self._steps)
        for when, count in folded:
            found = self._traffic_at(sweep.at(when), when)
            for traffic in (*found, self.total) if found else ():
                traffic.packets += count

    def settle(self) -> None:
        """Set `alive` of each step's traffic: the earlier flows that were still alive. Call it after the last flow."""
        alive = 0
        for traffic, more in zip(self.traffic, self._alive, strict=False):
            alive += more
            traffic.alive = alive

    def later(self, start: int, last: int | None) -> range:
        """The indices of the steps that began while a flow was alive: after `start`, at the latest at `last`.

        `last` None: the end of the flow is not recorded, so all later steps count.
        """
        first = bisect_right(self._starts, start)
        return range(first, len(self._starts) if last is None else max(first, bisect_right(self._starts, last)))

    def _live_on(self, flow: SentFlow) -> None:
        outlived = self.later(flow.start, flow.last)
        self._alive[outlived.start] += 1
        self._alive[outlived.stop] -= 1

    def _traffic_at(self, steps: Sequence[int], when: int) -> list[Traffic]:
        if steps:
            return [self.traffic[number] for number in steps]
        at = bisect_right(self._gap_starts, when) - 1
        return [self.gaps[at].traffic] if at >= 0 and when <= self.gaps[at].end else []

    def _add(self, traffic: Traffic, flow: SentFlow, notable: bool) -> None:
        traffic.flows += 1
        traffic.refused += flow.refused
        traffic.bytes_out += flow.bytes_out
        traffic.bytes_in += flow.bytes_in
        if flow.label not in traffic.destinations and self._labels >= LABELS:
            traffic.destinations[""] += 1
        else:
            self._labels += flow.label not in traffic.destinations
            traffic.destinations[flow.label] += 1
        chosen = traffic.notable if notable else traffic.listed
        if len(chosen) < LISTED and self._shown[notable] < SHOWN:
            self._shown[notable] += 1
            chosen.append(flow.flow_id)


class _Sweep:
    """Finds the steps that are under way at a time; the times must come in ascending order."""

    def __init__(self, steps: Sequence[Interval]) -> None:
        self._steps, self._next = steps, 0
        # All of them, in the order of their start: those that began last may end first.
        self._active: list[int] = []
        self._ends: list[tuple[int, int]] = []  # heap: when each of them ends

    def at(self, when: int) -> list[int]:
        """Return the indices of the steps under way at a time, by start; at most PARALLEL, those that began last."""
        begun = bisect_right(self._steps, when, lo=self._next, key=lambda step: step[0])
        for number in range(self._next, begun):
            self._active.append(number)
            heappush(self._ends, (self._steps[number][1], number))
        self._next = begun
        while self._ends and self._ends[0][0] < when:
            _, over = heappop(self._ends)
            del self._active[bisect_left(self._active, over)]
        return self._active[-PARALLEL:]


def _between(busy: Sequence[Interval], window: Interval) -> list[Interval]:
    """The parts of the window between the busy intervals."""
    free, at = [], window[0]
    for start, end in busy[max(0, bisect_left(busy, (window[0], 0)) - 1) :]:
        if start > window[1]:
            break
        if start > at:
            free.append((at, start - 1))
        at = max(at, end + 1)
    if at <= window[1]:
        free.append((at, window[1]))
    return free
