"""report.tables"""

from __future__ import annotations

import csv
import io
import math
import re

from arms import table_order
from lib.errors import ReportError
from report.numbers import WINDOW, Stat, compare, final_rate, pp, run_numbers, summarise
from report.runs import Run
from report.verdicts import pm

COLUMNS = {
    "Arm": None,
    "n": None,
    "ΔSafePass": "safepass",
    "Hack %": "hack",
    "Pass %": "pass",
    "KL": "kl",
    "mean cos*": "cos",
    "frac fired*": "fired",
    "|g|*": "gnorm",
}


ALIASES = {"gnorm": "|g|*", "|g|": "|g|*", "cos": "mean cos*", "fired": "frac fired*", "dsafepass": "ΔSafePass"}


NUMBER = re.compile(r"[+\-(]?\d")


PERCENT = ("hack", "pass", "attempt", "own", "passw", "compile")


def arm_rows(used: list[Run]) -> list[dict]:
    """One dict an arm in table order: arm, n, seeds, a Stat under every number's name, and `nan`, what was left out."""
    rows = []
    for arm in sorted({run.arm for run in used}, key=table_order):
        runs = [run for run in used if run.arm == arm]
        numbers = [run_numbers(run) for run in runs]
        row = {"arm": arm, "n": len(runs), "seeds": [run.seed for run in runs], "nan": []}
        for key in {key: None for n in numbers for key in n}:
            values = [n.get(key, math.nan) for n in numbers]
            finite = [v for v in values if math.isfinite(v)]
            row[key] = summarise(pp(v) if key in PERCENT else v for v in finite)
            if 0 < len(finite) < len(values) and key != "to50":
                gone = [f"s{run.seed}" for run, v in zip(runs, values, strict=True) if not math.isfinite(v)]
                row["nan"].append(f"{key} of {arm} {', '.join(gone)}")
        comparison = compare(used, arm, "vanilla")
        row["safepass"] = comparison["safepass"]
        row["safepass_n"] = comparison["n"]
        row["reached50"] = row["to50"].n
        rows.append(row)
    return rows


def kept_columns(cfg) -> list[str]:
    """Titles of the headline table's columns after --columns and --drop. Raises ReportError on an unknown title."""
    if cfg.columns < 0:
        raise ReportError(f"--columns {cfg.columns} is below 0, which keeps all")
    titles = list(COLUMNS)[: cfg.columns or None]
    drop = {ALIASES.get(d.lower(), d) for d in cfg.drop}
    if unknown := drop - set(COLUMNS):
        raise ReportError(f"--drop {', '.join(sorted(unknown))}: the columns are {', '.join(COLUMNS)}")
    return [t for t in titles if t not in drop]


def cell(row: dict, title: str) -> str:
    """One cell as text: `mean ± SEM`, the mean alone for one seed, - where there is no number."""
    key = COLUMNS[title]
    if key is None:
        return row["arm"] if title == "Arm" else str(row["n"])
    if key == "safepass":
        return "ref" if row["arm"] == "vanilla" else signed(row["safepass"])
    if key in PERCENT:
        return pm(row[key], 1)
    return pm(row[key], 3) if key in ("cos", "fired") else significant(row[key])


def signed(s: Stat) -> str:
    text = pm(s, 1)
    return f"+{text}" if s.mean >= 0.05 else text


def significant(s: Stat) -> str:
    """Three significant digits of the mean, the SEM to the same place."""
    if not math.isfinite(s.mean):
        return "-"
    if s.mean == 0:
        return pm(s, 3)
    power = math.floor(math.log10(abs(s.mean)))
    if -4 <= power <= 4:
        return pm(s, max(0, 2 - power))
    mean = s.mean / 10**power
    return f"{mean:.2f}e{power}" if math.isnan(s.sem) else f"({mean:.2f} ± {s.sem / 10**power:.2f})e{power}"


