"""tools.sweep.status"""

from __future__ import annotations

import math
import re
import shutil
import signal
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

from loguru import logger

from config import PRESETS
from lib.errors import UserError
from lib.files import read_json
from tools.sweep.pueue import pueue_tasks
from tools.sweep.slurm import slurm_queue
from tools.sweep.task import SweepConfig, Task, flag, is_run


def table(path: Path) -> list[dict[str, str]]:
    """Rows of a TSV file; a last row that is still being written is left out."""
    if not path.exists():
        return []
    header, *lines = [line.split("\t") for line in path.read_text().splitlines()] or [[]]
    return [dict(zip(header, line, strict=True)) for line in lines if len(line) == len(header)]


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
    def left(self) -> int:
        return 0 if self.state == "done" else self.steps - self.step


def progress(task: Task, default_steps: int, queue: dict[str, str]) -> Progress:
    """Read one run's directory, its log and its place in the queue ({label or job name: state})."""
    folder = task.marker.parent
    rows, evals = table(folder / "steps.tsv"), table(folder / "evals.tsv")
    steps = read_json(folder / "config.json").get("steps", default_steps)
    step, age, seconds = 0, float("nan"), float("nan")
    if rows:
        step, age = int(rows[-1]["step"]) + 1, time.time() - (folder / "steps.tsv").stat().st_mtime
        seconds = statistics.fmean(sum(float(row[c]) for c in ("t_roll", "t_grade", "t_train")) for row in rows[-20:])
    state, note = "waiting", ""
    queued = queue.get(task.label) or queue.get(task.name.replace("/", "_")) or ""
    ended, said = last_end(task.log)
    if task.done:
        state, step = "done", steps
        seconds = read_json(task.marker).get("seconds", math.nan) / max(1, steps)
    elif ended and not age < time.time() - task.log.stat().st_mtime - 60:  # no rows since, from elsewhere
        stopped = ended in (128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGTERM)
        state, note = ("stopped", "") if stopped else ("failed", said)
    elif rows:
        # An evaluation writes no row, and a long one takes as long as a few steps.
        state = "running" if age < max(300, 20 * seconds) else "stopped"
    if queued and state != "done":
        state, note = ("failed", queued) if queued.startswith("Done") else (queued.lower(), "")
    return Progress(task, step, steps, seconds, age, state, note, evals[-1] if evals else {})


def last_end(log: Path) -> tuple[int, str]:
    """(exit status, last words) of the log's last command; (0, "") where it is running, ended well or has no log."""
    lines = log.read_text(errors="replace").strip().splitlines()[-2:] if log.exists() else []
    ended = re.match(r"sweep: exit status (-?\d+)", lines[-1]) if lines else None
    return (int(ended.group(1)), lines[0].strip()) if ended else (0, "")


def hours(seconds: float) -> str:
    """h:mm, or - where it is not known."""
    return "-" if seconds != seconds else f"{int(seconds // 3600)}:{int(seconds // 60 % 60):02}"


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


def status(cfg: SweepConfig, tasks: list[Task]) -> None:
    """Print a row a run: state, steps, rates at the last evaluation, time left, failures; then the sweep's sums."""
    queue = queue_states()
    for task in tasks:
        ended, said = last_end(task.log)
        if not is_run(task) and not task.done and ended:
            print(f"{task.name} failed: {said}")
    found = []
    for task in filter(is_run, tasks):
        preset = PRESETS[task.name.partition("/")[0]]
        found.append(progress(task, int(flag(cfg.extra, "--steps", str(preset["steps"]))), queue))
    known = [p.seconds for p in found if p.seconds == p.seconds]
    usual = statistics.median(known) if known else float("nan")
    print("\t".join(["state", "step", "of", "hack", "attempt", "pass", "left", "age", "run"]))
    for p in found:
        each = p.seconds if p.seconds == p.seconds else usual
        cells = [p.state, p.step, p.steps, *(p.rates.get(k, "-") for k in ("hack", "attempt", "pass")),
                 hours(p.left * each), hours(p.age) if p.left else "-", p.task.name]  # fmt: skip
        print("\t".join(map(str, cells)) + (f"  {p.note}" if p.note else ""))
    count = {s: sum(p.state == s for p in found) for s in ("done", "running", "failed")}
    left = sum(p.left * (p.seconds if p.seconds == p.seconds else usual) for p in found)
    wall = f", {hours(left / count['running'])} at {count['running']} side by side" if count["running"] else ""
    print(f"{count['done']} of {len(found)} done, {count['running']} running, {count['failed']} failed; "
          f"about {hours(left)} of running time left{wall} (h:mm)")  # fmt: skip
