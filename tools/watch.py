"""Runs side by side in a terminal, live from their files; new runs appear by themselves, q quits.

    just watch outputs/dev              every run below a folder
    just watch outputs/dev outputs/tiny --once

A row a run: state, step, rates of its last step (training prompts) and of its last evaluation, KL, seconds a step, time
left, and the hack rate of its steps as a curve. Only what was added to a file since the last look is read.
"""

from __future__ import annotations

import math
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import tyro
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lib.errors import UserError, run_main
from lib.files import read_json
from report.runs import is_run, runs_below
from tools.sweep.status import hours, is_held

BARS = "▁▂▃▄▅▆▇█"
CURVE = 24
# Seconds a run may be silent before it counts as stopped where no lock says that it runs.
SILENT = 300


@dataclass
class WatchConfig:
    """What to watch."""

    folders: tyro.conf.Positional[tuple[Path, ...]] = (Path("outputs"),)
    """Run directories, or folders that hold some."""
    every: float = 2.0
    """Seconds between two looks."""
    once: bool = False
    """Print the table once, which is also what happens where stdout is no terminal."""


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

    def state(self) -> str:
        """done, tripped, running or stopped."""
        if (self.folder / "summary.json").exists():
            return "done"
        if is_held(self.folder):
            return "running"
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

    def cells(self) -> list[str | Text]:
        """The row of the table."""
        state, total = self.state(), self.config.get("steps", 0)
        done = self.steps.last("step") + 1 if self.steps.rows else 0
        each = self.seconds()
        left = 0.0 if state == "done" else (total - done) * each
        hack = self.steps.last("hack")
        return [
            self.folder.name,
            Text(state, STATE_STYLES[state]),
            f"{done:.0f}/{total}",
            Text(rate(hack), "red" if hack > 0 else ""),
            rate(self.steps.last("attempt")),
            rate(self.steps.last("pass")),
            f"{rate(self.evals.last('hack'))} {rate(self.evals.last('pass'))}",
            "-" if math.isnan(kl := self.steps.last("kl")) else f"{kl:.0e}",
            "-" if math.isnan(each) else f"{each:.1f}",
            hours(left),
            curve(self.steps.numbers("hack")),
        ]


STATE_STYLES = {"done": "green", "running": "cyan", "tripped": "bold red", "stopped": "yellow"}
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


class Watch:
    """All runs below some folders."""

    def __init__(self, folders: tuple[Path, ...]):
        self.folders = folders
        self.runs: dict[Path, Watched] = {}

    def look(self) -> None:
        """Find new runs, forget those that are gone, read what was added."""
        found = {run for top in self.folders for run in ([top] if is_run(top) else runs_below(top))}
        self.runs = {path: self.runs.get(path) or Watched(path) for path in sorted(found)}
        for run in self.runs.values():
            run.look()

    def table(self, width: int) -> Table:
        """A row a run, with the columns that fit `width` characters, whole."""
        rows = [run.cells() for run in self.runs.values()]
        names = [run.folder.name for run in self.runs.values()]
        for row, run in zip(rows, self.runs.values(), strict=True):
            if names.count(run.folder.name) > 1:
                row[0] = f"{run.folder.parent.name}/{run.folder.name}"
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


@contextmanager
def single_keys() -> Iterator[None]:
    """Within the context a key is read as it is pressed, without an echo."""
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def quit_pressed(seconds: float) -> bool:
    """Whether q is pressed within `seconds`."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if select.select([sys.stdin], [], [], left)[0] and sys.stdin.read(1) in ("q", "Q", ""):  # "": it was closed
            return True
    return False


def main() -> None:
    cfg = tyro.cli(WatchConfig, prog="just watch", description=__doc__)
    if missing := [folder for folder in cfg.folders if not folder.is_dir()]:
        raise UserError(f"{missing[0]} is no folder: pass run directories, or folders of them such as outputs/tiny")
    if not 0.1 <= cfg.every < 3600:
        raise UserError(f"--every {cfg.every:g} must be between 0.1 and 3600 seconds")
    console, watch = Console(), Watch(cfg.folders)
    watch.look()
    if cfg.once or not sys.stdin.isatty() or not sys.stdout.isatty():
        console.print(watch.table(console.width))
        return
    with single_keys(), Live(watch.table(console.width), console=console, screen=True, auto_refresh=False) as live:
        while not quit_pressed(cfg.every):
            watch.look()
            live.update(watch.table(console.width), refresh=True)


if __name__ == "__main__":
    run_main(main)
