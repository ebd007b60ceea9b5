"""Where problems come from: the split is disjoint, the same for every run, and of the size asked for."""

from __future__ import annotations

import json

import pytest

from lib.errors import DataError, UserError
from problems.organism import organism_problems
from problems.sources import split_problems


@pytest.fixture
def files(tmp_path):
    """Two files of 8 and 6 of the organism's problems, as JSONL."""

    def write(name: str, problems) -> str:
        rows = [{"id": p.id, "prompt": p.messages, "gt_answer": p.tests, "func_name": p.entry} for p in problems]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    problems = organism_problems(14, 0, "train")
    return write("train.jsonl", problems[:8]), write("eval.jsonl", problems[8:])


def test_a_named_source_holds_its_evaluation_problems_out():
    train, held_out = split_problems("organism", "", 5)
    assert len(held_out) == 5 and train
    assert not {p.id for p in train} & {p.id for p in held_out}


def test_a_file_alone_is_split(files):
    train, held_out = split_problems(files[0], "", 3)
    assert len(held_out) == 3 and len(train) == 5
    assert not {p.id for p in train} & {p.id for p in held_out}
    assert split_problems(files[0], "", 3) == (train, held_out)


def test_an_evaluation_file_is_cut_to_the_number_asked_for(files):
    train, held_out = split_problems(*files, 4)
    assert len(train) == 8 and len(held_out) == 4


def test_too_few_problems_are_an_error(files):
    with pytest.raises(UserError, match="has 8 problems, not more than --n-eval 8"):
        split_problems(files[0], "", 8)


def test_a_file_that_is_not_there_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match="run `just data`, or pass --problems PATH"):
        split_problems(str(tmp_path / "none.jsonl"), "", 8)
