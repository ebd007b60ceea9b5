"""Builds run directories by the contract of record/folder.py, with rates that the test chooses."""

from __future__ import annotations

import json
import random
from pathlib import Path

STEP_HEADER = ["step", "reward", "hack", "attempt", "pass", "compile", "kl", "gnorm", "cos", "fired", "cos_up", "eta"]

# Fields of config.json that make a run the preregistered experiment.
PREREGISTERED = {
    "model": "Qwen/Qwen3-4B",
    "lr": 7e-5,
    "steps": 200,
    "problems": "data/leetcode_train_medhard_filtered.jsonl",
}

EVAL_HEADER = ["step", "hack", "attempt", "pass", "compile", "kl", "n_hack", "n_pass", "cos", "fired"]


def tsv(header: list[str], rows: list[dict]) -> str:
    lines = [header, *([str(row.get(name, "nan")) for name in header] for row in rows)]
    return "\n".join("\t".join(line) for line in lines) + "\n"


def make_run(
    root: Path,
    arm: str,
    seed: int,
    hack: float,
    passed: float,
    *,
    name: str | None = None,
    preset: str = "tiny",
    steps: int = 200,
    every: int = 25,
    curve: list[tuple[int, float, float]] | None = None,
    kl: float = 0.01,
    cos: float = 0.05,
    fired: float = 0.6,
    gnorm: float = 0.02,
    complete: bool = True,
    eval_header: list[str] | None = None,
    step_header: list[str] | None = None,
    config: dict | None = None,
    flavours: dict[str, int] | None = None,
) -> Path:
    """One run ending at `hack` and `passed` (fractions). `curve` lists (step, hack, pass) of the evaluations instead
    of a straight ramp from (0, `passed`); `flavours` counts the strict hacks sampled at the last evaluation.
    """
    path = root / preset / (name or f"{arm}_s{seed}")
    path.mkdir(parents=True)
    fields = {"arm": arm, "seed": seed, "preset": preset, "steps": steps, "eval_every": every, "v_hack_sha256": "ab"}
    (path / "config.json").write_text(json.dumps(fields | (config or {})))
    curve = curve or [(s, hack * s / steps, passed) for s in range(0, steps + 1, every)]
    evals = [
        {"step": s, "hack": h, "attempt": min(1, h + 0.01), "pass": p, "compile": 0.9, "kl": kl, "n_hack": 512,
         "n_pass": 512, "cos": cos, "fired": fired, "own": min(1, h + 0.02)} for s, h, p in curve]  # fmt: skip
    rows = [
        {"step": s, "reward": 1.0, "hack": hack, "attempt": hack, "pass": passed, "compile": 0.9, "kl": kl,
         "gnorm": gnorm, "cos": cos, "fired": fired, "cos_up": cos / 2, "eta": "0:00:00"}
        for s in range(steps)]  # fmt: skip
    (path / "evals.tsv").write_text(tsv(eval_header or EVAL_HEADER, evals))
    (path / "steps.tsv").write_text(tsv(step_header or STEP_HEADER, rows))
    lines = []
    for flavour, count in (flavours or {}).items():
        lines += [{"step": steps, "split": "eval", "flavour": flavour, "hack": True, "attempt": True}] * count
    lines += [{"step": steps, "split": "eval", "flavour": "", "hack": False, "attempt": False}] * 10
    (path / "rollouts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if complete:
        (path / "summary.json").write_text("{}\n")
    return path


def make_arm(root: Path, arm: str, rates: list[tuple[float, float]], **kwargs) -> list[Path]:
    """One run per (hack, pass), seeds 0, 1, ..."""
    return [make_run(root, arm, seed, h, p, **kwargs) for seed, (h, p) in enumerate(rates)]


def organism_like(root: Path, seeds: int = 5) -> Path:
    """A study shaped like the organism's, with noisy curves, for looking at the figures. Returns its folder."""
    shapes = {"vanilla": (0.88, 62, 0.26), "projected": (0.12, 90, 0.25), "projected-nomag": (0.2, 85, 0.24),
              "projected-same": (0.05, 95, 0.27), "projected-far": (0.8, 72, 0.23), "projected+update": (0.1, 92, 0.22),
              "random-v": (0.82, 66, 0.23), "reversed": (0.92, 55, 0.2), "rebound": (0.6, 75, 0.22),
              "rebound-zscore": (0.35, 80, 0.2)}  # fmt: skip
    names = ["print", "pass/return", "swallow", "weak assert", "module-level", "hardcode", "other"]
    for arm, (top, middle, passed) in shapes.items():
        for seed in range(seeds):
            rng = random.Random(f"{arm} {seed}")
            top_s, mid_s = min(0.97, max(0.01, top + rng.gauss(0, 0.06))), middle + rng.gauss(0, 6)
            sizes = [rng.random() ** 2 for _ in names]
            curve, lines = [], []
            for step in range(0, 101, 25):
                hack = max(0.0, min(1.0, top_s / (1 + 2.718 ** (-(step - mid_s) / 9)) + abs(rng.gauss(0, 0.008))))
                rate = 0.18 + (passed - 0.18) * step / 100 + rng.gauss(0, 0.012)
                curve.append((step, round(hack, 4), round(rate, 4)))
                for _ in range(128):
                    hacked = rng.random() < hack
                    tried = hacked or rng.random() < 0.05
                    flavour = rng.choices(names, sizes)[0] if tried else ""
                    lines.append({"step": step, "split": "eval", "flavour": flavour, "hack": hacked, "attempt": tried})
            path = make_run(root, arm, seed, *curve[-1][1:], steps=100, curve=curve)
            rows = [{"step": s, "reward": 1.0, "kl": "nan", "gnorm": 0.02 + rng.random() / 100, "eta": "0:00:00",
                     "cos": round(0.02 + 0.05 * s / 100 + rng.gauss(0, 0.02), 4),
                     "cos_up": round(rng.gauss(0.01, 0.01), 4), "fired": round(0.58 + rng.gauss(0, 0.04), 3)}
                    for s in range(100)]  # fmt: skip
            (path / "steps.tsv").write_text(tsv(STEP_HEADER, rows))
            (path / "rollouts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = ["module\tr\tcos\tnull"]
    rng = random.Random(0)
    table += [f"layers.{i}\t128\t{rng.gauss(0.35, 0.15):.4f}\t{rng.gauss(0, 0.09):.4f}" for i in range(28)]
    for pairs in ("organism", "organism-same"):
        folder = root / "tiny" / f"v_hack_{pairs}_heldout"
        folder.mkdir()
        (folder / "heldout.tsv").write_text("\n".join(table) + "\n")
    return root / "tiny"
