"""The report itself: one page that reads as a result section, and the machine's copy of its figures."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np

from report.activity import activity, projects
from report.drawing import figure
from report.evidence import MARGIN, ArmLine, claim, controls_text, sem_note
from report.findings import Findings
from report.numbers import Comparison, compare_arms
from report.scope import model_name
from report.tables import markdown_table
from report.takeoff import TAKEOFF_RATE, TAKEOFF_STEPS
from report.words import interval_cell, mean_sem, p_text

CAPTIONS = {
    "pareto": "Left: final evaluation; small: one run, large: mean over seeds; dashed: Pareto frontier of the means, "
    "no-loophole left out; magnified: means that lie on each other. A remedy should land below and to the right of "
    "vanilla. Right: the step at which each run took off; hollow: it had not when it ended.",
}


def report_md(found: Findings, drawn: set[str], table: str) -> str:
    """Provenance, verdicts, table, figure, evidence: a page."""
    preset = "/".join(sorted({run.preset for run in found.runs}))
    n = max((row["n"] for row in found.rows), default=0)
    parts = [
        f"# Results, preset {preset}",
        provenance_text(found),
        verdicts_text(found),
        f"## Headline table\n\n{table.strip()}",
        figure(drawn, "pareto", CAPTIONS),
        f"## What the data can bear\n\n{evidence_table(found.lines)}",
        f"Controls: {controls_text(found.lines)} {sem_note(n)}".strip(),
        "[Appendix](appendix.md): figures by seed, trajectories, what remains, cosines, runs, commands.",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def verdict_md(found: Findings) -> str:
    """The verdicts and the evidence, without the rest of the report."""
    return f"{verdicts_text(found)}\n\n{evidence_table(found.lines)}\n"


def provenance_text(found: Findings) -> str:
    """What was run, and whether the preregistration covers it."""
    counted = found.used or found.runs
    facts = {
        "model": sorted({model_name(run) for run in counted}),
        "lr": sorted({f"{run.config['lr']:g}" for run in counted if run.config.get("lr") is not None}),
        "steps": sorted({str(run.config.get("steps", run.end)) for run in counted}),
        "problems": sorted({str(run.config["problems"]) for run in counted if run.config.get("problems")}),
        "evaluation": sorted({evaluation_size(run.config) for run in counted if run.config.get("n_eval")}),
    }
    known = "; ".join(f"{name} {' and '.join(values)}" for name, values in facts.items() if values)
    stopped = [run for run in found.used if run.stopped]
    count = f"Runs: {len(found.runs)} read, {len(found.used) - len(stopped)} finished"
    if stopped:
        names = ", ".join(f"{run.arm}_s{run.seed}: {run.stopped}" for run in stopped)
        count += f", {len(stopped)} stopped by a tripwire and counted at the last evaluation ({names})"
    if found.left_out:
        names = "; ".join(f"{run.arm}_s{run.seed}: {why}" for run, why in found.left_out)
        count += f", {len(found.left_out)} left out ({names})"
    pilot = found.verdicts[0].pilot
    scope = "These runs are the preregistered experiment (docs/spec.md)."
    if pilot:
        scope = (
            "**A pilot**: not the preregistered experiment (docs/spec.md), but its rules applied to another: "
            f"{'; '.join(pilot)}."
        )
    return f"{scope}\n\n{known[:1].upper()}{known[1:]}. {count}."


def evaluation_size(config: dict) -> str:
    """`20 problems x 8 completions, 16 at the end, evaluator's name drawn from ten`."""
    text = f"{config['n_eval']} problems x {config.get('eval_samples', 1)} completions"
    if config.get("final_samples"):
        text += f", {config['final_samples']} at the end"
    return text + (", evaluator's name drawn from ten" if config.get("eval_names") else "")


def verdicts_text(found: Findings) -> str:
    """The rule's word and the evidence of each hypothesis, then the claim's sentence."""
    lines = []
    for v in found.verdicts:
        lines.append(f"- **{v.word}.** {v.text[:1].upper()}{v.text[1:]}.")
        if v.evidence_text:
            lines.append(f"  Evidence: {v.evidence_text}.")
    h1 = found.verdicts[0]
    sentence = claim(Comparison(**h1.figures), bool(h1.pilot))
    return "\n".join(lines) + f"\n\n{sentence}"


def evidence_table(lines: list[ArmLine]) -> str:
    """Every arm: what each seed did, how often and when it took off, and its difference to vanilla."""
    header = [
        "Arm",
        "hack % by seed",
        "SE, problems",
        "took off",
        "median step",
        "Fisher, log-rank p",
        "fewer hacks, pp",
        "t 95%",
        "p t, sign-flip",
        "Holm p",
        f"within ±{MARGIN}: p",
        "Δ pass x (1 - hack)",
    ]
    if not lines:
        return "No run counts."
    note = (
        f"Paired with vanilla by seed. Took off: strict hacks >= {100 * TAKEOFF_RATE:.0f}% of training completions, "
        f"mean of {TAKEOFF_STEPS} steps, [Clopper-Pearson]; median step: Kaplan-Meier, censored at the end; log-rank: "
        "by permutation. ±: SEM between training seeds on these problems; SE, problems: of the rate, from the choice "
        "of problems. t covers 95% for normal data, 54 to 79% at three seeds where runs take off or do not "
        f"(bench/coverage.tsv). Holm: p of t over all arms. within ±{MARGIN}: TOST. Verdicts belong to H1, H3 and H4; "
        "every other arm is descriptive."
    )
    return f"{markdown_table(header, [evidence_cells(line) for line in lines])}\n\n{note}"


def evidence_cells(line: ArmLine) -> list[str]:
    """One arm's line of the evidence table."""
    e, c = line.evidence, line.evidence.comparison
    by_seed = ", ".join(f"{hack:.1f}" for hack in line.hacks)
    spread = f"{line.problems.se:.1f}" if line.problems and math.isfinite(line.problems.se) else "-"
    took = f"{e.arm.k}/{e.arm.n} [{100 * e.arm.lo:.0f}, {100 * e.arm.hi:.0f}]" if e.arm.n else "-"
    median = "-" if np.isnan(e.arm.median) else f"{e.arm.median:g}"
    if line.arm == c.reference or not e.t.n:
        return [line.arm, by_seed, spread, took, median, *[""] * 7]
    return [
        line.arm,
        by_seed,
        spread,
        took,
        median,
        f"{p_text(e.fisher)}, {p_text(e.log_rank)}",
        mean_sem(c.reduction),
        interval_cell(c.reduction),
        f"{p_text(e.t.p)}, {p_text(e.sign_flip)}",
        p_text(line.holm),
        p_text(e.equivalence.p),
        mean_sem(c.product),
    ]


