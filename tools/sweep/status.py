"""How far a sweep is, from its files and the queues: a row a run, what failed, the time left.

On a terminal the table is that of `just watch`, once; piped, a TSV.

state   done, running, evaluating (its next row is an evaluation's), stopped (no row for long, or a signal), failed,
        waiting, or the queue's own word
left    steps left x seconds a step: the run's last 20 steps, or the median of the sweep where it has none
"""

from __future__ import annotations

import math
import re
import shutil
import signal
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from loguru import logger
from rich.console import Console

from config import PRESETS
from lib.errors import UserError
from lib.files import read_json
from lib.tables import read_table
from report.runs import RUN_NAME
from tools.sweep.pueue import pueue_tasks
from tools.sweep.slurm import slurm_queue
from tools.sweep.task import SweepConfig, Task, flag
from tools.watched import Watched, draw, hours, is_held

RATES = ("hack", "attempt", "pass")
COLUMNS = ("state", "step", "of", *RATES, "left", "age", "run")


@dataclass
class Progress:
    """How far one run is."""

    task: Task
    step: int
    steps: int
    seconds: float
    """Seconds a step, evaluations included where the run is complete; nan where no step is."""
    age: float
    """Seconds since its last row."""
    state: str
    note: str = ""
    rates: dict[str, str] = field(default_factory=dict)

    @property
    def active(self) -> bool:
        """Whether a process works on it."""
        return self.state in ("running", "evaluating")

    @property
    def left(self) -> int:
        """Steps left."""
        return 0 if self.state == "done" else self.steps - self.step


def progress(task: Task, default_steps: int, queue: dict[str, str]) -> Progress:
    """Read one run's directory, its log and its place in the queue ({label or job name: state})."""
    folder = task.marker.parent
    rows, evals = read_table(folder / "steps.tsv"), read_table(folder / "evals.tsv")
    found = Progress(
        task=task,
        step=0,
        steps=read_json(folder / "config.json").get("steps", default_steps),
        seconds=math.nan,
        age=math.nan,
        state="waiting",
        rates=dict(evals.iloc[-1]) if len(evals) else {},
    )

    # How far, and how fast; before step 0 comes an evaluation, which leaves no row of a step.
    if len(rows):
        found.step = int(rows["step"].iloc[-1]) + 1
        found.age = time.time() - (folder / "steps.tsv").stat().st_mtime
        found.seconds = rows[["t_roll", "t_grade", "t_train"]].tail(20).astype(float).sum(axis=1).mean()

    # In what state: by its files, then by its log, then by the time since its last row.
    status, said = last_end(task.log)
    if others := task.others:
        found.state, found.note = "another", f"holds a run of another configuration: {', '.join(others)}"
    elif task.done:
        found.state, found.step = "done", found.steps
        found.seconds = read_json(task.marker).get("seconds", math.nan) / max(1, found.steps)
    elif status and not found.age < time.time() - task.log.stat().st_mtime - 60:  # no rows since, from elsewhere
        if status in (128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGTERM):
            found.state = "stopped"
        else:
            found.state, found.note = "failed", said
    elif len(rows):
        # An evaluation writes no row, and a long one takes as long as a few steps.
        found.state = "running" if found.age < max(300, 20 * found.seconds) else "stopped"
    run = Watched(folder)
    run.look()
    if found.state in ("running", "waiting") and is_held(folder) and run.evaluating():
        found.state = "evaluating"

    # The queue knows better.
    queued = queue.get(task.label) or queue.get(task.name.replace("/", "_")) or ""
    if queued.startswith("Done") and found.state != "done":
        found.state, found.note = "failed", queued
    elif queued and found.state not in ("done", "evaluating"):
        found.state, found.note = queued.lower(), ""
    return found


def found_tasks(outputs: Path) -> list[Task]:
    """A task for every run that lies in `outputs`, whatever began it."""
    runs = sorted(path.parent for path in outputs.glob("*/*/config.json") if RUN_NAME.fullmatch(path.parent.name))
    return [Task(f"{run.parent.name}/{run.name}", command=[], marker=run / "summary.json") for run in runs]


def last_end(log: Path) -> tuple[int, str]:
    """(exit status, last words) of the log's last command; (0, "") where it is running, ended well or has no log."""
    lines = log.read_text(errors="replace").strip().splitlines()[-2:] if log.exists() else []
    ended = re.match(r"sweep: exit status (-?\d+)", lines[-1]) if lines else None
    return (int(ended.group(1)), lines[0].strip()) if ended else (0, "")


def queue_states() -> dict[str, str]:
    """{label or job name: state} of whichever queue answers here."""
    out = {}
    for program, read in (("pueue", pueue_tasks), ("squeue", slurm_queue)):
        if shutil.which(program):
            try:
                out |= {name: state for name, (_, state) in read().items()}
            except (UserError, ValueError, KeyError) as error:
                logger.warning(f"the queue is left out: {error}")
    return out


def print_status(cfg: SweepConfig, tasks: list[Task]) -> None:
    """Print a row a run: state, steps, rates at the last evaluation, time left, failures; then the sweep's sums."""
    queue = queue_states()

    # Preparations that failed.
    for task in tasks:
        status, said = last_end(task.log)
        if status and not task.is_run and not task.done:
            print(f"{task.name} failed: {said}")

    # A row a run.
    found = []
    for task in tasks:
        if task.is_run:
            steps = flag(cfg.extra, "--steps", str(PRESETS.get(task.preset, {}).get("steps", 0)))
            found.append(progress(task, int(steps), queue))
    known = [p.seconds for p in found if not math.isnan(p.seconds)]
    usual = statistics.median(known) if known else math.nan
    seconds_left = [p.left * (usual if math.isnan(p.seconds) else p.seconds) for p in found]
    if sys.stdout.isatty():
        draw_runs(found, seconds_left)
    else:
        print_runs(found, seconds_left)

    # Their sums.
    count = {state: sum(p.state == state for p in found) for state in ("done", "failed")}
    active, left, wall = sum(p.active for p in found), sum(seconds_left), ""
    if active:
        wall = f", {hours(left / active)} at {active} side by side"
    print(
        f"{count['done']} of {len(found)} done, {active} running, {count['failed']} failed; "
        f"about {hours(left)} of running time left{wall} (h:mm)"
    )


def print_runs(found: list[Progress], seconds_left: list[float]) -> None:
    """A TSV row a run."""
    print("\t".join(COLUMNS))
    for p, left in zip(found, seconds_left, strict=True):
        rates = [p.rates.get(name, "-") for name in RATES]
        age = hours(p.age) if p.left else "-"
        cells = [p.state, p.step, p.steps, *rates, hours(left), age, p.task.name]
        print("\t".join(map(str, cells)) + (f"  {p.note}" if p.note else ""))


def draw_runs(found: list[Progress], seconds_left: list[float]) -> None:
    """The table of `just watch`, and below it what went wrong."""
    rows = []
    for p, left in zip(found, seconds_left, strict=True):
        run = Watched(p.task.marker.parent)
        run.look()
        rows.append(run.cells(p.task.name, p.state, p.steps, left))
    console = Console()
    console.print(draw(rows, console.width))
    for p in found:
        if p.note:
            console.print(f"{p.task.name}: {p.note}", markup=False, highlight=False)
