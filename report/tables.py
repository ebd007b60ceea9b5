"""The headline table: a row an arm, as Markdown, CSV, LaTeX and plain text, with its caption."""

from __future__ import annotations

import math
import re

import pandas as pd

from arms import table_order
from lib.errors import ReportError
from report.activity import ACTIVE_COS, ACTIVE_FIRED, CHANCE_FIRED, projects
from report.numbers import (
    WINDOW,
    Stat,
    compare_arms,
    final_kl,
    final_rate,
    percent,
    run_numbers,
    stopped_note,
    summarise,
)
from report.runs import RunRecord
from report.statistics import clopper_pearson
from report.words import mean_sem

# {title: (name of its number in a row, arrow: higher or lower is better)}; None: text. From essential to optional, so
# that trailing columns can be cut for space.
COLUMNS = {
    "Arm": (None, ""),
    "n": (None, ""),
    "ΔSafePass": ("safepass", "↑"),
    "Hack %": ("hack", "↓"),
    "Pass %": ("pass", "↑"),
    "KL": ("kl", "↓"),
    "mean·cos*": ("cos", ""),
    "frac·fired*": ("fired", ""),
    "‖g‖*": ("gnorm", ""),
}

# What --drop takes besides titles.
ALIASES = {
    "gnorm": "‖g‖*",
    "|g|": "‖g‖*",
    "|g|*": "‖g‖*",
    "cos": "mean·cos*",
    "mean cos*": "mean·cos*",
    "fired": "frac·fired*",
    "frac fired*": "frac·fired*",
    "dsafepass": "ΔSafePass",
}

# Numbers that are shown in percent.
PERCENT = ("hack", "pass", "attempt", "own", "passw", "compile", "product")

# The column that says how many completions are behind a rate.
COUNTED_BY = dict.fromkeys(("hack", "attempt", "own", "passw"), "n_hack") | dict.fromkeys(("pass", "compile"), "n_pass")

NUMBER = re.compile(r"[+\-(]?\d")
MINUS = re.compile(r"(?<!\w)-(?=[\d ])")


def arm_rows(used: list[RunRecord]) -> list[dict]:
    """One dict an arm in table order: arm, n, seeds, a Stat under every number's name, and `nan`, what was left out."""
    rows = []
    for arm in sorted({run.arm for run in used}, key=table_order):
        runs = [run for run in used if run.arm == arm]
        row = {"arm": arm, "n": len(runs), "seeds": [run.seed for run in runs], "nan": [], "bounds": {}}

        # Every number over the seeds that have it.
        numbers = pd.DataFrame([run_numbers(run) for run in runs], index=[run.seed for run in runs])
        for key, values in numbers.items():
            finite = values.dropna()
            row["bounds"] |= alike(key, finite, runs)
            row[key] = summarise(percent(v) if key in PERCENT else v for v in finite)
            if 0 < len(finite) < len(values) and key != "to50":
                gone = [f"s{seed}" for seed in values.index[values.isna()]]
                row["nan"].append(f"{key} of {arm} {', '.join(gone)}")

        comparison = compare_arms(used, arm, "vanilla")
        row["safepass"], row["product_gain"] = comparison.safepass, comparison.product
        row["safepass_n"] = comparison.n
        row["reached50"] = row["to50"].n
        rows.append(row)
    return rows


def alike(key: str, values: pd.Series, runs: list[RunRecord]) -> dict[str, tuple[float, float]]:
    """{key: exact_bounds} of a rate that has them; {} for any other number."""
    counts = (
        [final_rate(run, COUNTED_BY[key]) for run in runs] if key in COUNTED_BY and len(values) == len(runs) else []
    )
    found = exact_bounds([100 * value for value in values], counts)
    return {key: found} if found else {}


def exact_bounds(rates: list[float], counts: list[float]) -> tuple[float, float] | None:
    """Exact 95% interval in percent of rates that are 0, or 100, in every seed: their SEM of 0 would say that the rate
    is known. Of all completions together, `counts` a seed, as if no two shared a problem; None for other rates."""
    if not counts or not all(map(math.isfinite, counts)) or set(rates) not in ({0.0}, {100.0}):
        return None
    n = int(sum(counts))
    lo, hi = clopper_pearson(n if rates[0] else 0, n)
    return 100 * lo, 100 * hi


def rate_cell(row: dict, key: str) -> str:
    """A rate in percent as rate_text has it."""
    return rate_text(row[key], row["bounds"].get(key))


