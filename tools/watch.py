"""Runs side by side in a terminal, live from their files; new runs appear by themselves, q quits.

    just watch outputs/dev              every run below a folder
    just watch outputs/dev outputs/tiny --once

A row a run: state, step, rates of its last step (training prompts) and of its last evaluation, KL, seconds a step, time
left, and the hack rate of its steps as a curve.
"""

from __future__ import annotations
import lib.interrupt  # noqa: F401 (on top)

import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.live import Live
from rich.table import Table

from lib.errors import UserError, run_main
from report.runs import is_run, runs_below
from tools.watched import Watched, draw


@dataclass
class WatchConfig:
    """What to watch."""

    folders: tyro.conf.Positional[tuple[Path, ...]] = (Path("outputs"),)
    """Run directories, or folders that hold some."""
    every: float = 2.0
    """Seconds between two looks."""
    once: bool = False
    """Print the table once, which is also what happens where stdout is no terminal."""


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
        """A row a run; those of one name are told apart by their folder."""
        names = [run.folder.name for run in self.runs.values()]
        shown = [
            f"{run.folder.parent.name}/{name}" if names.count(name) > 1 else name
            for run, name in zip(self.runs.values(), names, strict=True)
        ]
        return draw([run.cells(name) for run, name in zip(self.runs.values(), shown, strict=True)], width)


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
