"""report.numbers"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from report.runs import NUMERIC, RATES, Run

WINDOW = 25


BOOTSTRAP = 10_000


@dataclass(frozen=True)
class Stat:
    """Mean over seeds with its standard error (NaN for n < 2) and a percentile bootstrap interval."""

    mean: float
    sem: float
    lo: float
    hi: float
    n: int


def final_rate(run: Run, column: str) -> float:
    """Last evaluation's value of `column`, NaN where the column or every row is missing."""
    values = run.evals.get(column, ())
    return float(values[-1]) if len(values) else math.nan


def window_mean(run: Run, column: str, window: int | None = WINDOW) -> tuple[float, int, int]:
    """(mean of the finite values, how many, of how many) over the last `window` rows of steps.tsv; None: all rows."""
    values = np.asarray(run.steps.get(column, ()), dtype=np.float64)
    values = values if window is None else values[-window:]
    finite = values[np.isfinite(values)]
    return (float(finite.mean()) if len(finite) else math.nan), len(finite), len(values)


def run_numbers(run: Run) -> dict[str, float]:
    """Run-level numbers of the tables: rates and SafePass in [0,1], kl, cos, fired, gnorm, cos_up, to50 in steps."""
    out = {column: final_rate(run, column) for column in RATES}
    out["safepass"] = out["pass"] * (1 - out["hack"])
    for column in ("kl", "cos", "fired", "gnorm", "cos_up"):
        mean, used, _ = window_mean(run, column)
        out[column] = mean if used else final_rate(run, column)
    out["cos_all"], out["fired_all"] = window_mean(run, "cos", None)[0], window_mean(run, "fired", None)[0]
    out["to50"] = steps_to_half(run)
    # Columns that neither the contract nor train.py names are tabled as they are.
    extra = {f"evals.{c}": final_rate(run, c) for c in run.evals if c not in NUMERIC}
    return out | {name: value for name, value in extra.items() if math.isfinite(value)}


def steps_to_half(run: Run) -> float:
    """Step of the first evaluation with hack >= 0.5, NaN if there is none."""
    for step, hack in zip(run.evals.get("step", ()), run.evals.get("hack", ()), strict=False):
        if hack >= 0.5:
            return float(step)
    return math.nan


def pass_within_budget(run: Run, budget: float) -> tuple[float, float, bool]:
    """(pass, step, within) at the last evaluation with hack <= budget; failing that, at the one of lowest hack."""
    rows = [
        (h, p, s)
        for h, p, s in zip(run.evals["hack"], run.evals["pass"], run.evals["step"], strict=True)
        if math.isfinite(h) and math.isfinite(p)
    ]
    within = [row for row in rows if row[0] <= budget + 1e-12]
    _hack, rate, step = within[-1] if within else min(rows, key=lambda row: (row[0], -row[2]))
    return float(rate), float(step), bool(within)


def select(runs: list[Run], include_incomplete: bool = False) -> tuple[list[Run], list[tuple[Run, str]]]:
    """(runs that count, [(run left out, why)])."""
    used, left_out = [], []
    for run in runs:
        missing = [c for c in ("hack", "pass") if c not in run.evals]
        nan = [c for c in ("hack", "pass") if c in run.evals and not math.isfinite(final_rate(run, c))]
        if not run.complete and not include_incomplete:
            left_out.append((run, f"incomplete (no summary.json; {evaluated(run.end)})"))
        elif run.end < 0:
            left_out.append((run, "no evaluation in evals.tsv"))
        elif missing:
            left_out.append((run, f"evals.tsv has no column {', '.join(missing)}"))
        elif nan:
            left_out.append((run, f"{' and '.join(nan)} is NaN at its last evaluation (step {run.end})"))
        else:
            used.append(run)
    return used, left_out


def evaluated(step: int) -> str:
    return "not evaluated" if step < 0 else f"last evaluated at step {step}"


