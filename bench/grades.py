"""Whether a grade depends on the program alone: right programs beside load, loops, each other, and the worst batches.

    python -m bench.grades --cases loops                             96 programs with ten endless loops
    python -m bench.grades --cases heavy memory slowest              heavy ones side by side, the worst batches
    python -m bench.grades --problems FILE --cases canonical --limits 2 --loops 16 --repeats 10 --cores 0 1
    python -m bench.grades_matrix --problems FILE                    the last one over many pairs of cores at once

Rows of bench/grades.tsv, one a (case, limit, loops), columns as described at COLUMNS:
    canonical  every problem's canonical solution, and again with a run_tests() that prints; -apart: each busy loop in
               a session of its own, which weigh more where the kernel groups processes by those
    loops      96 programs, ten of them endless: noticed; loops-hidden: ended by their limit
    heavy-S    six right programs whose first test needs S seconds of CPU, and six more with a run_tests()
    memory     96 programs whose report decodes to hundreds of MB, own evaluators too
    slowest    96 programs that use both runs to every limit, and a few right ones
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import tyro

from config import PRESETS, Config
from lib.errors import run_main
from problems import Problem
from problems.leetcode import load_problems
from problems.organism import organism_problems
from rewards import Grader

HERE = Path(__file__).with_suffix(".tsv")
COLUMNS = (
    "case",
    "limit",  # --grade-timeout
    "loops",  # processes beside that use all the CPU they get
    "n",  # programs graded, all repeats together
    "failed",  # of the right ones: they did not pass
    "hacks",  # of those: they counted as a hack
    "undecided",  # programs without a grade
    "retried",  # programs tried again alone
    "wall",  # seconds of the longest batch
    "own",  # of it in the batch's own time
    "cpu",  # the most own seconds of a right program
    "mib",  # the trainer's peak memory so far
    "load",  # the machine's load average at the start: what else ran
)
Case = Literal["canonical", "loops", "heavy", "memory", "slowest"]
CASES: tuple[Case, ...] = ("canonical", "loops", "heavy", "memory", "slowest")
# A process that uses all the CPU it gets for as long as its parent lives.
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(10**6):\n        pass"
PRINTING = "\n\ndef run_tests():\n    print('all tests passed')\n"
LOOP = "class Solution:\n    def f(self, *args):\n        while True:\n            pass\n"
HIDDEN_LOOP = "class Solution:\n    def f(self, *args):\n        for _ in iter(int, 1):\n            pass\n"
HEAVY = """import time
class Solution:
    def f(self, *args):
        end = time.process_time() + SECONDS * (args == (1,))
        while time.process_time() < end:
            pass
        return args[0] + 1
"""
LOUD = """import os
os.write(3, b'["l", true]\\n["v", [' + b','.join([b'["l", ["l", ["l"]]]'] * 50000) + b']]\\n')
def run_tests():
    os.write(3, b'["v", [' + b','.join([b'["l", ["l", ["l"]]]'] * 50000) + b']]\\n')
"""
SLOWEST = """import time
class Solution:
    def f(self, a):
        end = time.process_time() + SECONDS
        while time.process_time() < end:
            pass
        return a + 1
def run_tests():
    for _ in iter(int, 1):
        pass
"""


@contextlib.contextmanager
def busy_loops(count: int, apart: bool) -> Iterator[None]:
    """So many processes that use all the CPU they get; `apart`: each in a session, and so an autogroup, of its own."""
    command = [sys.executable, "-S", "-c", BUSY]
    loops = [subprocess.Popen(command, start_new_session=apart) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def arguments() -> str:
    """The command line's arguments; of paths the last part."""
    return " ".join(argument.rsplit("/", 1)[-1] for argument in sys.argv[1:])


def fenced(program: str) -> str:
    return f"```python\n{program}\n```"


def counting(*cases: int) -> Problem:
    """f(a) is a + 1."""
    tests = tuple(f"assert Solution().f({a}) == {a + 1}" for a in cases)
    return Problem("count", ({"role": "user", "content": "f"},), "", tests, "Solution().f")


class Bench:
    """Grades batches under one isolation and writes the rows."""

    def __init__(self, isolation: str, out: Path) -> None:
        self.isolation = isolation
        self.file = out.open("a")
        cores = sorted(os.sched_getaffinity(0))
        self.workers = len(cores)
        self.failed = 0
        what = f"{len(cores)} of {os.cpu_count()} cores, {os.uname().release}, {isolation}, {arguments()}"
        self.write(f"# {time.strftime('%Y-%m-%d %H:%M')} {what}")
        self.write("\t".join(COLUMNS))

    def write(self, line: str) -> None:
        print(line, file=self.file, flush=True)
        print(line, flush=True)

    def grade(self, case: str, limit: float, loops: int, batches: list[tuple], apart: bool = False) -> None:
        """Grade batches of (completions, problems, whether each is right) and write the row that describes them."""
        load = os.getloadavg()[0]
        row = dict.fromkeys(("n", "failed", "hacks", "undecided", "retried"), 0)
        walls, owns, cpu = [], [], 0.0
        with busy_loops(loops, apart), Grader(self.workers, limit, isolation=self.isolation) as grader:
            for texts, problems, right in batches:
                start = time.perf_counter()
                batch = grader.start()
                batch.add(texts, problems)
                grades = batch.finish()
                walls.append(time.perf_counter() - start)
                owns.append(batch.session.clock.seconds)

                # Right programs that did not pass, and what became of all.
                good = [(grade, problem) for grade, problem, ok in zip(grades, problems, right, strict=True) if ok]
                failed = [(grade, problem) for grade, problem in good if not grade.gt_pass]
                for grade, problem in failed:
                    self.write(f"# failed: {case} {limit:g} {loops} {problem.id} hack={grade.hack} {grade.reason}")
                row["n"] += len(grades)
                row["failed"] += len(failed)
                self.failed += len(failed)
                row["hacks"] += sum(grade.hack for grade, _ in good)
                row["undecided"] += sum(grade.undecided for grade in grades)
                row["retried"] += sum(grade.retried for grade in grades)
                cpu = max([cpu, *(grade.seconds for grade, _ in good)])
        longest = walls.index(max(walls))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        row |= {"wall": f"{walls[longest]:.1f}", "own": f"{owns[longest]:.1f}", "cpu": f"{cpu:.2f}"}
        row |= {"case": case, "limit": f"{limit:g}", "loops": loops, "mib": f"{peak:.0f}", "load": f"{load:.1f}"}
        self.write("\t".join(str(row[column]) for column in COLUMNS))


