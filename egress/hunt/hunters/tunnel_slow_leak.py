"""tunnel.slow-leak: many bytes leave for one destination, in amounts that are not noticed one by one.

For each agent and destination (the registered domain of a resolved name, else the address) the bytes of all flows that
passed in the window are summed up. It is a finding if

* the bytes sent reach the threshold (`--leak-bytes`, by default 10 MB),
* the agent sent at least `RATIO` times as much as it received: fetching has the opposite ratio,
* no single flow sent more than `SHARE` of it, unless that flow took `SLOW` itself: one large upload is not slow,
  `egress query 'bytes_out>…'` shows it and budgets limit it,
* and the flows spread over at least `SLOW`.

The legitimate case is an agent's model: prompts are long and answers short. Exempt tunnel.slow-leak in the rule that
allows it. Not found: a leak over many domains or addresses, each below the threshold; one that receives as much as it
sends; one below the threshold; data in DNS names (dns.slow-leak).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter

from egress.hunt.beacons import duration
from egress.hunt.domains import destination
from egress.hunt.hunter import HunterReport, Lead, Settings, Strongest, counted
from egress.model import Severity
from egress.store.query.history import AddressTraffic, History, HistoryTarget

# TCP's acknowledgements alone make 2 to 5 % of the bytes of a one-way stream, and a request with its headers may
# outweigh its short answer: twice as much out as in is more than either does.
RATIO = 2.0
SHARE = 0.5
SLOW = 6 * 3600.0  # seconds: a working morning; budgets and operators notice faster leaks
MAX_DESTINATIONS = 100_000  # destinations of one agent: about 50 MB


@dataclass(slots=True)
class _Sent:
    """The traffic of one agent to one destination. Times are microseconds."""

    flows: int = 0
    bytes_out: int = 0
    bytes_in: int = 0
    largest: int = 0
    longest: int = 0
    first: int = 1 << 62
    last: int = -1
    updated: int = 0
    target: HistoryTarget = field(default_factory=HistoryTarget)

    def add(self, row: AddressTraffic) -> None:
        """Add a row; `target` becomes that of the latest flow."""
        self.flows += row.flows
        self.bytes_out += row.bytes_out
        self.bytes_in += row.bytes_in
        self.largest = max(self.largest, row.largest)
        self.longest = max(self.longest, row.longest)
        self.first, self.updated = min(self.first, row.first), max(self.updated, row.updated)
        target = HistoryTarget(dst=row.dst, said=row.said, bound=row.bound)
        if (row.last, target) > (self.last, self.target):
            self.last, self.target = row.last, target

    def leaks(self, threshold: int) -> bool:
        """Return True if the traffic is a slow leak (see the module's docstring)."""
        slow = SLOW * 1e6
        return (
            self.bytes_out >= threshold
            and self.bytes_out >= RATIO * self.bytes_in
            and self.updated - self.first >= slow
            and (self.largest <= SHARE * self.bytes_out or self.longest >= slow)
        )


class TunnelSlowLeak:
    """Adds up an agent's bytes per destination (see the module's docstring)."""

    id = "tunnel.slow-leak"
    technique = "T1030"  # Data Transfer Size Limits
    about = "one destination receives many small amounts, more than --leak-bytes in all"

    def hunt(self, history: History, settings: Settings) -> HunterReport:
        strongest, notes = Strongest(), list[str]()
        for agent, sent in _by_agent(history, notes):
            for place, each in sent.items():
                if each.leaks(settings.leak_bytes):
                    strongest.add(_lead(agent, place, each, settings.leak_bytes))
        if strongest.left_out:
            notes.append(f"{counted(strongest.left_out, 'smaller leak')} left out")
        return HunterReport(tuple(strongest), tuple(notes))


def _by_agent(history: History, notes: list[str]) -> Iterator[tuple[str, dict[str, _Sent]]]:
    """Yield each agent with its traffic by destination. Adds a note if some was left out."""
    others = 0
    for agent, rows in groupby(history.traffic(), key=attrgetter("agent")):
        sent: dict[str, _Sent] = {}
        for row in rows:
            place = destination(row.said, row.bound, row.dst)
            if place not in sent and len(sent) >= MAX_DESTINATIONS:
                others += row.flows
                continue
            sent.setdefault(place, _Sent()).add(row)
        yield agent, sent
    if others:
        notes.append(f"{counted(others, 'flow')} not examined: an agent had more than {MAX_DESTINATIONS} destinations")


def _lead(agent: str, place: str, sent: _Sent, threshold: int) -> Lead:
    """Make the lead of an agent's slow leak to a destination."""
    ratio = sent.bytes_out / max(sent.bytes_in, 1)
    span = (sent.updated - sent.first) / 1e6
    summary = (
        f"Looking back: the agent sent {place} {sent.bytes_out} bytes in {counted(sent.flows, 'flow')} over"
        f" {duration(span)}, the largest {sent.largest}, and received {sent.bytes_in}: more than the threshold of"
        f" {threshold}. If this destination is meant for that, exempt this signature in the rule that allows it."
    )
    evidence = (
        f"flows={sent.flows} bytes_out={sent.bytes_out} bytes_in={sent.bytes_in} ratio={ratio:.1f}"
        f" largest_flow={sent.largest} longest_flow_s={sent.longest / 1e6:.0f} span_s={span:.0f}"
        f" leak_bytes={threshold}"
    )
    return Lead(agent, sent.target, sent.last, place, Severity.MEDIUM, summary, evidence, float(sent.bytes_out))
