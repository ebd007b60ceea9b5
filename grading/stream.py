"""Completions on their way from the sampler to the grader, while other rows are still decoded."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence


class GradingStream:
    """Feeds a batch of the grader (grading/batch.py) with rows as they end, in whatever order; a row is its place.

    decode: token ids -> text; problems, evaluators: of each row.
    """

    # Seconds between two looks at the programs: each takes a millisecond or more from sampling.
    PAUSE = 0.1

    def __init__(self, batch, decode: Callable[[list[int]], str], problems: Sequence, evaluators: Sequence[str]):
        self.batch = batch
        self.decode = decode
        self.problems = problems
        self.evaluators = evaluators
        # Text of each row that was handed over, in that order, and rows that were not yet.
        self.texts: dict[int, str] = {}
        self.waiting: dict[int, list[int]] = {}
        self.looked = time.perf_counter()

    def ended(self, rows: list[tuple[int, list[int]]]) -> None:
        """(row, tokens) of rows that ended, maybe none; called between decode steps."""
        self.waiting |= dict(rows)
        if time.perf_counter() - self.looked >= self.PAUSE:
            self._hand_over()
            self.looked = time.perf_counter()

    def finish(self, tokens: list[list[int]]) -> tuple[list[str], list]:
        """Texts and grades of all rows, in their order, once every program has run; tokens: of each row."""
        self.waiting |= {row: ids for row, ids in enumerate(tokens) if row not in self.texts}
        self._hand_over()
        grades = dict(zip(self.texts, self.batch.finish(), strict=True))
        rows = range(len(tokens))
        return [self.texts[row] for row in rows], [grades[row] for row in rows]

    def _hand_over(self) -> None:
        texts = {row: self.decode(ids) for row, ids in self.waiting.items()}
        self.waiting = {}
        self.texts |= texts
        problems, evaluators = ([of[row] for row in texts] for of in (self.problems, self.evaluators))
        self.batch.add(list(texts.values()), problems, evaluators)
