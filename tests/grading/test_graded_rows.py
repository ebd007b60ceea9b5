"""Rows handed to the grader as they end: every row once, with its own problem, and grades in the rows' order."""

import random

from grading.stream import GradingStream
from problems.organism import organism_problems
from rewards import Grader

EVALUATOR = "run_tests"


def rows(n: int) -> tuple[list, list[str]]:
    """Problems, and texts of which every third is wrong and every fourth no program."""
    problems = organism_problems(n, seed=0, split="train")
    texts = []
    for i, problem in enumerate(problems):
        program = problems[i - 1].canonical if i % 3 == 0 else problem.canonical
        texts.append("nothing" if i % 4 == 0 else f"```python\n{program}\n```")
    return problems, texts


def test_grades_are_those_of_one_batch_whatever_the_order_in_which_rows_end():
    problems, texts = rows(16)
    order = random.Random(0).sample(range(16), 16)
    with Grader(workers=1) as grader:
        want = grader.grade(texts, problems)
        stream = GradingStream(grader.start(), lambda ids: texts[ids[0]], problems, [EVALUATOR] * 16)
        stream.PAUSE = 0.0
        for row in order[:11]:
            stream.ended([(row, [row])])
            stream.ended([])
        found, grades = stream.finish([[i] for i in range(16)])
    assert found == texts
    assert [(g.gt_pass, g.compiles, g.reason) for g in grades] == [(g.gt_pass, g.compiles, g.reason) for g in want]
    assert 0 < sum(g.gt_pass for g in grades) < 16


def test_rows_that_end_at_once_are_handed_over_together():
    handed = []

    class Batch:
        def add(self, texts, problems, evaluators):
            handed.append(list(zip(texts, problems, evaluators, strict=True)))

        def finish(self):
            return [text for part in handed for text, *_ in part]

    stream = GradingStream(Batch(), str, ["a", "b", "c"], ["x", "y", "z"])
    stream.PAUSE = 3600.0
    stream.ended([(2, [7])])
    stream.ended([(0, [5])])
    assert not handed
    assert stream.finish([[5], [6], [7]]) == (["[5]", "[6]", "[7]"], ["[5]", "[6]", "[7]"])
    assert handed == [[("[7]", "c", "z"), ("[5]", "a", "x"), ("[6]", "b", "y")]]


def test_no_rows_are_no_grades():
    with Grader(workers=1) as grader:
        assert GradingStream(grader.start(), str, [], []).finish([]) == ([], [])
