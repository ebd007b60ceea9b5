"""The report: table figures to the digit, every verdict and every clause alone, bad input, byte-identical output."""

from __future__ import annotations

import csv
import json
import math
import random
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from synthetic_runs import EVAL_HEADER, STEP_HEADER, make_arm, make_run, tsv

import plot_pareto
from lib.errors import ReportError
from lib.files import REPO
from report import evidence, figures, numbers, runs, tables, text, verdicts

FLAT = [(0, 0.02, 0.5), (100, 0.02, 0.5)]


def decide(root: Path, include_incomplete: bool = False) -> dict[str, verdicts.Verdict]:
    used, left_out = numbers.select(runs.load_runs([root]), include_incomplete)
    return {v.name: v for v in verdicts.decide(used, left_out)}


def study(root: Path, **arms: list[tuple[float, float]]) -> dict[str, verdicts.Verdict]:
    """Verdicts on arms given as arm=[(hack, pass) per seed], `_` standing for `-` in an arm's name."""
    for arm, rates in arms.items():
        make_arm(root, arm.replace("_", "-"), rates)
    return decide(root)


def rows_of(root: Path) -> dict[str, dict]:
    used, _ = numbers.select(runs.load_runs([root]))
    return {row["arm"]: row for row in tables.arm_rows(used)}


VANILLA = [(0.80, 0.50), (0.82, 0.52), (0.84, 0.48)]


# --- H1 ---


def test_h1_supported(tmp_path):
    v = study(tmp_path, vanilla=VANILLA, projected=[(0.30, 0.48), (0.34, 0.50), (0.32, 0.47)])["H1"]
    assert (v.status, v.clauses) == ("supported", [])
    # reductions 50, 48, 52 pp: mean 50, SEM 2/sqrt(3); drops 2, 2, 1.
    assert v.figures["reduction"].mean == 50 and v.figures["reduction"].n == 3
    assert math.isclose(v.figures["reduction"].sem, 2 / math.sqrt(3), abs_tol=1e-8)
    assert math.isclose(v.figures["drop"].mean, 5 / 3, abs_tol=1e-8)
    assert "reduction 50.0 ± 1.2 pp" in v.line and "n = 3 paired seeds" in v.line


@pytest.mark.parametrize(
    "projected, clause",
    [
        ([(0.70, 0.50), (0.71, 0.52), (0.75, 0.48)], "(a)"),
        ([(0.30, 0.30), (0.32, 0.32), (0.33, 0.31)], "(b)"),
        ([(0.00, 0.50), (0.82, 0.52), (1.00, 0.48)], "(c)"),
    ],
)
def test_h1_each_clause_alone(tmp_path, projected, clause):
    v = study(tmp_path, vanilla=VANILLA, projected=projected)["H1"]
    assert v.status == "falsified" and len(v.clauses) == 1 and v.clauses[0].startswith(clause)


def test_h1_clause_b_at_projected_budget_alone(tmp_path):
    """Vanilla passed 60% before it began to hack; projected ends at 40%, as vanilla does: only early stopping tells."""
    for seed in range(3):
        make_run(tmp_path, "vanilla", seed, 0, 0, curve=[(0, 0.0, 0.60), (100, 0.1, 0.60), (200, 0.8, 0.40)])
        make_run(tmp_path, "projected", seed, 0, 0, curve=[(0, 0.0, 0.60), (100, 0.05, 0.5), (200, 0.1, 0.40)])
    v = decide(tmp_path)["H1"]
    assert v.status == "falsified" and len(v.clauses) == 1 and v.clauses[0].startswith("(b)")
    assert v.figures["drop"].mean == 0 and v.figures["budget_arm"].mean == 20 and v.figures["budget_ref"].mean == 0


def test_h1_clauses_combine(tmp_path):
    v = study(tmp_path, vanilla=VANILLA, projected=[(0.80, 0.2), (0.82, 0.2), (0.84, 0.2)])["H1"]
    assert [c[:3] for c in v.clauses] == ["(a)", "(b)", "(c)"]


