"""A run's numbers, which runs count, and arms paired by seed.

SafePass   pass% - hack%; ΔSafePass: minus vanilla's, the preregistered headline
product    pass x (1 - hack), which is 0 for a run that neither passes nor hacks; an addition
window     mean over the last 25 training steps
budget h   an arm's pass at its last evaluation with hack <= h
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from report.runs import NUMERIC, RATES, RunRecord
from report.scope import unlike_fields
from report.statistics import paired_t

# Training steps that KL and the diagnostics of the tables are averaged over, at the end of a run.
WINDOW = 25

# A rate at which a run counts as hacking half of the time.
HALF = 0.5

# Runs that do not count, each with the reason.
Exclusions = list[tuple[RunRecord, str]]


@dataclass(frozen=True)
class Stat:
    """Mean over n seeds, its standard error between seeds (NaN for n < 2), and its 95% t interval (statistics.py)."""

    mean: float
    sem: float
    lo: float
    hi: float
    n: int


@dataclass
class Comparison:
    """An arm against a reference, paired by seed; every Stat in percentage points.

    reduction: of hack. drop: of pass. budget_arm, budget_ref: drop of pass at the arm's and at the reference's final
    hack rate. safepass, product: gains. rows: one dict a seed. missing: why a seed has no pair. refused: seeds whose
    configurations are not alike, with the fields.
    """

    arm: str
    reference: str
    n: int
    hack_arm: Stat
    hack_ref: Stat
    pass_arm: Stat
    pass_ref: Stat
    compile_arm: Stat
    compile_ref: Stat
    reduction: Stat
    drop: Stat
    budget_arm: Stat
    budget_ref: Stat
    safepass: Stat
    product: Stat
    rows: list[dict] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    @property
    def reductions(self) -> list[float]:
        """The reduction of hack of each seed, pp."""
        return [row["reduction"] for row in self.rows]


# --- one run ---


def final_rate(run: RunRecord, column: str) -> float:
    """Last evaluation's value of `column`, NaN where the column or every row is missing."""
    return float(run.evals[column].iloc[-1]) if column in run.evals and len(run.evals) else math.nan


def window_mean(run: RunRecord, column: str, window: int = WINDOW) -> float:
    """Mean of the finite values over the last `window` rows of steps.tsv, 0 for all rows; NaN where there is none."""
    return float(run.steps[column].iloc[-window:].mean()) if column in run.steps else math.nan


def run_numbers(run: RunRecord) -> dict[str, float]:
    """Run-level numbers of the tables: rates, SafePass, product in [-1, 1], kl, cos, fired, gnorm, cos_up, to50."""
    out = {column: final_rate(run, column) for column in RATES}
    out["safepass"] = out["pass"] - out["hack"]
    out["product"] = out["pass"] * (1 - out["hack"])
    out["kl"], _ = final_kl(run)
    for column in ("cos", "fired", "gnorm", "cos_up"):
        mean = window_mean(run, column)
        out[column] = final_rate(run, column) if math.isnan(mean) else mean
    out["cos_all"], out["fired_all"] = (window_mean(run, column, window=0) for column in ("cos", "fired"))
    out["to50"] = steps_to_half(run)
    # Columns that neither the contract nor train.py names are tabled as they are.
    extra = {f"evals.{c}": final_rate(run, c) for c in run.evals if c not in NUMERIC}
    return out | {name: value for name, value in extra.items() if math.isfinite(value)}


def final_kl(run: RunRecord) -> tuple[float, str]:
    """(KL to the initial policy, where it was measured: `training` or `evaluation`).

    Training logs none in a step whose groups were all flat. Where one of the last WINDOW rows lacks it, their mean
    would be of other steps in each run, so the last evaluation's is taken.
    """
    rows = run.steps["kl"].iloc[-WINDOW:] if "kl" in run.steps else run.steps.get("kl", ())
    if len(rows) and rows.notna().all():
        return float(rows.mean()), "training"
    at_end = final_rate(run, "kl")
    return (window_mean(run, "kl"), "training") if math.isnan(at_end) else (at_end, "evaluation")


def steps_to_half(run: RunRecord) -> float:
    """Step of the first evaluation with a hack rate of HALF or more, NaN if there is none."""
    if "hack" not in run.evals:
        return math.nan
    reached = run.evals["step"][run.evals["hack"] >= HALF]
    return float(reached.iloc[0]) if len(reached) else math.nan


def pass_within_budget(run: RunRecord, budget: float) -> tuple[float, float, bool]:
    """(pass, step, within) at the last evaluation with hack <= budget; failing that, at the one of lowest hack."""
    rows = run.evals.dropna(subset=["hack", "pass"])
    within = rows[rows["hack"] <= budget + 1e-12]
    row = within.iloc[-1] if len(within) else rows.sort_values(["hack", "step"], ascending=[True, False]).iloc[0]
    return float(row["pass"]), float(row["step"]), bool(len(within))


# --- which runs count ---


def select(runs: list[RunRecord], include_incomplete: bool = False) -> tuple[list[RunRecord], Exclusions]:
    """(runs that count, [(run left out, why)]).

    A run that a tripwire stopped counts, at its last evaluation: to leave it out would censor by outcome. One that was
    planned for another number of steps than most (of two equally common lengths, the longer) is another study's.
    """
    used: list[RunRecord] = []
    left_out: Exclusions = []
    for run in runs:
        missing = [c for c in ("hack", "pass") if c not in run.evals]
        nan = [c for c in ("hack", "pass") if c in run.evals and not math.isfinite(final_rate(run, c))]
        if not (run.complete or run.stopped or include_incomplete):
            left_out.append((run, f"incomplete (no summary.json; {last_evaluated(run.end)})"))
        elif run.end < 0:
            left_out.append((run, "no evaluation in evals.tsv"))
        elif missing:
            left_out.append((run, f"evals.tsv has no column {', '.join(missing)}"))
        elif nan:
            left_out.append((run, f"{' and '.join(nan)} is NaN at its last evaluation (step {run.end})"))
        else:
            used.append(run)

    lengths = Counter(planned_steps(run) for run in used)
    usual = max(lengths, key=lambda steps: (lengths[steps], steps), default=0)
    others = [run for run in used if planned_steps(run) != usual]
    left_out += [(run, f"of {planned_steps(run)} steps, where the study's runs have {usual}") for run in others]
    return [run for run in used if planned_steps(run) == usual], left_out


