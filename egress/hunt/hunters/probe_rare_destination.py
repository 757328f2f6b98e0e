"""probe.rare-destination: a destination that agents had not, or hardly, reached before.

A destination is the registered domain of a name that the agent had resolved to the address, else the address: the many
hosts of a CDN are one destination, and a name that was only written into a hello hides nothing. It is rare if all
agents together reached it at most `HARDLY` times in the baseline (the `Settings.baseline` seconds before the window),
and at most `MAX_SHARE` agents in the window. Only flows that passed count: refused ones are on record as refused. DNS
queries are left out.

New does not mean bad: the hunter ranks leads, most bytes sent first, at most `MOST` of an agent and `IN_ALL` of a hunt,
with severity low. If the oldest flow is less than `MIN_BASELINE` older than the window, it gives a note instead of
leads; a new agent is compared with the history of the others. Not found: a rare host under a known registered domain or
address, and destinations that an attacker reached during the baseline. A destination that was last reached before the
baseline, or whose records were pruned, counts as new.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from egress.hunt.domains import destination
from egress.hunt.hunter import HunterReport, Lead, Settings, Strongest, counted
from egress.model import Severity
from egress.store.query.history import AddressTraffic, History, HistoryTarget

HARDLY = 2  # flows of all agents in the baseline: a typing error or a redirect, not a habit
MAX_SHARE = 2  # agents: a destination that more reach at once is an update or a new tool
MOST, IN_ALL = 5, 100  # leads of one agent, and of a hunt: a crawler's agents are new everywhere, and these are leads
MIN_BASELINE = 86400.0  # seconds: a day, to include daily jobs
MAX_DESTINATIONS = 200_000  # pairs of agent and destination in a window: about 100 MB


@dataclass(slots=True)
class _Visit:
    """The traffic of one agent to one destination. Times are microseconds."""

    flows: int = 0
    bytes_out: int = 0
    bytes_in: int = 0
    last: int = -1
    target: HistoryTarget = field(default_factory=HistoryTarget)

    def add(self, row: AddressTraffic) -> None:
        """Add a row; `target` becomes that of the latest flow."""
        self.flows += row.flows
        self.bytes_out += row.bytes_out
        self.bytes_in += row.bytes_in
        target = HistoryTarget(dst=row.dst, said=row.said, bound=row.bound)
        if (row.last, target) > (self.last, self.target):
            self.last, self.target = row.last, target


class ProbeRareDestination:
    """Ranks destinations that were hardly reached before the window (see the module's docstring)."""

    id = "probe.rare-destination"
    technique = "T1071"  # Application Layer Protocol: a lead, not a proof
    about = "destinations that agents had not, or hardly, reached before the window, most bytes sent first"

    def hunt(self, history: History, settings: Settings) -> HunterReport:
        oldest = history.oldest()
        begin = history.window.since - settings.baseline
        if oldest is None or oldest > history.window.since - MIN_BASELINE:
            note = "rare destinations need a day of history before --since: give a later --since, or wait"
            return HunterReport((), (note,))
        notes = list[str]()
        visits = _visits(history, notes)
        before: Counter[str] = Counter()
        for target, count in history.earlier(begin):
            place = destination(target.said, target.bound, target.dst)
            if place in visits:
                before[place] += count
        return _report(visits, before, history.window.agent or "*", notes)


def _visits(history: History, notes: list[str]) -> dict[str, dict[str, _Visit]]:
    """Return the traffic in the window by destination, then agent. Adds a note if some was left out."""
    visits: dict[str, dict[str, _Visit]] = {}
    known = others = 0
    for row in history.traffic(everyone=True):
        place = destination(row.said, row.bound, row.dst)
        visit = visits.get(place, {}).get(row.agent)
        if visit is None:
            if known >= MAX_DESTINATIONS:
                others += row.flows
                continue
            known += 1
            visit = visits.setdefault(place, {})[row.agent] = _Visit()
        visit.add(row)
    if others:
        notes.append(f"{counted(others, 'flow')} not examined: to more than {MAX_DESTINATIONS} destinations")
    return visits


def _report(visits: dict[str, dict[str, _Visit]], before: Counter[str], wanted: str, notes: list[str]) -> HunterReport:
    """Report the rare destinations of agents that match the glob `wanted`; all agents decide which ones are rare.

    `before` has the number of flows to each destination in the baseline.
    """
    ranked: dict[str, Strongest] = {}
    for place, agents in visits.items():
        if before[place] > HARDLY or len(agents) > MAX_SHARE:
            continue
        for agent, visit in agents.items():
            if not fnmatchcase(agent, wanted):
                continue
            ranked.setdefault(agent, Strongest(MOST)).add(_lead(agent, place, visit, before[place], len(agents)))
    strongest = Strongest(IN_ALL)
    for each in ranked.values():
        for lead in each:
            strongest.add(lead)
    left_out = strongest.left_out + sum(each.left_out for each in ranked.values())
    if left_out:
        notes.append(
            f"{counted(left_out, 'rare destination')} left out: at most {MOST} of an agent and {IN_ALL} in all are kept"
        )
    return HunterReport(tuple(strongest), tuple(notes))


def _lead(agent: str, place: str, visit: _Visit, before: int, agents: int) -> Lead:
    """Make the lead of an agent's visits; `before`: flows to the destination in the baseline; `agents`: visitors."""
    ever = "no agent had reached" if not before else f"agents had reached only {counted(before, 'time')}"
    alone = "no other agent did" if agents == 1 else "one other agent did, too"
    summary = (
        f"Looking back: the agent reached {place}, which {ever} before: {counted(visit.flows, 'flow')},"
        f" {visit.bytes_out} bytes out, {visit.bytes_in} in; {alone}. New does not mean bad: find out what it was for."
    )
    evidence = (
        f"flows={visit.flows} bytes_out={visit.bytes_out} bytes_in={visit.bytes_in} agents={agents}"
        f" flows_before={before}"
    )
    return Lead(agent, visit.target, visit.last, place, Severity.LOW, summary, evidence, float(visit.bytes_out))
