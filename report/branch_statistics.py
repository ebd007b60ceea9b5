"""Statistics of paired differences, one a unit of replication: a seed of whole runs, a branch point of branches.

    paired_t, sign_flip_p     is the mean difference 0?
    tost                      is it within a margin?
    holm                      several of these questions at once
    clopper_pearson           k of n
    min_detectable            what this n and this spread could have shown

Differences are in whatever unit comes in, n >= 1 of them, all finite; what n cannot tell is nan. float64 throughout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import optimize, stats

# Beyond this many differences, 2^n sign patterns are too many to count one by one.
MOST_COUNTED = 20


def paired_t(differences: Sequence[float], level: float = 0.95) -> tuple[float, float, float, float]:
    """(mean, low, high, two-sided p of mean 0) by Student's t; low, high and p are nan for n = 1.

    Where all differences are equal the interval is that one value, and p is 0, or 1 where they are 0. Between units
    that hold one of two values, as runs that take off or do not, no interval of a mean covers what it says at small n:
    give k of n beside it.
    """
    x = _finite(differences)
    mean, error = float(x.mean()), _standard_error(x)
    if math.isnan(error):
        return mean, math.nan, math.nan, math.nan
    half = float(stats.t.ppf(0.5 + level / 2, len(x) - 1)) * error
    if error == 0:
        return mean, mean, mean, float(mean == 0)
    return mean, mean - half, mean + half, float(2 * stats.t.sf(abs(mean) / error, len(x) - 1))


def sign_flip_p(differences: Sequence[float]) -> float:
    """Exact two-sided p: the share of all 2^n sign patterns whose |sum| is at least that observed (Fisher 1935, 21).

    It cannot fall below 2 / 2^n: 0.25 at n = 3, 0.031 at n = 6. Beyond 20 differences, 100,000 fixed draws.
    """
    x = _finite(differences)
    if len(x) > MOST_COUNTED:
        signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(100_000, len(x)))
        sums = np.append(signs @ x, x.sum())
    else:
        sums = np.zeros(1)
        for d in x:
            sums = np.concatenate([sums + d, sums - d])
    observed = abs(x.sum())
    return float(np.mean(np.abs(sums) >= observed - 1e-9 * max(1.0, observed)))


def tost(differences: Sequence[float], margin: float) -> tuple[float, float, float]:
    """(p, low, high) of equivalence within +-margin: two one-sided t tests (Schuirmann 1987), 5% a side.

    p < 0.05 exactly where the 90% interval (low, high) lies within the margin. nan for n = 1.
    """
    x = _finite(differences)
    mean, low, high, _ = paired_t(x, level=0.90)
    error = _standard_error(x)
    if math.isnan(error):
        return math.nan, low, high
    if error == 0:
        return float(abs(mean) >= margin), low, high
    return float(stats.t.sf((margin - abs(mean)) / error, len(x) - 1)), low, high


def holm(ps: Sequence[float]) -> list[float]:
    """Adjusted p of a family, in the order given (Holm 1979); nan is no member and stays nan."""
    order = sorted((i for i, p in enumerate(ps) if not math.isnan(p)), key=lambda i: ps[i])
    adjusted, highest = [math.nan] * len(ps), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * ps[i]))
        adjusted[i] = highest
    return adjusted


def clopper_pearson(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a share that was k of n (Clopper & Pearson 1934)."""
    interval = stats.binomtest(k, n).proportion_ci(level, method="exact")
    return float(interval.low), float(interval.high)


def min_detectable(sd: float, n: int, power: float = 0.8) -> float:
    """Smallest mean of n differences of spread `sd` that a two-sided 5% t test finds with this power; nan for n < 2.

    Power of the paired t test: the noncentral t distribution (Cohen 1988, 2.3).
    """
    if n < 2 or not math.isfinite(sd):
        return math.nan
    df, critical = n - 1, float(stats.t.ppf(0.975, n - 1))
    # The t statistic is (z + shift) / sqrt(v / df), v chi-square: z in closed form, v by its quantiles. scipy's
    # noncentral t gives nan in its far tail.
    quantiles = (np.arange(2000) + 0.5) / 2000
    cuts = critical * np.sqrt(stats.chi2.ppf(quantiles, df) / df)

    def missing(effect: float) -> float:
        shift = effect * math.sqrt(n)
        return float((stats.norm.sf(cuts - shift) + stats.norm.cdf(-cuts - shift)).mean()) - power

    return sd * float(optimize.brentq(missing, 0.0, 100.0))


def _finite(differences: Sequence[float]) -> np.ndarray:
    x = np.asarray(list(differences), dtype=np.float64)
    if not len(x) or not np.isfinite(x).all():
        raise ValueError(f"{len(x)} differences, {int(np.isfinite(x).sum())} of them finite")
    return x


def _standard_error(x: np.ndarray) -> float:
    """Of the mean; nan for n = 1, 0 where the values differ by nothing but rounding."""
    if len(x) < 2:
        return math.nan
    if np.ptp(x) <= 1e-12 * max(1.0, float(np.abs(x).max())):
        return 0.0
    return float(x.std(ddof=1) / math.sqrt(len(x)))
