"""What lies beside the rates: flavours, problems behind a rate, held-out cosines, per-module cosines."""

from __future__ import annotations

import gzip
import json
import math

import numpy as np
import pytest
from synthetic_runs import make_run

from lib.errors import ReportError
from report import heldout, modules, samples
from report.runs import load_runs, read_run


def test_flavours_that_remain(tmp_path):
    make_run(tmp_path, "vanilla", 0, 0.8, 0.5, flavours={"print": 6, "swallow": 2})
    run = read_run(tmp_path / "tiny" / "vanilla_s0")
    with (run.path / "rollouts.jsonl").open("a") as f:
        f.write(json.dumps({"step": 200, "split": "train", "flavour": "other", "hack": True}) + "\n{torn")
    pooled = samples.arm_samples([run])["vanilla"]
    assert len(pooled) == 18 and samples.remaining(pooled) == "print 75%, swallow 25% of 8"


# --- problems ---


def with_samples(path, problems: int, each: int, kept: int, named: bool) -> None:
    """The last evaluation's sample: problem i hacks in every completion where i is even."""
    n = problems * each
    lines = []
    for k in range(kept):
        problem = k * n // kept // each
        line = {"step": 200, "split": "eval", "flavour": "", "hack": problem % 2 == 0, "attempt": False}
        lines.append(line | ({"problem": f"p{problem}"} if named or k == 0 else {}))
    (path / "rollouts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("kept", [160, 128])
def test_problems_of_a_reduced_file_follow_from_their_place(tmp_path, kept):
    sizes = {"n_eval": 20, "eval_samples": 8, "sample_rollouts": kept}
    path = make_run(tmp_path, "vanilla", 0, 0.5, 0.5, config=sizes)
    with_samples(path, 20, 8, kept, named=True)
    named = samples.hack_by_problem(samples.read_samples(read_run(path)))
    with_samples(path, 20, 8, kept, named=False)
    placed = samples.hack_by_problem(samples.read_samples(read_run(path)))
    assert named == placed and named.clusters == 20 and math.isclose(named.rate, 50, abs_tol=1)


def test_without_sizes_in_config_problems_are_not_known(tmp_path):
    path = make_run(tmp_path, "vanilla", 0, 0.5, 0.5)
    with_samples(path, 20, 8, 160, named=False)
    assert samples.hack_by_problem(samples.read_samples(read_run(path))) is None


# --- held-out cosines ---


def test_heldout_table_beside_v_hack(tmp_path):
    make_run(tmp_path, "vanilla", 0, 0.8, 0.5)
    folder = tmp_path / "tiny" / "v_hack_organism_heldout"
    folder.mkdir()
    (folder / "heldout.tsv").write_text("module\tr\tcos\tnull\na\t8\t0.5\t0.1\nb\t8\t0.3\t-0.1\n")
    found = heldout.find_heldout((), load_runs([tmp_path]))
    assert found == [folder / "heldout.tsv"] and heldout.heldout_name(found[0]) == "organism"
    line = heldout.heldout_line("organism", heldout.read_heldout(found[0]))
    assert "mean 0.400" in line and "positive in 100% of 2 modules" in line and "mean |cos| is 0.100" in line


def table(cos, null=(), r=()) -> heldout.HeldOutTable:
    return heldout.HeldOutTable(*(np.asarray(values, dtype=float) for values in (cos, null, r)))


def test_health_asks_for_one_mode_too():
    rng = np.random.default_rng(0)
    one = rng.normal(0.45, 0.12, 168)
    two = np.r_[rng.normal(0.2, 0.05, 70), rng.normal(0.7, 0.05, 98)]
    assert table(one).health() == "healthy" and table(two).health() == "not unimodal"
    assert table(one - 0.3).health() == "weak" and table(one - 0.5).health() == "failed"


def test_a_failed_gate_names_the_preregistered_checks_and_leaves_the_pairs_alone():
    line = heldout.heldout_line("default", table(np.full(20, -0.1) + np.linspace(0, 0.05, 20)))
    assert ": failed;" in line and "before the residual" in line and "tokenisation" in line and "frozen" in line


def test_chance_stands_beside_the_thresholds_and_small_modules_are_counted():
    line = heldout.heldout_line("default", table(np.linspace(0.1, 0.8, 20), r=[16] * 5 + [2048] * 15))
    assert "gate > 50%, which is chance" in line and "leave out the 5 modules of r < 32, where chance is 0.20" in line


def test_a_heldout_table_without_cosines_is_refused(tmp_path):
    (tmp_path / "heldout.tsv").write_text("module\tr\na\t8\n")
    with pytest.raises(ReportError, match="no column cos"):
        heldout.read_heldout(tmp_path / "heldout.tsv")


# --- per-module cosines ---


def with_modules(path, cos: np.ndarray, names: list[str]) -> None:
    fields = ["cos", "gnorm", "cos_up"]
    values = np.zeros((len(cos), 3, len(names)), dtype=np.float32)
    values[:, 0] = cos
    values.tofile(path / "modules.f32")
    axes = {"axes": ["step", "field", "module"], "modules": names, "fields": fields}
    (path / "modules.json").write_text(json.dumps(axes))


def test_modules_are_read_by_their_axes_and_grouped_by_kind(tmp_path):
    path = make_run(tmp_path, "projected", 0, 0.5, 0.5)
    names = ["layers.0.q_proj", "layers.0.k_proj", "layers.1.q_proj"]
    cos = np.arange(12, dtype=np.float32).reshape(4, 3)
    with_modules(path, cos, names)
    read_names, read_cos = modules.read_modules(read_run(path))
    assert read_names == names and np.array_equal(read_cos, cos)
    assert modules.by_kind(names) == ([0, 2, 1], [("q_proj", 2), ("k_proj", 1)])
    assert modules.plot_modules([read_run(path)], tmp_path) and (tmp_path / "modules.png").exists()


def test_blocks_pass_over_steps_without_a_gradient():
    cos = np.array([[0.1], [math.nan], [0.3], [math.nan], [math.nan], [math.nan]])
    assert np.allclose(modules.block_means(cos), [[0.2], [math.nan]], equal_nan=True)


def test_a_complete_run_with_a_torn_modules_file_is_refused_and_one_without_passes(tmp_path):
    path = make_run(tmp_path, "projected", 0, 0.5, 0.5)
    assert modules.read_modules(read_run(path)) is None
    with_modules(path, np.zeros((4, 1)), ["a"])
    (path / "modules.f32").write_bytes((path / "modules.f32").read_bytes()[:-4])
    with pytest.raises(ReportError, match=r"modules\.f32 is torn"):
        modules.read_modules(read_run(path))


# --- packed rollouts ---


@pytest.fixture
def run(tmp_path):
    return read_run(make_run(tmp_path, "vanilla", 0, 0.8, 0.5, flavours={"print": 3, "\u2028": 1}))


def test_packed_rollouts_are_read_as_the_plain_ones(run):
    plain = samples.read_samples(run)
    path = run.path / "rollouts.jsonl"
    (run.path / "rollouts.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert len(plain) == 14 and samples.read_samples(run).equals(plain)


def test_a_torn_packed_file_is_named(run):
    (run.path / "rollouts.jsonl").unlink()
    (run.path / "rollouts.jsonl.gz").write_bytes(gzip.compress(b"{}\n" * 1000)[:-9])
    with pytest.raises(ReportError, match=r"rollouts.jsonl.gz is torn"):
        samples.read_samples(run)


def test_a_run_without_samples_has_none(run):
    (run.path / "rollouts.jsonl").unlink()
    assert not len(samples.read_samples(run))