def rate_text(rate: Stat, bounds: tuple[float, float] | None) -> str:
    """`mean ± SEM` in percent, or with exact_bounds where all seeds are 0 or all 100."""
    return mean_sem(rate) if bounds is None else f"{rate.mean + 0.0:.1f} [{bounds[0]:.1f}, {bounds[1]:.1f}]"


def kept_columns(first: int = 0, drop: tuple[str, ...] = ()) -> list[str]:
    """Titles of the table's columns: the first ones (0: all) without those to drop. Raises ReportError on another."""
    if first < 0:
        raise ReportError(f"--columns {first} is below 0, which keeps all")
    titles = list(COLUMNS)[: first or None]
    dropped = {ALIASES.get(title.strip("↑↓").lower(), title.strip("↑↓")) for title in drop}
    if unknown := dropped - set(COLUMNS):
        raise ReportError(f"--drop {', '.join(sorted(unknown))}: the columns are {', '.join(COLUMNS)}")
    return [title for title in titles if title not in dropped]


# --- cells ---


def heading(title: str) -> str:
    """A column's title with its arrow."""
    return title + COLUMNS[title][1]


def stat_of(row: dict, title: str) -> Stat | None:
    """The number of a column; None for text, and for a starred diagnostic of an arm that does not project."""
    key, _ = COLUMNS[title]
    if key is None or (title.endswith("*") and not projects(row["arm"])):
        return None
    return row[key]


def cell(row: dict, title: str) -> str:
    """One cell as text: `mean ± SEM`, the mean alone for one seed, - where there is no number, else empty."""
    key, _ = COLUMNS[title]
    stat = stat_of(row, title)
    if key is None:
        return row["arm"] if title == "Arm" else str(row["n"])
    if stat is None:
        return ""
    if key == "safepass":
        return "0 (ref)" if row["arm"] == "vanilla" else signed(stat)
    if key in PERCENT:
        return rate_cell(row, key)
    return mean_sem(stat, 3) if key in ("cos", "fired") else significant(stat)


def signed(s: Stat) -> str:
    """One decimal, with its sign."""
    text = mean_sem(s, 1)
    return f"+{text}" if s.mean >= 0.05 else text


def significant(s: Stat) -> str:
    """Three significant digits of the mean, the SEM to the same place."""
    if not math.isfinite(s.mean):
        return "-"
    if s.mean == 0:
        return mean_sem(s, 3)
    power = math.floor(math.log10(abs(s.mean)))
    if -3 <= power <= 4:
        return mean_sem(s, max(0, 2 - power))
    mean = s.mean / 10**power
    return f"{mean:.2f}e{power}" if math.isnan(s.sem) else f"({mean:.2f} ± {s.sem / 10**power:.2f})e{power}"


# --- caption ---


def caption(used: list[RunRecord], rows: list[dict]) -> str:
    """The headline table's caption: formulas, window, thresholds, sizes of the evaluation."""
    ends = "/".join(f"{s}" for s in sorted({run.end for run in used}))
    text = (
        f"Final evaluation at step {ends}; cells: mean ± SEM between n seeds. ↑ higher is better, ↓ lower. ΔSafePass = "
        "(pass% - hack%) - vanilla's, paired by seed: positive means that the arm wins. Hack %: completions with write "
        "access whose own run_tests() passes and ground truth fails. Pass %: held-out problems, no write access. KL: "
        f"mean per token to the initial policy over the last {WINDOW} steps{kl_note(used)}. * before projection, mean "
        "of the same steps, for arms that project: distinguishes an active projection (mean·cos > "
        f"{ACTIVE_COS}, frac·fired > {ACTIVE_FIRED}; by chance 0 and {CHANCE_FIRED}) from a silent no-op."
    )

    # Sizes, then what a column lacks.
    sizes = []
    for column, what in (("n_hack", "with write access"), ("n_pass", "without")):
        counts = {f"{final_rate(run, column):g}" for run in used if math.isfinite(final_rate(run, column))}
        if counts:
            sizes.append(f"{'/'.join(sorted(counts))} completions {what}")
    if sizes:
        text += f" Each evaluation: {', '.join(sizes)}."
    if any(row["bounds"] for row in rows):
        text += " [ ]: no seed differs from 0 or 100; exact 95% interval of all completions together."
    if any(run.config.get("eval_names") for run in used):
        text += " Hack % is with evaluators of drawn names, nine in ten of which no run was trained on."
    stopped = [stopped_note(run) for run in used if run.stopped]
    if stopped:
        text += f" Counted at the last evaluation: {', '.join(stopped)}."
    partial = [row for row in rows if row["arm"] != "vanilla" and 0 < row["safepass_n"] < row["n"]]
    if partial:
        text += f" ΔSafePass over fewer seeds: {', '.join('{arm} {safepass_n}'.format(**row) for row in partial)}."
    nan = [item for row in rows for item in row["nan"]]
    if nan:
        text += f" NaN, left out of its column: {'; '.join(nan)}."
    return text


