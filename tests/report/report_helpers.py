"""Short ways from synthetic runs to verdicts and rows."""

from __future__ import annotations

from pathlib import Path

from synthetic_runs import make_arm

from report.numbers import select
from report.runs import load_runs
from report.tables import arm_rows
from report.verdicts import Verdict
from report.verdicts import decide as decide_runs

VANILLA = [(0.80, 0.50), (0.82, 0.52), (0.84, 0.48)]
PROJECTED = [(0.20, 0.50), (0.22, 0.52), (0.24, 0.48)]


def decide(root: Path, include_incomplete: bool = False) -> dict[str, Verdict]:
    """Verdicts by name on the runs below `root`."""
    used, left_out = select(load_runs([root]), include_incomplete)
    return {v.name: v for v in decide_runs(used, left_out)}


def study(root: Path, config: dict | None = None, **arms: list[tuple[float, float]]) -> dict[str, Verdict]:
    """Verdicts on arms given as arm=[(hack, pass) per seed], `_` standing for `-` in an arm's name."""
    for arm, rates in arms.items():
        make_arm(root, arm.replace("_", "-"), rates, config=config)
    return decide(root)


def rows_of(root: Path) -> dict[str, dict]:
    """Rows of the tables by arm."""
    used, _ = select(load_runs([root]))
    return {row["arm"]: row for row in arm_rows(used)}
