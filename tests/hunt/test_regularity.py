"""The test of gaps over days: its false alarms, its power, and what it does with any numbers at all."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.hunt.regularity import MAX_GAPS, MIN_GAPS, Floats, events, evidence, regular
from tests.hunt.histories import DAY, beacon, week

pytestmark = pytest.mark.slow  # simulations

SERIES = 25  # of each kind
LEVEL = math.log(1e6)  # what some 5000 series need at alpha = 0.01

_Make = Callable[[np.random.Generator, float, int], Floats]


def _office(rng: np.random.Generator, mean: float, count: int) -> Floats:
    """An agent's turns, eight hours a day."""
    starts = np.cumsum(rng.gamma(4, mean / 4, count))
    return starts[starts % DAY < DAY / 3]


def _diurnal(rng: np.random.Generator, mean: float, count: int) -> Floats:
    starts = np.cumsum(rng.exponential(mean / 2, 2 * count))
    return starts[rng.random(len(starts)) < 0.5 * (1 + np.cos(2 * np.pi * starts / DAY))]


def _bursts(rng: np.random.Generator, mean: float, count: int) -> Floats:
    begins = np.cumsum(rng.exponential(3 * mean, count // 3))
    each = [begin + np.cumsum(rng.exponential(rng.uniform(1, 30), rng.integers(1, 12))) for begin in begins]
    return np.sort(np.concatenate(each))


def _sessions(rng: np.random.Generator, mean: float, count: int) -> Floats:
    """Turns with pauses in between."""
    pause = rng.random(count) < 0.1
    return np.cumsum(np.where(pause, rng.exponential(20 * mean, count), rng.gamma(4, mean / 4, count)))


WORK: dict[str, _Make] = {
    "random": lambda rng, mean, count: np.cumsum(rng.exponential(mean, count)),
    "an agent's turns": lambda rng, mean, count: np.cumsum(rng.gamma(4, mean / 4, count)),
    "turns, some unseen": lambda rng, mean, count: np.cumsum(rng.gamma(4, mean / 4, count))[rng.random(count) > 0.15],
    "lognormal, sigma 0.5": lambda rng, mean, count: np.cumsum(rng.lognormal(math.log(mean), 0.5, count)),
    "two agents at once": lambda rng, mean, count: np.sort(
        np.concatenate([np.cumsum(rng.gamma(4, mean / each, count)) for each in (4, 6)])
    ),
    "office hours": _office,
    "days and nights": _diurnal,
    "bursts": _bursts,
    "sessions": _sessions,
}


@pytest.mark.parametrize("work", WORK)
def test_work_is_no_beacon(work: str) -> None:
    """P(E >= 100) is at most 0.01; of 25 series each, none comes near what a hunt needs."""
    rng = np.random.default_rng(list(WORK).index(work))
    highest = -math.inf
    for _ in range(SERIES):
        mean = float(10 ** rng.uniform(2.2, 4.2))
        starts = week(WORK[work](rng, mean, int(8 * DAY / mean) + 20))
        found = regular(starts, 0.0, 7 * DAY)
        highest = max(highest, -math.inf if found is None else found.log_e)
    assert highest < math.log(100)


@pytest.mark.parametrize(
    "period, jitter, missed, beats",
    [
        (60.0, 0.2, 0.0, 1000),
        (900.0, 0.5, 0.0, 400),
        (900.0, 0.37, 0.25, 400),
        (3600.0, 0.2, 0.1, 168),
        (6 * 3600.0, 0.1, 0.0, 28),
        (3600.0, 0.65, 0.0, 600),
    ],
)
def test_a_beacon_is_found(period: float, jitter: float, missed: float, beats: int) -> None:
    rng = np.random.default_rng(11)
    found = regular(beacon(rng, period, jitter, beats, missed), 0.0, beats * period)
    assert found is not None
    assert found.log_e > LEVEL
    assert found.period == pytest.approx(period * (1 - jitter / 2), rel=0.15)
    assert found.cv < 0.5


def test_what_is_said_of_a_clock_is_exact() -> None:
    found = regular(np.array([7 + 600.0 * beat for beat in range(100)]), 0.0, 100 * 600.0)
    assert found is not None
    assert (found.gaps, found.beats, found.period) == (99, 99, 600.0)
    assert (found.cv, found.first, found.last) == (0.0, 7.0, 7 + 99 * 600.0)


def test_a_beacon_that_begins_late_after_work_is_found() -> None:
    rng = np.random.default_rng(12)
    work = np.cumsum(rng.exponential(3000, 400))
    starts = np.concatenate([work[work < 4 * DAY], 4 * DAY + beacon(rng, 1800, 0.2, 140)])
    found = regular(starts, 0.0, 7 * DAY)
    assert found is not None and found.log_e > LEVEL
    assert found.first >= 3.4 * DAY


def test_parallel_connections_count_once() -> None:
    rng = np.random.default_rng(13)
    beats = beacon(rng, 900, 0.2, 200)
    starts = np.sort(np.concatenate([beats, beats + 0.2, beats + rng.uniform(0, 4, 200)]))
    assert len(events(starts, 5.0)) == 200
    found = regular(starts, 0.0, 200 * 900.0)
    assert found is not None and found.log_e > LEVEL


def test_too_few_and_too_fast_are_not_looked_at() -> None:
    assert evidence(np.full(MIN_GAPS - 1, 600.0)) is None
    assert evidence(np.full(100, 2.0)) is None
    assert evidence(np.zeros(0)) is None
    assert regular(np.zeros(0), 0.0, DAY) is None
    assert evidence(np.full(MIN_GAPS, 600.0)) is not None


def test_what_is_looked_at_is_bounded() -> None:
    found = evidence(np.full(3 * MAX_GAPS, 60.0))
    assert found is not None and found.gaps <= MAX_GAPS


@given(st.lists(st.integers(0, 2**53), max_size=200), st.integers(0, 2**40))
def test_any_moments_at_all(moments: list[int], until: int) -> None:
    found = regular(np.sort(np.array(moments, np.float64)) / 1e6, 0.0, until / 1e6)
    assert found is None or (math.isfinite(found.log_e) and found.gaps >= MIN_GAPS and found.period > 0)


@given(st.lists(st.floats(0, 1e12), min_size=MIN_GAPS, max_size=60), st.sampled_from([0.0, 5.0, 60.0]))
def test_any_gaps_at_all(gaps: list[float], dead: float) -> None:
    found = evidence(np.array(gaps), dead)
    assert found is None or math.isfinite(found.log_e)
