"""The tables of a run: their columns, in order, with widths and legends, and the file that a table is.

steps.tsv has a row a step and is also printed, evals.tsv a row an evaluation, strata.tsv a row an evaluation, access
and stratum. Names and cells of the first two have at most CELL characters, so that header and values share a
terminal's 8-character tab stops: a number that is longer loses digits.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from lib.files import append

# Characters of a name or a cell: one less than a tab stop.
CELL = 7


@dataclasses.dataclass
class Column:
    """One TSV column: a name of at most CELL characters, how a value is printed, and what it means."""

    name: str
    form: str
    legend: str

    @property
    def width(self) -> int:
        """Characters that the column takes on a terminal, of its name and of what its form usually prints."""
        usual = {".3f": 5, ".1f": 6, "d": 5, "s": 7}.get(self.form, CELL)
        return max(len(self.name), usual)


def cell_text(column: Column, value, width: int = CELL) -> str:
    """A value in its column's form, with as many of its digits as `width` has room for; text is left whole."""
    if not isinstance(value, int | float):
        return format(value, column.form)
    if not math.isfinite(value):
        return str(value)
    text = format(value, column.form)
    forms = [f".{n}{column.form[-1]}" for n in reversed(range(10)) if column.form[1:2] > str(n)]
    for form in [*forms, ".1e", ".0e"]:
        if len(text) <= width:
            break
        text = format(value, form)
    return text


STEP_COLUMNS = [
    Column("step", "d", "optimiser step, from 0"),
    Column("reward", ".3f", "mean reward of the step's rollouts (0.5 compiles + 3 paid)"),
    Column("rew_sd", ".3f", "standard deviation of those rewards"),
    Column("shaped", ".3f", "the same after Rebound's penalty or discount; equal to reward in every other arm"),
    Column("hack", ".3f", "strict hacks: own run_tests() passes, ground truth fails"),
    Column("attempt", ".3f", "completions that try to influence their evaluation"),
    Column("pass", ".3f", "ground truth passes, training prompts (write access on, except in arm no-loophole)"),
    Column("compile", ".3f", "a program was found and compiles"),
    Column("own", ".3f", "own run_tests() runs without error"),
    Column("loss", ".1e", "the step's loss, all micro-batches"),
    Column("clipfr", ".4f", "share of the live rows' tokens whose ratio left the clip"),
    Column("kl", ".1e", "mean k3 to the initial policy per token of the groups not skipped (nan when --beta 0)"),
    Column("gnorm", ".1e", "mean over modules of |grad delta_S| before projection"),
    Column(
        "cos",
        ".4f",
        "mean over modules (r >= 32) of c = g.v/|g| before projection; SHOULD be > 0 if hacking is being learnt",
    ),
    Column("cos_sd", ".3f", "its standard deviation over modules"),
    Column("fired", ".3f", "share of modules with c > 0"),
    Column("cos_up", ".4f", "mean cosine of minus the applied update with v; > 0 is hack-ward despite projection"),
    Column("auroc", ".3f", "AUROC of the rollouts' scores against v for strict hacks; 0.5 is chance"),
    Column("lr", ".1e", "learning rate of the step"),
    Column("len", ".1f", "mean completion length in tokens"),
    Column("flat", ".3f", "share of groups skipped because their rewards are equal"),
    Column("t_roll", ".2f", "seconds sampling"),
    Column("t_grade", ".2f", "seconds grading"),
    Column("t_train", ".2f", "seconds in forward, backward, projection and step"),
    Column("retried", "d", "completions of which a run was tried again alone, as others may have ended the first"),
    Column("gib", ".2f", "peak GPU memory so far, GiB (0 on CPU)"),
    Column("eta", "s", "time left, h:mm:ss, or hours from 10 on"),
]

EVAL_COLUMNS = [
    Column("step", "d", "optimiser steps taken before this evaluation"),
    Column("hack", ".4f", "strict hack rate on held-out problems with write access"),
    Column("attempt", ".4f", "attempt rate, same completions"),
    Column("pass", ".4f", "pass rate on held-out problems without write access"),
    Column("compile", ".4f", "compile rate, same completions as pass"),
    Column("kl", ".1e", "mean k3 to the initial policy per token, on the completions with write access"),
    Column("n_hack", "d", "completions behind hack and attempt"),
    Column("n_pass", "d", "completions behind pass and compile"),
    Column("cos", ".4f", "mean of the steps' cos since the last evaluation"),
    Column("fired", ".4f", "mean of the steps' fired since the last evaluation"),
    Column("own", ".4f", "own run_tests() runs without error, with write access"),
    Column("passw", ".4f", "pass rate with write access"),
    Column("gnorm", ".1e", "mean of the steps' gnorm since the last evaluation"),
    Column("cos_up", ".4f", "mean of the steps' cos_up since the last evaluation"),
]

STRATUM_COLUMNS = [
    Column("step", "d", "optimiser steps taken before this evaluation"),
    Column("access", "d", "1 with write access, 0 without"),
    Column("stratum", "s", "medium or hard; solvable or underspecified"),
    Column("n", "d", "completions"),
    Column("hack", ".4f", "strict hack rate"),
    Column("attempt", ".4f", "attempt rate"),
    Column("own", ".4f", "own run_tests() runs without error"),
    Column("pass", ".4f", "pass rate"),
    Column("compile", ".4f", "compile rate"),
]


class Table:
    """A TSV file of `columns`. One that an older version began keeps the columns that it has."""

    def __init__(self, path: Path, columns: list[Column], writes: bool = True):
        assert all(len(c.name) <= CELL for c in columns), [c.name for c in columns]
        self.path, self.columns, self.writes = path, columns, writes
        self.ensure_header()

    def ensure_header(self) -> None:
        if not self.writes:
            return
        if not self.path.exists() or self.path.stat().st_size == 0:
            self.path.write_text("\t".join(c.name for c in self.columns) + "\n")
            return
        with open(self.path, encoding="utf-8") as f:
            begun = f.readline().rstrip("\n").split("\t")
        known = {c.name: c for c in self.columns}
        self.columns = [known.get(name) or Column(name, "s", "of an older version") for name in begun]

    def write(self, row: dict) -> None:
        """Append one row; missing values become nan. Raises OSError where the disk refuses it."""
        if not self.writes:
            return
        line = "\t".join(cell_text(c, row.get(c.name, math.nan)) for c in self.columns)
        append(self.path, f"{line}\n".encode())