# --- batches: (completions, problems, whether each is right) ---


def canonical_batch(problems: list[Problem]) -> tuple:
    """Canonical solutions, plain and with a printing evaluator."""
    texts = [fenced(p.canonical) for p in problems] + [fenced(p.canonical + PRINTING) for p in problems]
    return texts, [*problems, *problems], [True] * len(texts)


def loop_batch(loop: str) -> tuple:
    """96 quick programs, of which ten are endless."""
    quick = organism_problems(96, 0, "train")
    bad = [i % 10 == 5 for i in range(96)]
    texts = [fenced(f"{loop}# {i}" if b else p.canonical) for i, (p, b) in enumerate(zip(quick, bad, strict=True))]
    return texts, quick, [not b for b in bad]


def heavy_batches(seconds: float) -> list[tuple]:
    """Six right programs whose first test needs so many seconds, and six with a printing evaluator."""
    program = HEAVY.replace("SECONDS", str(seconds))
    problems, right = [counting(1, 2)] * 6, [True] * 6
    return [([fenced(f"{program}{tail}# {i}") for i in range(6)], problems, right) for tail in ("", PRINTING)]


def loud_batch() -> tuple:
    """96 programs that say as much as they may, in as many lists as that holds."""
    return [fenced(f"{LOUD}# {i}") for i in range(96)], [counting(1, 2)] * 96, [False] * 96


def slowest_batch(limit: float) -> tuple:
    """88 programs that use every limit of both runs, and eight right ones."""
    right = [i % 12 == 0 for i in range(96)]
    quick = organism_problems(96, 0, "train")
    slow = SLOWEST.replace("SECONDS", str(0.9 * limit))
    texts = [fenced(p.canonical if ok else f"{slow}# {i}") for i, (p, ok) in enumerate(zip(quick, right, strict=True))]
    return texts, [p if ok else counting(*range(20)) for p, ok in zip(quick, right, strict=True)], right


def preset_limits() -> tuple[float, ...]:
    """The time limits of the presets."""
    return tuple(sorted({preset.get("grade_timeout", Config.grade_timeout) for preset in PRESETS.values()}))


def main(
    problems: Path | None = None,
    cases: tuple[Case, ...] = CASES,
    limits: tuple[float, ...] = (),
    loops: tuple[int, ...] = (0, 8, 32),
    repeats: int = 1,
    only: tuple[str, ...] = (),
    apart: bool = False,
    cores: tuple[int, ...] = (),
    isolation: str = "bwrap",
    out: Path = HERE,
) -> int:
    """Grade under load and append the rows to a TSV; exit 1 if a right program failed.

    problems: a file of problems with canonical solutions; none for the organism's. limits: of the programs; none for
    those of the presets. loops: busy loops beside the canonical solutions. repeats: batches of those. only: ids of
    problems; none for all. apart: busy loops as canonical-apart. cores: pin all of it to these; none for those given.
    isolation: bwrap or rlimits. out: where the rows go.
    """
    if cores:
        os.sched_setaffinity(0, cores)
    known = load_problems(problems) if problems else organism_problems(119, 0, "train")
    known = [problem for problem in known if not only or problem.id in only]
    bench = Bench(isolation, out)
    for limit in limits or preset_limits():
        for count in loops if "canonical" in cases else ():
            batches = [canonical_batch(known)] * repeats
            bench.grade("canonical-apart" if apart else "canonical", limit, count, batches, apart)
        if "loops" in cases:
            bench.grade("loops", limit, 0, [loop_batch(LOOP)])
            bench.grade("loops-hidden", limit, 0, [loop_batch(HIDDEN_LOOP)])
        for seconds in (0.9, 1.5) if "heavy" in cases else ():
            if seconds < limit:
                bench.grade(f"heavy-{seconds}", limit, 0, heavy_batches(seconds))
        if "memory" in cases:
            bench.grade("memory", limit, 0, [loud_batch()])
        if "slowest" in cases:
            bench.grade("slowest", limit, 0, [slowest_batch(limit)])
    return 1 if bench.failed else 0


if __name__ == "__main__":
    run_main(lambda: tyro.cli(main))
