"""Seconds of a vanilla GRPO step on the organism, 8 x 8 on one core, of several checkouts or engines in turns.

    taskset -c 0 python -m bench.cpu_step --out bench/cpu_step.tsv                       own engine against generate
    taskset -c 0 python -m bench.cpu_step --trees /path/to/old . --out bench/cpu_step.tsv      an old checkout, built

Every row is `train.py --preset tiny` itself, run by its own checkout's .venv and stopped after some steps; the rows of
a round run one after the other, so that a drifting machine touches all alike. The same problems and seeds. Grading is
included, by one worker on the same core. Medians over all counted steps; ratio: to the first row.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from bench.run import steps_of
from record.provenance import provenance

PARTS = ("t_roll", "t_grade", "t_train")


@dataclass
class BenchConfig:
    """What to time."""

    trees: tuple[str, ...] = (".",)
    """Checkouts with an environment in .venv, each a row."""
    engines: tuple[str, ...] = ("auto", "generate")
    """Sampling engines, each a row of the last tree."""
    steps: int = 12
    """Steps of a run, the first two not counted."""
    rounds: int = 2
    """Runs of each row."""
    out: str = ""
    """Also write the TSV here."""


def commit(tree: Path) -> str:
    """Short hash of what is checked out there."""
    git = ["git", "-C", str(tree), "rev-parse", "--short", "HEAD"]
    return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    bench = tyro.cli(BenchConfig, description=__doc__)
    cases = [(Path(tree), "auto") for tree in bench.trees[:-1]]
    cases += [(Path(bench.trees[-1]), engine) for engine in bench.engines]
    found: dict[tuple[Path, str], list[dict[str, float]]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as work:
        svd = ["--workers", "1", "--svd-cache", f"{work}/svd"]
        for turn in range(bench.rounds):
            for n, (tree, engine) in enumerate(cases):
                out = Path(work) / f"run_{turn}_{n}"
                rows, _ = steps_of(1, engine, bench.steps, svd, out, preset="tiny", tree=tree)
                found[tree, engine] += rows[2:]
    versions, cores = provenance()["packages"], len(os.sched_getaffinity(0))
    lines = [
        f"# {cores} core(s), torch {versions['torch']}, transformers {versions['transformers']}, "
        f"P 8 x G 8, median of {bench.rounds} x {bench.steps - 2} steps, in turns",
        "commit\tengine\tstep_s\tt_roll\tt_grade\tt_train\tlen\tratio",
    ]
    totals = {case: statistics.median(sum(row[p] for p in PARTS) for row in rows) for case, rows in found.items()}
    for (tree, engine), rows in found.items():
        total = totals[tree, engine]
        medians = [statistics.median(row[p] for row in rows) for p in (*PARTS, "len")]
        cells = [f"{c:.2f}" for c in (total, *medians, total / totals[cases[0]])]
        lines.append("\t".join([commit(tree), engine, *cells]))
    print("\n".join(lines))
    if bench.out:
        Path(bench.out).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
