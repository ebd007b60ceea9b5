"""What `just watch` costs beside 12 running organism runs, in % of one core.

    python -m bench.watch --out bench/watch.tsv

The runs are written by this process: real run directories with their locks held, whose rows (those of committed runs of
docs/results/organism) are appended to real files at the pace that the run had, evaluations included. `just watch` runs
in a pseudo-terminal of 200 columns at its own pace of a look every two seconds, and its CPU time is the kernel's,
counted from the first table to the last.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from lib.archives import unpacked
from lib.files import REPO
from tools.terminal import Terminal

RUNS = REPO / "docs/results/organism/runs.tar.xz"
ARMS = ("vanilla", "projected", "random-v", "reversed")


@dataclass
class BenchConfig:
    """What to watch, for how long."""

    runs: int = 12
    """Runs side by side."""
    seconds: float = 90.0
    """Seconds of watching."""
    start: int = 40
    """Rows that each run has when the watching begins."""
    out: str = ""
    """Also write the TSV here."""


@dataclass
class Writer:
    """A run whose rows appear at the pace at which they did."""

    folder: Path
    rows: list[str]
    due: float = 0.0
    at: int = 0
    pace: list[float] = field(default_factory=list)
    """Seconds of each step."""

    def write(self, now: float) -> None:
        while self.at < len(self.rows) and now >= self.due:
            with open(self.folder / "steps.tsv", "a") as f:
                f.write(self.rows[self.at])
            self.due += self.pace[self.at]
            self.at += 1


def writer(source: Path, folder: Path, start: int) -> Writer:
    """A copy of a committed run with its first rows, and what appends the others."""
    folder.mkdir(parents=True)
    for name in ("config.json", "evals.tsv"):
        shutil.copy(source / name, folder)
    header, *rows = (source / "steps.tsv").read_text().splitlines(keepends=True)
    (folder / "steps.tsv").write_text(header + "".join(rows[:start]))
    names = header.rstrip("\n").split("\t")
    parts = [names.index(name) for name in ("t_roll", "t_grade", "t_train")]
    pace = [sum(float(row.split("\t")[i]) for i in parts) for row in rows[start:]]
    return Writer(folder, rows[start:], time.monotonic() + pace[0], 0, pace)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    bench = tyro.cli(BenchConfig, description=__doc__)
    with tempfile.TemporaryDirectory() as work:
        writers, locks = [], []
        for i in range(bench.runs):
            name = f"{ARMS[i % len(ARMS)]}_s{i // len(ARMS)}"
            writers.append(writer(unpacked(RUNS) / name, Path(work) / "outputs/tiny" / name, bench.start))
            locks.append(open(writers[-1].folder / ".lock", "a"))  # noqa: SIM115 (held while the run runs)
            fcntl.flock(locks[-1], fcntl.LOCK_EX)
        window = Terminal(
            [sys.executable, "-m", "tools.watch", "outputs"], 200, bench.runs + 4, cwd=Path(work), PYTHONPATH=str(REPO)
        )
        window.until(lambda: any("hack so far" in line for line in window.text()))

        # The runs go on and are watched.
        began, used = time.monotonic(), cpu_seconds(window.child.pid)
        rows_before = sum(w.at for w in writers)
        while (now := time.monotonic()) < began + bench.seconds:
            for one in writers:
                one.write(now)
            window.read(0.2)
        wall, used = time.monotonic() - began, cpu_seconds(window.child.pid) - used
        rows = sum(w.at for w in writers) - rows_before
        running = sum("running" in line for line in window.text())
        window.press("q")
        window.finish()
    lines = [
        f"# {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.0f}, a look every 2 s",
        "runs\trunning\tseconds\trows\tcpu_s\tcore_%",
        f"{bench.runs}\t{running}\t{wall:.0f}\t{rows}\t{used:.2f}\t{100 * used / wall:.2f}",
    ]
    print("\n".join(lines))
    if bench.out:
        Path(bench.out).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
