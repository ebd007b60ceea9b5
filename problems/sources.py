"""The table of problem sources, and the split into training and evaluation problems.

--problems takes the name of a source, the path of a JSONL file, or a mixture of these (mixtures.py). A new source is a
file here and a line in SOURCES.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from lib.errors import DataError, UserError
from problems import Problem, organism
from problems.leetcode import load_problems
from problems.mixtures import by_hash, labelled, mixture, prompt_of, take

Split = tuple[list[Problem], list[Problem]]


@dataclass(frozen=True)
class Source:
    """A named source of problems."""

    training: Callable[[], list[Problem]]
    held_out: Callable[[int], list[Problem]] | None = None
    """At most n evaluation problems; None where the source has none of its own, so that they leave `training`."""


def fetched(name: str, file: str) -> list[Problem]:
    """The problems of a file that `just data` writes. Raises DataError where it is not there."""
    if not Path(file).exists():
        raise DataError(f"{name} needs {file}, which is not there: run `just data --sets {name}`")
    return load_problems(file)


SOURCES: dict[str, Source] = {
    "organism": Source(organism.training, organism.held_out),
    "leetcode": Source(
        training=lambda: fetched("leetcode", "data/leetcode_train_medhard_filtered.jsonl"),
        held_out=lambda n: fetched("leetcode", "data/leetcode_test_medhard.jsonl")[:n],
    ),
    "humaneval": Source(lambda: fetched("humaneval", "data/humaneval.jsonl")),
    "mbpp": Source(lambda: fetched("mbpp", "data/mbpp.jsonl")),
}


def split_problems(problems: str, eval_file: str, n_eval: int) -> Split:
    """(train, eval) of --problems, --eval-file and --n-eval, the same for every arm and seed.

    Disjoint, but where --problems and --eval-file are two files, which are taken as they are. Raises UserError where
    too few problems are there.
    """
    shares = mixture(problems, "--problems", SOURCES)
    if shares is not None:
        train, rest = training_shares(problems, shares)
    else:
        train, rest = load_source(problems), {}

    # Evaluation problems of their own: --eval-file, or the source's.
    if eval_file:
        if shares is not None or problems in SOURCES:
            logger.info(f"evaluation problems come from --eval-file {eval_file}, none from --problems {problems}")
        return train, evaluation(eval_file, n_eval, train, mixed=shares is not None)
    if problems in SOURCES and SOURCES[problems].held_out:
        return train, SOURCES[problems].held_out(n_eval)

    # Else they leave the training problems.
    if shares is not None:
        if not any(rest.values()):
            raise UserError(
                f"--problems {problems} leaves no problem to evaluate on: ask for fewer, or pass --eval-file"
            )
        return train, take(f"--problems {problems}", rest, shares, n_eval)
    if len(train) <= n_eval:
        raise UserError(f"{problems} has {len(train)} problems, not more than --n-eval {n_eval}")
    order = by_hash(train)
    return order[n_eval:], order[:n_eval]


def load_source(name: str) -> list[Problem]:
    """All training problems of a source, by its name or its file's path. Raises DataError where there is none."""
    return SOURCES[name].training() if name in SOURCES else load_problems(name)


def problems_sha256(train: Sequence[Problem], held_out: Sequence[Problem]) -> str:
    """SHA-256 of what is trained and evaluated on, in order: id, messages, tests, setup_code, entry of each problem."""
    digest = hashlib.sha256()
    for part in (train, held_out):
        for p in part:
            row = [p.id, [[m["role"], m["content"]] for m in p.messages], p.tests, p.setup_code, p.entry]
            digest.update(json.dumps(row).encode() + b"\n")
        digest.update(b"\n")  # a problem that changes sides changes the hash
    return digest.hexdigest()


# --- mixtures ---


def training_shares(problems: str, shares: dict[str, int]) -> tuple[list[Problem], dict[str, list[Problem]]]:
    """(training problems of a mixture, what is left of each source). Raises UserError where a source has too few."""
    pools = load_pools(f"--problems {problems}", shares, load_source)
    for name, number in shares.items():
        if number > len(pools[name]):
            raise UserError(f"--problems {problems}: {name} has {len(pools[name])} problems, not {number}")
    train = [p for name, number in shares.items() for p in pools[name][-number:]]
    return train, {name: pools[name][:-number] for name, number in shares.items()}


def evaluation(eval_file: str, n_eval: int, train: Sequence[Problem], mixed: bool) -> list[Problem]:
    """At most `n_eval` problems of --eval-file: a name, a path or a mixture; mixed: --problems is a mixture.

    The strata name the source where there are several. Where one of the two is a mixture, training problems are left
    out. Raises UserError where no problem is left.
    """
    shares = mixture(eval_file, "--eval-file", SOURCES)
    trained = {prompt_of(p) for p in train}
    if shares is None and not mixed:
        found = load_held_out(eval_file)[:n_eval]
        if len({p.source for p in found}) > 1:
            found = labelled(found)
        if both := len(trained & {prompt_of(p) for p in found}):
            logger.warning(f"{both} of the {len(found)} evaluation problems are training problems too")
        return found
    if shares is None:
        found = [p for p in labelled(load_held_out(eval_file)) if prompt_of(p) not in trained][:n_eval]
    else:
        pools = load_pools(f"--eval-file {eval_file}", shares, load_held_out)
        rest = {name: [p for p in pool if prompt_of(p) not in trained] for name, pool in pools.items()}
        found = take(f"--eval-file {eval_file}", rest, shares, min(n_eval, sum(shares.values())))
    if not found:
        raise UserError(f"--eval-file {eval_file}: every one of its problems is a training problem")
    return found


def load_held_out(name: str) -> list[Problem]:
    """All evaluation problems of a source: its own where it has some, else what `load_source` gives."""
    source = SOURCES.get(name)
    return source.held_out(1024) if source and source.held_out else load_source(name)


def load_pools(what: str, shares: dict[str, int], load: Callable[[str], list[Problem]]) -> dict[str, list[Problem]]:
    """Each source's problems in the order of their hash, labelled, and none twice (the same prompt counts as one)."""
    pools: dict[str, list[Problem]] = {}
    seen: set[str] = set()
    for name in shares:
        if name not in SOURCES and not os.path.exists(name):
            raise DataError(f"{what}: no source {name}: choose of {', '.join(SOURCES)}, or give the path of a JSONL")
        pools[name] = []
        for problem in labelled(by_hash(load(name))):
            if prompt_of(problem) not in seen:
                seen.add(prompt_of(problem))
                pools[name].append(problem)
    return pools