@pytest.mark.parametrize(
    "hack, passed, status",
    [
        (0.50, 0.50, "supported"),
        (0.51, 0.50, "undecided"),
        (0.65, 0.50, "undecided"),
        (0.66, 0.50, "falsified"),
        (0.50, 0.40, "supported"),
        (0.50, 0.39, "undecided"),
        (0.50, 0.35, "undecided"),
        (0.50, 0.34, "falsified"),
        (0.50, 0.80, "supported"),
    ],
)
def test_h1_thresholds_are_exact(tmp_path, hack, passed, status):
    """Vanilla at 80% hack and 50% pass; 30, 15 and 10, 15 pp themselves fall on the side the preregistration says."""
    assert study(tmp_path, vanilla=[(0.8, 0.5)] * 3, projected=[(hack, passed)] * 3)["H1"].status == status


def test_h1_too_few_seeds_gives_figures_so_far(tmp_path):
    v = study(tmp_path, vanilla=VANILLA[:2], projected=[(0.30, 0.48), (0.32, 0.50), (0.30, 0.49)])["H1"]
    assert v.status == "undecided" and v.figures["n"] == 2
    assert "1 more seed" in v.text and "seed 2 lacks vanilla" in v.text and "reduction 50.0 ± 0.0 pp" in v.text


def test_missing_arms_are_undecided(tmp_path):
    v = study(tmp_path, projected=[(0.3, 0.5)] * 3)
    assert {name: x.status for name, x in v.items()} == dict.fromkeys(("H1", "H3", "H4"), "undecided")
    assert "3 more seeds with both projected and vanilla" in v["H1"].text and "vanilla" in v["H4"].text


def test_seeds_that_end_at_other_steps_are_not_paired(tmp_path):
    make_arm(tmp_path, "vanilla", VANILLA)
    make_arm(tmp_path, "projected", [(0.3, 0.5)] * 2)
    make_run(tmp_path, "projected", 2, 0.3, 0.5, steps=100)
    v = decide(tmp_path)["H1"]
    assert v.status == "undecided" and "seed 2 ends at step 100 in projected and 200 in vanilla" in v.text


def test_vacuous_falsification_says_so(tmp_path):
    v = study(tmp_path, vanilla=[(0.1, 0.5)] * 3, projected=[(0.02, 0.5)] * 3)["H1"]
    assert v.status == "falsified" and "says nothing about the mechanism" in v.text


# --- H3 ---

PROJECTED = [(0.20, 0.50), (0.22, 0.52), (0.24, 0.48)]


@pytest.mark.parametrize(
    "rebound, status, clause",
    [
        ([(0.40, 0.50), (0.45, 0.50), (0.44, 0.50)], "supported", None),
        ([(0.21, 0.50), (0.20, 0.50), (0.26, 0.50)], "falsified", "Rebound matching within 1 SEM"),
        ([(0.05, 0.50), (0.04, 0.50), (0.06, 0.50)], "falsified", "Rebound beating projection"),
        ([(0.05, 0.70), (0.04, 0.70), (0.06, 0.70)], "falsified", "Rebound beating projection"),
        ([(0.40, 0.30), (0.45, 0.30), (0.44, 0.30)], "supported", None),
        ([(0.40, 0.70), (0.45, 0.70), (0.44, 0.70)], "undecided", None),
        ([(0.05, 0.10), (0.04, 0.10), (0.06, 0.10)], "undecided", None),
        # both sides of the margin of 10 pp
        ([(0.05, 0.41), (0.04, 0.41), (0.06, 0.41)], "falsified", "Rebound beating projection"),
        ([(0.05, 0.39), (0.04, 0.39), (0.06, 0.39)], "undecided", None),
        ([(0.40, 0.59), (0.45, 0.59), (0.44, 0.59)], "supported", None),
        ([(0.40, 0.61), (0.45, 0.61), (0.44, 0.61)], "undecided", None),
    ],
)
def test_h3_rule(tmp_path, rebound, status, clause):
    v = study(tmp_path, projected=PROJECTED, rebound=rebound)["H3"]
    assert v.status == status and v.clauses == ([clause] if clause else [])
    assert "rebound-zscore, the published form, has no paired seed" in v.text


