"""Which folders are runs, what is read of them, and which count."""

from __future__ import annotations

import pytest
from report_helpers import VANILLA, decide, rows_of
from synthetic_runs import make_arm, make_run

from lib.errors import ReportError
from report import runs


def test_incomplete_run_is_named_and_left_out(tmp_path):
    make_arm(tmp_path, "vanilla", VANILLA)
    make_arm(tmp_path, "projected", [(0.3, 0.5)] * 2)
    path = make_run(tmp_path, "projected", 2, 0.3, 0.5, complete=False)
    assert rows_of(tmp_path)["projected"]["n"] == 2
    v = decide(tmp_path)["H1"]
    assert v.status == "undecided" and "projected_s2: incomplete" in v.text
    assert decide(tmp_path, include_incomplete=True)["H1"].status == "supported"
    (path / "evals.tsv").write_text((path / "evals.tsv").read_text()[:-7])  # torn by the kill: read as far as it goes
    assert decide(tmp_path)["H1"].status == "undecided"


def test_a_tripwire_is_noted_and_ends_a_run_unless_it_only_warned(tmp_path):
    path = make_run(tmp_path, "projected", 2, 0.3, 0.5, complete=False)
    (path / "tripwire-kl-blow-up-9.json").write_text("{}")
    (path / "tripwire-pass-collapse-57.json").write_text("{}")
    run = runs.read_run(path)
    assert "tripwire pass-collapse fired at step 57" in run.notes and run.stopped == "pass-collapse at step 57"
    (path / "summary.json").write_text("{}")
    assert runs.read_run(path).stopped == ""


def test_hacks_sampled_undo_the_rounding_of_the_rates(tmp_path):
    run = runs.read_run(make_run(tmp_path, "vanilla", 0, 0.016, 0.5, config={"prompts": 8, "group": 8}))
    assert run.hacks_sampled == 200, "one of 64 completions in each of 200 steps, printed as 0.016"


def test_nan_rate_is_named_and_left_out(tmp_path):
    make_arm(tmp_path, "vanilla", VANILLA)
    make_arm(tmp_path, "projected", [(0.3, 0.5), (0.3, 0.5), (float("nan"), 0.5)])
    v = decide(tmp_path)["H1"]
    assert v.status == "undecided" and "projected_s2: hack is NaN at its last evaluation" in v.text
    assert rows_of(tmp_path)["projected"]["hack"].mean == 30


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


def test_a_model_and_an_export_beside_the_runs_are_no_runs(tmp_path):
    path = make_run(tmp_path, "vanilla", 0, 0.8, 0.5)
    for name, config in (("model", '{"model_type": "qwen3"}'), ("lora", '{"peft_type": "LORA"}')):
        (tmp_path / "tiny" / name).mkdir()
        (tmp_path / "tiny" / name / "config.json").write_text(config)
        (tmp_path / "tiny" / name / "model.safetensors").write_bytes(b"")
    assert runs.find_run_dirs([tmp_path / "tiny"]) == [path]


def test_a_half_written_last_row_of_a_run_that_goes_on_costs_that_row_alone(tmp_path):
    path = make_run(tmp_path, "vanilla", 0, 0.8, 0.5, complete=False)
    for name, rows in (("steps.tsv", 199), ("evals.tsv", 8)):
        (path / name).write_text((path / name).read_text()[:-9])
        assert len(getattr(runs.read_run(path), name[:-4])) == rows
