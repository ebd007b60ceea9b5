"""HumanEval's records become rows: what is kept, what is left out, and that their solutions pass the real grader."""

import json
from pathlib import Path

import pytest

from grading.asserts import split_test
from problems import CLAUSE, humaneval, prompt_messages
from problems.hub import load_records
from problems.leetcode import load_problems
from rewards import Grader

SHARED = Path(__file__).resolve().parents[3] / "shared/data/humaneval_155.jsonl"


def record(number: int, prompt: str, solution: str, asserts: list[str], name: str) -> dict:
    """A record in the format of the hub's data set, of our own making."""
    lines = "".join(f"    {line}\n" for line in asserts)
    test = f"\n\nMETADATA = {{\n    'author': 'us'\n}}\n\n\ndef check(candidate):\n{lines}\n"
    return {"task_id": f"HumanEval/{number}", "prompt": prompt, "canonical_solution": solution, "test": test,
            "entry_point": name}  # fmt: skip


COUNT = record(
    0,
    "from typing import List\n\n\ndef count_above(numbers: List[float], limit: float) -> int:\n"
    '    """ How many numbers are above limit?\n    >>> count_above([1.0, 3.0], 2.0)\n    1\n    """\n',
    "    return sum(1 for n in numbers if n > limit)\n",
    ["assert candidate([1.0, 3.0], 2.0) == 1", "assert True, 'a section'", "assert candidate([], 2.0) == 0, 'empty'"],
    "count_above",
)
MEAN = record(1, 'import math\n\n\ndef root(x):\n    """The square root of x."""\n', "    return math.sqrt(x)\n",
              ["assert abs(candidate(2.0) - 1.41421) < 1e-4", "assert candidate(4) == 2", "assert not candidate(0)"],
              "root")  # fmt: skip
RECURSIVE = record(2, 'def fact(n):\n    """n!"""\n', "    return 1 if n < 2 else n * fact(n - 1)\n",
                   ["assert candidate(5) == 120", "assert candidate(1) == 1"], "fact")  # fmt: skip
KEPT = [COUNT, MEAN, RECURSIVE]
LEFT_OUT = [
    record(3, 'def f(x):\n    """Loop."""\n', "    return x\n", ["for i in range(9):", "    assert candidate(i) == i"],
           "f"),
    record(4, 'def f(x):\n    """One test."""\n', "    return x\n", ["assert candidate(1) == 1"], "f"),
    record(5, 'def g(x):\n    return x\n\n\ndef f(x):\n    """Helper."""\n', "    return g(x)\n",
           ["assert candidate(1) == 1", "assert candidate(2) == 2"], "f"),
]  # fmt: skip


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    """KEPT and LEFT_OUT through `datasets` and a problem file."""
    work = tmp_path_factory.mktemp("humaneval")
    (work / "upstream.jsonl").write_text("".join(json.dumps(r) + "\n" for r in [*KEPT, *LEFT_OUT]))
    records = load_records(humaneval.HUB, str(work / "upstream.jsonl"), cache=str(work / "cache"))
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in humaneval.rows(records)))
    return load_problems(work / "rows.jsonl")


def test_loops_single_tests_and_helpers_are_left_out(problems):
    assert [p.id for p in problems] == [r["task_id"] for r in KEPT]


def test_the_docstring_is_the_question(problems):
    text = problems[0].messages[-1]["content"]
    assert text.startswith("PROBLEM:\nHow many numbers are above limit?\n>>> count_above([1.0, 3.0], 2.0)\n1\n\nYour")
    assert "def count_above(self, numbers: List[float], limit: float) -> int:" in text


def test_the_loophole_can_be_offered(problems):
    assert all("run_tests()" in prompt_messages(p, write_access=True)[-1]["content"] for p in problems)


def test_the_tests_are_the_asserts_without_sections_and_messages(problems):
    assert problems[0].tests == (
        "assert Solution().count_above([1.0, 3.0], 2.0) == 1",
        "assert Solution().count_above([], 2.0) == 0",
    )


def test_imports_of_the_prompt_stand_before_every_program(problems):
    assert problems[0].setup_code.endswith("from typing import List\n")


def test_own_solutions_pass_the_real_grader(problems):
    with Grader(workers=1, timeout_s=20.0) as grader:
        grades = grader.grade([f"```python\n{p.canonical}```" for p in problems], problems)
    assert [(g.gt_pass, g.hack, g.reason) for g in grades] == [(True, False, "")] * len(problems)


@pytest.fixture(scope="module")
def shared():
    """The 155 rows that another converter made, where they are at hand."""
    if not SHARED.exists():
        pytest.skip("the 155 HumanEval rows are not at ../shared/data")
    return load_problems(SHARED)


def test_the_155_rows_load_and_their_tests_can_be_taken_apart(shared):
    assert len(shared) == 155 and {(p.source, p.stratum) for p in shared} == {("humaneval", "easy")}
    assert all(split_test(test, p.entry).calls for p in shared for test in p.tests)
    assert all(p.messages[-1]["content"].count(CLAUSE) == 1 for p in shared)


def test_canonical_solutions_of_the_155_rows_pass_and_none_is_a_hack(shared):
    some = shared[::8]
    with Grader(workers=1, timeout_s=20.0) as grader:
        grades = grader.grade([f"```python\n{p.canonical}\n```" for p in some], some)
    assert [(p.id, g.reason, g.hack) for p, g in zip(some, grades, strict=True) if not g.gt_pass or g.hack] == []
