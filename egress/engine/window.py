"""An anytime-valid statistical test: is a series of times more regular than an agent's own work can be?

The null hypothesis is "gaps are Gamma distributed with shape at most k0 = 4, at any rate": we take an agent's own turn
loop to have a coefficient of variation (CV) of 0.5 and more (an assumption: no labelled agent traffic is public), and
bursty traffic is inside the null too. Against it stand the shapes 12, 30, 100 and 400 (CV 0.29 to 0.05). The unknown
rate is integrated out with its right Haar prior, which leaves a likelihood ratio that does not depend on the unit of
time (group-invariant e-statistics, Perez-Ortiz et al. 2022; Grunwald, de Heide and Koolen, Safe Testing; the fixed-n
form of the test is Moran 1951, Bartlett 1937):

    E_n(k) = G(nk) G(k0)^n / (G(n k0) G(k)^n) * (prod D)^(k - k0) / (sum D)^(n (k - k0))      G the gamma function

Under shape k0 it is a martingale of mean 1 in the ratios of the gaps, so by Ville's inequality the probability that
it *ever* reaches c is at most 1/c: one may look after each gap and stop when one likes. For shapes below k0 the bound
is proved for fixed n (monotone likelihood ratio) and checked by simulation for all n (tests/engine/test_window.py).

A beacon may begin after irregular traffic, so a new process starts every `SPACING` gaps, and process j has the prior
weight w_j = 1/((j+1)(j+2)), which sums to 1. The *largest* w_j E_j is reported, not the sum. Each E_j is a
martingale in the ratios of its own gaps only: earlier gaps reveal the rate, so the sum need not be an e-process when
the moment to stop may depend on all of them. The maximum needs no more than a union bound, and loses almost nothing:

    P(some w_j E_j ever reaches c) <= sum_j P(sup E_j >= c / w_j) <= sum_j w_j / c = 1/c

Dropping a process (only the `KEPT` best live on) can only lower the maximum. The windows of `Rhythm` are weighted and
united in the same way.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from functools import lru_cache
from statistics import fmean, median, pstdev
from typing import NamedTuple

NULL_SHAPE = 4.0  # k0; k0 = 1 (Poisson) would alarm on every turn loop. P(sup E >= 1000): lognormal(0.5) 0.0012
SHAPES = (12.0, 30.0, 100.0, 400.0)  # alternatives, equal weights
SPACING = 4  # gaps between two starts: a beacon waits at most 3 gaps for a start of its own
KEPT = 6  # processes alive at once, the newest always among them
REPORTED = 32  # last gaps kept, for the estimates and the evidence
GAP_MIN, GAP_MAX = 1e-3, 1e9  # seconds; gaps are clamped so that every logarithm is finite
WINDOWS = (0.1, 1.0, 10.0)  # seconds; see Rhythm
BACKWARDS = 60.0  # seconds; a moment further back than this means that the clock was set

_LOG_SHAPES = math.log(len(SHAPES))


class Estimate(NamedTuple):
    """The evidence of a series; period, cv and shape are those of `gaps`, the last of the n gaps."""

    n: int  # gaps the evidence rests on
    period: float  # median gap, seconds
    cv: float  # standard deviation / mean of the gaps
    shape: float  # estimated Gamma shape (k-hat), 1/cv^2 for a Gamma; at most 1e6
    log_e: float  # natural logarithm of E
    gaps: tuple[float, ...]  # seconds, oldest first, at most REPORTED


@lru_cache(maxsize=1024)
def _constants(n: int) -> tuple[float, ...]:
    """Return ln[ G(nk) G(k0)^n / (G(n k0) G(k)^n) ] for each k of SHAPES."""
    null = n * math.lgamma(NULL_SHAPE) - math.lgamma(n * NULL_SHAPE)
    return tuple(math.lgamma(n * k) - n * math.lgamma(k) + null for k in SHAPES)


def log_mixture(n: int, total: float, total_log: float) -> float:
    """Return ln of the average of E_n(k) over SHAPES, from n gaps, their sum and the sum of their logarithms."""
    spread = total_log - n * math.log(total)
    terms = [constant + (k - NULL_SHAPE) * spread for constant, k in zip(_constants(n), SHAPES, strict=True)]
    top = max(terms)
    return top + math.log(sum(math.exp(term - top) for term in terms)) - _LOG_SHAPES


def shape_of(gaps: Iterable[float]) -> float:
    """Estimate the Gamma shape of gaps by Thom's closed form of the maximum likelihood (error < 1.5 %), at most 1e6."""
    clamped = [clamp(gap) for gap in gaps]
    a = max(math.log(fmean(clamped)) - fmean(map(math.log, clamped)), 5e-7)
    return (3 - a + math.sqrt((a - 3) ** 2 + 24 * a)) / (12 * a)


def clamp(gap: float) -> float:
    """Clamp a gap so that its logarithm is finite; not-a-number counts as the shortest."""
    return min(gap, GAP_MAX) if gap > GAP_MIN else GAP_MIN


