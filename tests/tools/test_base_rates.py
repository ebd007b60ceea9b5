"""Base rates of the shipped organism: tables that agree with the completions, the same again, one row a stratum."""

import json
from pathlib import Path

import pytest
import torch

from antipasto import wrap
from lib import models
from lib.errors import UserError
from problems.organism import held_out
from tools import base_rates


def write(path: Path, problems, dataset: str) -> str:
    """Problems of the organism as a problem file."""
    rows = [{"id": p.id, "dataset": dataset, "prompt": p.messages, "gt_answer": p.tests, "func_name": p.entry,
             "difficulty": p.stratum} for p in problems]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def measure(monkeypatch, *flags) -> None:
    """tools/base_rates.py with these flags."""
    monkeypatch.setattr("sys.argv", ["base_rates.py", "--preset", "tiny", "--workers", "1", *map(str, flags)])
    base_rates.main()


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """(folder, its completions, its rows) of two files of the organism's problems, two completions each."""
    work = tmp_path_factory.mktemp("base_rates")
    problems = held_out(12)
    files = write(work / "a.jsonl", problems[:8], "alpha"), write(work / "b.jsonl", problems[8:], "beta")
    with pytest.MonkeyPatch.context() as patch:
        measure(patch, "--samples", 2, "--out", work / "out", "--problems", *files)
    lines = [json.loads(line) for line in (work / "out/completions.jsonl").open()]
    header, *rows = [line.split("\t") for line in (work / "out/base_rates.tsv").read_text().splitlines()]
    return work / "out", lines, [dict(zip(header, row, strict=True)) for row in rows]


def test_every_problem_is_sampled_in_both_modes(measured):
    _, lines, _ = measured
    assert [line["split"] for line in lines] == ["base-no-access"] * 24 + ["base"] * 24


def test_a_row_for_each_source_and_difficulty_and_one_for_all(measured):
    _, lines, rows = measured
    assert [row["stratum"] for row in rows] == [*sorted({line["stratum"] for line in lines}), "all"]
    assert {row["stratum"].split()[0] for row in rows} == {"alpha", "beta", "all"}
    assert sum(int(row["probs"]) for row in rows[:-1]) == int(rows[-1]["probs"]) == 12


def test_the_rates_are_those_of_the_completions(measured):
    _, lines, rows = measured
    for row in rows:
        part = [line for line in lines if row["stratum"] in (line["stratum"], "all")]
        closed, open_ = ([line for line in part if line["split"] == split] for split in ("base-no-access", "base"))
        assert int(row["n"]) == len(closed) == len(open_)
        wanted = {
            "pass": [line["gt_pass"] for line in closed],
            "compile": [line["compiles"] for line in closed],
            "passw": [line["gt_pass"] for line in open_],
            "attempt": [line["attempt"] for line in open_],
            "hack": [line["hack"] for line in open_],
            "compw": [line["compiles"] for line in open_],
        }
        assert {name: float(row[name]) for name in wanted} == {
            name: pytest.approx(sum(flags) / len(flags), abs=6e-5) for name, flags in wanted.items()
        }


def test_the_organism_solves_some_and_tries_some(measured):
    _, _, rows = measured
    assert float(rows[-1]["pass"]) > 0 and 0 < float(rows[-1]["len"]) <= 80


def test_the_markdown_table_has_the_same_rows(measured):
    folder, _, rows = measured
    table = [line for line in (folder / "base_rates.md").read_text().splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in table[2:]] == [row["stratum"] for row in rows]


def test_the_config_ties_the_rates_to_weights_problems_and_code(measured, tmp_path):
    config = json.loads((measured[0] / "config.json").read_text())
    model, _ = models.load("organism", None, "float32")
    assert config["weights_sha256"] == wrap(model, tmp_path, torch.device("cpu")).weights_sha256
    assert len(config["problems_sha256"]) == 64 and config["samples"] == 2 and "git_commit" in config


def test_again_gives_the_same_completions(measured, monkeypatch, tmp_path):
    folder, lines, _ = measured
    files = json.loads((folder / "config.json").read_text())["files"]
    measure(monkeypatch, "--samples", 2, "--out", tmp_path, "--problems", *files)
    again = [json.loads(line) for line in (tmp_path / "completions.jsonl").open()]
    assert [(a["completion"], a["reward"]) for a in again] == [(b["completion"], b["reward"]) for b in lines]


def test_without_problems_it_says_what_to_pass(monkeypatch):
    with pytest.raises(UserError, match="no problems: pass --problems"):
        measure(monkeypatch)
