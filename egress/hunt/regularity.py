"""Tests if a series of times is more regular than ordinary work: an e-value over its gaps, periods from a minute on.

The null hypothesis is that of `egress.engine.window`: gaps are Gamma distributed with a shape of at most 4 (CV 0.5 and
more), at any rate. Over days it must be wider than in one episode: agents pause, skip, and have other business with the
same address. So a gap has the density, in y = ln(gap) and for a period t,

    f(y; k, e, t) = (1 - e) * sum over m of w_m * gamma(y - ln t; shape m k, mean m)  +  e / RANGE

that is, m beats of which m - 1 were not seen, or (with probability e) a gap of any length that means nothing. The null
is *every* such density with a shape k of NULL_SHAPES, any e of NULL_NOISE, with skips or without, and any t; against it
stand the shapes 8, 12, 30, 100 and 400 (CV 0.35 to 0.05). The evidence is

    E_n = (average of prod f over the alternatives: k, e, t)  /  (the largest prod f over the null: k, e, t)

For each single member of the null the ratio with that member below is a likelihood ratio, a martingale of mean 1, and
the largest is not smaller: so by Ville's inequality P(E_n ever reaches c) <= 1/c for any of them, whatever n the window
happens to cut off at (universal inference with a running maximum: Wasserman, Ramdas, Balakrishnan 2020). Dividing by
the largest costs a few beats and buys a bound that is proved for all of the null at once.

A beacon may begin on any day, so the test is begun at STARTS moments of the window, each with an equal part of the
weight, and with two widths of event (`WINDOWS`); averages of e-values are e-values, and a maximum of weighted ones is
smaller still. Gaps are rounded to GRID in their logarithm, on both sides of the ratio alike.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from egress.engine.window import NULL_SHAPE
from egress.engine.window import SHAPES as SHORT_SHAPES

Floats = npt.NDArray[np.float64]
_Indices = npt.NDArray[np.int64]

NULL_SHAPES = (1.0, 2.0, NULL_SHAPE)
SHAPES = (8.0, *SHORT_SHAPES)  # over days a beacon of shape 8 differs from work, too
NULL_NOISE = (0.0, 0.05, 0.25)  # e of the null; the alternatives' follow
NOISE = (0.02, 0.1, 0.25)
SKIPS = (0.85, 0.1, 0.035, 0.015)  # w_m: of seven beats one is missed, two or three in a row seldom
RANGE = 24.0  # of ln(gap in seconds): from a millisecond to a year
GRID = 0.02  # of ln(gap) and of ln(period)
COARSE = 2  # steps of GRID between the periods of the null, whose likelihood is smoother
WINDOWS = (5.0, 60.0)  # seconds; moments closer than that to the one before are one event, see `events`
STARTS = 4
MIN_GAPS = 8
MAX_GAPS = 4096  # from each start; a beacon of a minute fills that in three days
MIN_PERIOD, MAX_PERIOD = 30.0, 2 * 86400.0  # seconds; faster ones are `beacon.timing`'s
# Of the gaps from a start, this part must lie within a factor of NEAR of their median, or the rest is not computed.
# This only saves time: a third of random (Poisson) gaps do, and all beats of a beacon with 50 % jitter.
ALIKE, NEAR = 0.5, 1.6

_REACH = 1.2  # ln(period / median gap) of the alternatives looked at; outside they count as impossible, which is safe
_NULL_REACH = 2.5  # and of the null, whose largest value lies where most gaps do: near the median, see ALIKE
_TAIL = 14.0  # beyond e to the 14 periods a gap has no density but the noise's
_FLOOR = -700.0  # the logarithm that stands for impossible


class Regular(NamedTuple):
    """The evidence of a series, and the gaps behind it."""

    log_e: float  # natural logarithm of E
    gaps: int  # number of gaps behind it
    period: float  # seconds, the median of the gaps that are one beat long (the likeliest one, within a factor of NEAR)
    cv: float  # of these gaps
    beats: int  # number of these gaps
    first: float  # seconds: the beginning of the first gap
    last: float  # the end of the last gap


def regular(moments: Floats, since: float, until: float) -> Regular | None:
    """Return the strongest evidence that sorted times (seconds) of a window contain a beacon.

    None if there are too few gaps, or gaps too unlike.
    """
    best: Regular | None = None
    weight = -math.log(STARTS * len(WINDOWS))
    for window in WINDOWS:
        firsts = events(moments, window)
        quarters = np.searchsorted(firsts, [since + (until - since) * number / STARTS for number in range(1, STARTS)])
        for begun in sorted({0, *quarters.tolist()}):
            found = evidence(np.diff(firsts[begun : begun + MAX_GAPS + 1]), window)
            if found is not None and (best is None or found.log_e + weight > best.log_e):
                ends = firsts[begun], firsts[begun + found.gaps]
                best = found._replace(log_e=found.log_e + weight, first=float(ends[0]), last=float(ends[1]))
    return best


def events(moments: Floats, window: float) -> Floats:
    """Return the first of each run of times that follow one another within `window` seconds."""
    if not len(moments):
        return moments
    return moments[np.concatenate(([True], np.diff(moments) >= window))]


def evidence(gaps: Floats, dead: float = 0.0) -> Regular | None:
    """Return the largest E_n over the prefixes of a series of gaps (seconds), none of which can be below `dead`.

    `dead` is subtracted first: gaps with a lower bound would look regular. None if there are too few gaps, or gaps too
    unlike. `first` and `last` are 0: the caller sets them.
    """
    gaps = gaps[:MAX_GAPS]
    if len(gaps) < MIN_GAPS:
        return None
    middle = float(np.median(gaps))
    near = (gaps > middle / NEAR) & (gaps < middle * NEAR)
    if np.count_nonzero(near) < ALIKE * len(gaps) or not MIN_PERIOD <= middle <= MAX_PERIOD:
        return None
    places = np.rint(np.log(np.clip(gaps - dead, 1e-3, 1e9)) / GRID).astype(np.int64)
    centre = round(math.log(max(middle - dead, 1e-3)) / GRID)
    counts, log_e, period = _largest(places, centre)
    beat = period + dead
    like = gaps[:counts]
    like = like[(like > beat / NEAR) & (like < beat * NEAR)]
    if len(like):
        beat = float(np.median(like))
    cv = float(np.std(like) / np.mean(like)) if len(like) else 0.0
    return Regular(log_e, counts, beat, cv, len(like), 0.0, 0.0)


def _largest(places: _Indices, centre: int) -> tuple[int, float, float]:
    """Return (n, ln E_n, the alternatives' likeliest period in seconds) where E_n is largest, among a few n."""
    above, below = _tables()
    alternatives = np.zeros((len(above), 2 * round(_REACH / GRID) + 1))
    null = np.zeros((len(below), 2 * round(_NULL_REACH / GRID) // COARSE + 1))
    best = (0, -math.inf, 0.0)
    done = 0
    prior = math.log(len(above)) + math.log(RANGE / GRID)
    for upto in _checkpoints(len(places)):
        values, counts = np.unique(places[done:upto], return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            alternatives += count * _seen(above, value - centre, _REACH, 1)
            null += count * _seen(below, value - centre, _NULL_REACH, COARSE)
        done = upto
        top = float(alternatives.max())
        log_e = top + math.log(float(np.exp(alternatives - top).sum())) - prior - _supremum(null, upto)
        if log_e > best[1]:
            at = int(alternatives.argmax()) % alternatives.shape[1] - alternatives.shape[1] // 2
            best = (upto, log_e, math.exp((centre - at) * GRID))
    return best


def _seen(table: Floats, offset: int, reach: float, step: int) -> Floats:
    """Return ln f of one gap for periods around the centre: the greater the index, the shorter the period."""
    half = round(reach / GRID)
    middle = min(max(table.shape[1] // 2 + offset, half), table.shape[1] - 1 - half)
    return table[:, middle - half : middle + half + 1 : step]


def _supremum(null: Floats, gaps: int) -> float:
    """Return an upper bound of the null's ln f over all periods, from its largest value on the grid of periods.

    Between two points of the grid ln f can rise only as its curvature allows: at most k for each gap.
    """
    return float(null.max()) + gaps * max(NULL_SHAPES) * (COARSE * GRID) ** 2 / 8


def _checkpoints(gaps: int) -> list[int]:
    """Return the numbers of gaps at which E is computed. Any choice is valid, and not all are needed."""
    points = []
    at = MIN_GAPS
    while at < gaps:
        points.append(at)
        at = max(at + 1, at * 5 // 4)
    return [*points, gaps]


@lru_cache(maxsize=1)
def _tables() -> tuple[Floats, Floats]:
    """Return two tables of ln f over y - ln t in steps of GRID: a row for each alternative, and for each null."""
    steps = round(_TAIL / GRID)
    v: Floats = np.arange(-steps, steps + 1, dtype=np.float64) * GRID
    one = (1.0,)
    above = [_density(v, k, e, SKIPS) for k in SHAPES for e in NOISE]
    below = [_density(v, k, e, w) for k in NULL_SHAPES for e in NULL_NOISE for w in (one, SKIPS)]
    return np.stack(above), np.stack(below)


def _density(v: Floats, shape: float, noise: float, skips: tuple[float, ...]) -> Floats:
    """Return ln f over a grid of v = y - ln t; `skips` are the weights w_m."""
    beats = np.zeros_like(v)
    for m, weight in enumerate(skips, 1):
        k = m * shape
        # Of ln(gap / t) where gap is Gamma with shape m k and mean m t, so with rate k / t.
        beats += weight * np.exp(k * math.log(shape) + k * v - shape * np.exp(v) - math.lgamma(k))
    with np.errstate(divide="ignore"):
        return np.maximum(np.log((1 - noise) * beats + noise / RANGE), _FLOOR)
