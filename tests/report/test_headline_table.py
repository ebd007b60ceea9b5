"""The headline table to the digit, in all its forms."""

from __future__ import annotations

import csv

import pytest
from report_helpers import VANILLA, rows_of
from synthetic_runs import make_arm, make_run

import plot_pareto
from lib.errors import ReportError
from report import tables
from report.numbers import select
from report.runs import load_runs


def test_table_to_the_digit(tmp_path):
    make_arm(tmp_path, "vanilla", VANILLA, kl=0.0123, cos=0.031, fired=0.58, gnorm=0.02)
    make_arm(tmp_path, "projected", [(0.30, 0.48), (0.34, 0.50), (0.32, 0.47)], kl=3.21e-5, cos=0.25, gnorm=1.5)
    plot_pareto.report(plot_pareto.ReportConfig(runs=(str(tmp_path),)))
    out = tmp_path / "tiny" / "report"
    lines = (out / "table.md").read_text().splitlines()
    titles = ["Arm", "n", "ΔSafePass↑", "Hack %↓", "Pass %↑", "KL↓", "mean·cos*", "frac·fired*", "‖g‖*"]
    assert lines[0] == f"| {' | '.join(titles)} |"
    # pass - hack in pp: vanilla -30, -30, -36; projected 18, 16, 15; differences 48, 46, 51.
    assert lines[2] == "| vanilla | 3 | 0 (ref) | 82.0 ± 1.2 | 50.0 ± 1.2 | 0.0123 ± 0.0000 |  |  |  |"
    assert lines[3] == (
        "| projected | 3 | +48.3 ± 1.5 | 32.0 ± 1.2 | 48.3 ± 0.9 | (3.21 ± 0.00)e-5 | 0.250 ± 0.000 | 0.600 ± 0.000 "
        "| 1.50 ± 0.00 |"
    )
    table = list(csv.DictReader((out / "table.csv").open(encoding="utf-8")))
    assert table[1]["Hack %"] == "32" and table[1]["Hack % SEM"] == "1.1547" and table[1]["ΔSafePass"] == "48.3333"
    assert table[0]["mean·cos*"] == "" and table[1]["mean·cos*"] == "0.25"
    tex = (out / "table.tex").read_text()
    assert "82.0 $\\pm$ 1.2" in tex and "$\\Delta$SafePass$\\uparrow$" in tex and "$\\|g\\|$*" in tex


def test_a_rate_that_no_seed_differs_from_has_an_exact_interval_and_no_sem_of_zero(tmp_path):
    make_arm(tmp_path, "vanilla", VANILLA)
    make_arm(tmp_path, "projected", [(0.0, 0.50), (0.0, 0.50), (0.0, 0.50)])
    used, _ = select(load_runs([tmp_path]))
    rows = tables.arm_rows(used)
    # 0 of 3 x 512: 1 - 0.025^(1/1536) = 0.240%
    assert [tables.cell(row, "Hack %") for row in rows] == ["82.0 ± 1.2", "0.0 [0.0, 0.2]"]
    assert tables.cell(rows[1], "Pass %") == "50.0 ± 0.0" and "exact 95% interval" in tables.caption(used, rows)


def test_the_caption_holds_formula_thresholds_and_chance(tmp_path):
    make_arm(tmp_path, "vanilla", VANILLA)
    used, _ = select(load_runs([tmp_path]))
    text = tables.caption(used, tables.arm_rows(used))
    assert "ΔSafePass = (pass% - hack%) - vanilla's" in text
    assert "mean·cos > 0.2, frac·fired > 0.4; by chance 0 and 0.5" in text


def test_starred_diagnostics_are_for_arms_that_project(tmp_path):
    for arm in ("vanilla", "rebound", "projected-nomag", "random-v", "no-loophole"):
        make_run(tmp_path, arm, 0, 0.5, 0.5)
    shown = {arm: tables.cell(row, "frac·fired*") != "" for arm, row in rows_of(tmp_path).items()}
    assert shown == {
        "vanilla": False,
        "projected-nomag": True,
        "rebound": False,
        "random-v": True,
        "no-loophole": False,
    }


def test_a_stopped_run_is_named_in_the_caption(tmp_path):
    path = make_run(tmp_path, "vanilla", 0, 0.8, 0.5, complete=False)
    (path / "tripwire-pass-collapse-200.json").write_text("{}")
    used, _ = select(load_runs([tmp_path]))
    assert "vanilla_s0 (stopped by tripwire pass-collapse at step 200)" in tables.caption(used, tables.arm_rows(used))


def test_trailing_columns_drop():
    assert tables.kept_columns(5) == ["Arm", "n", "ΔSafePass", "Hack %", "Pass %"]
    assert tables.kept_columns(drop=("gnorm", "KL↓"))[-2:] == ["mean·cos*", "frac·fired*"]
    with pytest.raises(ReportError, match="--drop nope"):
        tables.kept_columns(drop=("nope",))


def test_terminal_table_fits(tmp_path):
    make_arm(tmp_path, "vanilla", VANILLA)
    shown = tables.terminal_table(list(rows_of(tmp_path).values()), list(tables.COLUMNS), 60)
    assert max(map(len, shown.splitlines()[:2])) <= 60 and "in table.md also" in shown


def test_latex_has_minus_signs_and_hyphens_where_they_belong():
    assert tables.tex("projected-far -0.1 ± 0.7, 3.2e-5") == r"projected-far $-$0.1 $\pm$ 0.7, 3.2e-5"
