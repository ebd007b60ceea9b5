"""When hacking takes off in training, and in how many runs.

    take-off   the first step at which strict hacks are >= 10% of the training completions, mean of three steps

The rule is that of branch points. A run that does not take off is censored at its last step, one that a tripwire
stopped at that step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from report.runs import RunRecord
from report.statistics import clopper_pearson, fisher_p, log_rank_exact, median_time

# The rule: share of strict hacks, and the steps that it is averaged over.
TAKEOFF_RATE = 0.10
TAKEOFF_STEPS = 3


@dataclass(frozen=True)
class TakeOff:
    """Take-offs of one arm. times: step of take-off or of censoring, one a run; lo, hi: Clopper-Pearson of k of n."""

    times: list[float]
    happened: list[bool]
    k: int
    n: int
    lo: float
    hi: float
    median: float
    """Kaplan-Meier median step; NaN where fewer than half took off."""


def takeoff(run: RunRecord) -> tuple[float, bool]:
    """(step, whether it took off by then); (NaN, False) where steps.tsv has no hack column."""
    if "hack" not in run.steps or not len(run.steps):
        return math.nan, False
    steps = run.steps.set_index("step")["hack"].rolling(TAKEOFF_STEPS).mean()
    reached = steps.index[steps >= TAKEOFF_RATE - 1e-9]
    return (float(reached[0]), True) if len(reached) else (float(steps.index[-1]) + 1, False)


def arm_takeoff(runs: list[RunRecord]) -> TakeOff:
    """Take-offs of the runs of one arm, without those that do not record it."""
    known = [(step, happened) for step, happened in map(takeoff, runs) if not math.isnan(step)]
    times, happened = [step for step, _ in known], [happened for _, happened in known]
    k, n = sum(happened), len(known)
    lo, hi = clopper_pearson(k, n)
    return TakeOff(times, happened, k, n, lo, hi, median_time(times, happened))


def compare_takeoff(arm: TakeOff, reference: TakeOff) -> dict[str, float]:
    """p of as many take-offs (Fisher) and of as early ones (log-rank by permutation)."""
    return {
        "fisher": fisher_p(arm.k, arm.n, reference.k, reference.n),
        "log_rank": log_rank_exact(arm.times, arm.happened, reference.times, reference.happened),
    }
