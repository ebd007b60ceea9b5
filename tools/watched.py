"""A row a run, live from its files, and the table of such rows: what `just watch` and `just sweep-status` draw.

State, step, rates of the last step (training prompts) and of the last evaluation, KL, seconds a step, time left, and
the hack rate of the steps as a curve. Only what was added to a file since the last look is read.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table
from rich.text import Text

from lib.files import read_json

BARS = "▁▂▃▄▅▆▇█"
CURVE = 24
# Seconds a run may be silent before it counts as stopped where no lock says that it runs.
SILENT = 300


@dataclass
class Tail:
    """A TSV file that grows: its header and the rows that have come so far, kept short."""

    path: Path
    keep: int = 400
    header: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    at: int = 0
    """Bytes read."""

    def read(self) -> None:
        """Take in the whole lines that were added; all of them again where the file was cut back."""
        try:
            size = self.path.stat().st_size
            if size < self.at:
                self.at, self.rows = 0, []
            if size == self.at:
                return
            with open(self.path, "rb") as f:
                f.seek(self.at)
                data = f.read()
        except OSError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self.at += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            cells = line.split("\t")
            if cells[0] == "step":
                self.header = cells
            elif len(cells) == len(self.header):
                self.rows.append(cells)
        self.rows = self.rows[-self.keep :]

    def numbers(self, name: str) -> list[float]:
        """A column; nan where a cell is no number, [] where there is no such column."""
        if name not in self.header:
            return []
        i = self.header.index(name)
        return [number(row[i]) for row in self.rows]

    def last(self, name: str) -> float:
        values = self.numbers(name)
        return values[-1] if values else math.nan


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


class Watched:
    """One run."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.steps, self.evals = Tail(folder / "steps.tsv"), Tail(folder / "evals.tsv")
        self.config: dict = {}

    def look(self) -> None:
        self.config = self.config or read_json(self.folder / "config.json")
        self.steps.read()
        self.evals.read()

    def done(self) -> int:
        """Steps made."""
        return int(self.steps.last("step")) + 1 if self.steps.rows else 0

    def evaluating(self) -> bool:
        """Whether the next row that a running run writes is an evaluation's: before step 0, every so often, at last."""
        done, every = self.done(), self.config.get("eval_every", 0)
        due = done in (0, self.config.get("steps")) or (every > 0 and done % every == 0)
        return due and not self.evals.last("step") >= done

    def state(self) -> str:
        """done, tripped, evaluating, running or stopped."""
        if (self.folder / "summary.json").exists():
            return "done"
        if is_held(self.folder):
            return "evaluating" if self.evaluating() else "running"
        if any(self.folder.glob("tripwire-*.json")):
            return "tripped"
        try:
            silent = time.time() - (self.folder / "steps.tsv").stat().st_mtime
        except OSError:
            silent = math.inf
        return "running" if silent < SILENT and not (self.folder / ".lock").exists() else "stopped"

    def seconds(self) -> float:
        """Mean seconds of the last twenty steps."""
        parts = [self.steps.numbers(name)[-20:] for name in ("t_roll", "t_grade", "t_train")]
        sums = [sum(values) for values in zip(*parts, strict=True)] if all(parts) else []
        return sum(sums) / len(sums) if sums else math.nan

    def cells(self, name: str = "", state: str = "", total: int = 0, left: float | None = None) -> list[str | Text]:
        """The row of the table; what is given stands instead of what the files say (left: seconds)."""
        state, total = state or self.state(), self.config.get("steps", total)
        done, each = self.done(), self.seconds()
        if left is None:
            left = 0.0 if state == "done" else (total - done) * each
        hack = self.steps.last("hack")
        return [
            name or self.folder.name,
            Text(state, STATE_STYLES.get(state, "")),
            f"{done}/{total}",
            Text(rate(hack), "red" if hack > 0 else ""),
            rate(self.steps.last("attempt")),
            rate(self.steps.last("pass")),
            f"{rate(self.evals.last('hack'))} {rate(self.evals.last('pass'))}",
            "-" if math.isnan(kl := self.steps.last("kl")) else f"{kl:.0e}",
            "-" if math.isnan(each) else f"{each:.1f}",
            hours(left),
            curve(self.steps.numbers("hack")),
        ]


STATE_STYLES = {"done": "green", "running": "cyan", "evaluating": "cyan", "tripped": "bold red", "failed": "bold red",
                "stopped": "yellow", "waiting": "dim"}  # fmt: skip
GAP = 2
HEADER = ("run", "state", "step", "hack", "attempt", "pass", "eval h p", "kl", "s/step", "left", "hack so far")
# What a narrow terminal shows first.
IMPORTANT = ("run", "step", "hack", "attempt", "pass", "left", "state", "kl", "hack so far", "s/step", "eval h p")


def rate(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def curve(values: list[float], width: int = CURVE) -> str:
    """Block characters for the means of `width` stretches, 0 to 1."""
    values = [v for v in values if not math.isnan(v)]
    if not values:
        return ""
    n = min(width, len(values))
    parts = [values[i * len(values) // n : (i + 1) * len(values) // n] for i in range(n)]
    return "".join(BARS[min(len(BARS) - 1, int(sum(p) / len(p) * len(BARS)))] for p in parts)


def is_held(folder: Path) -> bool:
    """Whether a process writes the run: it holds a lock, from before its first evaluation to its end.

    The kernel's list is read, since to try the lock would be to take it from a run that is just beginning.
    """
    try:
        inode = (folder / ".lock").stat().st_ino
        locks = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return False
    return any(line.split()[1] == "FLOCK" and line.split()[5].endswith(f":{inode}") for line in locks)


def hours(seconds: float) -> str:
    """h:mm, or - where it is not known."""
    return "-" if math.isnan(seconds) else f"{int(seconds // 3600)}:{int(seconds // 60 % 60):02}"


def draw(rows: list[list[str | Text]], width: int) -> Table:
    """A table of `Watched.cells`, with the columns that fit `width` characters, whole."""
    widths = {name: max(len(name), *(len(row[i]) for row in rows), 0) for i, name in enumerate(HEADER)}
    shown, left = [], width
    for name in IMPORTANT:
        if shown and widths[name] + GAP > left:
            break
        shown.append(name)
        left -= widths[name] + GAP
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
    kept = [i for i, name in enumerate(HEADER) if name in shown]
    for i in kept:
        numeric = HEADER[i] not in ("run", "state", "hack so far")
        table.add_column(HEADER[i], justify="right" if numeric else "left", no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*(row[i] for i in kept))
    return table
