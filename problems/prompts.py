"""Problems as tokenised prompts, and which of them a step takes."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from loguru import logger

from lib.errors import UserError
from lib.models import chat_text
from problems import EVALUATOR, EVALUATOR_NAMES, Problem, prompt_messages


@dataclass
class Prompts:
    """Problems with their tokenised prompts; all lists run parallel."""

    problems: list[Problem]
    ids: list[list[int]]
    evaluators: list[str]
    texts: list[str] = field(default_factory=list)
    """What `ids` are the tokens of, for readers."""

    def shown(self, i: int) -> dict[str, str]:
        """The i-th prompt as a record of rollouts.jsonl has it, before record/folder.py stores it once a problem."""
        return {"prompt": self.texts[i] if self.texts else "", "evaluator": self.evaluators[i]}


def tokenise(
    tokenizer, problems: list[Problem], *, write_access: bool, wording: str, max_prompt: int, names: bool = False
) -> Prompts:
    """Prompts of at most max_prompt tokens; names: each problem asks for another evaluator (EVALUATOR_NAMES).

    Raises UserError where none is left.
    """
    out = Prompts([], [], [], [])
    for i, problem in enumerate(problems):
        name = EVALUATOR_NAMES[i % len(EVALUATOR_NAMES)] if names else EVALUATOR
        text = chat_text(tokenizer, prompt_messages(problem, write_access, name, wording))
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) <= max_prompt:
            out.problems.append(problem)
            out.ids.append(ids)
            out.evaluators.append(name)
            out.texts.append(text)
    if len(out.ids) < len(problems):
        logger.warning(f"{len(problems) - len(out.ids)} of {len(problems)} prompts exceed --max-prompt {max_prompt}")
    if not out.ids:
        raise UserError(f"no prompt fits --max-prompt {max_prompt}")
    return out


def prompts_of_step(n: int, P: int, seed: int, step: int) -> list[int]:
    """Indices of the step's P prompts: a new permutation each epoch, a function of (seed, step) alone."""
    picked = []
    for position in range(step * P, (step + 1) * P):
        epoch, i = divmod(position, n)
        order = list(range(n))
        random.Random(f"order {seed} {epoch}").shuffle(order)
        picked.append(order[i])
    return picked
