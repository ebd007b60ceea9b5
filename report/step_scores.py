"""Do the gradients of a branch's own rollouts tell strict hacks from the rest? The column auroc of steps.tsv, by arm.

A score is the mean cosine of a rollout's gradient with the arm's v (ladder/gradients.py); 0.5 is chance, and a step
without both classes has no AUROC. Branch points are averaged, draws within them first.
"""

from __future__ import annotations

import math

import numpy as np

from arms import table_order
from report.branch_runs import FIRST_MEASURED, SUFFIX, Branch, Point
from report.statistics import paired_t
from report.tables import markdown_table

NOTE = (
    "AUROC for strict hacks of the training rollouts' scores against the arm's own v, from the step's own backward: "
    f"mean over branch points of the first {FIRST_MEASURED} steps of a branch and of its last {FIRST_MEASURED}, with t "
    "intervals. In vanilla and arms without a direction v is that of the pairs."
)


def scored(branch: Branch, first: bool) -> float:
    """Mean AUROC of a branch's first or last steps; nan where no step has one."""
    values = np.asarray(branch.run.steps.get("auroc", ()), dtype=np.float64)
    values = values[:FIRST_MEASURED] if first else values[-FIRST_MEASURED:]
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def scores_table(points: list[Point]) -> str:
    """A row an arm and treatment, as Markdown; empty where no run has the column."""
    kinds = {(b.arm, b.moment) for point in points for b in point.branches if not b.noise}
    body = []
    for arm, moment in sorted(kinds, key=lambda kind: (table_order(kind[0]), list(SUFFIX).index(kind[1]))):
        cells = [auroc_cell([point.of(arm, moment) for point in points], first) for first in (True, False)]
        if any(cells):
            body.append([arm + SUFFIX[moment], *(text or "-" for text in cells)])
    if not body:
        return ""
    header = ["Arm", f"first {FIRST_MEASURED} steps", f"last {FIRST_MEASURED}"]
    return f"{markdown_table(header, body)}\n\n{NOTE}"


def auroc_cell(branches: list[list[Branch]], first: bool) -> str:
    """`0.94 [0.91, 0.97], n 10` of the branches of each point; empty where none has a score."""
    of_points = [[scored(b, first) for b in of_point] for of_point in branches]
    means = [float(np.nanmean(values)) for values in of_points if np.isfinite(values).any()]
    if not means:
        return ""
    mean = paired_t(means)
    interval = f" [{mean.lo:.2f}, {mean.hi:.2f}]" if len(means) > 1 and math.isfinite(mean.lo) else ""
    return f"{mean.mean:.2f}{interval}, n {len(means)}"
