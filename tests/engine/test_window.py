"""The size and the power of the e-process, its invariances and its bounds. All draws are seeded."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import accumulate, pairwise
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egress.engine.window import (
    GAP_MAX,
    GAP_MIN,
    KEPT,
    NULL_SHAPE,
    REPORTED,
    SHAPES,
    WINDOWS,
    GapProcess,
    Rhythm,
    log_mixture,
    shape_of,
)
from tests.examples import examples

pytestmark = pytest.mark.slow  # simulations

Draw = Callable[[random.Random], float]
NULLS: dict[str, Draw] = {
    "gamma(4)": lambda r: r.gammavariate(4, 0.25),
    "exponential": lambda r: r.expovariate(1),
    "lognormal(0.5)": lambda r: r.lognormvariate(0, 0.5),
    "lognormal(1)": lambda r: r.lognormvariate(0, 1),
}


def subtractive(jitter: float) -> Draw:
    """Sleep between (1 - jitter) and 1 periods, like Cobalt Strike."""
    return lambda r: 1 - jitter * r.random()


def plus_minus(jitter: float) -> Draw:
    return lambda r: 1 + jitter * (2 * r.random() - 1)


def highest(gaps: list[float]) -> float:
    process = GapProcess()
    return max(process.add(gap) for gap in gaps)


def gaps_needed(draw: Draw, rng: random.Random, level: float, history: int = 0) -> int:
    process = GapProcess()
    for _ in range(history):
        process.add(rng.lognormvariate(1, 1))
    for n in range(1, 100):
        if process.add(draw(rng)) >= math.log(level):
            return n
    return 100


# --- size -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NULLS)
def test_irregular_gaps_alarm_no_more_often_than_promised(name: str) -> None:
    """Ville's inequality: P(E ever reaches c) <= 1/c, checked after each of 60 gaps. Margin: 3 standard errors."""
    rng, runs = random.Random(20), 1000
    suprema = [highest([NULLS[name](rng) for _ in range(60)]) for _ in range(runs)]
    for c in (20, 100, 1000):
        size = sum(supremum >= math.log(c) for supremum in suprema) / runs
        assert size <= 1 / c + 3 * math.sqrt(1 / c / runs), (name, c, size)


@pytest.mark.parametrize("rate", [20.0, 5.0, 2.5, 1.0, 0.3])
@pytest.mark.parametrize("idle", [0.0, 0.4])
def test_collapsing_random_traffic_makes_no_clock(rate: float, idle: float) -> None:
    """Dead time turns dense random moments into even ones (at rate 1/window the remaining CV is 0.51)."""
    rng, runs, alarms = random.Random(21), 40, 0
    for _ in range(runs):
        moments = list(accumulate(rng.expovariate(rate) for _ in range(80)))
        bursts = [moments[0], *(b for a, b in pairwise(moments) if b - a >= idle)]
        rhythm = Rhythm(bursts[0], tuple(max(window, idle) for window in WINDOWS))
        for moment in bursts[1:]:
            rhythm.add(moment)
            if rhythm.log_e >= math.log(100):
                alarms += 1
                break
    assert alarms <= 2


def test_the_statistic_has_mean_one_under_the_null() -> None:
    """The share D1/(D1 + D2) of two gaps is Beta(k0, k0): E_2 over its density integrates to 1 (midpoint rule)."""
    beta = math.gamma(2 * NULL_SHAPE) / math.gamma(NULL_SHAPE) ** 2
    steps, mean = 20000, 0.0
    for i in range(steps):
        x = (i + 0.5) / steps
        e = math.exp(log_mixture(2, 1.0, math.log(x) + math.log(1 - x)))
        mean += e * beta * (x * (1 - x)) ** (NULL_SHAPE - 1) / steps
    assert mean == pytest.approx(1, abs=1e-6)


def test_the_statistic_is_the_published_formula() -> None:
    gaps = [0.9, 1.2, 1.0]
    n, total, product, k0 = 3, sum(gaps), math.prod(gaps), NULL_SHAPE

    def e(k: float) -> float:
        gammas = math.gamma(n * k) * math.gamma(k0) ** n / (math.gamma(n * k0) * math.gamma(k) ** n)
        value: float = gammas * product ** (k - k0) / total ** (n * (k - k0))
        return value

    # The larger shapes overflow the direct formula; they are checked through logarithms.
    def log_e(k: float) -> float:
        gammas = math.lgamma(n * k) + n * math.lgamma(k0) - math.lgamma(n * k0) - n * math.lgamma(k)
        return gammas + (k - k0) * (math.log(product) - n * math.log(total))

    assert log_e(12) == pytest.approx(math.log(e(12)))
    mean = sum(math.exp(log_e(k)) for k in SHAPES) / len(SHAPES)
    assert log_mixture(n, total, math.log(product)) == pytest.approx(math.log(mean))


