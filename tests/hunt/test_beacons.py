"""Shared by hunters of beacons: the level of evidence for many series, and words."""

from __future__ import annotations

import math

import pytest

from egress.hunt.beacons import BeaconCandidate, Level, duration, power, target_text
from egress.hunt.hunter import MAX_LEADS, Settings
from egress.hunt.regularity import Regular
from egress.store.query.history import HistoryTarget


def _found(log_e: float, number: int = 0, alone: float = -math.inf, **target: object) -> BeaconCandidate:
    regular = Regular(log_e, 20, 600.0, 0.1, 18, 0.0, 12000.0)
    return BeaconCandidate(("rome",), HistoryTarget(**target), "x", "called x 21 times,", regular, (number,), alone)  # type: ignore[arg-type]


def test_what_is_needed_grows_with_the_series_looked_at() -> None:
    level = Level(Settings(alpha=0.01))
    level.series = 1
    assert level.log == pytest.approx(math.log(1 / 0.005))
    level.add(_found(math.log(1000)))
    assert len(level.report([]).leads) == 1
    level.series = 10
    assert level.report([]).leads == ()


def test_the_same_flow_is_told_once_and_by_its_name() -> None:
    level = Level(Settings())
    level.series = 1
    level.add(_found(50.0, 7, dst="192.0.2.1"))
    level.add(_found(50.0, 7, said="x.example"))
    level.add(_found(60.0, 8, alone=55.0))
    (lead,) = level.report([]).leads
    assert lead.target == HistoryTarget(said="x.example")


def test_too_many_are_cut_and_counted() -> None:
    level, notes = Level(Settings()), list[str]()
    level.series = 1
    for number in range(3 * MAX_LEADS):
        level.add(_found(50.0 + number, number))
    leads = level.report(notes).leads
    assert len(leads) == MAX_LEADS
    assert leads[0].strength == 50.0 + 3 * MAX_LEADS - 1
    assert notes[0].startswith(f"{2 * MAX_LEADS} weaker beacons left out")


@pytest.mark.parametrize(
    "seconds, text", [(59.6, "60 s"), (600, "10.0 min"), (7199, "120.0 min"), (7200, "2.0 h"), (86400, "24.0 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_places_and_powers() -> None:
    assert target_text(HistoryTarget("tcp", "192.0.2.1", 443)) == "192.0.2.1:443/tcp"
    assert target_text(HistoryTarget("udp", "2001:db8::1", 53)) == "[2001:db8::1]:53/udp"
    assert target_text(HistoryTarget("icmp", "192.0.2.1", 0)) == "192.0.2.1/icmp"
    assert target_text(HistoryTarget(bound=("a", "b"))) == "a"
    assert power(math.log(2.34e300)) == "2.3e300"
    assert power(math.log(9.999e5)) == "1.0e6"