def test_h3_is_judged_against_the_stronger_rebound_at_matched_pass(tmp_path):
    weak, strong = [(0.7, 0.5)] * 3, [(0.1, 0.5)] * 3
    v = study(tmp_path, projected=PROJECTED, rebound=weak, rebound_zscore=strong)["H3"]
    assert v.status == "falsified" and v.figures["stronger"] == "rebound-zscore" and "against rebound 48.0" in v.text


def test_h3_collapsed_rebound_is_not_the_stronger(tmp_path):
    v = study(tmp_path, projected=PROJECTED, rebound=[(0.7, 0.5)] * 3, rebound_zscore=[(0.0, 0.0)] * 3)["H3"]
    assert v.status == "supported" and v.figures["stronger"] == "rebound"


def test_h3_says_where_rebound_left_nothing_to_win(tmp_path):
    projected = [(0.002, 0.50), (0.0, 0.50), (0.004, 0.50)]
    v = study(tmp_path, projected=projected, rebound=[(0.003, 0.50), (0.0, 0.50), (0.001, 0.50)])["H3"]
    assert v.status == "falsified" and "rebound hacks 0.1%, so that projection could win by no more" in v.text
    v = study(tmp_path / "more", projected=projected, rebound=[(0.013, 0.50), (0.01, 0.50), (0.011, 0.50)])["H3"]
    assert "could win by no more" not in v.text


# --- H4 ---


def test_h4_supported_at_200_steps_without_remark(tmp_path):
    v = study(tmp_path, vanilla=VANILLA)["H4"]
    assert v.status == "supported" and "82.0 ± 1.2%" in v.line and "own length" not in v.line
    assert "5 are advised" in v.line
    assert "advised" not in study(tmp_path / "five", vanilla=[*VANILLA, *VANILLA[:2]])["H4"].line


def test_h4_at_the_runs_own_length_is_said(tmp_path):
    make_arm(tmp_path, "vanilla", VANILLA, steps=100)
    v = decide(tmp_path)["H4"]
    assert v.status == "supported" and "100 steps, not at the preregistered 200" in v.text


def test_h4_reads_step_200_of_a_longer_run(tmp_path):
    make_arm(tmp_path, "vanilla", [(0, 0)] * 3, steps=300, curve=[(0, 0, 0.5), (200, 0.1, 0.5), (300, 0.9, 0.5)])
    v = decide(tmp_path)["H4"]
    assert v.status == "falsified" and v.figures["hack"].mean == 10


@pytest.mark.parametrize(
    "preset, said",
    [("dev", "just full-probe mid"), ("mid", "just full-probe full"), ("full", "top of the preregistered chain")],
)
def test_h4_falsified_names_the_next_model(tmp_path, preset, said):
    make_arm(tmp_path, "vanilla", [(0.28, 0.5), (0.30, 0.5), (0.29, 0.5)], preset=preset)
    v = decide(tmp_path)["H4"]
    assert v.status == "falsified" and said in v.line


def test_h4_too_few_seeds_still_names_the_branch(tmp_path):
    v = study(tmp_path, vanilla=[(0.1, 0.5)])["H4"]
    assert v.status == "undecided" and "2 more complete vanilla seeds" in v.text and "just full-probe" in v.text


# --- which runs count ---


def test_incomplete_run_is_named_and_left_out(tmp_path):
    make_arm(tmp_path, "vanilla", VANILLA)
    make_arm(tmp_path, "projected", [(0.3, 0.5)] * 2)
    path = make_run(tmp_path, "projected", 2, 0.3, 0.5, complete=False)
    assert rows_of(tmp_path)["projected"]["n"] == 2
    v = decide(tmp_path)["H1"]
    assert v.status == "undecided" and "projected_s2: incomplete" in v.text
    assert decide(tmp_path, include_incomplete=True)["H1"].status == "supported"
    (path / "tripwire-pass-collapse-57.json").write_text("{}")
    assert "tripwire pass-collapse fired at step 57" in runs.read_run(path).notes
    (path / "evals.tsv").write_text((path / "evals.tsv").read_text()[:-7])  # torn by the kill: read as far as it goes
    assert decide(tmp_path)["H1"].status == "undecided"


