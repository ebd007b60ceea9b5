"""Runs -> Pareto plot, trajectories, headline table, verdicts and report.md.

    python plot_pareto.py RUN_DIR... [--out DIR]

RUN_DIR is a run directory (rundir.py) or a folder of them. Into --out go pareto, trajectories, flavours, cosine
and heldout (PNG and SVG), table.{md,csv,tex}, verdict.{md,json} and report.md, which embeds the rest by relative path.
verdict.py holds the definitions of every number and the rules of every verdict; this file lays them out.

The same runs give byte-identical files: inputs are sorted, the bootstrap's seed is fixed, nothing is dated, and runs
are named by the last two parts of their path. Only the commands in report.md repeat the paths as they were given.
"""

from __future__ import annotations

import glob
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import matplotlib
import matplotlib.pyplot as plt
import tyro

from lib.errors import ReportError
from report.evidence import arm_flavours, find_heldout, heldout_name, read_heldout
from report.figures import RC, plot_cosine, plot_flavours, plot_heldout, plot_pareto, plot_trajectories
from report.numbers import select
from report.runs import load_runs
from report.tables import arm_rows, caption, kept_columns, table_csv, table_md, table_tex, terminal_table
from report.text import activity_text, against_vanilla, report_md, verdict_json, verdict_sections
from report.verdicts import Verdict, decide


@dataclass
class Config:
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


def report(cfg: Config) -> tuple[Path, list[Verdict], str]:
    """Read, decide, write. Returns (output folder, verdicts, the table and notes for the terminal).

    Raises ReportError before anything is written.
    """
    paths = [Path(p) for text in cfg.runs for p in (sorted(glob.glob(text)) if glob.has_magic(text) else [text])]
    if not paths:
        raise ReportError("no runs given: pass run directories, or a folder of them such as outputs/tiny")
    titles = kept_columns(cfg)
    runs = load_runs(paths)
    used, left_out = select(runs, cfg.include_incomplete)
    heldout = {heldout_name(p): read_heldout(p) for p in find_heldout(cfg, runs)}
    verdicts, rows = decide(used, left_out), arm_rows(used)
    parents = [run.path.parent for run in runs]
    if len({p.is_absolute() for p in parents}) > 1:
        parents = [p.absolute() for p in parents]
    out = cfg.out or Path(os.path.commonpath(parents)) / "report"
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".report-", dir=out) as work, plt.rc_context(RC):
        write(Path(work), cfg, runs, used, left_out, verdicts, rows, titles, heldout)
        for path in Path(work).iterdir():  # only now that all of them fit, so that a full disk costs no older report
            os.replace(path, out / path.name)
    gone = [f"left out: {run.name}: {why}" for run, why in left_out]
    shown = terminal_table(rows, titles, shutil.get_terminal_size((120, 40)).columns)
    return out, verdicts, "\n".join([shown, *gone])


def write(out: Path, cfg: Config, runs, used, left_out, verdicts, rows, titles, heldout) -> None:
    """Figures, tables, verdicts and report.md into the folder `out`."""
    flavours = arm_flavours(used)
    have = {
        "pareto": bool(used) and plot_pareto(used, rows, out),
        "trajectories": plot_trajectories(used, out),
        "cosine": plot_cosine(used, out),
        "flavours": plot_flavours(flavours, out),
        "heldout": plot_heldout(heldout, out),
    }
    note = caption(used, rows) if used else "No run counts: see the list of runs."
    texts = {
        "table.md": table_md(rows, titles, note),
        "table.csv": table_csv(rows, titles),
        "table.tex": table_tex(rows, titles, note),
        "verdict.md": "\n\n".join(f"**{v.line}**" for v in verdicts) + f"\n\n{verdict_sections(verdicts)}\n\n"
        f"### Every arm against vanilla\n\n{against_vanilla(used, rows)}\n\n"
        f"### Was the projection active?\n\n{activity_text(used, rows)}\n",
        "verdict.json": verdict_json(verdicts, rows, used, left_out),
    }
    texts["report.md"] = report_md(
        cfg, runs, used, left_out, verdicts, rows, flavours, heldout, have, texts["table.md"]
    )
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8")


def main() -> int:
    cfg = tyro.cli(Config, description=__doc__)
    sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without Unicode
    try:
        out, verdicts, shown = report(cfg)
        print(f"{shown}\n\nreport: {out / 'report.md'}   table: {out / 'table.md'}   plot: {out / 'pareto.png'}\n")
        for v in verdicts:
            print(f"{v.line}  [{out / 'verdict.md'}]", flush=True)
        return 0
    except KeyboardInterrupt:
        text = "interrupted; run it again"
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit complains again
        text = f"whoever read stdout (head, a pager) closed it; the report is in {out}"
    except OSError as error:
        text = f"{error.filename or 'the report'}: {error.strerror or error}; check the path, its permissions and space"
    except ReportError as error:
        text = str(error)
    print(f"error: {text}", file=sys.stderr)
    return 2


matplotlib.use("Agg")


if __name__ == "__main__":
    sys.exit(main())
