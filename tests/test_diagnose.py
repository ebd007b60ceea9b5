"""Diagnosis of branch points: each run, then several together; the table over points."""

import json
import math
import shutil

import pytest
import torch

from ladder.diagnosis import random_cosines
from ladder.gradients import cosines
from report.diagnoses import combined, combined_md

AT_STEP_3 = "from record import takeoff; takeoff.RULES['takeoff'] = lambda attempt, hack: True"
FEW_PAIRS = """
whole = extract_vhack_grad.pair_differences
extract_vhack_grad.pair_differences = lambda m, t, a, pairs, *rest: whole(m, t, a, pairs[:4], *rest)"""
# Every third rollout counts as a hack: the base model makes too few.
THIRDS = """
import dataclasses
real = diagnose_vhack.sampled
def thirds(run, prompts, n, key):
    *rows, grades = real(run, prompts, n, key)
    return *rows, [dataclasses.replace(g, own_pass=j % 3 == 0, gt_pass=False) for j, g in enumerate(grades)]
diagnose_vhack.sampled = thirds"""


def row(direction: str, auroc: float, part: str = "all", share: float = 0.02) -> dict:
    return {"part": part, "modules": 4, "direction": direction, "auroc": auroc, "random_lo": 0.4, "random_hi": 0.6,
            "share": share, "chance": 0.01}  # fmt: skip


def test_points_are_taken_together_direction_by_direction():
    points = [[row("pairs", 0.5), row("self", 0.7)], [row("pairs", 0.7)], [row("pairs", 0.9, share=math.nan)]]
    pairs, self_v = combined(points)
    assert (pairs["n"], pairs["above"], self_v["n"], self_v["above"]) == (3, 2, 1, 1)
    assert pairs["auroc"] == pytest.approx(0.7) and pairs["share_of_chance"] == pytest.approx(2)
    # By hand: sd 0.2, t(0.975, 2) = 4.303.
    assert pairs["high"] - pairs["auroc"] == pytest.approx(4.3027 * 0.2 / math.sqrt(3), rel=1e-4)
    assert math.isnan(self_v["low"])
    assert "| all | pairs | 3 | 0.700 |" in combined_md([pairs, self_v], ["a", "b", "c"], "takeoff")


def test_cosines_with_random_directions_are_cosines():
    g = {"a": torch.randn(7, 5)}
    got = random_cosines(g, 3)["a"]
    v = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    want = torch.stack([cosines(g, {"a": one})["a"] for one in v])
    torch.testing.assert_close(got, want)


def test_several_runs_are_diagnosed_and_shown_together(organism_flags, trainer, tmp_path):
    small = [*organism_flags[:4], "--artifacts", tmp_path]
    assert trainer(*small, script="extract_vhack_grad", plant=FEW_PAIRS).status == 0
    first, second = tmp_path / "vanilla_s0", tmp_path / "vanilla_s1"
    flags = [*organism_flags, "--artifacts", tmp_path, "--schedule", "constant", "--eval-every", 99]
    done = trainer(*flags, "--stop-after", "takeoff+0", "--out", first, plant=AT_STEP_3)
    assert done.status == 0, done.err
    shutil.copytree(first, second)
    done = trainer(first, second, "--rollouts", 24, "--random", 20, script="diagnose_vhack", plant=THIRDS)
    assert done.status == 0, done.err
    found = [json.loads((run / "diagnose_takeoff/diagnose.json").read_text()) for run in (first, second)]
    assert [(f["step"], f["hacks"], f["rollouts"]) for f in found] == [(3, 8, 24)] * 2
    assert found[0]["rows"] == found[1]["rows"], "the same run and seed"
    table = (tmp_path / "diagnose_takeoff/diagnose.md").read_text()
    assert "| all | pairs | 2 |" in table and (tmp_path / "diagnose_takeoff/diagnose.png").exists()

    # What is diagnosed is read; a run of other problems is refused.
    config = json.loads((second / "config.json").read_text())
    (second / "config.json").write_text(json.dumps(config | {"problems_sha256": "0"}))
    assert trainer(first, second, script="diagnose_vhack").status == 0
    for run in (first, second):
        shutil.rmtree(run / "diagnose_takeoff")
    refused = trainer(first, second, "--rollouts", 24, "--random", 5, script="diagnose_vhack", plant=THIRDS)
    assert "other problems" in refused.sentence
