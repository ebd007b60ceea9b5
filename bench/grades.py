"""Whether a grade depends on the program alone: right programs beside load, loops, each other, and the worst batches.

    python -m bench.grades --problems data/leetcode_test_medhard.jsonl

Rows of bench/grades.tsv, one a (case, limit, loops):
    case      canonical  every problem's canonical solution, and again with a run_tests() that prints; -apart: each
                         busy loop in a session of its own, which weigh more where the kernel groups processes by those
              loops      96 programs, ten of them endless: noticed; loops-hidden: ended by their limit
              heavy-S    six right programs whose first test needs S seconds of CPU, and six more with a run_tests()
              memory     96 programs whose report decodes to hundreds of MB, own evaluators too
              slowest    96 programs that use both runs to every limit, and a few right ones
    limit     --grade-timeout; loops: processes that use all the CPU they get, beside
    n         programs graded, all repeats together
    failed    of the right ones, how many did not pass; hacks: of those how many counted as a hack
    undecided, retried  programs without a grade, and tried again alone
    wall      seconds of the longest batch; own: of it in the batch's own time
    cpu       the most own seconds of a right program
    mib       the trainer's peak memory so far
    load      the machine's load average at the start: what else ran
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

import tyro

from config import PRESETS, Config
from problems import Problem
from problems.leetcode import load_problems
from problems.organism import organism_problems
from rewards import Grader

HERE = Path(__file__).with_suffix(".tsv")
COLUMNS = (
    "case", "limit", "loops", "n", "failed", "hacks", "undecided", "retried", "wall", "own", "cpu", "mib", "load",
)  # fmt: skip
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
    command = [sys.executable, "-S", "-c", "while True: pass"]
    loops = [subprocess.Popen(command, start_new_session=apart) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def fenced(program: str) -> str:
    return f"```python\n{program}\n```"


def counting(*cases: int) -> Problem:
    """f(a) is a + 1."""
    tests = tuple(f"assert Solution().f({a}) == {a + 1}" for a in cases)
    return Problem("count", ({"role": "user", "content": "f"},), "", tests, "Solution().f")


def graded(case: str, limit: float, loops: int, batches: list[tuple], apart: bool = False) -> dict:
    """Grade batches of (completions, problems, whether each is right) and describe them."""
    load = os.getloadavg()[0]
    row = dict.fromkeys(("n", "failed", "hacks", "undecided", "retried"), 0)
    walls, owns, cpu = [], [], 0.0
    with busy_loops(loops, apart), Grader(workers=len(os.sched_getaffinity(0)), timeout_s=limit) as grader:
        for texts, problems, right in batches:
            start = time.perf_counter()
            batch = grader.start()
            batch.add(texts, problems)
            grades = batch.finish()
            walls.append(time.perf_counter() - start)
            owns.append(batch.session.clock.seconds)
            good = [grade for grade, is_right in zip(grades, right, strict=True) if is_right]
            row["n"] += len(grades)
            row["failed"] += sum(not grade.gt_pass for grade in good)
            row["hacks"] += sum(grade.hack for grade in good)
            row["undecided"] += sum(grade.undecided for grade in grades)
            row["retried"] += sum(grade.retried for grade in grades)
            cpu = max([cpu, *(grade.seconds for grade in good)])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    longest = walls.index(max(walls))
    return {"case": case, "limit": limit, "loops": loops, **row, "wall": f"{walls[longest]:.1f}",
            "own": f"{owns[longest]:.1f}", "cpu": f"{cpu:.2f}", "mib": f"{peak:.0f}",
            "load": f"{load:.1f}"}  # fmt: skip


def canonical_rows(problems: list[Problem], limits: tuple, loops: tuple, repeats: int, apart: bool) -> Iterator[dict]:
    """Canonical solutions, plain and with a printing evaluator, in batches of both."""
    texts = [fenced(p.canonical) for p in problems] + [fenced(p.canonical + PRINTING) for p in problems]
    batch = texts, [*problems, *problems], [True] * len(texts)
    for limit in limits:
        for count in loops:
            yield graded("canonical-apart" if apart else "canonical", limit, count, [batch] * repeats, apart)


def other_rows(limits: tuple[float, ...]) -> Iterator[dict]:
    """The other cases, on the machine as it is."""
    quick = organism_problems(96, 0, "train")
    bad = [i % 10 == 5 for i in range(96)]
    for limit in limits:
        for case, loop in (("loops", LOOP), ("loops-hidden", HIDDEN_LOOP)):
            texts = [
                fenced(f"{loop}# {i}" if b else p.canonical) for i, (p, b) in enumerate(zip(quick, bad, strict=True))
            ]
            yield graded(case, limit, 0, [(texts, quick, [not b for b in bad])])
        for seconds in (0.9, 1.5):
            if seconds < limit:
                program = HEAVY.replace("SECONDS", str(seconds))
                batches = []
                for tail in ("", PRINTING):
                    batches.append(
                        ([fenced(f"{program}{tail}# {i}") for i in range(6)], [counting(1, 2)] * 6, [True] * 6)
                    )
                yield graded(f"heavy-{seconds}", limit, 0, batches)
        loud = [fenced(f"{LOUD}# {i}") for i in range(96)]
        yield graded("memory", limit, 0, [(loud, [counting(1, 2)] * 96, [False] * 96)])
        slow = SLOWEST.replace("SECONDS", str(0.9 * limit))
        texts = [fenced(f"{slow}# {i}") if i % 12 else quick[i].canonical for i in range(96)]
        problems = [counting(*range(20)) if i % 12 else quick[i] for i in range(96)]
        texts = [text if text.startswith("```") else fenced(text) for text in texts]
        yield graded("slowest", limit, 0, [(texts, problems, [i % 12 == 0 for i in range(96)])])


def preset_limits() -> tuple[float, ...]:
    """The time limits of the presets."""
    return tuple(sorted({preset.get("grade_timeout", Config.grade_timeout) for preset in PRESETS.values()}))


def main(
    problems: Path | None = None,
    limits: tuple[float, ...] = (),
    loops: tuple[int, ...] = (0, 8, 32),
    repeats: int = 1,
    only: tuple[str, ...] = (),
    apart: bool = False,
    others: bool = True,
    out: Path = HERE,
) -> None:
    """Grade under load and append the rows to a TSV.

    problems: a file of problems with canonical solutions; none for the organism's. limits: of the programs; none for
    those of the presets. loops: busy loops beside the canonical solutions. repeats: batches of those. only: ids of
    problems; none for all. apart: busy loops as canonical-apart. others: the other cases too. out: where the rows go.
    """
    known = load_problems(problems) if problems else organism_problems(119, 0, "train")
    known = [problem for problem in known if not only or problem.id in only]
    limits = limits or preset_limits()
    cores = len(os.sched_getaffinity(0))
    head = f"# {time.strftime('%Y-%m-%d %H:%M')} {cores} cores, {os.uname().release}, {' '.join(sys.argv[1:])}"
    with out.open("a") as file:
        for line in (head, "\t".join(COLUMNS)):
            print(line, file=file, flush=True)
            print(line, flush=True)
        rows = [canonical_rows(known, limits, loops, repeats, apart)] + ([other_rows(limits)] if others else [])
        for part in rows:
            for row in part:
                line = "\t".join(str(row[column]) for column in COLUMNS)
                print(line, file=file, flush=True)
                print(line, flush=True)


if __name__ == "__main__":
    tyro.cli(main)
