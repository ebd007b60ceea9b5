"""The files of a report: figures, tables, texts and the page, of whole runs or of branches."""

from __future__ import annotations

from pathlib import Path

from report.appendix import appendix_md
from report.branch_figures import plot_branches, plot_ladder
from report.branch_json import branches_json
from report.branch_runs import Branches
from report.branch_text import report_text
from report.branches import Rule
from report.figures import plot_cosine, plot_flavours, plot_heldout
from report.findings import Findings
from report.modules import plot_modules
from report.page import write_page
from report.pareto import plot_pareto
from report.tables import caption, table_csv, table_md, table_tex
from report.text import report_md, verdict_json, verdict_md
from report.trajectories import plot_trajectories


def write_report(out: Path, found: Findings, titles: list[str], command: str) -> None:
    """Figures, tables, verdicts and report.md into the folder `out`."""
    figures = {
        "pareto": plot_pareto(found.used, found.rows, out),
        "trajectories": plot_trajectories(found.used, out),
        "cosine": plot_cosine(found.used, out),
        "flavours": plot_flavours(found.samples, out),
        "modules": plot_modules(found.used, out),
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
        "appendix.md": appendix_md(found, drawn, command),
    }
    texts["report.md"] = report_md(found, drawn, texts["table.md"])
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8")
    write_page(out, {"report": texts["report.md"], "appendix": texts["appendix.md"]}, found.runs)


def write_branches(out: Path, found: Branches, rules: list[Rule], command: str) -> None:
    """Two figures a rule, report.md, branches.json and report.html into the folder `out`."""
    for rule in rules:
        plot_branches(rule, out)
        plot_ladder(rule, out)
    text = report_text(found, rules, command)
    (out / "report.md").write_text(text, encoding="utf-8")
    (out / "branches.json").write_text(branches_json(found, rules), encoding="utf-8")
    write_page(out, {"report": text}, found.runs)