# --- for machines ---


def verdict_json(found: Findings) -> str:
    """Every figure behind the verdicts and the tables."""
    labels = [row["arm"] for row in found.rows]
    flags = {row["arm"]: activity(row["cos"].mean, row["fired"].mean) for row in found.rows if projects(row["arm"])}
    h1 = found.verdicts[0]
    value = {
        "verdicts": {v.name: {**vars(v), "line": v.line} for v in found.verdicts},
        "pilot": h1.pilot,
        "claim": claim(Comparison(**h1.figures), bool(h1.pilot)),
        "arms": {row["arm"]: row for row in found.rows},
        "against_vanilla": {arm: compare_arms(found.used, arm, "vanilla") for arm in labels if arm != "vanilla"},
        "evidence": {line.arm: {**vars(line), "evidence": without_rows(line)} for line in found.lines},
        "projection": flags,
        "runs": [run.name for run in found.used],
        "stopped": {run.name: run.stopped for run in found.used if run.stopped},
        "left_out": {run.name: why for run, why in found.left_out},
    }
    return json.dumps(jsonable(value), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def without_rows(line: ArmLine) -> dict:
    """An arm's evidence without the comparison, which stands under against_vanilla."""
    return {key: value for key, value in vars(line.evidence).items() if key != "comparison"}


def jsonable(value):
    """Dataclasses -> dict, floats to 6 decimals, NaN -> None; keys to str."""
    if dataclasses.is_dataclass(value):
        return jsonable(vars(value))
    if isinstance(value, dict):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    if isinstance(value, np.generic):
        return jsonable(value.item())
    if isinstance(value, float):
        return round(value, 6) + 0.0 if math.isfinite(value) else None
    return value
