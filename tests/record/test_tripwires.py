"""Tripwires: runs that go wrong stop by name, keep a checkpoint from before, and leave the batch; others do not."""

import csv
import json
import math
from pathlib import Path

import pytest

from lib.archives import unpacked
from lib.files import REPO
from lib.tensors import load_tensors
from record.tripwires import Watch

STUDY = REPO / "docs/results/organism/runs.tar.xz"
BLOWN_UP = ["--lr", 30, "--arm", "vanilla"]
POISON = """
import torch
real, calls = train.backward, []
def poisoned(run, batch):
    out = real(run, batch)
    calls.append(1)
    if len(calls) == 2:
        next(iter(run.adapter.delta().values())).grad[0] = float("nan")
    return out
train.backward = poisoned"""


def table(path: Path) -> list[dict]:
    return [{k: float(v) for k, v in row.items() if k != "eta"} for row in csv.DictReader(path.open(), delimiter="\t")]


def evidence(run: Path) -> tuple[dict, list[dict]]:
    """(JSON, batch) of the one tripwire that a run left."""
    (batch,) = run.glob("tripwire-*.jsonl")
    return json.loads(batch.with_suffix(".json").read_text()), [json.loads(line) for line in batch.open()]


def test_the_defaults_stop_no_run_of_the_study():
    runs = sorted(unpacked(STUDY).glob("*/steps.tsv"))
    assert len(runs) == 60
    for path in runs:
        watch, evals = Watch(5.0, {}), {row["step"]: row for row in table(path.with_name("evals.tsv"))}
        for row in [*table(path), {"step": 100}]:
            if row["step"] in evals:
                assert watch.evaluation(evals[row["step"]]) is None, path
            if len(row) > 1:
                assert watch.step(row if not math.isnan(row["loss"]) else row | {"loss": 0.0}, {}) is None, path
            assert not watch.doubtful, path


def test_a_model_that_passes_nothing_cannot_collapse():
    watch = Watch(5.0, {})
    for step in (0, 25, 50):
        assert watch.evaluation({"step": step, "pass": 0.02 if step == 0 else 0.0, "compile": 0.9, "kl": 0.0}) is None


def test_outliers_of_kl_do_not_stop_a_run_and_memory_survives_json():
    watch = Watch(5.0, {})
    for step, kl in enumerate([9.0, 9.0, 0.1, 9.0, math.nan, 9.0]):
        assert watch.step({"step": step, "compile": 0.9, "kl": kl}, {}) is None
    watch = Watch(5.0, json.loads(json.dumps(watch.seen)))
    assert watch.doubtful and watch.step({"step": 6, "compile": 0.9, "kl": 9.0}, {}).name == "kl-blow-up"


def test_compile_collapse_stops_a_run_with_its_evidence(organism_flags, trainer, tmp_path):
    run = tmp_path / "run"
    words = [*organism_flags, *BLOWN_UP, "--eval-every", 100, "--checkpoint-every", 1, "--out", run]
    line = trainer(*words).sentence
    found, batch = evidence(run)
    step, kept = int(found["row"]["step"]), json.loads((run / "checkpoint.json").read_text())["step"]
    assert f"tripwire compile-collapse at step {step}: of the last 10 steps' completions" in line
    assert f"the checkpoint is of step {kept}, before it" in line and f"run/tripwire-compile-collapse-{step}" in line
    rows = table(run / "steps.tsv")
    assert kept < step == rows[-1]["step"] and all(row["compile"] > 0.2 for row in rows[:kept])
    assert len(batch) == 8 and {"problem", "completion", "reward", "advantage", "compiles"} <= batch[0].keys()
    assert not (run / "summary.json").exists()
    assert trainer(*words).sentence == line, "the same command resumes, and ends the same way"


def test_pass_collapse_keeps_a_checkpoint_from_before_it(organism_flags, trainer, tmp_path):
    run = tmp_path / "run"
    often = ["--n-eval", 12, "--eval-samples", 6, "--eval-every", 2, "--checkpoint-every", 1]
    line = trainer(*organism_flags, *BLOWN_UP, *often, "--max-kl", 1e9, "--out", run).sentence
    assert "tripwire pass-collapse at step" in line and "in the last 2 evaluations" in line
    evals, kept = table(run / "evals.tsv"), json.loads((run / "checkpoint.json").read_text())["step"]
    assert evals[-1]["pass"] < 0.2 * evals[0]["pass"] and evals[-2]["pass"] < 0.2 * evals[0]["pass"]
    assert kept < evals[-2]["step"]


def test_kl_blow_up_stops_a_run_or_warns_once(organism_flags, trainer, tmp_path):
    words = [*organism_flags, "--arm", "vanilla", "--beta", 0.01, "--max-kl", 1e-7, "--eval-every", 100, "--steps", 6]
    line = trainer(*words, "--out", tmp_path / "run").sentence
    assert "tripwire kl-blow-up at step" in line and "above --max-kl 1e-07" in line
    found, _ = evidence(tmp_path / "run")
    assert found["row"]["kl"] > 1e-7 and len(found["gnorm"]) == 28
    done = trainer(*words, "--out", tmp_path / "run", "--tripwires", "warn")
    assert done.status == 0 and done.err.count("tripwire kl-blow-up") == 1, "the run goes on, and says it once"


@pytest.mark.parametrize("mode", ["stop", "off"])
def test_a_gradient_that_is_not_finite_never_reaches_the_optimiser(mode, organism_flags, trainer, tmp_path):
    run = tmp_path / "run"
    done = trainer(*organism_flags, "--arm", "vanilla", "--steps", 6, "--out", run, "--tripwires", mode, plant=POISON)
    assert "the update is skipped" in done.err
    (bad,) = [row for row in table(run / "steps.tsv") if math.isnan(row["gnorm"]) and not math.isnan(row["loss"])]
    if mode == "stop":
        assert f"tripwire non-finite-gradient at step {bad['step']:.0f}: |grad delta_S| of model" in done.sentence
        assert math.isnan(next(iter(evidence(run)[0]["gnorm"].values())))
        return
    assert done.status == 0 and "tripwire" not in done.err
    assert all(t.isfinite().all() for t in load_tensors(run / "delta_S.safetensors")[0].values())


def test_a_loss_that_is_not_finite_stops_before_a_checkpoint(organism_flags, trainer, tmp_path):
    plant = "real = train.clipped_objective\ntrain.clipped_objective = lambda *a: real(*a) + float('inf')"
    line = trainer(*organism_flags, "--arm", "vanilla", "--out", tmp_path / "run", plant=plant).sentence
    assert "tripwire non-finite-loss at step" in line and "there is no checkpoint yet" in line
