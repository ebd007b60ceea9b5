"""Runs -> Pareto plot, trajectories, headline table, verdicts and report.md.

    python plot_pareto.py RUN_DIR... [--out DIR]

RUN_DIR is a run directory (record/folder.py), a folder of them, or such a folder as .tar.xz (lib/archives.py). Into
--out go report.md, a page; appendix.md, the rest; their figures pareto, trajectories, flavours, cosine, modules and
heldout (PNG and SVG); table.{md,csv,tex} and verdict.{md,json}; report.html, all of it and the rollouts to read, in
one file. report/ holds the definition of every number and the rule of every verdict; this file lays them out.

Where the runs are branches (branch.py) and their parents, the report is of branches: report.md, report.html,
branches.json and two figures a rule. A report of whole runs leaves branches out by name.

The same runs give byte-identical files: inputs are sorted, seeds are fixed, nothing is dated, and runs are named by the
last two parts of their path. Only the commands in appendix.md repeat the paths as they were given.
"""

from __future__ import annotations
import lib.interrupt  # noqa: F401 (on top)

import glob
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from lib.errors import ReportError, run_main
from report.appendix import report_command
from report.branch_claims import finding
from report.branch_runs import folder_of, is_branch, of_branches, read_branches
from report.branches import decide_branches
from report.drawing import laid_out
from report.findings import find
from report.layout import write_branches, write_report
from report.runs import common_folder, find_run_dirs, load_runs, read_run
from report.tables import kept_columns, terminal_table
from report.verdicts import Verdict


@dataclass
class ReportConfig:
    """Report on finished runs: plots, headline table, and the verdicts on H1, H3 and H4."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR...")]
    """Run directories, folders that hold some, or .tar.xz of folders."""
    out: Path | None = None
    """Where the report goes; default: report/ in the folder that holds the runs or the archive."""
    heldout: tuple[Path, ...] = ()
    """Held-out tables of verify_vhack_heldout.py; default: those beside the runs' v_hack."""
    columns: int = 0
    """Keep the first N columns of the headline table; 0: all."""
    drop: tuple[str, ...] = ()
    """Columns to leave out of the headline table, by title (Arm, n, ΔSafePass, ..., or gnorm for |g|*)."""
    include_incomplete: bool = False
    """Let runs without summary.json count, at their last evaluation."""


def report(cfg: ReportConfig) -> tuple[Path, list[Verdict], str]:
    """Read, decide, lay out. Returns (output folder, verdicts, the table and notes for the terminal).

    Raises ReportError before anything is written.
    """
    # Read.
    titles = kept_columns(cfg.columns, cfg.drop)
    folders = run_folders(cfg)
    runs = load_runs([path for path in folders if not is_branch(path)])
    branches = [read_run(path) for path in folders if is_branch(path)]

    # Decide.
    found = find(runs, cfg.include_incomplete, cfg.heldout)
    found.runs = [*found.runs, *branches]
    found.left_out = [*found.left_out, *((run, "a branch: its folder has a report of its own") for run in branches)]

    # Lay out.
    out = cfg.out or common_folder(runs) / "report"
    command = report_command(cfg.runs, cfg.out, cfg.include_incomplete)
    with laid_out(out) as work:
        write_report(work, found, titles, command)
    shown = terminal_table(found.rows, titles, shutil.get_terminal_size((120, 40)).columns)
    gone = [f"left out: {run.name}: {why}" for run, why in found.left_out]
    return out, found.verdicts, "\n".join([shown, *gone])


def run_folders(cfg: ReportConfig) -> list[Path]:
    """The run directories that are named. Raises ReportError where there is none."""
    paths = [Path(p) for text in cfg.runs for p in (sorted(glob.glob(text)) if glob.has_magic(text) else [text])]
    if not paths:
        raise ReportError("no runs given: pass run directories, or a folder of them such as outputs/tiny")
    return find_run_dirs(paths)


def report_branches(cfg: ReportConfig, folders: list[Path]) -> tuple[Path, str]:
    """The report of branches: (its folder, the findings for the terminal). Raises ReportError before it writes."""
    if cfg.include_incomplete:
        raise ReportError("--include-incomplete is not for branches: one that was cut short is no shorter branch")
    found = read_branches(folders)
    rules = decide_branches(found)
    out = cfg.out or folder_of(folders) / "report"
    with laid_out(out) as work:
        write_branches(work, found, rules, report_command(cfg.runs, cfg.out, False))
    lines = [f"rule {rule.name}, n = {len(rule.points)}: {finding(rung)}" for rule in rules for rung in rule.rungs]
    gone = [f"left out: {name}: {why}" for name, why in found.left_out]
    return out, "\n".join([*lines, *gone])


def main() -> None:
    cfg = tyro.cli(ReportConfig, description=__doc__)
    if of_branches(folders := run_folders(cfg)):
        out, shown = report_branches(cfg, folders)
        print(f"{shown}\n\nreport: {out / 'report.md'}   page: {out / 'report.html'}")
        return
    out, verdicts, shown = report(cfg)
    print(f"{shown}\n\nreport: {out / 'report.md'}   page: {out / 'report.html'}   plot: {out / 'pareto.png'}\n")
    for v in verdicts:
        print(f"{v.line}  [{out / 'verdict.md'}]", flush=True)


if __name__ == "__main__":
    run_main(main)
