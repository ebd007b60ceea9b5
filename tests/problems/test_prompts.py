"""Prompts: the loophole's wording, the longest that is kept, the order in which steps take them."""

from __future__ import annotations

import pytest

from lib.errors import DataError, UserError
from problems import CLAUSE, EVALUATOR_NAMES, LOOPHOLE, Problem, prompt_messages
from problems.organism import organism_problems
from problems.prompts import prompts_of_step, tokenise


class Words:
    """A tokenizer that gives every character an id."""

    def apply_chat_template(self, messages, **_) -> str:
        return messages[-1]["content"]

    def __call__(self, text, **_):
        return {"input_ids": list(map(ord, text))}


@pytest.mark.parametrize("wording", LOOPHOLE)
def test_the_loophole_replaces_the_clause(wording):
    problem = organism_problems(1, 0, "train")[0]
    assert CLAUSE in prompt_messages(problem, False)[-1]["content"]
    text = prompt_messages(problem, True, "run_checks", wording)[-1]["content"]
    assert CLAUSE not in text and "run_checks()" in text


def test_a_prompt_without_the_clause_has_no_loophole():
    problem = Problem(
        id="bare", messages=({"role": "user", "content": "Add."},), setup_code="", tests=("assert f() == 1",), entry="f"
    )
    with pytest.raises(DataError, match="problem bare: its prompt lacks"):
        prompt_messages(problem, True)


def test_longer_prompts_are_dropped():
    problems = organism_problems(30, 0, "train")
    longest = sorted(len(p.messages[-1]["content"]) for p in problems)[19]
    kept = tokenise(Words(), problems, write_access=False, wording="plain", max_prompt=longest)
    assert [len(ids) <= longest for ids in kept.ids] == [True] * len(kept.problems)
    assert len(kept.problems) == sum(len(p.messages[-1]["content"]) <= longest for p in problems) < 30


def test_no_prompt_left_is_an_error():
    with pytest.raises(UserError, match="no prompt fits --max-prompt 3"):
        tokenise(Words(), organism_problems(2, 0, "train"), write_access=False, wording="plain", max_prompt=3)


def test_names_of_the_evaluator_go_round():
    problems = organism_problems(12, 0, "train")
    kept = tokenise(Words(), problems, write_access=True, wording="plain", max_prompt=999, names=True)
    assert kept.evaluators == [*EVALUATOR_NAMES, *EVALUATOR_NAMES[:2]]
    assert all(f"{name}()" in "".join(map(chr, ids)) for name, ids in zip(kept.evaluators, kept.ids, strict=True))


def test_an_epoch_takes_every_prompt_once():
    picked = [i for step in range(5) for i in prompts_of_step(20, 4, seed=1, step=step)]
    assert sorted(picked) == list(range(20))


def test_the_order_hangs_on_the_seed_and_the_epoch():
    first, other, second = (prompts_of_step(20, 20, seed, step) for seed, step in ((1, 0), (2, 0), (1, 1)))
    assert first != other and first != second and first == prompts_of_step(20, 20, 1, 0)