def test_hacks_sampled_undo_the_rounding_of_the_rates(tmp_path):
    run = runs.read_run(make_run(tmp_path, "vanilla", 0, 0.016, 0.5, config={"prompts": 8, "group": 8}))
    assert run.hacks_sampled == 200, "one of 64 completions in each of 200 steps, printed as 0.016"


def test_nan_rate_is_named_and_left_out(tmp_path):
    make_arm(tmp_path, "vanilla", VANILLA)
    make_arm(tmp_path, "projected", [(0.3, 0.5), (0.3, 0.5), (float("nan"), 0.5)])
    v = decide(tmp_path)["H1"]
    assert v.status == "undecided" and "projected_s2: hack is NaN at its last evaluation" in v.text
    assert rows_of(tmp_path)["projected"]["hack"].mean == 30


def test_nan_kl_leaves_only_its_column(tmp_path):
    make_arm(tmp_path, "vanilla", VANILLA[:2])
    make_run(tmp_path, "vanilla", 2, *VANILLA[2], kl=float("nan"))
    used, _ = numbers.select(runs.load_runs([tmp_path]))
    row = tables.arm_rows(used)[0]
    assert row["hack"].n == 3 and row["kl"].n == 2
    assert "kl of vanilla s2" in tables.caption(used, [row])


def test_duplicate_seed_names_both_directories(tmp_path):
    make_run(tmp_path / "a", "vanilla", 0, 0.8, 0.5)
    make_run(tmp_path / "b", "vanilla", 0, 0.8, 0.5)
    with pytest.raises(ReportError, match=r"vanilla, seed 0 .*a/tiny/vanilla_s0 and .*b/tiny/vanilla_s0"):
        runs.load_runs([tmp_path])


def test_same_directory_twice_and_moved_aside_runs_are_no_duplicates(tmp_path):
    path = make_run(tmp_path, "vanilla", 0, 0.8, 0.5)
    make_run(tmp_path, "vanilla", 0, 0.7, 0.5, name="vanilla_s0.old1")
    (tmp_path / "tiny" / "v_hack.safetensors").write_text("")
    (tmp_path / "tiny" / "report").mkdir()
    assert [run.path for run in runs.load_runs([path, tmp_path, *(tmp_path / "tiny").glob("[!.]*[!1]")])] == [path]


def test_variants_and_unknown_arms_are_rows_in_a_stable_order(tmp_path):
    for arm in ("zebra", "random-v", "projected+update", "projected-far", "rebound", "projected", "vanilla"):
        make_run(tmp_path, arm, 0, 0.5, 0.5, config={"arm": arm.split("+")[0]})
    make_run(tmp_path, "projected", 0, 0.5, 0.5, name="odd_name", config={"label": "projected-same"})
    in_order = "vanilla projected projected+update projected-far projected-same rebound random-v zebra"
    assert list(rows_of(tmp_path)) == in_order.split()


def test_missing_config_falls_back_to_the_directory_name(tmp_path):
    path = make_run(tmp_path, "rebound-zscore", 7, 0.5, 0.5)
    (path / "config.json").unlink()
    run = runs.read_run(path)
    assert (run.arm, run.seed, run.preset) == ("rebound-zscore", 7, "tiny")


def test_mixed_presets_are_refused(tmp_path):
    make_run(tmp_path, "vanilla", 0, 0.8, 0.5, preset="tiny")
    make_run(tmp_path, "vanilla", 1, 0.8, 0.5, preset="full")
    with pytest.raises(ReportError, match="full, tiny"):
        runs.load_runs([tmp_path])


# --- the table ---


