"""beacon.slow: one agent calls one destination again and again over hours and days, more regularly than work.

It examines the starts of all flows that the agent opened, also refused ones (a refused beacon keeps trying): by
protocol, address and port; by the name in the bytes or bound to the address (a beacon behind changing addresses); and
DNS queries by registered domain (a beacon over DNS). The test, its null hypothesis and its cost are described in
`egress.hunt.regularity`. Over all series of a hunt the probability of any false alarm is at most half of alpha (the
other half is for beacon.shared), as far as gaps follow the null hypothesis.

Timing shows "automated", never "malicious". Not found: fewer than eight gaps; jitter of 80 % or more, or 65 % with less
than about 500 beats; a beacon among other traffic to the same address and name; a new address and name each time;
bursts inside one long flow, because only the starts of flows are stored (`beacon.timing` watches these inline).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import chain, groupby
from operator import itemgetter

import numpy as np

from egress.hunt.beacons import BeaconCandidate, Level, target_text
from egress.hunt.domains import registrable
from egress.hunt.hunter import HunterReport, Settings, counted
from egress.hunt.regularity import Regular, regular
from egress.store.query.history import History, HistoryTarget, Series

MAX_DOMAINS = 20_000  # domains of one agent that are examined
MAX_QUERIES = 5_000_000  # queries of one agent that are examined: 40 MB


class BeaconSlow:
    """Tests each series of starts of one agent for regularity (see the module's docstring)."""

    id = "beacon.slow"
    technique = "T1071"  # Application Layer Protocol
    about = "one agent calls one destination at regular intervals, with periods from a minute to days"

    def hunt(self, history: History, settings: Settings) -> HunterReport:
        level, notes = Level(settings), list[str]()
        stored = chain(history.by_name(), history.by_endpoint(), _lookups(history, notes))
        for series in level.long_enough(stored, notes):
            found = regular(series.moments / 1e6, history.window.since, history.window.until)
            if found is not None:
                level.add(_found(series, found))
        return level.report(notes)


def _found(series: Series, found: Regular) -> BeaconCandidate:
    """Make the candidate of a series of one agent."""
    opened = f"queried {series.target.said}" if series.target.under else f"called {target_text(series.target)}"
    what = f"{opened} {found.gaps + 1} times,"
    return BeaconCandidate(
        (series.agent,), series.target, target_text(series.target), what, found, (round(found.last * 1e6),)
    )


def _lookups(history: History, notes: list[str]) -> Iterator[Series]:
    """Yield the series of DNS queries by registered domain, without reverse lookups: these follow other traffic.

    Adds a note if queries were left out.
    """
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
        notes.append(f"{counted(others, 'DNS query')} not examined: too many, or of too many domains, of one agent")
