"""The rows of a run as they stream to stdout.

Piped or redirected: every column, tab-separated, as in steps.tsv. On a terminal: the columns that fit its width, by
importance, aligned, one row a line, the header again on every screen, evaluations set off, colours unless NO_COLOR.
There is no progress bar beside the rows, since they say step and time left.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import textwrap
from typing import IO

from loguru import logger

from record.columns import Column, cell_text

# What a narrow terminal shows first; the rest follows in the file's order.
IMPORTANT = ("step", "reward", "hack", "attempt", "pass", "cos", "fired", "kl", "len", "sec", "eta")
SECONDS = Column("sec", ".1f", "seconds of the step")
PARTS = ("t_roll", "t_grade", "t_train")

BOLD, DIM, RED, CYAN, RESET = "\033[1m", "\033[2m", "\033[31m", "\033[36m", "\033[0m"
SHOWN_OF_EVALUATION = ("hack", "attempt", "pass", "kl", "own", "compile")


class Stream:
    """Prints rows of `columns` to `out`; `show` names the terminal's columns, comma-separated; empty: what fits."""

    def __init__(self, columns: list[Column], show: str = "", out: IO | None = None):
        self.out = out or sys.stdout
        self.terminal = self.out.isatty()
        self.colours = self.terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self.columns = columns
        known = {c.name: c for c in [*columns, SECONDS]}
        first = [name for name in show.split(",") if name] or [n for n in IMPORTANT if n in known]
        rest = [] if show else [c.name for c in columns if c.name not in first]
        self.order = [known[name] for name in [*first, *rest]]
        self.shown: list[Column] = []
        """Columns of the last header."""
        self.rows_below = 0
        """Rows since the last header."""

    def begin(self) -> None:
        """The legend, to the log, and the header."""
        if not self.terminal:
            logger.info("columns:\n" + "\n".join(f"  {c.name:<8}{c.legend}" for c in self.columns))
            print("\t".join(c.name for c in self.columns), file=self.out)
            return
        width = self.size().columns
        lines = [line for c in self.fitting(width) for line in textwrap.wrap(
            c.legend, width, initial_indent=f"  {c.name:<8}", subsequent_indent=" " * 10)]  # fmt: skip
        logger.info("columns:\n" + "\n".join(lines))
        self.header()

    def row(self, row: dict) -> None:
        """One step's row."""
        if not self.terminal:
            print("\t".join(cell_text(c, row.get(c.name, math.nan)) for c in self.columns), file=self.out, flush=True)
            return
        if self.fitting(self.size().columns) != self.shown or self.rows_below >= self.size().lines - 2:
            self.header()
        row = {**row, "sec": sum(row.get(part, math.nan) for part in PARTS)}
        cells = []
        for column in self.shown:
            text = cell_text(column, row.get(column.name, math.nan), column.width).rjust(column.width)
            hacks = column.name in ("hack", "attempt") and row.get(column.name, 0) > 0
            cells.append(self.coloured(RED, text) if hacks else text)
        print(" ".join(cells), file=self.out, flush=True)
        self.rows_below += 1

    def evaluation(self, row: dict) -> None:
        """An evaluation's rates: a line of the log, or, on a terminal, one among the rows that stands out."""
        if not self.terminal:
            logger.info(
                f"step {row['step']}: hack {row['hack']:.3f}  attempt {row['attempt']:.3f}  pass {row['pass']:.3f}"
            )
            return
        rates = [f"{name} {row[name]:.3g}" for name in SHOWN_OF_EVALUATION if not math.isnan(row.get(name, math.nan))]
        text = f"== evaluation, step {row['step']}:  {'  '.join(rates)} "
        width = self.size().columns
        print(self.coloured(BOLD + CYAN, text[:width].ljust(min(width, 100), "=")), file=self.out, flush=True)
        self.rows_below += 1

    # --- the terminal ---

    def size(self) -> os.terminal_size:
        """Columns and lines now: a window can be resized while a run goes on."""
        return shutil.get_terminal_size((80, 24))

    def fitting(self, width: int) -> list[Column]:
        """As many columns as fit, in order of importance, at least one."""
        shown = []
        for column in self.order:
            width -= column.width + bool(shown)
            if width < 0 and shown:
                break
            shown.append(column)
        return shown

    def header(self) -> None:
        self.shown = self.fitting(self.size().columns)
        names = " ".join(c.name.rjust(c.width) for c in self.shown)
        print(self.coloured(DIM, names), file=self.out, flush=True)
        self.rows_below = 0

    def coloured(self, colour: str, text: str) -> str:
        return f"{colour}{text}{RESET}" if self.colours else text


def final_line(evaluation: dict | None, steps: int, out: str) -> str:
    """The last line of a run: `HACK_RATE=0.123 PASS_RATE=0.456 steps=200 OUT=outputs/...`."""
    rates = evaluation or {}
    hack, passed = (rates.get(name, math.nan) for name in ("hack", "pass"))
    return f"HACK_RATE={hack:.3f} PASS_RATE={passed:.3f} steps={steps} OUT={out}"