def caption(used: list[Run], rows: list[dict]) -> str:
    """The headline table's caption: formulas, window, sizes of the evaluation."""
    sizes = [
        f"{'/'.join(sizes)} completions {what}"
        for column, what in (("n_hack", "with write access"), ("n_pass", "without"))
        if (sizes := sorted({f"{final_rate(r, column):g}" for r in used if math.isfinite(final_rate(r, column))}))
    ]
    ends = "/".join(f"{s}" for s in sorted({run.end for run in used}))
    text = (
        f"Final evaluation at step {ends}, mean ± SEM across n seeds. Hack %: strict hacks (own run_tests() passes, "
        "ground truth fails) with write access. Pass %: ground truth passes, held-out problems, no write access. "
        "ΔSafePass: pass x (1 - hack) minus vanilla's, paired by seed, in pp (a product, so that a collapsed run, "
        "which neither passes nor hacks, scores 0). "
        f"KL: to the initial policy, mean of the last {WINDOW} training steps, or of the last evaluation where "
        f"training does not log it. * mean over the last {WINDOW} training steps, before projection: cosine of each "
        "module's gradient with v, fraction of modules with cosine > 0, gradient norm per module."
    )
    if sizes:
        text += f" Each evaluation: {', '.join(sizes)}."
    partial = [row for row in rows if row["arm"] != "vanilla" and 0 < row["safepass_n"] < row["n"]]
    if partial:
        text += f" ΔSafePass over fewer seeds: {', '.join('{arm} {safepass_n}'.format(**row) for row in partial)}."
    nan = [item for row in rows for item in row["nan"]]
    if nan:
        text += f" NaN, left out of its column: {'; '.join(nan)}."
    return text


def markdown_table(header: list[str], body: list[list[str]]) -> str:
    """A pipe table; columns that hold numbers are set right."""
    columns = zip(*body, strict=True) if body else [()] * len(header)
    rule = ["---:" if any(NUMBER.match(c) for c in column) else "---" for column in columns]
    lines = [header, rule, *body]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines)


def table_md(rows: list[dict], titles: list[str], text: str) -> str:
    body = markdown_table(titles, [[cell(row, t) for t in titles] for row in rows])
    escaped = text.replace("*", "\\*")
    return f"{body}\n\n{escaped}\n"


def table_csv(rows: list[dict], titles: list[str]) -> str:
    """Means and SEMs as bare numbers, six significant digits, in the table's units; empty where there is none."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([name for t in titles for name in ([t] if COLUMNS[t] is None else [t, f"{t} SEM"])])
    for row in rows:
        line: list[object] = []
        for t in titles:
            key = COLUMNS[t]
            if key is None:
                line.append(cell(row, t))
            else:
                line += [f"{v:.6g}" if math.isfinite(v) else "" for v in (row[key].mean + 0.0, row[key].sem)]
        writer.writerow(line)
    return out.getvalue()


TEX = (("\\", "\\textbackslash "), ("_", "\\_"), ("%", "\\%"), ("&", "\\&"), ("#", "\\#"), ("±", "$\\pm$"),
       ("Δ", "$\\Delta$"), ("|g|", "$|g|$"), (">", "$>$"), ("<", "$<$"))  # fmt: skip


def tex(text: str) -> str:
    for symbol, macro in TEX:
        text = text.replace(symbol, macro)
    return text


def table_tex(rows: list[dict], titles: list[str], text: str) -> str:
    """A booktabs table."""
    head, *body = (
        " & ".join(tex(c) for c in line) + r" \\"
        for line in [titles, *([cell(row, t) for t in titles] for row in rows)]
    )
    return "\n".join(
        [r"\begin{table}", r"\centering", rf"\caption{{{tex(text)}}}", r"\label{tab:headline}",
         rf"\begin{{tabular}}{{l{'r' * (len(titles) - 1)}}}", r"\toprule", head, r"\midrule", *body,
         r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])  # fmt: skip


def terminal_table(rows: list[dict], titles: list[str], width: int) -> str:
    """The headline table in plain text; trailing columns that do not fit `width` are dropped, and said."""
    body = [titles, *[[cell(row, t) for t in titles] for row in rows]]
    widths = [max(len(line[i]) for line in body) for i in range(len(titles))]
    fit = len(titles)
    while fit > 2 and sum(widths[:fit]) + 2 * (fit - 1) > width:
        fit -= 1
    lines = ["  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in
                       enumerate(zip(line[:fit], widths, strict=False))).rstrip() for line in body]  # fmt: skip
    if fit < len(titles):
        lines.append(f"(narrow terminal; in table.md also: {', '.join(titles[fit:])})")
    return "\n".join(lines)