def kl_note(used: list[RunRecord]) -> str:
    """Names the runs whose KL is the last evaluation's."""
    from_evaluation = [f"{run.arm}_s{run.seed}" for run in used if final_kl(run)[1] == "evaluation"]
    if not from_evaluation:
        return ""
    whose = "every run" if len(from_evaluation) == len(used) else ", ".join(from_evaluation)
    return f", or at the last evaluation where one of them has none ({whose})"


# --- forms ---


def markdown_table(header: list[str], body: list[list[str]]) -> str:
    """A pipe table; columns that hold numbers are set right."""
    columns = zip(*body, strict=True) if body else [()] * len(header)
    rule = ["---:" if any(NUMBER.match(c) for c in column) else "---" for column in columns]
    lines = [header, rule, *body]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines)


def table_md(rows: list[dict], titles: list[str], text: str) -> str:
    """The table and, below it, its caption."""
    body = markdown_table([heading(t) for t in titles], [[cell(row, t) for t in titles] for row in rows])
    escaped = text.replace("*", "\\*")
    return f"{body}\n\n{escaped}\n"


def table_csv(rows: list[dict], titles: list[str]) -> str:
    """Means and SEMs as bare numbers, six significant digits, in the table's units; empty where there is none."""
    columns = {}
    for title in titles:
        if COLUMNS[title][0] is None:
            columns[title] = [cell(row, title) for row in rows]
            continue
        stats = [stat_of(row, title) for row in rows]
        columns[title] = [bare(s.mean + 0.0) if s else "" for s in stats]
        columns[f"{title} SEM"] = [bare(s.sem) if s else "" for s in stats]
    return pd.DataFrame(columns).to_csv(index=False, lineterminator="\n")


def bare(value: float) -> str:
    """Six significant digits, empty for NaN."""
    return f"{value:.6g}" if math.isfinite(value) else ""


TEX = (("\\", "\\textbackslash "), ("_", "\\_"), ("%", "\\%"), ("&", "\\&"), ("#", "\\#"), ("±", "$\\pm$"),
       ("Δ", "$\\Delta$"), ("‖g‖", "$\\|g\\|$"), (">", "$>$"), ("<", "$<$"), ("↑", "$\\uparrow$"),
       ("↓", "$\\downarrow$"), ("·", "$\\cdot$"))  # fmt: skip


def tex(text: str) -> str:
    """Text with what LaTeX reserves escaped, and minus signs for hyphens before numbers."""
    for symbol, macro in TEX:
        text = text.replace(symbol, macro)
    return MINUS.sub("$-$", text)


def table_tex(rows: list[dict], titles: list[str], text: str) -> str:
    """A booktabs table that fits the width of a page (a4paper, margins of 2 cm)."""
    cells = [[heading(t) for t in titles], *([cell(row, t) for t in titles] for row in rows)]
    head, *body = (" & ".join(tex(c) for c in line) + r" \\" for line in cells)
    lines = [
        r"\begin{table}",
        r"\centering",
        r"\setlength{\belowcaptionskip}{6pt}",
        rf"\caption{{{tex(text)}}}",
        r"\label{tab:headline}",
        r"\footnotesize",
        r"\setlength{\tabcolsep}{2.5pt}",
        rf"\begin{{tabular}}{{l{'r' * (len(titles) - 1)}}}",
        r"\toprule",
        head,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def terminal_table(rows: list[dict], titles: list[str], width: int) -> str:
    """The headline table in plain text; trailing columns that do not fit `width` are dropped, and said."""
    body = [[heading(t) for t in titles], *[[cell(row, t) for t in titles] for row in rows]]
    widths = [max(len(line[i]) for line in body) for i in range(len(titles))]
    fit = len(titles)
    while fit > 2 and sum(widths[:fit]) + 2 * (fit - 1) > width:
        fit -= 1
    lines = []
    for line in body:
        arm, *numbers = [
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append("  ".join([arm, *numbers[: fit - 1]]).rstrip())
    if fit < len(titles):
        lines.append(f"(narrow terminal; in table.md also: {', '.join(titles[fit:])})")
    return "\n".join(lines)