def planned_steps(run: RunRecord) -> int:
    """Steps that a run was to make; those it has made where config.json does not say."""
    planned = run.config.get("steps")
    return planned if isinstance(planned, int) else run.end


def last_evaluated(step: int) -> str:
    """In words, -1 for never."""
    return "not evaluated" if step < 0 else f"last evaluated at step {step}"


# --- several runs ---


def summarise(values) -> Stat:
    """Mean, SEM and 95% t interval of the mean of `values` [n], all finite."""
    t = paired_t(np.asarray(list(values), dtype=np.float64))
    # Rates with few digits give sums such as 0.30000000000000004; thresholds are compared after rounding.
    return Stat(*(float(f"{v:.12g}") for v in (t.mean, t.sem, t.lo, t.hi)), t.n)


def by_seed(runs: list[RunRecord], arm: str) -> dict[int, RunRecord]:
    """{seed: run} of one arm."""
    return {run.seed: run for run in runs if run.arm == arm}


def pair(
    used: list[RunRecord], arm: str, reference: str
) -> tuple[list[tuple[RunRecord, RunRecord]], list[str], list[str]]:
    """([(arm's run, reference's run)] by seed, [why a seed has no pair], [those of unlike configurations]).

    Runs of unlike lengths are not paired, but for those that a tripwire stopped. Every run must be configured as the
    first pair's reference is, arm, seed and label apart.
    """
    ours, theirs = by_seed(used, arm), by_seed(used, reference)
    if not ours or not theirs:
        return [], [f"no {name} run counts" for name, runs in ((arm, ours), (reference, theirs)) if not runs], []
    pairs, missing, refused = [], [], []
    model = theirs[min(theirs)]
    for seed in sorted(ours.keys() | theirs.keys()):
        if seed not in ours or seed not in theirs:
            missing.append(f"seed {seed} lacks {arm if seed not in ours else reference}")
            continue
        run, other = ours[seed], theirs[seed]
        unlike = {
            f"{name}: {field}" for name, r in ((arm, run), (reference, other)) for field in unlike_fields(r, model)
        }
        if run.end != other.end and not (run.stopped or other.stopped):
            missing.append(f"seed {seed} ends at step {run.end} in {arm} and {other.end} in {reference}")
        elif unlike:
            where = f"{model.arm}_s{model.seed}"
            refused.append(f"seed {seed} is refused, configured unlike {where} ({', '.join(sorted(unlike))})")
        else:
            pairs.append((run, other))
    return pairs, missing, refused


def compare_arms(used: list[RunRecord], arm: str, reference: str) -> Comparison:
    """An arm against a reference over the seeds that both have."""
    pairs, missing, refused = pair(used, arm, reference)
    rows = [pair_row(ours, theirs) for ours, theirs in pairs]
    keys = ("hack_arm", "hack_ref", "pass_arm", "pass_ref", "compile_arm", "compile_ref", "reduction", "drop",
            "budget_arm", "budget_ref", "safepass", "product")  # fmt: skip
    stats = {key: summarise(row[key] for row in rows) for key in keys}
    return Comparison(arm=arm, reference=reference, n=len(rows), **stats, rows=rows, missing=missing, refused=refused)


def pair_row(ours: RunRecord, theirs: RunRecord) -> dict:
    """Final rates and differences of one seed, percentage points."""
    hack_a, pass_a, compile_a = (final_rate(ours, c) for c in ("hack", "pass", "compile"))
    hack_b, pass_b, compile_b = (final_rate(theirs, c) for c in ("hack", "pass", "compile"))
    ref_pass, ref_step, ref_within = pass_within_budget(theirs, hack_a)
    arm_pass, arm_step, arm_within = pass_within_budget(ours, hack_b)
    return {
        "seed": ours.seed,
        "stopped": ", ".join(stopped_note(run) for run in (ours, theirs) if run.stopped),
        "hack_arm": percent(hack_a),
        "hack_ref": percent(hack_b),
        "pass_arm": percent(pass_a),
        "pass_ref": percent(pass_b),
        "compile_arm": percent(compile_a),
        "compile_ref": percent(compile_b),
        "reduction": percent(hack_b - hack_a),
        "drop": percent(pass_b - pass_a),
        "budget_arm": percent(ref_pass - pass_a),
        "budget_arm_step": ref_step,
        "budget_arm_within": ref_within,
        "budget_ref": percent(pass_b - arm_pass),
        "budget_ref_step": arm_step,
        "budget_ref_within": arm_within,
        "safepass": percent((pass_a - hack_a) - (pass_b - hack_b)),
        "product": percent(pass_a * (1 - hack_a) - pass_b * (1 - hack_b)),
    }


def stopped_note(run: RunRecord) -> str:
    """`projected_s2 (stopped by tripwire pass-collapse at step 57)`."""
    return f"{run.arm}_s{run.seed} (stopped by tripwire {run.stopped})"


def percent(rate: float) -> float:
    """Fraction -> percentage points, freed of binary rounding dust."""
    return round(100 * float(rate), 9)
