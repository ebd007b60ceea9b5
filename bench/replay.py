"""What stopping wrong programs early saves on completions of a run: batches of 64 graded with and without, in turns.

    python -m bench.replay --runs outputs/dev/projected_s1 ... --problems data/leetcode_medhard_80.jsonl

Rows of bench/replay.tsv, one a run:
    n            completions (all of its rollouts.jsonl)
    full, early  seconds of all batches while every program runs to its end or limit (mean of two), and as train.py
                 grades
    ratio        full / early
    slow_f, slow_e  the slowest batch of each
    differ       Grades that differ in more than `seconds`; noise: the same between two gradings to the end
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import time
from pathlib import Path

import tyro

from bench.grader import to_the_end
from lib.archives import unpacked
from lib.files import REPO
from problems import Problem
from problems.leetcode import load_problems
from report.samples import read_lines
from rewards import Grade, Grader

HERE = Path(__file__).with_suffix(".tsv")
COLUMNS = ("run", "workers", "limit", "n", "full", "early", "ratio", "slow_f", "slow_e", "differ", "noise")
BATCH = 64
# Runs of the dev study in which hacking did not take off.
QUIET = ("vanilla_s0", "projected_s0", "projected_s2")


def quiet_completions(path: Path, n: int, runs: Path = REPO / "docs/results/dev/runs.tar.xz") -> tuple[list[str], list]:
    """(texts, their problems) of n completions of the dev study's quiet runs, in turn; path: the problems they had."""
    known = {problem.id: problem for problem in load_problems(path)}
    texts, problems = [], []
    for run in QUIET:
        rows = read_lines(unpacked(runs) / run, "rollouts.jsonl")
        found = [row for row in rows if "completion" in row and row["split"] != "eval-no-access"]
        texts += [row["completion"] for row in found]
        problems += [known[row["problem"]] for row in found]
    return [texts[i % len(texts)] for i in range(n)], [problems[i % len(texts)] for i in range(n)]


def graded(grader: Grader, early: bool, texts: list[str], problems: list[Problem]) -> tuple[float, list[Grade]]:
    """(seconds, Grades without their seconds) of one batch."""
    with contextlib.nullcontext() if early else to_the_end():
        start = time.perf_counter()
        grades = grader.grade(texts, problems)
        seconds = time.perf_counter() - start
    return seconds, [dataclasses.replace(grade, seconds=0.0) for grade in grades]


def replay(grader: Grader, run: Path, problems: dict[str, Problem]) -> dict:
    """One row."""
    with open(run / "rollouts.jsonl", encoding="utf-8") as lines:  # a completion may hold U+2028, a line to splitlines
        rows = [json.loads(line) for line in lines]
    if unknown := {row["problem"] for row in rows} - problems.keys():
        sys.exit(f"error: {run} sampled problems that --problems does not hold, such as {min(unknown)}")
    seconds: dict[bool, list[float]] = {False: [], True: []}
    differ = noise = 0
    for i in range(0, len(rows), BATCH):
        batch = rows[i : i + BATCH]
        args = [row["completion"] for row in batch], [problems[row["problem"]] for row in batch]
        found: dict[bool, list] = {False: [], True: []}
        for early in (False, True, False):
            spent, grades = graded(grader, early, *args)
            seconds[early].append(spent)
            found[early].append(grades)
        for full, again, early in zip(*found[False], *found[True], strict=True):
            differ += full != early
            noise += full != again
            if full != early or full != again:
                print(full, again, early, sep="\n", file=sys.stderr)
    full, quick = sum(seconds[False]) / 2, sum(seconds[True])
    return {"run": run.name, "n": len(rows), "full": f"{full:.1f}", "early": f"{quick:.1f}",
            "ratio": f"{full / quick:.2f}", "slow_f": f"{max(seconds[False]):.2f}",
            "slow_e": f"{max(seconds[True]):.2f}", "differ": differ, "noise": noise}  # fmt: skip


def main(runs: tuple[Path, ...], problems: Path, workers: int = 0, limit: float = 2.0, out: Path = HERE) -> None:
    """Replay the rollouts of finished runs.

    runs: run directories. problems: the file they trained on. workers: 0 for one per core. limit: --grade-timeout.
    """
    known = {problem.id: problem for problem in load_problems(problems)}
    lines = ["\t".join(COLUMNS)]
    print(lines[0])
    with Grader(workers=workers, timeout_s=limit) as grader:
        for run in runs:
            row = {"workers": grader.pool.workers, "limit": limit} | replay(grader, run, known)
            lines.append("\t".join(str(row[column]) for column in COLUMNS))
            print(lines[-1], flush=True)
    out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
