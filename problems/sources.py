"""The table of problem sources, and the split into training and evaluation problems.

A source is a function (n_eval) -> (train, eval); its name is what --problems takes. Any other value is the path of a
JSONL file (leetcode.py). A new source is a file here and a line in SOURCES.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from loguru import logger

from lib.errors import UserError
from problems import Problem, organism
from problems.leetcode import load_problems

Split = tuple[list[Problem], list[Problem]]
SOURCES: dict[str, Callable[[int], Split]] = {"organism": organism.split}


def split_problems(problems: str, eval_file: str, n_eval: int) -> Split:
    """(train, eval), disjoint, the same for every arm and seed. Raises UserError where too few are there."""
    if problems in SOURCES:
        return SOURCES[problems](n_eval)
    train = load_problems(problems)
    if eval_file:
        held_out = load_problems(eval_file)[:n_eval]
        if both := len({p.messages[-1]["content"] for p in train} & {p.messages[-1]["content"] for p in held_out}):
            logger.warning(f"{both} of the {len(held_out)} evaluation problems are training problems too")
        return train, held_out
    if len(train) <= n_eval:
        raise UserError(f"{problems} has {len(train)} problems, not more than --n-eval {n_eval}")
    order = sorted(train, key=lambda p: hashlib.sha256(p.id.encode()).digest())
    return order[n_eval:], order[:n_eval]
