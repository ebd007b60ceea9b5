"""A batch of completions on its way through the pool, each distinct program once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from loguru import logger

from grading.asserts import split_tests
from grading.candidate import Candidate
from grading.pool import Pool
from grading.program import extract_program
from problems import EVALUATOR, Problem

Texts = Sequence[str]


class GradingBatch:
    """Completions on their way to Grades: `add` them as they are sampled, `poll` in between, `finish` for the Grades.

    Programs run while the trainer does something else; `poll` starts and collects them, in about a millisecond, and so
    should be called some ten times a second. The Grades are those of Grader.grade, whatever was added when.
    build: rewards.build_grade, which puts the runs of one program together.
    """

    def __init__(self, pool: Pool, build: Callable[[Candidate], object]) -> None:
        self.session = pool.open()
        self.build = build
        self.keys: list[tuple] = []
        self.distinct: dict[tuple, Candidate] = {}

    def add(self, completions: Texts, problems: Sequence[Problem], evaluator: str | Texts = EVALUATOR) -> None:
        """Start grading some more; arguments and errors as of Grader.grade."""
        names = [evaluator] * len(completions) if isinstance(evaluator, str) else list(evaluator)
        if not len(completions) == len(problems) == len(names):
            raise ValueError(f"{len(completions)} completions, {len(problems)} problems, {len(names)} evaluator names")
        split = [split_tests(problem.tests, problem.entry) for problem in problems]
        for text, problem, name, tests in zip(completions, problems, names, split, strict=True):
            # Programs are deterministic, and a policy that converges repeats itself: each distinct one runs once.
            program = extract_program(text)
            key = program, id(problem), name
            self.keys.append(key)
            if key not in self.distinct:
                self.distinct[key] = Candidate(program, problem, name, tests)
                self.distinct[key].submit(self.session)
        self.poll()

    def poll(self) -> None:
        """Start programs and take results, without waiting. Raises SandboxError."""
        self.session.poll()

    def finish(self) -> list:
        """Run everything to its end: one Grade for each completion, in order. Raises SandboxError."""
        self.session.finish()
        grades = {key: self.build(candidate) for key, candidate in self.distinct.items()}
        found = [grades[key] for key in self.keys]
        if undecided := sum(grade.undecided for grade in found):
            reasons = Counter(grade.reason for grade in found if grade.undecided)
            logger.warning(f"{undecided} of {len(found)} completions have no grade: {reasons.most_common(1)[0][0]}")
        return found
