"""Statistics of a handful of runs: what differs, how often, when, and what could have been seen.

    how much           paired differences d [n]: Student's t interval, exact sign-flip p beside it
    no larger than     two one-sided t tests against a margin (TOST)
    how often          k of n: Clopper-Pearson; two arms: Fisher's exact test
    when               Kaplan-Meier median, log-rank by permutation of the arms' labels
    a rate in a run    interval clustered by problem
    several arms       Holm
    what could be seen smallest difference that a paired t test finds with power 0.8
    one mode           Silverman's test by critical bandwidth

Nothing here knows of runs or arms: arrays of numbers in, numbers out, NaN where the data cannot say. Every interval's
coverage is simulated by bench/coverage.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

LEVEL = 0.95
ALPHA = 1 - LEVEL
POWER = 0.8

# Beyond this many assignments an exact permutation test draws this many at random, with a fixed seed.
ASSIGNMENTS = 100_000

# Points of the grid on which modes are counted, and smoothed resamples of the test.
MODE_GRID = 256
MODE_DRAWS = 500


@dataclass(frozen=True)
class PairedT:
    """Student's t on n paired differences; lo, hi: 95% interval of the mean; p: two-sided, of a mean of 0.

    Where all differences are equal their spread is unknown, and lo, hi and p are NaN.
    """

    mean: float
    sd: float
    sem: float
    lo: float
    hi: float
    p: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0; False where there is none."""
        return self.lo > 0 or self.hi < 0


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided t tests (TOST): p of a mean beyond ±margin; lo, hi: the 90% interval that they amount to."""

    margin: float
    lo: float
    hi: float
    p: float

    @property
    def shown(self) -> bool:
        """Whether the mean lies within the margin, at 5%."""
        return self.p < ALPHA


# --- how much ---


def paired_t(differences: Sequence[float], level: float = LEVEL) -> PairedT:
    """Mean of n differences with its t interval at `level`."""
    d = np.asarray(differences, dtype=float)
    n = len(d)
    mean = float(d.mean()) if n else math.nan
    if n < 2:
        return PairedT(mean, math.nan, math.nan, math.nan, math.nan, math.nan, n)
    sd = float(d.std(ddof=1))
    if all_equal(d):
        return PairedT(mean, 0.0, 0.0, math.nan, math.nan, math.nan, n)
    result = stats.ttest_1samp(d, 0)
    interval = result.confidence_interval(level)
    return PairedT(
        mean=mean,
        sd=sd,
        sem=sd / math.sqrt(n),
        lo=float(interval.low),
        hi=float(interval.high),
        p=float(result.pvalue),
        n=n,
    )


def sign_flip_p(differences: Sequence[float]) -> float:
    """Two-sided p of a mean of 0 where each of the n differences could as well have had the other sign.

    Exact; at least 2 / 2^n, so that below n = 6 it cannot fall under 0.05.
    """
    d = np.asarray(differences, dtype=float)
    if len(d) < 2:
        return math.nan
    rng = np.random.default_rng(0)
    result = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=ASSIGNMENTS, rng=rng)
    return float(result.pvalue)


def tost(differences: Sequence[float], margin: float) -> Equivalence:
    """Is the mean difference within ±margin? p is the larger of the two one-sided t tests."""
    d = np.asarray(differences, dtype=float)
    if len(d) < 2 or all_equal(d):
        return Equivalence(margin, math.nan, math.nan, math.nan)
    above = stats.ttest_1samp(d, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(d, margin, alternative="less").pvalue
    interval = stats.ttest_1samp(d, 0).confidence_interval(1 - 2 * ALPHA)
    return Equivalence(margin, float(interval.low), float(interval.high), float(max(above, below)))


def all_equal(values: np.ndarray) -> bool:
    """Whether the values differ by no more than rounding, so that their spread is unknown."""
    return bool(np.ptp(values) <= 1e-9 * max(1.0, float(np.abs(values).max())))


def min_detectable(sd: float, n: int, power: float = POWER) -> float:
    """The smallest mean difference that a paired t test at 5%, two-sided, finds with `power` at this sd and n."""
    if n < 2 or not sd > 0:
        return math.nan
    return float(sd * TTestPower().solve_power(nobs=n, alpha=ALPHA, power=power))


def chance_beyond_sem(n: int, sems: float = 1.0) -> float:
    """P(mean > `sems` SEM) of n normal differences whose true mean is 0: what a threshold of 1 SEM is worth."""
    return float(stats.t.sf(sems, n - 1)) if n > 1 else math.nan


def holm(p_values: Sequence[float]) -> list[float]:
    """p adjusted by Holm's step-down method, in the order given; a NaN stays one and counts for none."""
    p = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(p), math.nan)
    known = np.isfinite(p)
    if known.any():
        adjusted[known] = multipletests(p[known], method="holm")[1]
    return adjusted.tolist()


# --- how often ---


