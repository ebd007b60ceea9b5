"""Runs -> Pareto plot, trajectories, headline table, verdicts and report.md.

    python plot_pareto.py RUN_DIR... [--out DIR]

RUN_DIR is a run directory (record/folder.py) or a folder of them. Into --out go pareto, trajectories, flavours, cosine
and heldout (PNG and SVG), table.{md,csv,tex}, verdict.{md,json} and report.md, which embeds the rest by relative path.
report/ holds the definitions of every number and the rules of every verdict; this file lays them out.

The same runs give byte-identical files: inputs are sorted, the bootstrap's seed is fixed, nothing is dated, and runs
are named by the last two parts of their path. Only the commands in report.md repeat the paths as they were given.
"""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from matplotlib import rc_context

from lib.errors import ReportError, run_main
from report.figures import RC, plot_cosine, plot_flavours, plot_heldout, plot_pareto, plot_trajectories
from report.findings import Findings, find
from report.runs import RunRecord, load_runs
from report.tables import caption, kept_columns, table_csv, table_md, table_tex, terminal_table
from report.text import report_command, report_md, verdict_json, verdict_md
from report.verdicts import Verdict


@dataclass
class ReportConfig:
    """Report on finished runs: plots, headline table, and the verdicts on H1, H3 and H4."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR...")]
    """Run directories, or folders that hold some."""
    out: Path | None = None
    """Where the report goes; default: report/ in the folder that holds the runs."""
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
    paths = [Path(p) for text in cfg.runs for p in (sorted(glob.glob(text)) if glob.has_magic(text) else [text])]
    if not paths:
        raise ReportError("no runs given: pass run directories, or a folder of them such as outputs/tiny")
    titles = kept_columns(cfg.columns, cfg.drop)
    runs = load_runs(paths)

    # Decide.
    found = find(runs, cfg.include_incomplete, cfg.heldout)

    # Lay out. Files move into place when all of them fit, so that a full disk costs no older report.
    out = cfg.out or common_folder(runs) / "report"
    out.mkdir(parents=True, exist_ok=True)
    command = report_command(cfg.runs, cfg.out, cfg.include_incomplete)
    with tempfile.TemporaryDirectory(prefix=".report-", dir=out) as work, rc_context(RC):
        write(Path(work), found, titles, command)
        for path in Path(work).iterdir():
            os.replace(path, out / path.name)
    shown = terminal_table(found.rows, titles, shutil.get_terminal_size((120, 40)).columns)
    gone = [f"left out: {run.name}: {why}" for run, why in found.left_out]
    return out, found.verdicts, "\n".join([shown, *gone])


def common_folder(runs: list[RunRecord]) -> Path:
    """The folder that holds all runs."""
    parents = [run.path.parent for run in runs]
    if len({parent.is_absolute() for parent in parents}) > 1:
        parents = [parent.absolute() for parent in parents]
    return Path(os.path.commonpath(parents))


def write(out: Path, found: Findings, titles: list[str], command: str) -> None:
    """Figures, tables, verdicts and report.md into the folder `out`."""
    figures = {
        "pareto": plot_pareto(found.used, found.rows, out),
        "trajectories": plot_trajectories(found.used, out),
        "cosine": plot_cosine(found.used, out),
        "flavours": plot_flavours(found.samples, out),
        "heldout": plot_heldout(found.heldout, out),
    }
    drawn = {name for name, done in figures.items() if done}
    note = caption(found.used, found.rows) if found.used else "No run counts: see the list of runs."
    texts = {
        "table.md": table_md(found.rows, titles, note),
        "table.csv": table_csv(found.rows, titles),
        "table.tex": table_tex(found.rows, titles, note),
        "verdict.md": verdict_md(found),
        "verdict.json": verdict_json(found),
    }
    texts["report.md"] = report_md(found, drawn, texts["table.md"], command)
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8")


def main() -> None:
    cfg = tyro.cli(ReportConfig, description=__doc__)
    out, verdicts, shown = report(cfg)
    print(f"{shown}\n\nreport: {out / 'report.md'}   table: {out / 'table.md'}   plot: {out / 'pareto.png'}\n")
    for v in verdicts:
        print(f"{v.line}  [{out / 'verdict.md'}]", flush=True)


if __name__ == "__main__":
    run_main(main)
