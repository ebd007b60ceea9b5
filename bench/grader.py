"""Programs graded per second at 1..N workers, latency, and what hostile programs cost: `just bench-grader`.

Rows of bench/grader.tsv (bench/grades.py then grades canonical solutions under load), one a (batch, workers):
    batch    quick      the organism's canonical programs: one run each
             hacks      the same with an own run_tests(): two runs each
             hostile    quick with one in ten that exits, forges, floods, forks, exhausts memory, or raises
             loops      96 completions, one in ten an endless loop that only its limit ends
             late       96, one in ten gives a wrong result first and loops then, which has it stopped early
             late-full  the same with no program stopped early, in turns with `late`; of both, the run of median wall
    n        completions; rate: completions per second of the whole batch; wall: seconds of the batch
    p50, p99 milliseconds in the sandbox of one completion (all its runs); cpu: milliseconds of the trainer's own
             process per completion (extraction, comparison, classification)
    ok       share of completions that were graded as they should be
Other load on the machine shows up in every column; `load` is the load average at the start.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import tyro

from bench import grades
from config import Config
from grading import pool
from grading.asserts import split_tests
from problems.organism import organism_problems
from rewards import Grader

HERE = Path(__file__).with_suffix(".tsv")
COLUMNS = ("batch", "workers", "n", "rate", "wall", "p50", "p99", "cpu", "ok", "load")
LOOP = grades.HIDDEN_LOOP
LATE = (
    "class Solution:\n    calls = []\n    def f(self, *args):\n        self.calls.append(args)\n"
    "        for _ in iter(int, int(len(self.calls) > 1)):\n            pass\n"
)
ROUNDS = 3
"""Of late and late-full."""
HOSTILE = (
    "import os\nos._exit(0)",
    "import os\nos.write(3, b'[\"f\", true]\\n' * 9)",
    "import os\nwhile True:\n    os.write(3, b'x' * 65536)",
    "import os\nwhile True:\n    os.fork()",
    "x = bytearray(10 ** 11)",
    "raise SystemExit",
    "import sys\nsys.setrecursionlimit(10 ** 9)\nf = lambda: f()\nf()",
    "class E:\n    __eq__ = lambda *a: True\nclass Solution:\n    f = lambda *a: E()",
)


def batch_of(name: str, problems: list) -> tuple[list[str], list[bool]]:
    """(completions, whether each passes)."""
    texts, passes = [], []
    for i, problem in enumerate(problems):
        program, bad = problem.canonical, i % 10 == 5
        if name == "hacks":
            program += "\ndef run_tests():\n    print('ok')\n"
        if name == "hostile" and bad:
            program = HOSTILE[i // 10 % len(HOSTILE)]
        if name == "loops" and bad:
            program = LOOP
        if name == "late" and bad:
            program = LATE
        texts.append(f"```python\n{program}\n```")
        passes.append(not (bad and name in ("hostile", "loops", "late")))
    return texts, passes


def measure(grader: Grader, name: str, n: int, workers: int) -> dict:
    """Grade one batch and describe it."""
    problems = organism_problems(n, 0, "train")
    texts, passes = batch_of(name, problems)
    for problem in problems:
        split_tests(problem.tests, problem.entry)  # in a run, a problem's tests are split once and graded often
    grader.grade(texts[:8], problems[:8])
    load, cpu, start = os.getloadavg()[0], time.process_time(), time.perf_counter()
    grades = grader.grade(texts, problems)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    times = sorted(grade.seconds * 1000 for grade in grades)
    right = sum(g.gt_pass == p and g.own_pass == (name == "hacks") for g, p in zip(grades, passes, strict=True))
    return {"batch": name, "workers": workers, "n": n, "rate": f"{n / wall:.0f}", "wall": f"{wall:.2f}",
            "p50": f"{times[n // 2]:.1f}", "p99": f"{times[-1 - n // 100]:.1f}", "cpu": f"{cpu / n * 1000:.2f}",
            "ok": f"{right / n:.3f}", "load": f"{load:.1f}"}  # fmt: skip


@contextlib.contextmanager
def to_the_end() -> Iterator[None]:
    """Has every program run to its end or limit, also one that has given a wrong result."""
    look, pool.LOOK_S = pool.LOOK_S, 0.0
    try:
        yield
    finally:
        pool.LOOK_S = look


def compare(grader: Grader, workers: int) -> Iterator[dict]:
    """The rows `late` and `late-full`, measured in turns."""
    rows = {"late": [], "late-full": []}
    for _ in range(ROUNDS):
        rows["late"].append(measure(grader, "late", 96, workers))
        with to_the_end():
            rows["late-full"].append(measure(grader, "late", 96, workers) | {"batch": "late-full"})
    for found in rows.values():
        yield sorted(found, key=lambda row: float(row["wall"]))[ROUNDS // 2]


def main(
    n: int = 400,
    workers: int = 0,
    isolation: str = "bwrap",
    problems: Path | None = None,
    loops: tuple[int, ...] = (0, 8, 32),
    out: Path = HERE,
) -> None:
    """Measure the grader and write the rows to a TSV; then grade canonical solutions under load.

    n: completions of a batch (the batches loops and late have 96). workers: the most workers, 0 for one per core.
    isolation: bwrap or rlimits. problems: for the grades under load, a file with canonical solutions; none for the
    organism's. loops: busy loops beside them. out: where the rows go, and those under load into grades.tsv beside it.
    """
    if n < 1 or workers < 0:
        sys.exit(f"error: --n {n} must be at least 1 and --workers {workers} at least 0")
    most = workers or len(os.sched_getaffinity(0))
    counts = sorted({min(2**k, most) for k in range(most.bit_length() + 1)})
    rows = []
    print("\t".join(COLUMNS))
    for count in counts:
        with Grader(workers=count, timeout_s=Config.grade_timeout, isolation=isolation) as grader:
            alone = (measure(grader, name, 96 if name == "loops" else n, count)
                     for name in ("quick", "hacks", "hostile", "loops"))  # fmt: skip
            for row in chain(alone, compare(grader, count)):
                rows.append(row)
                print("\t".join(str(row[c]) for c in COLUMNS), flush=True)
    lines = [COLUMNS, *([str(row[column]) for column in COLUMNS] for row in rows)]
    out.write_text("".join("\t".join(line) + "\n" for line in lines))
    grades.main(problems, ("canonical",), loops=loops, isolation=isolation, out=out.with_name("grades.tsv"))


if __name__ == "__main__":
    tyro.cli(main)
