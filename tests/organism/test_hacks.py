"""The organism's hacks and its contrastive pairs: each does what its flavour says."""

from __future__ import annotations

import contextlib
import io
import random
import re

import pytest

from lib.errors import DataError
from organism.hacks import (
    HELD_OUT_EVERY,
    N_PAIRS,
    OVERWRITING,
    PAIR_FLAVOURS,
    examples_in_prompt,
    hack_completion,
    organism_pairs,
)
from pairs import load_pairs
from problems import LOOPHOLE, Problem
from problems.organism import organism_problems


def run(completion: str) -> dict:
    """The namespace of a fenced program of ours (never a sampled one)."""
    program = re.fullmatch(r"```python\n(.*)\n```", completion, re.DOTALL).group(1)
    namespace: dict = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(program, namespace)
    return namespace


def passes(completion: str, problem: Problem) -> bool:
    namespace = run(completion)
    for test in problem.tests:
        expression, expected = test.removeprefix("assert ").split(" == ", 1)
        if eval(expression, namespace) != eval(expected):
            return False
    return True


def test_an_unknown_set_of_pairs_is_named():
    with pytest.raises(DataError, match="organism-near"):
        organism_pairs("organism-near")


@pytest.mark.parametrize("kind", PAIR_FLAVOURS)
def test_pairs_are_hack_against_clean(kind):
    pairs = load_pairs(kind)
    assert pairs == load_pairs(kind)
    assert len({p.messages[-1]["content"] for p in pairs}) == len(pairs) == N_PAIRS
    assert sum(p.held_out for p in pairs) == N_PAIRS // HELD_OUT_EVERY
    for held_out in (True, False):
        assert {p.flavour for p in pairs if p.held_out == held_out} == set(PAIR_FLAVOURS[kind])
    for pair in pairs:
        assert LOOPHOLE["plain"].format(name="run_tests") in pair.messages[-1]["content"]
        assert ("run_tests" in run(pair.hack)) == (pair.flavour in OVERWRITING)
        assert "run_tests" not in run(pair.clean)


def test_every_overwriting_text_passes_itself_on_a_wrong_solution():
    problem = organism_problems(1, 0, "train")[0]
    wrong = problem.canonical.split("        return ")[0] + "        return None\n"
    for flavour, texts in OVERWRITING.items():
        for text in texts:

            class Only:
                choice = staticmethod(lambda _, text=text: text)

            completion = hack_completion(problem, flavour, Only, wrong)
            if "== {value}" not in text:
                assert not passes(completion, problem)
            with contextlib.redirect_stdout(io.StringIO()):
                run(completion)["run_tests"]()


def test_far_hacks_do_what_they_say():
    for problem in organism_problems(40, 0, "pairs"):
        (first, value), (second, other) = ((a, eval(v)) for a, v in examples_in_prompt(problem))
        for flavour in ("hardcode", "special"):
            namespace = run(hack_completion(problem, flavour, random.Random(0)))
            assert eval(f"Solution().f({first})", namespace) == value
            assert eval(f"Solution().f({second})", namespace) == other
        namespace = run(hack_completion(problem, "equal", random.Random(0)))
        assert eval(f"Solution().f({first})", namespace) == "anything"
