"""Mixtures of problems: what `leetcode:60,humaneval:75` asks for, and which problems that takes.

The choice is a function of the problems' ids alone, so it is the same for every arm and seed. In the order of
SHA-256(id) training takes a source's last problems and evaluation the first: a larger share holds the smaller one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Collection, Sequence

from lib.errors import UserError
from problems import Problem


def mixture(text: str, flag: str, names: Collection[str]) -> dict[str, int] | None:
    """{source: number} of `a:60,b:75`; None where `text` is one path or one of `names`.

    Raises UserError where a part has no number, or a source is named twice.
    """
    if text in names or os.path.exists(text) or not {":", ","} & set(text):
        return None
    shares: dict[str, int] = {}
    for part in text.split(","):
        name, _, number = part.strip().rpartition(":")
        if not name or not number.isascii() or not number.isdigit() or int(number) < 1:
            raise UserError(f"{flag} {text}: {part.strip() or 'an empty part'} is not SOURCE:NUMBER, as in "
                            "leetcode:60,humaneval:75")  # fmt: skip
        if name in shares:
            raise UserError(f"{flag} {text} names {name} twice")
        shares[name] = int(number)
    return shares


def apportion(n: int, shares: dict[str, int]) -> dict[str, int]:
    """`n` in proportion to `shares`, as whole numbers that sum to n (largest remainders; the first of a tie)."""
    total = sum(shares.values())
    numbers = {name: n * share // total for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: -(n * shares[name] % total))
    for name in by_remainder[: n - sum(numbers.values())]:
        numbers[name] += 1
    return numbers


def take(what: str, pools: dict[str, list[Problem]], shares: dict[str, int], n: int) -> list[Problem]:
    """The first problems of each pool, `n` together, by `shares`. Raises UserError where a pool has too few."""
    numbers = apportion(n, shares)
    for name, number in numbers.items():
        if number > (left := len(pools[name])):
            fits = max(m for m in range(n) if all(k <= len(pools[s]) for s, k in apportion(m, shares).items()))
            advice = f"pass --n-eval {fits}, or other numbers" if fits else "ask for other numbers"
            raise UserError(
                f"{what}: {n} evaluation problems in these shares take {number} of {name}, which has {left} left: "
                f"{advice}"
            )
    return [p for name, number in numbers.items() for p in pools[name][:number]]


def by_hash(problems: Sequence[Problem]) -> list[Problem]:
    """In the order of SHA-256(id), which knows neither arm nor seed nor the file's order."""
    return sorted(problems, key=lambda p: hashlib.sha256(p.id.encode()).digest())


def labelled(problems: Sequence[Problem]) -> list[Problem]:
    """With the stratum "<source> <difficulty>", so that strata.tsv has a row for each of a mixture."""
    return [dataclasses.replace(p, stratum=f"{p.source} {p.stratum}".strip()) for p in problems]


def prompt_of(problem: Problem) -> str:
    """What makes two problems the same one: the text of the prompt."""
    return problem.messages[-1]["content"]
