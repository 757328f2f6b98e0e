"""When flows are due to be forgotten: a heap with lazy entries, rebuilt before it outgrows the flows."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from egress.engine.flow import Flow
from egress.limits import Limits

SLACK = 4096  # stale entries tolerated beyond two a live flow


class Timers:
    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._heap: list[tuple[float, int, Flow]] = []
        self._serial = 0

    def watch(self, flow: Flow) -> None:
        """Look at this flow once its present timeout has passed; call again when the timeout gets shorter."""
        self._serial += 1
        heapq.heappush(self._heap, (flow.last + flow.timeout(self._limits), self._serial, flow))

    def due(self, ts: float) -> Iterator[Flow]:
        """The live flows whose time is up."""
        while self._heap and self._heap[0][0] <= ts:
            flow = heapq.heappop(self._heap)[2]
            if flow.forgotten:
                continue
            if flow.last + flow.timeout(self._limits) > ts:
                self.watch(flow)
            else:
                yield flow

    def next(self) -> float:
        return self._heap[0][0] if self._heap else float("inf")

    def entries(self) -> int:
        """How many flows are waited for, forgotten ones included."""
        return len(self._heap)

    def trim(self, live: int) -> None:
        """Drop entries of forgotten flows when they are most of the heap."""
        if len(self._heap) > 2 * live + SLACK:
            self._heap = [entry for entry in self._heap if not entry[2].forgotten]
            heapq.heapify(self._heap)
