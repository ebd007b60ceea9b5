"""`default-far`, pairs without any run_tests(), as an arm on problems of LeetCode's form."""

import json
import sys
from pathlib import Path

import pytest
from run_files import rows

import extract_vhack_grad
import train
import verify_vhack_heldout
from arms import arm_flags
from lib.tensors import load_tensors
from pairs import load_pairs, pairs_sha256

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def study(model_dir, tmp_path_factory) -> tuple[Path, list[str]]:
    """(folder, flags) of a random model whose v_hack has been extracted from the arm's pairs and checked on them."""
    folder = tmp_path_factory.mktemp("far")
    flags = ["--preset", "tiny", "--model", model_dir, "--svd-cache", folder / "svd", "--v-hack", folder / "v.st"]
    words = [str(word) for word in flags]
    with pytest.MonkeyPatch.context() as patch:
        for script in (extract_vhack_grad, verify_vhack_heldout):
            more = ["--override"] if script is verify_vhack_heldout else []
            patch.setattr(sys, "argv", ["script", *words, "--pairs", "default-far", *more])
            script.main()
    return folder, words


def test_the_artifact_names_its_pairs_and_how_many(study):
    _, header = load_tensors(study[0] / "v.st")
    assert (header["pairs"], header["n_pairs"]) == ("default-far", "48")
    assert header["pairs_sha256"] == pairs_sha256(load_pairs("default-far"))


def test_the_check_is_on_the_eleven_held_out_pairs(study):
    found = json.loads((study[0] / "v_heldout/heldout.json").read_text())
    assert (found["pairs"], found["n_held_out"]) == ("default-far", 11)


def test_the_labelled_arm_runs_and_says_what_it_is(study, monkeypatch):
    folder, words = study
    sizes = ["--problems", REPO / "tests/data/smoke_problems.jsonl", "--n-eval", 2, "--eval-samples", 1, "--steps", 2,
             "--prompts", 2, "--group", 8, "--max-new", 16, "--warmup", 1, "--workers", 1]  # fmt: skip
    flags = [*words, *arm_flags("projected-far-pairs"), *map(str, sizes), "--out", str(folder / "run")]
    monkeypatch.setattr(sys, "argv", ["train.py", *flags])
    train.main()
    config = json.loads((folder / "run/config.json").read_text())
    assert (config["arm"], config["label"], config["pairs"]) == ("projected", "projected-far-pairs", "default-far")
    live = [row for row in rows(folder / "run/steps.tsv") if row["flat"] != "1.000"]
    assert live and all(row["cos"] != "nan" for row in live)
    assert (folder / "run/summary.json").exists()
