"""The held-out check of v_hack: its tables, and what may be said of them beside chance.

    healthy   unimodal, median > 0.3          target   mean > 0.2          gate   positive in > 50% of modules

A random direction is positive in 50% of modules, and the absolute value of its cosine is about sqrt(2 / (pi r)) in a
module of r singular values: 0.20 at r = 16, where a cosine of 0.2 therefore says nothing. Mean, median and modes leave
such modules out (lib/chance.py); the gate, a count of signs, has all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lib.chance import SMALL_RANK, counted, null_abs_cos
from lib.errors import ReportError
from lib.tables import read_table
from report.runs import RunRecord
from report.statistics import ALPHA, unimodality_p

HEALTHY_MEDIAN = 0.3
TARGET_MEAN = 0.2
GATE_POSITIVE = 0.5

# What the preregistration has one look at where extraction fails its gate; the pairs themselves are frozen.
DEBUG_STEPS = (
    "the preregistered checks: (a) the hook captures a module's input before the residual, (b) the pairs drive a "
    "strong difference somewhere, (c) tokenisation does not tell hack from clean trivially; the pairs stay frozen"
)


@dataclass(frozen=True)
class HeldOutTable:
    """Held-out cosines over M modules; null: of random directions, may be empty; r: singular values, may be empty."""

    cos: np.ndarray
    null: np.ndarray
    r: np.ndarray

    @property
    def counted(self) -> np.ndarray:
        """The cosines of modules whose r is not small."""
        return self.cos[counted(self.r)] if len(self.r) == len(self.cos) else self.cos

    @property
    def mean(self) -> float:
        return float(self.counted.mean())

    @property
    def median(self) -> float:
        return float(np.median(self.counted))

    @property
    def positive(self) -> float:
        """Fraction of modules with a cosine above 0."""
        return float((self.cos > 0).mean())

    def passes(self) -> bool:
        """The gate: whether v is positive in more than half of the modules."""
        return self.positive > GATE_POSITIVE

    def health(self) -> str:
        """`healthy`, `not unimodal`, `weak` or `failed`."""
        if not self.passes():
            return "failed"
        if not (self.median > HEALTHY_MEDIAN and self.mean > TARGET_MEAN):
            return "weak"
        return "not unimodal" if unimodality_p(self.counted) < ALPHA else "healthy"


def find_heldout(given: tuple[Path, ...], runs: list[RunRecord]) -> list[Path]:
    """The held-out tables: those given, else heldout.tsv beside the runs or in a folder beside their v_hack."""
    for path in given:
        if not path.is_file():
            raise ReportError(f"--heldout {path} does not exist: run `python verify_vhack_heldout.py` or leave it out")
    if given:
        return list(given)
    folders = {run.path.parent for run in runs}
    folders |= {Path(run.config["v_hack"]).parent for run in runs if run.config.get("v_hack")}
    found: dict[Path, Path] = {}
    for folder in sorted(folders):
        for path in [*folder.glob("heldout.tsv"), *folder.glob("*_heldout/heldout.tsv")]:
            found[path.resolve()] = path
    return sorted(found.values(), key=lambda p: (heldout_name(p), p.as_posix()))


def read_heldout(path: Path) -> HeldOutTable:
    """A table of verify_vhack_heldout.py, finite values alone."""
    table = read_table(path)
    if "cos" not in table or not len(table):
        raise ReportError(f"{path} has no column cos: it is not a table of verify_vhack_heldout.py")
    try:
        columns = [pd.to_numeric(table.get(name, pd.Series(dtype=float))).to_numpy() for name in ("cos", "null", "r")]
    except ValueError as error:
        raise ReportError(f"{path} is torn ({error}): run verify_vhack_heldout.py again") from error
    return HeldOutTable(*(values[np.isfinite(values)] for values in columns))


def heldout_name(path: Path) -> str:
    """The name of the pair set that a held-out table is about, from its folder."""
    folder = path.parent.name.removesuffix("_heldout")
    return folder.removeprefix("v_hack_") if path.parent.name.endswith("_heldout") else "v_hack"


def chance_cos(r: np.ndarray) -> float:
    """Mean over modules of E|cos| of a random direction, sqrt(2 / (pi r)); NaN where no r is known."""
    return float(np.sqrt(2 / (math.pi * r)).mean()) if len(r) else math.nan


def heldout_line(name: str, table: HeldOutTable) -> str:
    """One table in words, with chance beside every figure."""
    random = float(np.abs(table.null).mean()) if len(table.null) else chance_cos(table.r)
    p = unimodality_p(table.counted)
    text = (
        f"{name}: {table.health()}; mean {table.mean:.3f} (target > {TARGET_MEAN}), median "
        f"{table.median:.3f} (healthy > {HEALTHY_MEDIAN}), positive in {100 * table.positive:.0f}% of "
        f"{len(table.cos)} modules (gate > {100 * GATE_POSITIVE:.0f}%, which is chance)"
    )
    if math.isfinite(random):
        text += f"; a random direction's mean |cos| is {random:.3f}"
    if math.isfinite(p):
        text += f"; one mode: p = {p:.2f} (Silverman's test)"
    small = int((table.r < SMALL_RANK).sum())
    if small:
        text += (
            f"; mean, median and modes leave out the {small} modules of r < {SMALL_RANK}, where chance is "
            f"{chance_cos(table.r[table.r < SMALL_RANK]):.2f}"
        )
    return text if table.passes() else f"{text}. {DEBUG_STEPS[0].upper()}{DEBUG_STEPS[1:]}"


def kinds_table(names: list[str], table: HeldOutTable) -> str:
    """A row a kind of module (q_proj, up_proj, ...): how many, mean, least and largest cosine, mean |cos| by chance."""
    kinds: dict[str, list[tuple[float, float]]] = {}
    for name, r, c in zip(names, table.r.tolist(), table.cos.tolist(), strict=True):
        kinds.setdefault(name.rpartition(".")[2], []).append((c, null_abs_cos(r)))
    lines = ["kind\tn\tmean\tmin\tmax\tchance"]
    for kind, rows in kinds.items():
        cos, chance = ([row[i] for row in rows] for i in range(2))
        figures = (sum(cos) / len(cos), min(cos), max(cos), sum(chance) / len(chance))
        lines.append("\t".join([kind, str(len(rows)), *(f"{x:.3f}" for x in figures)]))
    return "\n".join(lines)
