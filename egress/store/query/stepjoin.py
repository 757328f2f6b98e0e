"""The join by time: which tool call an agent's flow, finding or refusal belongs to, or that none was running.

What happened belongs to the steps that were under way when it began, both ends included; of more than `PARALLEL` to
those that began last. Nothing is added to either end for clocks that differ: whoever knows of such an allowance hides
in it. How far traffic lies from the tool calls beside it is said instead.

Pure: moments are whole microseconds, in the order of time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import NamedTuple

from egress.store.recording.steps import PARALLEL

LISTED = 5  # flows shown of a part, and as many again of those refused or found something in
SHOWN = 10_000  # flows so listed in a whole episode, and as many again: an answer of some ten megabytes
LABELS = 100_000  # destinations told apart in a whole episode

Interval = tuple[int, int]  # from, to; both belong to it


class Sent(NamedTuple):
    """What the join must know of a flow."""

    flow_id: str
    start: int
    last: int | None  # its last packet; None: it has not ended, as far as is recorded
    label: str  # where it went
    refused: bool
    bytes_out: int
    bytes_in: int


@dataclass(slots=True)
class Traffic:
    """What left during a step, or while none was running."""

    flows: int = 0
    refused: int = 0
    bytes_out: int = 0
    bytes_in: int = 0
    alive: int = 0  # flows begun before it that were still alive in it
    packets: int = 0  # refused without a flow
    signatures: Counter[str] = field(default_factory=Counter)  # of findings made in this time
    destinations: Counter[str] = field(default_factory=Counter)  # flows to each; "" is all beyond LABELS
    listed: list[str] = field(default_factory=list)  # flow ids: the first
    notable: list[str] = field(default_factory=list)  # and the first that were refused, or that something was found in

    def __bool__(self) -> bool:
        return bool(self.flows or self.signatures or self.packets)

    @property
    def findings(self) -> int:
        return self.signatures.total()


@dataclass(slots=True)
class Gap:
    """A time in which no tool was running."""

    start: int
    end: int
    traffic: Traffic = field(default_factory=Traffic)


def covered(intervals: Iterable[Interval]) -> list[Interval]:
    """Intervals, in the order of their start, as few that do not touch."""
    merged: list[Interval] = []
    for start, end in intervals:
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


class Join:
    """Give it what happened, each kind in the order of time; `traffic` and `gaps` hold what came of it."""

    def __init__(self, steps: Sequence[Interval], busy: Sequence[Interval], window: Interval) -> None:
        """`steps`: those of the episode by start. `busy`: `covered` by any of the agent's. `window`: what is shown."""
        self.traffic = [Traffic() for _ in steps]
        self.gaps = [Gap(*gap) for gap in _between(busy, window)]
        self.total = Traffic()  # each flow once, those of other episodes' steps not
        self.elsewhere = 0  # flows that began in a step of another episode alone
        self._steps, self._starts = steps, [start for start, _ in steps]
        self._gap_starts = [gap.start for gap in self.gaps]
        self._alive = [0] * (len(steps) + 1)  # differences: how many more are alive in a step than in the one before
        self._labels = 0
        self._shown = Counter[bool]()

    def flows(self, sent: Iterable[Sent], notable: frozenset[str] = frozenset()) -> None:
        """`notable`: the ids of those that something was found in."""
        sweep = _Sweep(self._steps)
        for flow in sent:
            places = self._places(sweep.at(flow.start), flow.start)
            if not places:
                self.elsewhere += 1
            for traffic in (*places, self.total) if places else ():
                self._add(traffic, flow, flow.refused or flow.flow_id in notable)
            self._live_on(flow)

    def findings(self, made: Iterable[tuple[int, str]]) -> None:
        """Time and signature."""
        sweep = _Sweep(self._steps)
        for when, signature in made:
            places = self._places(sweep.at(when), when)
            for traffic in (*places, self.total) if places else ():
                traffic.signatures[signature] += 1

    def refusals(self, folded: Iterable[tuple[int, int]]) -> None:
        """Packets refused without a flow: time and count."""
        sweep = _Sweep(self._steps)
        for when, count in folded:
            places = self._places(sweep.at(when), when)
            for traffic in (*places, self.total) if places else ():
                traffic.packets += count

    def settle(self) -> None:
        """Once all was given: how many flows were still alive in each step."""
        alive = 0
        for traffic, more in zip(self.traffic, self._alive, strict=False):
            alive += more
            traffic.alive = alive

    def later(self, start: int, last: int | None) -> range:
        """The steps that a flow was still alive in, begun after it. `last` as in `Sent`."""
        first = bisect_right(self._starts, start)
        return range(first, len(self._starts) if last is None else max(first, bisect_right(self._starts, last)))

    def _live_on(self, flow: Sent) -> None:
        in_them = self.later(flow.start, flow.last)
        self._alive[in_them.start] += 1
        self._alive[in_them.stop] -= 1

    def _places(self, steps: Sequence[int], when: int) -> list[Traffic]:
        if steps:
            return [self.traffic[number] for number in steps]
        at = bisect_right(self._gap_starts, when) - 1
        return [self.gaps[at].traffic] if at >= 0 and when <= self.gaps[at].end else []

    def _add(self, traffic: Traffic, flow: Sent, notable: bool) -> None:
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
    """Which steps are under way, asked at moments that only grow."""

    def __init__(self, steps: Sequence[Interval]) -> None:
        self._steps, self._next = steps, 0
        self._active: list[
            int
        ] = []  # in the order of their start: all of them, for those that began last may end first
        self._ends: list[tuple[int, int]] = []  # heap: when each of them ends

    def at(self, when: int) -> list[int]:
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
    """What of the window is not busy: the microseconds between."""
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
