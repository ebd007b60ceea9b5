"""The table of the column auroc: averages within a branch point, then over points."""

import pandas as pd
from synthetic_branches import make_branch, make_parent

from report.branch_runs import read_branches
from report.runs import find_run_dirs
from report.step_scores import scores_table


def table_of(folder) -> dict[str, list[str]]:
    lines = scores_table(read_branches(find_run_dirs([folder])).points).splitlines()
    return {cells[0]: cells[1:] for line in lines[2:] if (cells := [c.strip() for c in line.strip("|").split("|")])[1:]}


def add_column(branch, values: list[str]) -> None:
    table = pd.read_csv(branch / "steps.tsv", sep="\t", dtype=str)
    table["auroc"] = values
    table.to_csv(branch / "steps.tsv", sep="\t", index=False)


def test_first_and_last_steps_are_averaged_by_point(tmp_path):
    for seed, level in enumerate((0.8, 0.9, 1.0)):
        parent = make_parent(tmp_path, seed, {"takeoff": 24})
        for label in ("vanilla", "random-v", "random-v+draw1"):
            branch = make_branch(parent, label)
            first = level if label == "vanilla" else 0.4 if label == "random-v" else 0.6
            add_column(branch, [str(first)] * 4 + ["nan"] * 16 + ["0.5", "nan", "0.7", "nan", "nan"])
    found = table_of(tmp_path)
    # By hand: mean 0.9, sd 0.1, t(0.975, 2) = 4.303, half width 0.248; draws 0.4 and 0.6 count as 0.5.
    assert found["vanilla"] == ["0.90 [0.65, 1.15], n 3", "0.60, n 3"]
    assert found["random-v"] == ["0.50, n 3", "0.60, n 3"]


def test_runs_without_the_column_have_no_table(tmp_path):
    make_branch(make_parent(tmp_path, 0, {"takeoff": 24}), "vanilla")
    assert table_of(tmp_path) == {}
