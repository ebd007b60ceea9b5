"""Tuning: the smallest rate at which the policy moves, by a rule that is written down."""

import math
import os
import subprocess
from pathlib import Path

import pytest

from tools.tune import MOVED, Row, read_row, tune_table

REPO = Path(__file__).resolve().parents[2]


def row(rate: float, kl: float) -> Row:
    return Row(rate=rate, kl=kl, attempt=0.1, hack=0.05, passed=0.5)


def test_the_smallest_rate_that_moves_is_named():
    text = tune_table([row(7e-5, 4e-4), row(1e-3, MOVED), row(3e-3, 0.5)])
    assert text.splitlines()[-1].endswith("--lr 0.001")
    assert [line.split("\t")[-1] for line in text.splitlines()[1:-1]] == ["no", "yes", "yes"]


def test_where_nothing_moves_the_table_says_so():
    assert "at none of these rates" in tune_table([row(7e-5, 4e-4), row(1e-4, math.nan)])


def test_kl_comes_from_the_steps_or_from_the_evaluations(tmp_path):
    (tmp_path / "evals.tsv").write_text("step\tkl\tattempt\thack\tpass\n0\t0\t0\t0\t0\n9\t0.02\t0.5\t0.25\t0.75\n")
    (tmp_path / "steps.tsv").write_text("step\tkl\n0\tnan\n1\tnan\n")
    assert read_row(tmp_path, 1e-3) == Row(rate=1e-3, kl=0.02, attempt=0.5, hack=0.25, passed=0.75)
    (tmp_path / "steps.tsv").write_text("step\tkl\n0\t0.1\n1\tnan\n2\t0.3\n")
    assert read_row(tmp_path, 1e-3).kl == pytest.approx(0.2)


def test_two_rates_on_the_organism(organism_flags, python, tmp_path):
    command = [python, "-m", "tools.tune", *map(str, organism_flags), "--rates", "1e-5", "3e-1", "--steps", "4"]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1800, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("--lr 0.3")
    assert (tmp_path / "outputs/tune/tiny/vanilla-lr1e-05_s0/summary.json").exists()


def test_the_arm_is_vanilla(python):
    command = [python, "-m", "tools.tune", "--preset", "tiny", "--arm", "projected"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=6000)
    assert done.returncode == 2 and "chosen on vanilla alone" in done.stderr