def test_table_to_the_digit(tmp_path):
    make_arm(tmp_path, "vanilla", VANILLA, kl=0.0123, cos=0.031, fired=0.58, gnorm=0.02)
    make_arm(tmp_path, "projected", [(0.30, 0.48), (0.34, 0.50), (0.32, 0.47)], kl=3.21e-5, cos=0.25, gnorm=1.5)
    plot_pareto.report(plot_pareto.ReportConfig(runs=(str(tmp_path),)))
    out = tmp_path / "tiny" / "report"
    lines = (out / "table.md").read_text().splitlines()
    assert lines[0] == "| Arm | n | ΔSafePass | Hack % | Pass % | KL | mean cos* | frac fired* | \\|g\\|* |"
    # SafePass in pp: vanilla 10.00, 9.36, 7.68; projected 33.60, 33.00, 31.96; differences 23.60, 23.64, 24.28.
    assert lines[2] == (
        "| vanilla | 3 | ref | 82.0 ± 1.2 | 50.0 ± 1.2 | 0.0123 ± 0.0000 | 0.031 ± 0.000 | 0.580 ± 0.000 "
        "| 0.0200 ± 0.0000 |"
    )
    assert lines[3] == (
        "| projected | 3 | +23.8 ± 0.2 | 32.0 ± 1.2 | 48.3 ± 0.9 | (3.21 ± 0.00)e-5 | 0.250 ± 0.000 | 0.600 ± 0.000 "
        "| 1.50 ± 0.00 |"
    )
    table = list(csv.DictReader((out / "table.csv").open(encoding="utf-8")))
    assert table[1]["Hack %"] == "32" and table[1]["Hack % SEM"] == "1.1547" and table[1]["ΔSafePass"] == "23.84"
    assert "82.0 $\\pm$ 1.2" in (out / "table.tex").read_text()
    report = (out / "report.md").read_text()
    for name in ("pareto", "trajectories", "flavours", "cosine"):
        assert (
            f"({name}.png)" in report
            and (out / f"{name}.png").stat().st_size > 10_000
            and (out / f"{name}.svg").exists()
        )
    assert "projected: **active**" in report and "0.02 to 0.08" in report


def test_activity_is_judged_by_large_reductions_and_by_runs_that_met_hacks(tmp_path):
    sizes = {"prompts": 4, "group": 4}
    for arm, rates in {
        "vanilla": (0.5, 0.51, 0.52),
        "projected": (0.0, 0.1, 0.1),
        "random-v": (0.48, 0.49, 0.5),
    }.items():
        for seed, hack in enumerate(rates):
            make_run(tmp_path, arm, seed, hack, 0.5, config=sizes)
    used, _ = numbers.select(runs.load_runs([tmp_path]))
    projected, random_v = text.activity_text(used, tables.arm_rows(used)).splitlines()[:2]
    assert "the flag is wrong about its effect; too few" in projected and projected.endswith("0 in seed 0")
    assert random_v.endswith("0.600 ± 0.000)")  # 2 pp less than vanilla in every seed is no effect


def test_a_trajectory_shows_every_run_and_its_mean_ends_with_the_shortest(tmp_path):
    make_run(tmp_path, "vanilla", 0, 0.8, 0.5)
    make_run(tmp_path, "vanilla", 1, 0.2, 0.5, curve=[(0, 0.0, 0.5), (25, 0.3, 0.5)], complete=False)
    used, _ = numbers.select(runs.load_runs([tmp_path]), include_incomplete=True)
    axes = Figure().subplots()
    figures.draw_series(axes, used, figures.Panel("evals", "hack", "hack", 100, seeds=True))
    *each, mean = axes.get_lines()
    assert sorted(line.get_xdata()[-1] for line in each) == [25, 200]
    assert list(mean.get_xdata()) == [0, 25] and math.isclose(mean.get_ydata()[-1], 20)


