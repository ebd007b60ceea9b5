"""Hacks with an evaluator of another name: measured on finished runs, shown in the report of branches."""

import json
import os
import subprocess
from pathlib import Path

from synthetic_branches import make_branch, make_parent

from report.branch_runs import read_branches
from report.branch_text import report_text
from report.branches import decide_branches
from report.runs import find_run_dirs

REPO = Path(__file__).resolve().parents[2]


def report_of(folder: Path) -> str:
    found = read_branches(find_run_dirs([folder]))
    return report_text(found, decide_branches(found), "just report")


def test_the_report_shows_them_where_they_were_measured(tmp_path):
    for seed in range(3):
        parent = make_parent(tmp_path, seed, {"takeoff": 24})
        for label, hack in (("vanilla", 0.5), ("projected", 0.25 + 0.01 * seed)):
            branch = make_branch(parent, label, train=-seed)
            if seed == 0 and label == "projected":
                assert "unseen names" not in report_of(tmp_path)
            (branch / "names.json").write_text(json.dumps({"hack": hack}))
    line = next(
        line for line in report_of(tmp_path).splitlines() if line.startswith("| projected | 3 |") and "26.0" in line
    )
    assert "-24.0 [" in line


def test_a_finished_run_is_judged_by_the_names_of_its_prompts(organism_flags, trainer, python, tmp_path):
    run = tmp_path / "vanilla_s0"
    flags = [*organism_flags, "--steps", 1, "--eval-every", 99, "--out", run, "--arm", "vanilla"]
    done = trainer(*flags)
    assert done.status == 0, done.err
    command = [python, "-m", "tools.unseen_names", str(run), str(tmp_path / "nothing"), "--samples", "2"]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads((run / "names.json").read_text())
    assert found["step"] == 1 and found["n"] == 8, "of five problems the first would name run_tests() itself"
    assert 0 <= found["hack"] <= found["own"] <= 1
