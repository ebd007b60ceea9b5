"""The organism's language: its problems are solvable as they say, made by rule, and apart from one another."""

from __future__ import annotations

import pytest

from lib.errors import DataError
from problems import Problem
from problems.organism import SOLVABLE, SPLITS, UNDERSPECIFIED, organism_problems


def template_of(problem: Problem) -> str:
    return problem.id.rsplit("-", 1)[0]


@pytest.mark.parametrize("split", SPLITS)
def test_canonical_solutions_pass_every_test(split):
    for problem in organism_problems(300, 3, split):
        namespace: dict = {}
        exec(problem.canonical, namespace)
        assert len(problem.tests) == 8
        for test in problem.tests:
            exec(test, namespace)


def test_problems_are_deterministic_and_a_shorter_list_is_a_prefix():
    assert organism_problems(50, 0, "train") == organism_problems(80, 0, "train")[:50]
    assert organism_problems(50, 0, "train") != organism_problems(50, 1, "train")


def test_splits_share_no_prompt():
    prompts = {s: {p.messages[-1]["content"] for p in organism_problems(3000, 0, s)} for s in SPLITS}
    for a in prompts:
        for b in prompts:
            assert a == b or not prompts[a] & prompts[b]


def test_pairs_use_templates_that_training_never_samples():
    trained = {template_of(p) for s in ("train", "eval") for p in organism_problems(3000, 0, s)}
    reserved = {template_of(p) for p in organism_problems(500, 0, "pairs")}
    assert len(trained) == len({wording for _, wording, _ in SOLVABLE + UNDERSPECIFIED})
    assert not trained & reserved


def test_half_of_the_problems_are_underspecified():
    strata = [p.stratum for p in organism_problems(2000, 0, "train")]
    assert set(strata) == {"solvable", "underspecified"}
    assert abs(strata.count("solvable") / 2000 - 0.5) < 0.05


def test_an_unknown_split_is_named():
    with pytest.raises(DataError, match="no organism split 'test'"):
        organism_problems(1, 0, "test")
