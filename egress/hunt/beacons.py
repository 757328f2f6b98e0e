"""Parts that the beacon hunters share: the evidence that a hunt over many series needs, and the text of findings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from egress.hunt.hunter import MAX_LEADS, HunterReport, Lead, Settings, Strongest, counted
from egress.hunt.regularity import MIN_GAPS, Regular
from egress.model import Severity
from egress.store.query.history import MAX_MOMENTS, HistoryTarget, Series

HUNTERS = 2  # hunters that share alpha: beacon.slow and beacon.shared


@dataclass(frozen=True, slots=True)
class BeaconCandidate:
    """A series of flow starts that may be a beacon."""

    agents: tuple[str, ...]  # each gets a finding
    target: HistoryTarget
    destination: str
    what: str  # the beginning of the summary: "opened 12 connections to 192.0.2.7:443/tcp"
    regular: Regular
    starts: tuple[int, ...]  # of the last flow of each agent, microseconds
    alone: float = -math.inf  # with several agents: the largest ln E of one agent alone


class Level:
    """Collects candidates, and reports those with enough evidence: E >= M / alpha, where M series were tested.

    By the union bound the probability of any false alarm among all of them is then at most alpha (of one hunter).
    """

    def __init__(self, settings: Settings) -> None:
        self._alpha = settings.alpha / HUNTERS
        self.series = 0  # M so far: series that were long enough
        self._kept: list[BeaconCandidate] = []
        self._dropped = 0

    def long_enough(self, stored: Iterable[Series], notes: list[str], agents: int = 1) -> Iterator[Series]:
        """Yield the series with enough flows and agents, and count them as M. Adds a note on series that were cut."""
        cut = 0
        for series in stored:
            cut += series.omitted > 0
            if len(series.moments) > MIN_GAPS and len(series.agents) >= agents:
                self.series += 1
                yield series
        if cut:
            notes.append(f"{counted(cut, 'series')} of more than {MAX_MOMENTS} flows: only the first were examined")

    @property
    def log(self) -> float:
        """The natural logarithm of M / alpha, for M so far (at least 1)."""
        return math.log(max(self.series, 1) / self._alpha)

    def add(self, found: BeaconCandidate) -> None:
        """Keep a candidate whose evidence reaches the level for M so far; beyond 2 MAX_LEADS drop the weakest ones."""
        if found.regular.log_e < self.log:
            return
        self._kept.append(found)
        if len(self._kept) > 2 * MAX_LEADS:
            self._kept.sort(key=_order)
            self._dropped += len(self._kept) - MAX_LEADS
            del self._kept[MAX_LEADS:]

    def report(self, notes: list[str]) -> HunterReport:
        """Make the report, strongest first. An agent's flow that is last in two series (address, name) counts once.

        Candidates that one agent alone would prove are left to beacon.slow. Adds sentences to `notes`.
        """
        strongest = Strongest()
        reported: set[tuple[str, int]] = set()
        for found in sorted(self._kept, key=_order):
            if found.regular.log_e < self.log:
                break
            if found.alone >= self.log:
                continue
            for agent, start in zip(found.agents, found.starts, strict=True):
                if (agent, start) not in reported:
                    reported.add((agent, start))
                    strongest.add(self._lead(found, agent, start))
        left_out = strongest.left_out + self._dropped
        if left_out:
            notes.append(f"{counted(left_out, 'weaker beacon')} left out: only the strongest {MAX_LEADS} are kept")
        notes.append(f"{self.series} series were long enough to be examined; E >= {power(self.log)} was needed")
        return HunterReport(tuple(strongest), tuple(notes))

    def _lead(self, found: BeaconCandidate, agent: str, start: int) -> Lead:
        """Make the lead of a beacon for one of its agents."""
        beacon = found.regular
        missed = beacon.gaps - beacon.beats
        summary = (
            f"Looking back: the agent {found.what} about every {duration(beacon.period)} (jitter CV {beacon.cv:.2f},"
            f" {missed} of {beacon.gaps} gaps otherwise, E = {power(beacon.log_e)} against {power(self.log)} needed):"
            " an automated beacon; if it is a poll you know, exempt this signature in the rule that allows it."
        )
        evidence = (
            f"gaps={beacon.gaps} period_s={beacon.period:.1f} cv={beacon.cv:.3f} other_gaps={missed}"
            f" E={power(beacon.log_e)} needed={power(self.log)} series={self.series} alpha={self._alpha:g}"
            f" span_s={beacon.last - beacon.first:.0f}"
        )
        return Lead(agent, found.target, start, found.destination, Severity.MEDIUM, summary, evidence, beacon.log_e)


def _order(found: BeaconCandidate) -> tuple[float, bool, str]:
    """Return the sort key of a candidate: strongest evidence first, then those with a name, then by destination."""
    return -found.regular.log_e, not found.target.said, found.destination


def duration(seconds: float) -> str:
    """Write a duration as `90 s`, `12.5 min` or `4.0 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def power(log_value: float) -> str:
    """Write a number of any size, given as its natural logarithm, as `2.3e4`."""
    exponent, fraction = divmod(log_value / math.log(10), 1)
    digits = f"{10**fraction:.1f}"
    return f"1.0e{int(exponent) + 1}" if digits == "10.0" else f"{digits}e{int(exponent)}"


def target_text(target: HistoryTarget) -> str:
    """Write the target of a series: its name, else address, port and protocol."""
    if target.said:
        return target.said
    if target.bound:
        return target.bound[0]
    host = f"[{target.dst}]" if ":" in target.dst else target.dst
    return f"{host}:{target.dport}/{target.proto}" if target.dport else f"{host}/{target.proto}"
