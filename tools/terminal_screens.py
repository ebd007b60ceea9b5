"""What a run and a study look like in a terminal, as text: docs/screens/, made by `just screens`.

    stream-80.txt, stream-120.txt, stream-200.txt    a run's rows, in windows of so many columns
    watch-80.txt, watch-120.txt, watch-200.txt       `just watch` on runs at different points
    status-120.txt                                   `just sweep-status` on the same

The rows are those of docs/results/organism: a committed run goes through the stream that prints a live one, and copies
of committed runs, cut at some step, are what the other two look at. So the screens change when the drawing does.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from lib.archives import unpacked
from lib.files import REPO
from lib.tables import read_table
from record.columns import STEP_COLUMNS
from record.stream import Stream
from tools.terminal import Terminal

RUNS = REPO / "docs/results/organism/runs.tar.xz"
WIDTHS = (80, 120, 200)
LINES = 32
# Run, the steps that it has made, and whether a process holds it.
STUDY = (("vanilla_s0", 100, False), ("projected_s0", 100, False), ("random-v_s0", 63, True), ("vanilla_s1", 50, True),
         ("projected-far_s1", 31, True), ("rebound_s1", 0, True), ("projected_s1", 18, False))  # fmt: skip


def number(text: str) -> float | int | str:
    """A cell as the stream had it."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def replay(run: Path) -> None:
    """Print a run's rows and evaluations as it did."""
    stream = Stream(STEP_COLUMNS)
    evals = {int(row["step"]): row for _, row in read_table(run / "evals.tsv").iterrows()}
    stream.header()
    for _, row in read_table(run / "steps.tsv").iterrows():
        if (step := int(row["step"])) in evals:
            stream.evaluation({name: number(cell) for name, cell in evals[step].items()})
        stream.row({name: number(cell) for name, cell in row.items()})


def screen(words: list, columns: int, folder: Path) -> str:
    """The window when the command has ended, without the blank lines below."""
    window = Terminal([sys.executable, *words], columns, LINES, PYTHONPATH=str(REPO), NO_COLOR="1", cwd=folder)
    status = window.finish()
    text = "\n".join(window.text()[-LINES:]).rstrip() + "\n"
    assert status == 0, text
    return text


def study(folder: Path) -> list:
    """Copies of committed runs, cut where STUDY says; the locks of those that run."""
    held, committed = [], unpacked(RUNS)
    for name, steps, runs in STUDY:
        run = folder / "outputs/tiny" / name
        run.mkdir(parents=True)
        shutil.copy(committed / name / "config.json", run)
        for table in ("steps.tsv", "evals.tsv"):
            header, *rows = (committed / name / table).read_text().splitlines(keepends=True)
            kept = [row for row in rows if int(row.split("\t")[0]) < steps + (table == "evals.tsv" and steps > 0)]
            (run / table).write_text(header + "".join(kept))
        if steps == json.loads((run / "config.json").read_text())["steps"]:
            shutil.copy(committed / name / "summary.json", run)
        if not runs:
            os.utime(run / "steps.tsv", (time.time() - 7200,) * 2)
        lock = open(run / ".lock", "a")  # noqa: SIM115 (held while the screens are made)
        if runs:
            fcntl.flock(lock, fcntl.LOCK_EX)
            held.append(lock)
    return held


def terminal_screens(out: Path) -> list[Path]:
    """Write the screens into `out`; their paths."""
    texts = {}
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        held = study(folder)
        for columns in WIDTHS:
            replaying = ["-m", "tools.terminal_screens", "--replay", str(unpacked(RUNS) / "vanilla_s0")]
            texts[f"stream-{columns}.txt"] = screen(replaying, columns, folder)
            texts[f"watch-{columns}.txt"] = screen(["-m", "tools.watch", "outputs", "--once"], columns, folder)
        texts["status-120.txt"] = screen(["-m", "tools.sweep", "--status"], 120, folder)
        for lock in held:
            lock.close()
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (out / name).write_text(text)
    return [out / name for name in texts]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--replay"]:
        replay(Path(sys.argv[2]))
    else:
        print("\n".join(str(path.relative_to(REPO)) for path in terminal_screens(REPO / "docs/screens")))