class _Start:
    """One process: the gaps since its start, as three numbers."""

    __slots__ = ("log_weight", "n", "score", "total", "total_log")

    def __init__(self, index: int) -> None:
        self.log_weight = -math.log((index + 1) * (index + 2))
        self.n = 0
        self.total = 0.0
        self.total_log = 0.0
        self.score = self.log_weight

    def add(self, gap: float, log_gap: float) -> None:
        """Add a gap (seconds) with its logarithm, and compute the score."""
        self.n += 1
        self.total += gap
        self.total_log += log_gap
        self.score = self.log_weight + log_mixture(self.n, self.total, self.total_log)


class GapProcess:
    """The test described above, fed one gap at a time; three numbers for each start, KEPT starts.

    `dead_time` is the shortest gap the source can deliver (seconds). It is taken off each gap before the test: a
    stream of random moments whose gaps are cut off below looks regular, its excess over the cut does not (for a
    Poisson stream the excess is exponential again).
    """

    __slots__ = ("_dead_time", "_gaps", "_seen", "_starts", "log_e")

    def __init__(self, dead_time: float = 0.0) -> None:
        self.log_e = 0.0  # ln E as of the last gap
        self._dead_time = dead_time
        self._gaps = array("d")
        self._starts: list[_Start] = []
        self._seen = 0

    def add(self, gap: float) -> float:
        """Take the next gap, in seconds (any float), and return ln E."""
        excess = clamp(gap - self._dead_time)
        log_excess = math.log(excess)
        if self._seen % SPACING == 0:
            self._begin(self._seen // SPACING)
        for start in self._starts:
            start.add(excess, log_excess)
        self._seen += 1
        self._gaps.append(clamp(gap))
        if len(self._gaps) > REPORTED:
            del self._gaps[0]
        self.log_e = max(start.score for start in self._starts)
        return self.log_e

    def _begin(self, index: int) -> None:
        """Begin another process, in place of the weakest one if there are KEPT."""
        if len(self._starts) == KEPT:
            self._starts.remove(min(self._starts, key=lambda start: start.score))
        self._starts.append(_Start(index))

    def estimate(self, log_level: float, min_gaps: int = 1, min_period: float = 0.0) -> Estimate | None:
        """Return the evidence of the strongest start that reaches `log_level`; None if none does.

        It must rest on at least `min_gaps` gaps, of at least `min_period` seconds on average.
        """
        reaching = [
            start
            for start in self._starts
            if start.score >= log_level
            and start.n >= min_gaps
            and start.total / start.n + self._dead_time >= min_period
        ]
        if not reaching:
            return None
        best = max(reaching, key=lambda start: start.score)
        gaps = tuple(self._gaps[-best.n :])
        cv = pstdev(gaps) / fmean(gaps)
        return Estimate(best.n, median(gaps), cv, shape_of(gaps), best.score, gaps)


class _Clusters:
    """Groups moments: those closer than `window` to the one before are one event, dated by its first moment."""

    __slots__ = ("first", "last", "process", "window")

    def __init__(self, window: float, ts: float) -> None:
        self.window = window
        self.first = self.last = ts
        self.process: GapProcess | None = None  # made when there is a gap: most destinations are met once

    def add(self, ts: float) -> None:
        """Add a moment (seconds); one that begins another event adds a gap between the two beginnings."""
        if ts < self.last - BACKWARDS:
            self.first = self.last = ts
        elif ts - self.last < self.window:
            self.last = max(self.last, ts)
        else:
            if self.process is None:
                self.process = GapProcess(self.window)
            self.process.add(ts - self.first)
            self.first = self.last = ts


class Rhythm:
    """The test for one series of times: close ones (parallel connections, retries) become one event, gaps are tested.

    The moments of one event depend on the period: three connections within 2 s are one visit of a 60 s beacon and three
    of a 1 s beacon. So three windows run side by side, of about a tenth of a period of 1 s, 10 s and 100 s, each with
    a third of the weight. They are fixed: a window that followed the gaps seen so far could be led by the agent, and
    would choose its data. A cluster lasts as long as its moments keep coming within the window, so that bulk traffic
    is one long event; closing it after a fixed time would make a clock out of any dense traffic.
    """

    __slots__ = ("_levels", "_log_weight")

    def __init__(self, ts: float, windows: tuple[float, ...] = WINDOWS) -> None:
        self._levels = tuple(_Clusters(window, ts) for window in windows)
        self._log_weight = -math.log(len(windows))

    def add(self, ts: float) -> None:
        """Take a moment, in seconds. Equal and earlier moments belong to the event before."""
        if math.isfinite(ts):
            for level in self._levels:
                level.add(ts)

    @property
    def log_e(self) -> float:
        """ln E of the strongest window as of now, whatever its period."""
        known = [level.process.log_e for level in self._levels if level.process is not None]
        return self._log_weight + max(known, default=0.0)

    def estimate(self, log_level: float, min_gaps: int, min_period: float) -> Estimate | None:
        """Return the strongest evidence of the windows whose ln E is at least `log_level`; None if there is none.

        The bounds are as in `GapProcess.estimate`.
        """
        found = [
            estimate
            for level in self._levels
            if level.process is not None
            and (estimate := level.process.estimate(log_level - self._log_weight, min_gaps, min_period))
        ]
        if not found:
            return None
        best = max(found, key=lambda estimate: estimate.log_e)
        return best._replace(log_e=best.log_e + self._log_weight)