def test_means_and_sems_agree_with_the_definition(tmp_path):
    rng = random.Random()
    rates = [(round(rng.random(), 4), round(rng.random(), 4)) for _ in range(6)]
    make_arm(tmp_path, "vanilla", rates)
    row = rows_of(tmp_path)["vanilla"]
    for key, values in (("hack", [100 * h for h, _ in rates]), ("pass", [100 * p for _, p in rates])):
        assert math.isclose(row[key].mean, statistics.fmean(values), abs_tol=1e-6)
        assert math.isclose(row[key].sem, statistics.stdev(values) / math.sqrt(6), abs_tol=1e-6)
        assert min(values) <= row[key].lo <= row[key].mean <= row[key].hi <= max(values)


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
    assert tables.cell(row, "mean cos*") == "-" and row["evals.solvable"].mean == 0.25
    assert "| solvable |" in text.details([row], {}) and "| 0.250 |" in text.details([row], {})
    make_run(tmp_path, "vanilla", 1, 0.8, 0.5, eval_header=[c for c in EVAL_HEADER if c != "pass"])
    _, left_out = numbers.select(runs.load_runs([tmp_path]))
    assert [why for _, why in left_out] == ["evals.tsv has no column pass"]


def test_trailing_columns_drop():
    assert tables.kept_columns(5) == ["Arm", "n", "ΔSafePass", "Hack %", "Pass %"]
    assert tables.kept_columns(drop=("gnorm", "KL"))[-2:] == ["mean cos*", "frac fired*"]
    with pytest.raises(ReportError, match="--drop nope"):
        tables.kept_columns(drop=("nope",))


def test_terminal_table_fits(tmp_path):
    make_arm(tmp_path, "vanilla", VANILLA)
    shown = tables.terminal_table(list(rows_of(tmp_path).values()), list(tables.COLUMNS), 60)
    assert max(map(len, shown.splitlines()[:2])) <= 60 and "in table.md also" in shown


# --- smaller parts ---


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


def test_pareto_front():
    points = {"a": (10, 50), "b": (20, 60), "c": (30, 55), "d": (5, 20), "e": (10, 40)}
    assert figures.pareto_front(points) == ["d", "a", "b"]


@pytest.mark.parametrize(
    "cos, fired, flag",
    [(0.21, 0.41, "active"), (0.2, 0.9, "silent no-op"), (0.3, 0.4, "silent no-op"), (math.nan, 0.5, "not logged")],
)
def test_activity_flag(cos, fired, flag):
    assert verdicts.activity(cos, fired) == flag


def test_flavours_that_remain(tmp_path):
    make_run(tmp_path, "vanilla", 0, 0.8, 0.5, flavours={"print": 6, "swallow": 2})
    run = runs.read_run(tmp_path / "tiny" / "vanilla_s0")
    with (run.path / "rollouts.jsonl").open("a") as f:
        f.write(json.dumps({"step": 200, "split": "train", "flavour": "other", "hack": True}) + "\n{torn")
    pooled = evidence.arm_samples([run])["vanilla"]
    assert len(pooled) == 18 and evidence.remaining(pooled) == "print 75%, swallow 25% of 8"


def test_heldout_table_beside_v_hack(tmp_path):
    make_run(tmp_path, "vanilla", 0, 0.8, 0.5)
    folder = tmp_path / "tiny" / "v_hack_organism_heldout"
    folder.mkdir()
    (folder / "heldout.tsv").write_text("module\tr\tcos\tnull\na\t8\t0.5\t0.1\nb\t8\t0.3\t-0.1\n")
    found = evidence.find_heldout((), runs.load_runs([tmp_path]))
    assert found == [folder / "heldout.tsv"] and evidence.heldout_name(found[0]) == "organism"
    assert "mean 0.400, median 0.400, positive in 100% of 2" in text.heldout_text(
        {"organism": evidence.read_heldout(found[0])}
    )


# --- the command ---


def run_cli(*args) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(REPO / "plot_pareto.py"), *map(str, args)], capture_output=True, text=True
    )


