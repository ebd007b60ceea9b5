"""Runs on mixtures: strata name the source, the last evaluation may be larger, what is missing is one sentence."""

import json
from pathlib import Path

import pytest

from problems.organism import organism_problems


def write(path: Path, dataset: str, seed: int) -> Path:
    """24 of the organism's problems as a problem file."""
    rows = [{"id": p.id, "dataset": dataset, "prompt": p.messages, "gt_answer": p.tests, "func_name": p.entry,
             "difficulty": p.stratum} for p in organism_problems(24, seed=seed, split="train")]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def table(path: Path) -> list[dict]:
    header, *rows = [line.split("\t") for line in path.read_text().splitlines()]
    return [dict(zip(header, row, strict=True)) for row in rows]


@pytest.fixture(scope="module")
def run(trainer, organism_flags, tmp_path_factory) -> Path:
    """Two steps on 12 + 6 problems, 6 held out; 3 completions each in the last evaluation instead of 1."""
    work = tmp_path_factory.mktemp("mixture")
    one, two = write(work / "one.jsonl", "alpha", 1), write(work / "two.jsonl", "beta", 2)
    done = trainer(*organism_flags, "--problems", f"{one}:12,{two}:6", "--n-eval", 6, "--final-samples", 3,
                   "--steps", 2, "--eval-every", 1, "--tripwires", "off", "--out", work / "run")  # fmt: skip
    assert done.status == 0, done.err
    return work / "run"


def test_strata_are_sources_and_difficulties_in_their_shares(run):
    first = [row for row in table(run / "strata.tsv") if row["step"] == "0" and row["access"] == "1"]
    numbers = {row["stratum"]: int(row["n"]) for row in first}
    assert {name.split()[0] for name in numbers} == {"alpha", "beta"}
    assert sum(n for name, n in numbers.items() if name.startswith("alpha")) == 4
    assert sum(numbers.values()) == 6


def test_only_the_last_evaluation_has_final_samples(run):
    assert [int(row["n_hack"]) for row in table(run / "evals.tsv")] == [6, 6, 18]


def test_a_source_that_was_not_fetched_is_one_sentence(trainer, organism_flags, tmp_path):
    if Path("data/humaneval.jsonl").exists():
        pytest.skip("data/humaneval.jsonl is there")
    sentence = trainer(*organism_flags, "--problems", "humaneval", "--out", tmp_path / "run").sentence
    assert sentence.endswith(
        "humaneval needs data/humaneval.jsonl, which is not there: run `just data --sets humaneval`"
    )
