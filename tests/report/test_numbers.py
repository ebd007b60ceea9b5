"""A run's numbers: window, budget, KL, SafePass; means over seeds."""

from __future__ import annotations

import math
import random
import statistics

from report_helpers import VANILLA, rows_of
from synthetic_runs import EVAL_HEADER, STEP_HEADER, make_arm, make_run, tsv

from report import appendix, numbers, runs, tables

FLAT = [(0, 0.02, 0.5), (100, 0.02, 0.5)]


def test_nan_kl_leaves_only_its_column(tmp_path):
    make_arm(tmp_path, "vanilla", VANILLA[:2])
    make_run(tmp_path, "vanilla", 2, *VANILLA[2], kl=float("nan"))
    used, _ = numbers.select(runs.load_runs([tmp_path]))
    row = tables.arm_rows(used)[0]
    assert row["hack"].n == 3 and row["kl"].n == 2
    assert "kl of vanilla s2" in tables.caption(used, [row])


def test_means_and_sems_agree_with_the_definition(tmp_path):
    rng = random.Random()
    rates = [(round(rng.random(), 4), round(rng.random(), 4)) for _ in range(6)]
    make_arm(tmp_path, "vanilla", rates)
    row = rows_of(tmp_path)["vanilla"]
    for key, values in (("hack", [100 * h for h, _ in rates]), ("pass", [100 * p for _, p in rates])):
        assert math.isclose(row[key].mean, statistics.fmean(values), abs_tol=1e-6)
        assert math.isclose(row[key].sem, statistics.stdev(values) / math.sqrt(6), abs_tol=1e-6)
        assert math.isclose(row[key].hi - row[key].mean, 2.570581835636314 * row[key].sem, abs_tol=1e-6)


def test_window_is_the_last_25_steps_without_nan(tmp_path):
    path = make_run(tmp_path, "vanilla", 0, 0.8, 0.5)
    rows = [{"step": s, "kl": s, "cos": "nan" if s % 2 else s, "fired": 0.5} for s in range(100)]
    (path / "steps.tsv").write_text(tsv(STEP_HEADER, rows))
    row = numbers.run_numbers(runs.read_run(path))
    assert row["kl"] == statistics.fmean(range(75, 100)) and row["cos"] == statistics.fmean(range(76, 100, 2))


def test_kl_falls_back_to_the_last_evaluation(tmp_path):
    path = make_run(tmp_path, "vanilla", 0, 0.8, 0.5, kl=0.07, step_header=[c for c in STEP_HEADER if c != "kl"])
    assert numbers.run_numbers(runs.read_run(path))["kl"] == 0.07


def test_extra_and_missing_columns(tmp_path):
    path = make_run(tmp_path, "vanilla", 0, 0.8, 0.5, step_header=["step"])
    (path / "evals.tsv").write_text("step\tpass\thack\town\tsolvable\n200\t0.5\t0.8\t0.82\t0.25\n")
    row = rows_of(tmp_path)["vanilla"]
    assert row["hack"].mean == 80 and row["own"].mean == 82 and row["attempt"].n == 0
    assert tables.cell({**row, "arm": "projected"}, "mean·cos*") == "-" and row["evals.solvable"].mean == 0.25
    assert "| solvable |" in appendix.details([row], {}) and "| 0.250 |" in appendix.details([row], {})
    make_run(tmp_path, "vanilla", 1, 0.8, 0.5, eval_header=[c for c in EVAL_HEADER if c != "pass"])
    _, left_out = numbers.select(runs.load_runs([tmp_path]))
    assert [why for _, why in left_out] == ["evals.tsv has no column pass"]


def test_steps_to_half(tmp_path):
    curve = [(0, 0.0, 0.5), (25, 0.49, 0.5), (50, 0.5, 0.5), (75, 0.3, 0.5)]
    assert numbers.steps_to_half(runs.read_run(make_run(tmp_path, "vanilla", 0, 0, 0, curve=curve))) == 50
    assert math.isnan(numbers.steps_to_half(runs.read_run(make_run(tmp_path, "vanilla", 1, 0, 0, curve=FLAT))))


def test_pass_within_budget(tmp_path):
    curve = [(0, 0.1, 0.3), (25, 0.2, 0.4), (50, 0.6, 0.5), (75, 0.2, 0.45), (100, 0.9, 0.6)]
    run = runs.read_run(make_run(tmp_path, "vanilla", 0, 0, 0, curve=curve))
    assert numbers.pass_within_budget(run, 0.2) == (0.45, 75, True)
    assert numbers.pass_within_budget(run, 0.9) == (0.6, 100, True)
    assert numbers.pass_within_budget(run, 0.05) == (0.3, 0, False)


def test_kl_is_the_last_evaluations_where_a_training_row_of_the_window_has_none(tmp_path):
    path = make_run(tmp_path, "vanilla", 0, 0.8, 0.5, kl=0.07)
    kls = ["nan" if step == 190 else 0.01 for step in range(200)]
    (path / "steps.tsv").write_text(tsv(STEP_HEADER, [{"step": step, "kl": kl} for step, kl in enumerate(kls)]))
    assert numbers.final_kl(runs.read_run(path)) == (0.07, "evaluation")
    kls[190], kls[100] = 0.01, "nan"
    (path / "steps.tsv").write_text(tsv(STEP_HEADER, [{"step": step, "kl": kl} for step, kl in enumerate(kls)]))
    kl, where = numbers.final_kl(runs.read_run(path))
    assert math.isclose(kl, 0.01) and where == "training"


def test_safepass_is_pass_minus_hack_minus_vanillas(tmp_path):
    make_arm(tmp_path, "vanilla", [(0.8, 0.5), (0.6, 0.4)])
    make_arm(tmp_path, "projected", [(0.2, 0.45), (0.1, 0.5)])
    gain = rows_of(tmp_path)["projected"]["safepass"]
    # (45 - 20) - (50 - 80) = 55, (50 - 10) - (40 - 60) = 60
    assert gain.mean == 57.5 and math.isclose(gain.sem, 2.5)


def test_the_product_stands_beside_it_and_is_zero_for_a_run_that_does_neither(tmp_path):
    make_run(tmp_path, "projected", 0, 0.0, 0.0)
    make_run(tmp_path, "vanilla", 0, 0.5, 0.4)
    row = rows_of(tmp_path)["projected"]
    assert row["product"].mean == 0 and row["product_gain"].mean == -20 and row["safepass"].mean == 10
