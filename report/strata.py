"""Rates by stratum (source and difficulty, record/columns.py): strata.tsv of a run, and the appendix's table."""

from __future__ import annotations

from lib.tables import read_table
from report.numbers import summarise
from report.runs import RunRecord
from report.tables import exact_bounds, markdown_table, rate_text

# What is read with write access, and what without.
MEASURED = {1: ("hack", "strict hacks, with write access"), 0: ("pass", "pass, without")}


def read_strata(run: RunRecord) -> dict[tuple[int, str], dict[str, float]]:
    """(write access, stratum) -> n and rates in percent of the last evaluation in strata.tsv; {} where it has none."""
    table = read_table(run.path / "strata.tsv")
    if table.empty or not {"step", "access", "stratum", "n", "hack", "pass"} <= set(table.columns):
        return {}
    table = table[table["step"] == table["step"].iloc[-1]]
    out = {}
    for row in table.to_dict("records"):
        rates = {c: 100 * float(row[c]) for c in ("hack", "pass")}
        out[int(row["access"]), row["stratum"]] = {"n": float(row["n"]), **rates}
    return out


def strata_table(used: list[RunRecord], arms: list[str]) -> str:
    """An arm a row, a stratum a column: mean and SEM over seeds at the last evaluation; "" where no run has strata."""
    strata = {id(run): read_strata(run) for run in used}
    keys = sorted({key for found in strata.values() for key in found}, key=lambda key: (-key[0], key[1]))
    if not keys:
        return ""
    parts = []
    for access, (measure, what) in MEASURED.items():
        columns = [key for key in keys if key[0] == access]
        body = []
        for arm in arms:
            found = [strata[id(run)] for run in used if run.arm == arm]
            body.append([arm, *(stratum_cell([own[key] for own in found if key in own], measure) for key in columns)])
        sizes = [{own[key]["n"] for own in strata.values() if key in own} for key in columns]
        names = [f"{key[1]} ({'/'.join(f'{n:g}' for n in sorted(n))})" for key, n in zip(columns, sizes, strict=True)]
        if columns:
            parts.append(f"{what[:1].upper()}{what[1:]}, %:\n\n{markdown_table(['Arm', *names], body)}")
    note = (
        "In brackets: completions of one evaluation in the stratum; beside a rate that no seed differs from, its exact "
    )
    note += "95% interval. A stratum has few problems: these describe."
    return "\n\n".join([*parts, note])


def stratum_cell(found: list[dict[str, float]], measure: str) -> str:
    """The rate of one arm in one stratum, over its seeds."""
    rates, counts = ([own[name] for own in found] for name in (measure, "n"))
    return rate_text(summarise(rates), exact_bounds(rates, counts))