# --- power ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "draw, claimed, cost",
    [
        # claimed: median gaps to E >= 1000 by the published simulation; cost: gaps that the weight 1/2 of the first
        # start may add.
        (subtractive(0.02), 5, 1),
        (subtractive(0.1), 5, 1),
        (subtractive(0.2), 7, 1),
        (subtractive(0.37), 11, 1),
        (subtractive(0.5), 17, 2),
        (plus_minus(0.2), 10, 1),
    ],
)
def test_beacons_are_found_in_time(draw: Draw, claimed: int, cost: int) -> None:
    rng = random.Random(22)
    assert median(gaps_needed(draw, rng, 1000) for _ in range(101)) <= claimed + cost


@pytest.mark.parametrize("history", [1, 2, 3, 10, 41, 200])
@pytest.mark.parametrize(
    "draw, fresh, decade", [(subtractive(0.1), 7, 1), (subtractive(0.2), 9, 2), (plus_minus(0.2), 13, 3)]
)
def test_a_beacon_after_irregular_traffic_is_found(draw: Draw, fresh: int, decade: int, history: int) -> None:
    """Gaps to E >= 10^4: those of a fresh series, up to 3 until the next start, and the cost of that start's weight.

    `decade` is the cost of a factor of ten in E; start j has the weight 1/((j+1)(j+2)), the fresh one 1/2.
    """
    rng, j = random.Random(23), -(-history // 4)
    weight = math.ceil(decade * math.log10((j + 1) * (j + 2) / 2))
    assert median(gaps_needed(draw, rng, 10_000, history) for _ in range(41)) <= fresh + 3 + weight


def test_a_pause_does_not_hide_a_beacon() -> None:
    rng, process = random.Random(24), GapProcess()
    for _ in range(20):
        process.add(plus_minus(0.1)(rng))
    process.add(500.0)
    assert process.add(1.0) < math.log(1000)
    found = [process.add(plus_minus(0.1)(rng)) >= math.log(1000) for _ in range(14)]
    assert found[-1]


def test_jitter_of_four_fifths_is_inside_the_null() -> None:
    """The documented limit: docs must not claim to find such a beacon."""
    rng = random.Random(25)
    assert median(gaps_needed(subtractive(0.8), rng, 1000) for _ in range(21)) == 100


# --- the process ------------------------------------------------------------------------------------------

GAPS = st.lists(st.floats(min_value=0.01, max_value=1e4), min_size=1, max_size=40)


@given(GAPS, st.floats(min_value=0.2, max_value=1000))
def test_the_unit_of_time_does_not_matter(gaps: list[float], factor: float) -> None:
    one, other = GapProcess(), GapProcess()
    for gap in gaps:
        assert other.add(gap * factor) == pytest.approx(one.add(gap), rel=1e-6, abs=1e-5)


@given(st.lists(st.floats(), max_size=80))
@settings(max_examples=examples(60))
def test_any_float_is_a_gap(gaps: list[float]) -> None:
    process = GapProcess(0.1)
    for gap in gaps:
        assert math.isfinite(process.add(gap))
    estimate = process.estimate(-math.inf)
    assert (estimate is None) == (not gaps)
    if estimate is not None:
        assert all(GAP_MIN <= gap <= GAP_MAX for gap in estimate.gaps)
        assert all(math.isfinite(value) for value in (estimate.period, estimate.cv, estimate.shape))


def test_state_is_bounded() -> None:
    rng, process = random.Random(26), GapProcess()
    for _ in range(2000):
        process.add(rng.expovariate(1))
    assert len(process._starts) == KEPT
    estimate = process.estimate(-math.inf)
    assert estimate is not None and len(estimate.gaps) <= REPORTED


def test_estimates_describe_the_regular_part() -> None:
    rng, process = random.Random(27), GapProcess()
    for _ in range(30):
        process.add(rng.lognormvariate(3, 1.5))
    for _ in range(24):
        process.add(60 * plus_minus(0.2)(rng))
    estimate = process.estimate(math.log(1000))
    assert estimate is not None
    assert 20 <= estimate.n <= 24 and len(estimate.gaps) == estimate.n
    assert 54 < estimate.period < 66
    assert 0.07 < estimate.cv < 0.16  # 0.2 / sqrt(3) = 0.115
    assert 40 < estimate.shape < 200  # 1 / cv^2 = 75


def test_floors_of_an_estimate() -> None:
    process = GapProcess()
    for _ in range(10):
        process.add(0.3)
    assert process.estimate(math.log(1000)) is not None
    assert process.estimate(math.log(1000), min_gaps=11) is None
    assert process.estimate(math.log(1000), min_period=0.5) is None
    assert process.estimate(math.log(1e300)) is None


def test_shape_estimate_is_close_to_the_likelihood_maximum() -> None:
    rng = random.Random(28)
    for shape in (1.0, 4.0, 50.0):
        assert shape_of([rng.gammavariate(shape, 1) for _ in range(20000)]) == pytest.approx(shape, rel=0.05)
    assert shape_of([7.0] * 9) == pytest.approx(1e6, rel=0.01)


# --- moments ----------------------------------------------------------------------------------------------


def found(moments: list[float], level: float = 1e4) -> bool:
    rhythm = Rhythm(moments[0])
    for moment in moments[1:]:
        rhythm.add(moment)
    return rhythm.estimate(math.log(level), 6, 0.5) is not None


def beats(period: float, n: int, jitter: float = 0.1, seed: int = 29) -> list[float]:
    rng = random.Random(seed)
    return list(accumulate(period * plus_minus(jitter)(rng) for _ in range(n)))


@pytest.mark.parametrize("period", [1.0, 5.0, 60.0, 300.0])
def test_parallel_connections_and_retries_are_one_event(period: float) -> None:
    """Each visit opens four connections within a tenth of the period (a 1 s beacon's within 50 ms)."""
    rng = random.Random(30)
    spread = 0.05 if period == 1 else min(period * 0.08, 8)
    visits = [sorted([beat, *(beat + spread * rng.random() for _ in range(3))]) for beat in beats(period, 16)]
    assert found([moment for visit in visits for moment in visit])


def test_syn_retransmissions_and_application_retries_are_one_event() -> None:
    """RFC 6298 backoff, 1 s, 3 s and 7 s after the first try, at every other beat of two minutes."""
    moments = []
    for i, beat in enumerate(beats(120, 16)):
        moments += [beat, beat + 1, beat + 3, beat + 7] if i % 2 else [beat]
    assert found(moments)


def test_each_window_has_its_share_of_the_weight() -> None:
    three, one = Rhythm(0.0), Rhythm(0.0, WINDOWS[:1])
    for moment in beats(1, 9):  # too fast for the wider windows: only the first one counts
        three.add(moment)
        one.add(moment)
    assert three.log_e == pytest.approx(one.log_e - math.log(len(WINDOWS)))
    both = three.estimate(-math.inf, 1, 0), one.estimate(-math.inf, 1, 0)
    assert both[0] is not None and both[1] is not None
    assert both[0].log_e == pytest.approx(both[1].log_e - math.log(len(WINDOWS)))
    assert three.estimate(three.log_e + 0.01, 1, 0) is None


def test_bulk_traffic_is_one_event() -> None:
    assert not found([i * 0.05 for i in range(5000)])


@pytest.mark.parametrize("period", [1.0, 10.0, 60.0])
def test_earlier_and_equal_moments_change_nothing(period: float) -> None:
    moments = beats(period, 14)
    plain, disturbed = Rhythm(moments[0]), Rhythm(moments[0])
    for moment in moments[1:]:
        plain.add(moment)
        for same in (moment, moment, moment - 0.5 * period, moment):
            disturbed.add(same)
    assert disturbed.log_e == plain.log_e


def test_a_clock_set_back_does_not_blind() -> None:
    moments = [*(1e9 + beat for beat in beats(5, 4)), *beats(5, 20)]
    assert found(moments)


@given(st.lists(st.floats(), min_size=1, max_size=60))
@settings(max_examples=examples(60))
def test_any_float_is_a_moment(moments: list[float]) -> None:
    rhythm = Rhythm(0.0)
    for moment in moments:
        rhythm.add(moment)
        assert math.isfinite(rhythm.log_e)
    rhythm.estimate(-math.inf, 1, 0)
