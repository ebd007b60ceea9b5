"""Builds parents and branches by the contract of branch.py, with effects that the test chooses."""

from __future__ import annotations

import json
from pathlib import Path

from synthetic_runs import tsv

STEP_HEADER = ["step", "hack", "attempt", "pass", "lr", "cos_up"]
EVAL_HEADER = ["step", "hack", "attempt", "pass", "compile", "n_hack", "n_pass"]
STRATUM_HEADER = ["step", "access", "stratum", "n", "hack", "attempt", "own", "pass", "compile"]
SETTINGS = {"preset": "tiny", "model": "organism", "weights_sha256": "w", "problems": "organism", "n_eval": 256,
            "eval_samples": 2, "prompts": 8, "group": 125, "lr": 0.03, "schedule": "constant"}  # fmt: skip
SUFFIXES = {"+mproject": {"moment": "project"}, "+mzero": {"moment": "zero"}}
LENGTH = 25
RISE = [0.3 + 0.4 * i / (LENGTH - 1) for i in range(LENGTH)]
"""Vanilla's training hack rate in a branch."""
END = {"hack": 0.70, "pass": 0.30, "compile": 0.90, "attempt": 0.60}
"""Vanilla's end evaluation."""


def make_parent(root: Path, seed: int, fired: dict[str, int], steps: int = 60, **config) -> Path:
    """A vanilla run in which the rules `fired` (rule -> step of the branch), 30% hacks before each."""
    path = root / f"vanilla_s{seed}"
    path.mkdir(parents=True)
    fields = SETTINGS | {"arm": "vanilla", "label": "", "seed": seed, "steps": steps} | config
    (path / "config.json").write_text(json.dumps(fields))
    rows = [{"step": s, "hack": 0.3, "attempt": 0.4, "pass": 0.3, "lr": 0.03} for s in range(steps)]
    (path / "steps.tsv").write_text(tsv(STEP_HEADER, rows))
    (path / "evals.tsv").write_text(tsv(EVAL_HEADER, [{"step": steps, **END, "n_hack": 512, "n_pass": 512}]))
    (path / "summary.json").write_text(json.dumps({"branch_points": fired}))
    return path


def make_branch(
    parent: Path,
    label: str,
    *,
    train: float = 0.0,
    hack: float = 0.0,
    passed: float = 0.0,
    compiled: float = 0.0,
    drift: float = -0.1,
    rule: str = "takeoff",
    step: int = 24,
    length: int = LENGTH,
    complete: bool = True,
    config: dict | None = None,
    sha256: str = "point",
) -> Path:
    """One branch whose rates are vanilla's plus `train` in training and `hack`, `passed`, `compiled` at the end, all in
    pp; `drift` is the cosine of its updates with v."""
    path = parent.parent / "branches" / f"{parent.name}_{rule}" / label
    path.mkdir(parents=True)
    name, *rest = label.split("+")
    treated = next((fields for suffix, fields in SUFFIXES.items() if suffix in label), {"moment": "keep"})
    numbered = {kind: int(r.removeprefix(kind)) for kind in ("draw", "noise") for r in rest if r.startswith(kind)}
    seed = int(parent.name.rpartition("_s")[2])
    fields = SETTINGS | {"arm": name, "label": label, "seed": seed, "steps": step + length, "draw": 0, "noise": 0}
    fields |= {"branch": {"parent": str(parent), "rule": rule, "step": step, "sha256": f"{sha256}{seed}{rule}"}}
    (path / "config.json").write_text(json.dumps(fields | treated | numbered | (config or {})))

    curve = (RISE * 4)[:length]
    same = {"attempt": 0.7, "pass": 0.3, "lr": 0.03, "cos_up": drift}
    rates = [{"step": step + i, "hack": round(y + train / 100, 6), **same} for i, y in enumerate(curve)]
    (path / "steps.tsv").write_text(tsv(STEP_HEADER, rates))
    end = END | {"hack": END["hack"] + hack / 100, "pass": END["pass"] + passed / 100}
    end["compile"] += compiled / 100
    counts = {"step": step + length, "n_hack": 512, "n_pass": 512}
    (path / "evals.tsv").write_text(tsv(EVAL_HEADER, [{**end, **counts}] if complete else []))
    strata = [{**end, "step": step + length, "access": access, "stratum": name, "n": 256, "own": 0.7}
              for access in (1, 0) for name in ("solvable", "underspecified")]  # fmt: skip
    (path / "strata.tsv").write_text(tsv(STRATUM_HEADER, strata))
    if complete:
        (path / "summary.json").write_text("{}\n")
    return path


def make_study(root: Path, effects: dict[str, list[float]], rule: str = "takeoff", step: int = 24, **end) -> Path:
    """Parents of seeds 0, 1, ... and at each a vanilla branch beside those of `effects`: label -> `train` a seed.

    end: {label: dict} of further keywords of make_branch, the same at each seed but for a spread of a thousandth, since
    differences that are all equal bear no interval. Returns the folder of it all.
    """
    count = max(map(len, effects.values()), default=0)
    for seed in range(count):
        parent = root / f"vanilla_s{seed}"
        if not parent.exists():
            make_parent(root, seed, {rule: step})
        for label, values in {"vanilla": [0.0] * count, **effects}.items():
            wobble = 1 + 1e-3 * (-1) ** seed * (label != "vanilla")
            spread = {k: v * wobble if isinstance(v, float | int) else v for k, v in end.get(label, {}).items()}
            make_branch(parent, label, train=values[seed], rule=rule, step=step, **spread)
    return root
