"""beacon.shared: agents that call one destination at regular intervals, visible only when they are taken together.

A fleet may call home in turns, so that the calls of each member look random or are too few; or every sandbox may live
for three beats of the same period, too few for a proof. For each destination that two or more agents reached, by
protocol, address and port and by name, two series are examined:

* merged: the starts of all agents' flows as one series (in turns);
* pooled: the gaps within each agent's own flows, one agent's after another's (the same period, many short lives).

The test is that of beacon.slow; each of the two has half of the weight. Agents with rhythms of their own within the
null give pooled gaps that are more spread than each one's, so the null's bound holds for them too (simulated:
tests/hunt/test_beacon_shared.py). A destination that one agent alone calls at regular intervals is left to
beacon.slow. Each agent that takes part gets a finding, which does not name the others: a person who may see one agent
may not see all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain

import numpy as np

from egress.hunt.beacons import BeaconCandidate, Level, target_text
from egress.hunt.hunter import HunterReport, Settings
from egress.hunt.regularity import WINDOWS, Floats, Regular, events, evidence, regular
from egress.store.query.history import History, Series, Window

MIN_AGENTS = 2
MAX_AGENTS = 20  # agents of one destination that get a finding, those with most calls


class BeaconShared:
    """Tests, for each destination of several agents, their flows merged and pooled (see the module's docstring)."""

    id = "beacon.shared"
    technique = "T1071"  # Application Layer Protocol
    about = "several agents call one destination at regular intervals, visible only when taken together"

    def hunt(self, history: History, settings: Settings) -> HunterReport:
        level, notes = Level(settings), list[str]()
        stored = chain(history.by_name(fleet=True), history.by_endpoint(fleet=True))
        for series in level.long_enough(stored, notes, MIN_AGENTS):
            found = together(series, history.window)
            if found is not None and found.log_e >= level.log:
                level.add(_found(series, found, history.window))
        return level.report(notes)


def together(series: Series, window: Window) -> Regular | None:
    """Return the stronger evidence of the merged starts and the pooled gaps; None if neither has any."""
    merged = regular(series.moments / 1e6, window.since, window.until)
    found = [merged, *(_pooled(series, width) for width in WINDOWS)]
    known = [each for each in found if each is not None]
    if not known:
        return None
    best = max(known, key=lambda each: each.log_e)
    return best._replace(log_e=best.log_e - math.log(2))


def _pooled(series: Series, width: float) -> Regular | None:
    """Return the evidence of the gaps within each agent's flows, as one series; None if there is none."""
    gaps = [np.diff(events(moments, width)) for moments in _each(series)]
    found = evidence(np.concatenate(gaps), width)
    if found is None:
        return None
    ends = float(series.moments[0]) / 1e6, float(series.moments[-1]) / 1e6
    return found._replace(log_e=found.log_e - math.log(len(WINDOWS)), first=ends[0], last=ends[1])


def _each(series: Series) -> Iterator[Floats]:
    """Yield the times of each agent in seconds; agents are in the order of `series.agents`."""
    order = np.argsort(series.of, kind="stable")
    cuts = np.cumsum(np.bincount(series.of))[:-1]
    return (moments / 1e6 for moments in np.split(series.moments[order], cuts))


def _found(series: Series, found: Regular, window: Window) -> BeaconCandidate:
    """Make the candidate of a series: the agents with most calls, and the best evidence of one agent alone."""
    counts = np.bincount(series.of)
    most = np.argsort(-counts, kind="stable")[:MAX_AGENTS]
    last = np.zeros(len(series.agents), np.int64)
    last[series.of] = series.moments  # the last of equal indices stays
    own = (regular(moments, window.since, window.until) for moments in _each(series))
    alone = max((each.log_e for each in own if each is not None), default=-math.inf)
    where = target_text(series.target)
    what = f"is one of {len(series.agents)} that called {where} {len(series.moments)} times, together"
    agents, starts = tuple(series.agents[index] for index in most), tuple(int(last[index]) for index in most)
    return BeaconCandidate(agents, series.target, where, what, found, starts, alone)
