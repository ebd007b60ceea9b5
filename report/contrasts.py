"""Differences between arms, paired within branch points, with every statistic of report/statistics.py."""

from __future__ import annotations

import math
from dataclasses import dataclass

from report.branch_runs import Point
from report.evidence import MARGIN
from report.statistics import min_detectable, paired_t, sign_flip_p, tost


@dataclass(frozen=True)
class Contrast:
    """A difference over branch points, in pp; nan where n does not say, or all branch points are alike."""

    differences: dict[str, float]
    """Branch point -> D, where both sides are there."""
    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    """95% interval by t."""
    p: float = math.nan
    p_flip: float = math.nan
    """Exact sign flips."""
    p_tost: float = math.nan
    low90: float = math.nan
    high90: float = math.nan
    sd: float = math.nan
    detectable: float = math.nan
    """Mean difference that this n and sd find with power 0.8."""

    @property
    def n(self) -> int:
        return len(self.differences)


def contrast(differences: dict[str, float]) -> Contrast:
    """All statistics of differences in pp; those that are nan are left out."""
    differences = {name: d for name, d in differences.items() if math.isfinite(d)}
    x = list(differences.values())
    if not x:
        return Contrast({})
    t, within = paired_t(x), tost(x, MARGIN)
    return Contrast(
        differences=differences,
        mean=t.mean,
        low=t.lo,
        high=t.hi,
        p=t.p,
        p_flip=sign_flip_p(x),
        p_tost=within.p,
        low90=within.lo,
        high90=within.hi,
        sd=t.sd,
        detectable=min_detectable(t.sd, t.n),
    )


def difference(points: list[Point], measure: str, arm: str, other: str, moment: str, noise: bool = False) -> Contrast:
    """Arm minus other, both treated alike, within each branch point."""
    return contrast({p.name: p.value(measure, arm, moment, noise) - p.value(measure, other, moment) for p in points})


def random_reference(points: list[Point], arm: str, moment: str) -> str:
    """The control of random directions of an arm: in the arm's own form where that was run, else plain.

    self-k16-update: random-k16-update, or random-v-update, or random-v.
    """
    words = arm.split("-")
    for start in range(1, len(words)):
        form = "-".join(words[start:])
        for control in (f"random-{form}", f"random-v-{form}"):
            if control != arm and any(p.of(control, moment) for p in points):
                return control
    return "random-v"