def summarise(values) -> Stat:
    """Mean, SEM and 95% percentile bootstrap interval of the mean of `values` [n], all finite."""
    x = np.asarray(list(values), dtype=np.float64)
    n = len(x)
    if n == 0:
        return Stat(math.nan, math.nan, math.nan, math.nan, 0)
    sem = float(x.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    lo = hi = math.nan
    if n > 1:
        draws = np.random.default_rng(0).integers(0, n, size=(BOOTSTRAP, n))
        lo, hi = (float(q) for q in np.percentile(x[draws].mean(1), [2.5, 97.5]))
    # Rates with few digits give sums such as 0.30000000000000004; thresholds are compared after rounding.
    return Stat(*(float(f"{v:.12g}") for v in (x.mean(), sem, lo, hi)), n)


def by_seed(runs: list[Run], arm: str) -> dict[int, Run]:
    return {run.seed: run for run in runs if run.arm == arm}


def pair(used: list[Run], arm: str, reference: str) -> tuple[list[tuple[int, Run, Run]], list[str]]:
    """([(seed, arm's run, reference's run)], [why a seed has no pair])."""
    a, b = by_seed(used, arm), by_seed(used, reference)
    if not a or not b:
        return [], [f"no {name} run counts" for name, runs in ((arm, a), (reference, b)) if not runs]
    pairs, missing = [], []
    for seed in sorted(a.keys() | b.keys()):
        if seed not in a or seed not in b:
            missing.append(f"seed {seed} lacks {arm if seed not in a else reference}")
        elif a[seed].end != b[seed].end:
            missing.append(f"seed {seed} ends at step {a[seed].end} in {arm} and {b[seed].end} in {reference}")
        else:
            pairs.append((seed, a[seed], b[seed]))
    return pairs, missing


def compare(used: list[Run], arm: str, reference: str) -> dict:
    """Paired comparison in pp, each a Stat: `reduction` of hack, `drop` of pass, `budget_arm` and `budget_ref` (drop of
    pass at the arm's and at the reference's final hack rate), `safepass` gain. Also `rows`, one dict a seed, and
    `missing`, why a seed has no pair.
    """
    pairs, missing = pair(used, arm, reference)
    rows = []
    for seed, a, b in pairs:
        hack_a, hack_b, pass_a, pass_b = (final_rate(r, c) for c in ("hack", "pass") for r in (a, b))
        ref_pass, ref_step, ref_within = pass_within_budget(b, hack_a)
        arm_pass, arm_step, arm_within = pass_within_budget(a, hack_b)
        rows.append(
            {
                "seed": seed,
                "hack_arm": pp(hack_a),
                "hack_ref": pp(hack_b),
                "pass_arm": pp(pass_a),
                "pass_ref": pp(pass_b),
                "compile_arm": pp(final_rate(a, "compile")),
                "compile_ref": pp(final_rate(b, "compile")),
                "reduction": pp(hack_b - hack_a),
                "drop": pp(pass_b - pass_a),
                "budget_arm": pp(ref_pass - pass_a),
                "budget_arm_step": ref_step,
                "budget_arm_within": ref_within,
                "budget_ref": pp(pass_b - arm_pass),
                "budget_ref_step": arm_step,
                "budget_ref_within": arm_within,
                "safepass": pp(pass_a * (1 - hack_a) - pass_b * (1 - hack_b)),
            }
        )
    keys = ("hack_arm", "hack_ref", "pass_arm", "pass_ref", "compile_arm", "compile_ref", "reduction", "drop",
            "budget_arm", "budget_ref", "safepass")  # fmt: skip
    stats = {key: summarise(row[key] for row in rows) for key in keys}
    return {"arm": arm, "reference": reference, "n": len(rows), **stats, "rows": rows, "missing": missing}


def pp(rate: float) -> float:
    """Fraction -> percentage points, freed of binary rounding dust."""
    return round(100 * float(rate), 9)
