"""beacon.slow: one agent calls one destination again and again over hours and days, more regularly than work is.

Looked at are the starts of all flows that the agent opened, refused ones too (what is refused is still tried by a
clock): by protocol, address and port, by the name in the bytes or bound to the address (a beacon behind changing
addresses), and the questions to the DNS by registered domain (a beacon that speaks DNS). The test, its null hypothesis
and what it costs are in `egress.hunt.regularity`; over all series of a hunt the probability of any false alarm is at
most half of alpha (the other half is beacon.shared's), as far as gaps are as the null says.

Timing says "automated", never "malicious". Not found: fewer than eight gaps; jitter of 80 % and more, or 65 % with less
than some 500 beats; a beacon among other traffic to the same address and name; a new address and name each time;
what happens inside one long flow, for only the starts of flows are stored (`beacon.timing` watches that inline).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import chain, groupby
from operator import itemgetter

import numpy as np

from egress.hunt.beacons import BeaconCandidate, Level, place
from egress.hunt.domains import registrable
from egress.hunt.hunter import Haul, Settings, counted
from egress.hunt.regularity import Regular, regular
from egress.store.query.history import History, HistoryTarget, Series

MAX_DOMAINS = 20_000  # of one agent that are told apart
MAX_QUERIES = 5_000_000  # of one agent that are looked at: 40 MB


class BeaconSlow:
    """See the module's docstring."""

    id = "beacon.slow"
    technique = "T1071"  # Application Layer Protocol
    about = "one agent calls one destination by a clock, with periods from a minute to days"

    def hunt(self, history: History, settings: Settings) -> Haul:
        level, notes = Level(settings), list[str]()
        stored = chain(history.by_name(), history.by_endpoint(), _lookups(history, notes))
        for series in level.long_enough(stored, notes):
            found = regular(series.moments / 1e6, history.window.since, history.window.until)
            if found is not None:
                level.add(_found(series, found))
        return level.haul(notes)


def _found(series: Series, found: Regular) -> BeaconCandidate:
    opened = f"asked the DNS for {series.target.said}" if series.target.under else f"called {place(series.target)}"
    what = f"{opened} {found.gaps + 1} times,"
    return BeaconCandidate(
        (series.agent,), series.target, place(series.target), what, found, (round(found.last * 1e6),)
    )


def _lookups(history: History, notes: list[str]) -> Iterator[Series]:
    """Questions to the DNS by registered domain; reverse lookups are left out, they follow other traffic."""
    others = 0
    for agent, rows in groupby(history.queries(), key=itemgetter(0)):
        domains: dict[str, array[int]] = {}
        for number, (_, name, start) in enumerate(rows):
            domain = registrable(name)
            moments = domains.get(domain)
            if moments is None and len(domains) < MAX_DOMAINS and not domain.endswith(".arpa"):
                moments = domains[domain] = array("q")
            if moments is None or number >= MAX_QUERIES:
                others += not domain.endswith(".arpa")
            else:
                moments.append(start)
        for domain, moments in domains.items():
            times = np.frombuffer(moments, np.int64)
            yield Series(
                agent, HistoryTarget(said=domain, under=True), times, (agent,), np.zeros(len(times), np.int64), 0
            )
    if others:
        notes.append(f"{counted(others, 'DNS question')} not looked at: too many, or of too many domains, of one agent")
