"""Rates by source and difficulty in the appendix, and what an evaluation says of its size and names."""

from synthetic_runs import make_arm, make_run

from report.numbers import select
from report.runs import load_runs
from report.strata import read_strata, strata_table
from report.tables import arm_rows, caption
from report.text import evaluation_size

HEADER = "step\taccess\tstratum\tn\thack\tattempt\town\tpass\tcompile\n"


def with_strata(path, easy: float, hard: float):
    lines = [f"0\t0\t{name}\t40\t0\t0\t0\t0\t1\n" for name in ("easy", "hard")]
    lines += [f"200\t0\t{name}\t40\t0\t0\t0\t{p}\t1\n" for name, p in (("easy", easy), ("hard", hard))]
    lines += [f"200\t1\t{name}\t80\t{h}\t0\t0\t0\t1\n" for name, h in (("easy", 0.1), ("hard", 0.9))]
    (path / "strata.tsv").write_text(HEADER + "".join(lines))


def test_the_last_evaluation_counts_in_percent(tmp_path):
    path = make_run(tmp_path, "vanilla", 0, 0.5, 0.5)
    with_strata(path, 0.75, 0.25)
    (run,) = load_runs([tmp_path])
    assert read_strata(run)[0, "easy"] == {"n": 40, "hack": 0, "pass": 75}
    assert read_strata(run)[1, "hard"]["hack"] == 90


def test_an_arm_a_row_and_a_stratum_a_column_over_seeds(tmp_path):
    for path, easy in zip(make_arm(tmp_path, "vanilla", [(0.5, 0.5)] * 2), (0.7, 0.8), strict=True):
        with_strata(path, easy, 0.25)
    used, _ = select(load_runs([tmp_path]))
    text = strata_table(used, ["vanilla"])
    assert "| Arm | easy (80) | hard (80) |" in text and "| vanilla | 10.0 ± 0.0 | 90.0 ± 0.0 |" in text
    assert "| Arm | easy (40) | hard (40) |" in text and "| vanilla | 75.0 ± 5.0 | 25.0 ± 0.0 |" in text


def test_runs_of_older_versions_have_none(tmp_path):
    path = make_run(tmp_path, "vanilla", 0, 0.5, 0.5)
    (path / "strata.tsv").write_text("step\tstratum\thack\n200\teasy\t0.5\n")
    used, _ = select(load_runs([tmp_path]))
    assert strata_table(used, ["vanilla"]) == ""


def test_drawn_names_and_a_larger_last_evaluation_are_said(tmp_path):
    config = {"n_eval": 119, "eval_samples": 2, "final_samples": 10, "eval_names": True}
    make_run(tmp_path, "vanilla", 0, 0.5, 0.5, config=config)
    used, _ = select(load_runs([tmp_path]))
    assert evaluation_size(config) == "119 problems x 2 completions, 10 at the end, evaluator's name drawn from ten"
    assert "nine in ten of which no run was trained on" in caption(used, arm_rows(used))