def clopper_pearson(k: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Exact interval of a probability after k successes in n trials; covers at least `level`."""
    if n == 0:
        return math.nan, math.nan
    interval = stats.binomtest(k, n).proportion_ci(level, method="exact")
    return float(interval.low), float(interval.high)


def fisher_p(k_a: int, n_a: int, k_b: int, n_b: int) -> float:
    """Two-sided p of Fisher's exact test: k_a of n_a against k_b of n_b."""
    if not n_a or not n_b:
        return math.nan
    return float(stats.fisher_exact([[k_a, n_a - k_a], [k_b, n_b - k_b]]).pvalue)


# --- when ---


def median_time(times: Sequence[float], happened: Sequence[bool]) -> float:
    """Kaplan-Meier median of times, of which those that did not happen are censored there; NaN if never half."""
    steps, survival = survival_curve(times, happened)
    half = np.flatnonzero(survival <= 0.5 + 1e-12)
    return float(steps[half[0]]) if len(half) else math.nan


def survival_curve(times: Sequence[float], happened: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
    """Kaplan-Meier: (times, share for which it has not happened after each)."""
    times, happened = np.asarray(times, dtype=float), np.asarray(happened, dtype=bool)
    if not happened.any():
        return np.empty(0), np.empty(0)
    curve = stats.ecdf(stats.CensoredData(uncensored=times[happened], right=times[~happened])).sf
    return curve.quantiles, curve.probabilities


def log_rank_exact(
    times_a: Sequence[float], happened_a: Sequence[bool], times_b: Sequence[float], happened_b: Sequence[bool]
) -> float:
    """Two-sided p of the log-rank test, by permutation of the labels a and b over all n_a + n_b runs.

    The statistic is the sum of a's log-rank scores, event - cumulative hazard at its time, which is observed minus
    expected. NaN where an arm has one run or nothing happened. The asymptotic p is too small at a handful of runs.
    """
    times = np.concatenate([times_a, times_b]).astype(float)
    happened = np.concatenate([happened_a, happened_b]).astype(bool)
    n_a = len(times_a)
    if min(n_a, len(times_b)) < 2 or not happened.any():
        return math.nan

    # Nelson-Aalen of all runs together: at each event, events / runs still at risk.
    events = np.unique(times[happened])
    hazard = [(happened & (times == t)).sum() / (times >= t).sum() for t in events]
    scores = happened - np.array([sum(h for t, h in zip(events, hazard, strict=True) if t <= own) for own in times])
    result = stats.permutation_test(
        (scores[:n_a], scores[n_a:]),
        lambda a, b, axis: a.sum(axis=axis),
        n_resamples=ASSIGNMENTS,
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)


# --- a rate within a run ---


@dataclass(frozen=True)
class ClusteredRate:
    """A rate over completions of several problems: se and the t interval take problems, not completions, as drawn."""

    rate: float
    se: float
    lo: float
    hi: float
    clusters: int


def clustered_rate(values: Sequence[float], clusters: Sequence, level: float = LEVEL) -> ClusteredRate:
    """Mean of `values` [N] with an interval clustered by `clusters` [N]: a ratio estimate, J - 1 degrees of freedom."""
    y = np.asarray(values, dtype=float)
    _, member = np.unique(np.asarray(clusters), return_inverse=True)
    J = int(member.max()) + 1 if len(y) else 0
    rate = float(y.mean()) if len(y) else math.nan
    if J < 2:
        return ClusteredRate(rate, math.nan, math.nan, math.nan, J)
    residual = np.bincount(member, weights=y - rate)
    se = float(np.sqrt(J / (J - 1) * (residual**2).sum()) / len(y))
    reach = float(stats.t.ppf((1 + level) / 2, J - 1)) * se
    return ClusteredRate(rate, se, rate - reach, rate + reach, J)


# --- one mode ---


def unimodality_p(values: Sequence[float]) -> float:
    """Silverman's test: p of one mode. Small: the values have more modes than one.

    The critical bandwidth is the smallest at which a Gaussian kernel estimate has one mode; p is the share of smoothed
    resamples, shrunk to the values' variance, that still have more at that bandwidth. B. W. Silverman 1981, "Using
    kernel density estimates to investigate multimodality"; the test is conservative.
    """
    x = np.sort(np.asarray(values, dtype=float))
    if len(x) < 5 or all_equal(x):
        return math.nan
    low, high = 1e-3 * x.std(), 2 * np.ptp(x)
    for _ in range(30):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if modes(x, middle) > 1 else (low, middle)
    rng = np.random.default_rng(0)
    shrink = 1 / math.sqrt(1 + high**2 / x.var())
    more = 0
    for _ in range(MODE_DRAWS):
        drawn = rng.choice(x, len(x)) + high * rng.standard_normal(len(x))
        more += modes(x.mean() + shrink * (drawn - x.mean()), high) > 1
    return more / MODE_DRAWS


def modes(x: np.ndarray, bandwidth: float) -> int:
    """Local maxima of a Gaussian kernel estimate of x [n]."""
    grid = np.linspace(x.min() - bandwidth, x.max() + bandwidth, MODE_GRID)
    density = np.exp(-0.5 * ((grid[:, None] - x[None, :]) / bandwidth) ** 2).sum(1)
    rising = np.diff(density) > 0
    return int((rising[:-1] & ~rising[1:]).sum())
