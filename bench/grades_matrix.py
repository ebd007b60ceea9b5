"""Grades of canonical solutions beside 0, 16 and 32 busy loops, on many pairs of cores at once.

    python -m bench.grades_matrix --problems data/leetcode_test_medhard.jsonl --budget 560

A cell is one batch: every canonical solution, and again with a run_tests() that prints, beside so many busy loops, at
one limit, on two cores of its own (bench/grades.py, pinned). Cells run in the order of their repeats, the slow ones
first, until all are done or the budget is spent; what still runs then is stopped and not counted. First come busy
loops in the grader's own session, then each in one of its own ("-apart": heavier where the kernel groups processes by
sessions). After each cell the table is written anew, so that a run that is cut short leaves what it has.

Rows of bench/grades_matrix.tsv are those of bench/grades.tsv, sums and maxima over the cells; repeats counts these.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tyro

from bench.grades import COLUMNS, arguments
from lib.errors import UserError, run_main

HERE = Path(__file__).with_suffix(".tsv")
SUMS = ("n", "failed", "hacks", "undecided", "retried")
LABELS = ("case", "limit", "loops")


def pairs_of(cores: list[int], most: int) -> list[tuple[int, int]]:
    """Disjoint pairs of cores; of the last core or two, which are left to what starts the others, none."""
    pairs = list(zip(cores[::2], cores[1::2], strict=False))
    if len(pairs) > 2 and len(cores) % 2 == 0:
        pairs.pop()
    if most:
        pairs = pairs[:most]
    if not pairs:
        raise UserError(f"there are {len(cores)} cores, and a cell needs two: run it on a machine with more")
    return pairs


class Runner:
    """Runs cells on a pair of cores each, and keeps their rows."""

    def __init__(self, command: list[str], pairs: list[tuple[int, int]], folder: Path) -> None:
        self.command = command
        self.free = list(pairs)
        self.folder = folder
        self.running: dict[subprocess.Popen, tuple[tuple[int, int], Path]] = {}
        self.started = 0
        self.lines: list[str] = []
        """Comments of cells: failures, and cells that broke."""
        self.cells: list[dict[str, str]] = []

    def start(self, cell: list[str]) -> None:
        pair = self.free.pop()
        self.started += 1
        out = self.folder / f"{self.started}.tsv"
        command = [*self.command, *cell, "--cores", *map(str, pair), "--out", str(out)]
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, **streams, start_new_session=True)
        self.running[process] = pair, out

    def collect(self) -> int:
        """Take the rows of cells that have ended; how many had."""
        ended = [process for process in self.running if process.poll() is not None]
        for process in ended:
            pair, out = self.running.pop(process)
            self.free.append(pair)
            said = process.communicate()[1].strip().splitlines()
            lines = out.read_text().splitlines() if out.exists() else []
            rows = [line.split("\t") for line in lines if "\t" in line and not line.startswith("case")]
            self.lines += [line for line in lines if line.startswith("# failed")]
            self.cells += [dict(zip(COLUMNS, row, strict=True)) for row in rows]
            if not rows:
                self.lines.append(f"# no row, exit {process.returncode}: {said[-1] if said else 'nothing said'}")
        return len(ended)

    def stop(self) -> None:
        """End what runs; busy loops and sandboxes end with it."""
        for process in self.running:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def table(self) -> list[str]:
        """The lines so far: a row for each (case, limit, loops)."""
        groups: dict[tuple, list[dict[str, str]]] = {}
        for cell in self.cells:
            groups.setdefault(tuple(cell[name] for name in LABELS), []).append(cell)
        lines = ["\t".join((*COLUMNS, "repeats"))]
        for label, cells in sorted(groups.items(), key=lambda item: (item[0][0], *map(float, item[0][1:]))):
            row = dict(zip(LABELS, label, strict=True))
            row |= {name: str(sum(int(cell[name]) for cell in cells)) for name in SUMS}
            rest = (name for name in COLUMNS if name not in row)
            row |= {name: max((cell[name] for cell in cells), key=float) for name in rest}
            lines.append("\t".join([*(row[name] for name in COLUMNS), str(len(cells))]))
        return [*self.lines, *lines]


def main(
    problems: Path | None = None,
    limits: tuple[float, ...] = (2.0, 4.0),
    loops: tuple[int, ...] = (32, 16, 0),
    repeats: int = 10,
    apart: bool = True,
    pairs: int = 0,
    budget: float = 560.0,
    isolation: str = "bwrap",
    out: Path = HERE,
) -> int:
    """Run the matrix; exit 1 if a right program failed or a cell gave no row.

    problems: a file of problems with canonical solutions; none for the organism's. limits, loops, repeats: of the
    matrix, loops in the order in which they start. apart: also with each busy loop in a session of its own. pairs: the
    most pairs of cores, 0 for all but one. budget: seconds of wall clock. isolation: bwrap or rlimits. out: the table,
    below what the file holds.
    """
    command = [sys.executable, "-m", "bench.grades", "--cases", "canonical", "--isolation", isolation]
    command += ["--problems", str(problems)] if problems else []
    cells = [["--limits", str(limit), "--loops", str(count), *tail] for tail in ([], ["--apart"])[: 1 + apart]
             for _ in range(repeats) for count in loops for limit in limits]  # fmt: skip
    before = out.read_text() if out.exists() else ""
    cores = sorted(os.sched_getaffinity(0))
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(command, pairs_of(cores, pairs), Path(folder))
        total, width = len(cells), len(runner.free)
        head = f"# {time.strftime('%Y-%m-%d %H:%M')} {os.cpu_count()} cores, {width} pairs, {os.uname().release}, "
        head += f"Python {sys.version.split()[0]}, {arguments()}"
        try:
            while (cells or runner.running) and time.monotonic() < start + budget:
                while cells and runner.free:
                    runner.start(cells.pop(0))
                if runner.collect():
                    seconds = time.monotonic() - start
                    state = f"# {len(runner.cells)} of {total} cells in {seconds:.0f} s"
                    out.write_text("".join(f"{line}\n" for line in (f"{before}{head}", state, *runner.table())))
                    print(state, file=sys.stderr, flush=True)
                time.sleep(0.1)
        finally:
            runner.stop()
    print("\n".join(runner.table()), flush=True)
    return 1 if runner.lines else 0


if __name__ == "__main__":
    run_main(lambda: tyro.cli(main))
