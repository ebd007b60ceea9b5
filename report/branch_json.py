"""branches.json: every figure behind a report of branches."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

from report.branch_claims import finding
from report.branch_runs import FIRST_MEASURED, SUFFIX, Branches
from report.branch_text import ADDITION
from report.branches import Rule
from report.contrasts import Contrast
from report.evidence import MARGIN
from report.rungs import SECTIONS, section


def branches_json(found: Branches, rules: list[Rule]) -> str:
    """branches.json: every figure behind the report."""
    value = {
        "addition": ADDITION,
        "length": found.length,
        "first_measured_step": FIRST_MEASURED,
        "margin_pp": MARGIN,
        "rules": {rule.name: rule_figures(rule) for rule in rules},
        "left_out": dict(found.left_out),
    }
    return json.dumps(figures_rounded(value), indent=1, ensure_ascii=False) + "\n"


def rule_figures(rule: Rule) -> dict:
    """One rule's part of branches.json."""
    missing, n, low, high = rule.without()
    rungs = {}
    for r in rule.rungs:
        figures = {k: v for k, v in vars(r).items() if k not in ("vanilla", "random", "levels", "drift")}
        d = {"against_vanilla": r.vanilla, "against_random": r.random}
        d = {name: {m: contrast_figures(c) for m, c in side.items()} for name, side in d.items()}
        d["drift"] = contrast_figures(r.drift)
        figures |= {
            "measure": r.measure,
            "section": SECTIONS[section(r.arm)],
            "label_free": r.label_free,
            "holds": r.holds,
            "levels": r.levels,
            "finding": finding(r),
        }
        rungs[r.label] = figures | d
    points = [
        {"name": p.name, "parent": p.parent, "seed": p.seed, "step": p.step, "lr": p.lr, "hack": p.hack,
         "branches": {b.run.arm: b.values for b in p.branches}}
        for p in rule.points
    ]  # fmt: skip
    strata = {f"{'hack' if a else 'pass'} {s}": {k: contrast_figures(c) for k, c in arms.items()}
              for (a, s), arms in rule.strata.items()}  # fmt: skip
    return {
        "points": points,
        "without_branch_point": {"k": missing, "n": n, "low": low, "high": high},
        "rungs": rungs,
        "vanilla_treated": {f"vanilla{SUFFIX[m]}": contrast_figures(c) for m, c in rule.vanilla.items()},
        "noise": {m: contrast_figures(c) for m, c in rule.noise.items()},
        "strata": strata,
    }


def contrast_figures(c: Contrast) -> dict:
    return {"n": c.n, **asdict(c)}


def figures_rounded(value):
    """Floats to six decimals, nan to null."""
    if isinstance(value, dict):
        return {str(k): figures_rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [figures_rounded(v) for v in value]
    if isinstance(value, float):
        return round(value, 6) + 0.0 if math.isfinite(value) else None
    return value