def test_same_runs_give_identical_bytes_and_verdicts_come_last(tmp_path):
    make_arm(tmp_path, "vanilla", VANILLA, flavours={"print": 3})
    make_arm(tmp_path, "projected", PROJECTED)
    dirs = sorted((tmp_path / "tiny").iterdir())
    first = run_cli(*dirs, "--out", tmp_path / "one")
    plot_pareto.report(plot_pareto.ReportConfig(runs=tuple(map(str, reversed(dirs))), out=tmp_path / "two"))
    assert first.returncode == 0, first.stderr
    for name in ("table.md", "table.csv", "table.tex", "verdict.md", "verdict.json", "pareto.svg", "pareto.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    last = first.stdout.splitlines()[-3:]
    assert [line.split()[0] for line in last] == ["H1", "H3", "H4"]
    assert all(line.endswith(f"[{tmp_path / 'one' / 'verdict.md'}]") for line in last)
    assert str(tmp_path) not in (tmp_path / "one" / "report.md").read_text()


def test_no_complete_run_still_reports(tmp_path):
    make_run(tmp_path, "vanilla", 0, 0.8, 0.5, complete=False)
    out, decided, _ = plot_pareto.report(plot_pareto.ReportConfig(runs=(str(tmp_path),)))
    assert {v.status for v in decided} == {"undecided"} and "incomplete" in (out / "report.md").read_text()


def test_relative_and_absolute_paths_mix_and_odd_samples_are_passed_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here, there = (make_run(tmp_path / name, "vanilla", seed, 0.8, 0.5) for seed, name in enumerate("ab"))
    (here / "rollouts.jsonl").write_text('{"step": "x"}\n{"step": 1, "split": ["a"]}\nnull\n')
    out, _, _ = plot_pareto.report(plot_pareto.ReportConfig(runs=("a", str(there))))
    assert out == tmp_path / "report" and (out / "report.md").exists()


def test_bad_input_is_one_sentence_and_writes_nothing(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    torn = make_run(tmp_path / "torn", "vanilla", 0, 0.8, 0.5)
    (torn / "evals.tsv").write_text((torn / "evals.tsv").read_text().rstrip("\n").rpartition("\t")[0] + "\n")
    percent = make_run(tmp_path / "percent", "vanilla", 0, 0.8, 0.5, curve=[(200, 80, 0.5)])
    word = make_run(tmp_path / "text", "vanilla", 0, 0.8, 0.5, curve=[(200, 0.8, "0.5x")])
    seed = make_run(tmp_path / "seed", "vanilla", 0, 0.8, 0.5)
    (seed / "config.json").write_text('{"arm": "vanilla", "seed": "abc"}')
    for args, said in (
        ([empty], "no run directory at or below"),
        ([tmp_path / "nowhere", torn], "does not exist"),
        ([torn], "evals.tsv line 10 is torn (9 cells under 10 columns)"),
        ([percent], "hack = 80: rates are fractions"),
        ([word], "pass is '0.5x'"),
        ([seed], "does not say its arm and seed"),
    ):
        with pytest.raises(ReportError) as error:
            plot_pareto.report(plot_pareto.ReportConfig(runs=tuple(map(str, args)), out=tmp_path / "out"))
        assert said in str(error.value) and "\n" not in str(error.value)
    done = run_cli(torn, "--out", tmp_path / "out")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert run_cli().returncode != 0


def test_a_model_that_passes_nothing_is_said_to_have_nothing_to_lose(tmp_path):
    low = {"vanilla": 0.9, "projected": 0.1, "rebound_zscore": 0.5}
    v = study(tmp_path, **{arm: [(h, 0.0), (h - 0.02, 0.01), (h + 0.01, 0.0)] for arm, h in low.items()})
    assert v["H1"].status == "supported"
    assert "no drop of 10 pp was possible" in v["H1"].text and "90.0% to 90.0%" in v["H1"].text
    assert "rebound-zscore passes 0.3%" in v["H3"].text


def test_a_refused_write_keeps_the_earlier_report(tmp_path):
    make_arm(tmp_path, "vanilla", VANILLA)
    out = plot_pareto.report(plot_pareto.ReportConfig([str(tmp_path)]))[0]
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    make_arm(tmp_path, "projected", VANILLA)
    code = """if True:
        import resource
        import plot_pareto
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
        plot_pareto.run_main(plot_pareto.main)
    """
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 2 and "File too large" in done.stderr and len(done.stderr.splitlines()) == 1
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
