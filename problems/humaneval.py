"""HumanEval (Chen et al. 2021, openai/human-eval, MIT) in the benchmark's form: easy problems for small models.

The docstring is the problem's text, with the examples that it shows; each assert of check(candidate) is a test. Left
out are problems that this form cannot hold: tests in loops or with helpers, a prompt that defines further functions.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Iterator

from problems.form import as_method, as_test, benchmark_row, parse_function
from problems.hub import Hub

HUB = Hub(
    id="openai/openai_humaneval",
    config="openai_humaneval",
    revision="7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544",
    columns=("task_id", "prompt", "canonical_solution", "test", "entry_point"),
)


def rows(records: Iterable[dict]) -> Iterator[dict]:
    """Records of the hub (HUB.columns) -> rows of a problem file; those that do not fit are left out."""
    for record in records:
        name = record["entry_point"]
        found = parse_function(record["prompt"] + record["canonical_solution"], name)
        tests = candidate_tests(record["test"], name)
        if found is None or len(tests) < 2:
            continue
        module, function = found
        if sum(isinstance(node, ast.FunctionDef) for node in module.body) > 1:
            continue
        question = inspect.cleandoc(ast.get_docstring(function, clean=False) or "")
        imports = [ast.unparse(n) + "\n" for n in module.body if isinstance(n, (ast.Import, ast.ImportFrom))]
        yield benchmark_row(
            id=record["task_id"],
            dataset="humaneval",
            question=question,
            name=name,
            method=as_method(module, function),
            tests=tests,
            setup="".join(imports),
        )


def candidate_tests(code: str, name: str) -> list[str]:
    """The asserts of check(candidate) as tests of Solution().NAME; [] where it holds more than asserts."""
    check = next(n for n in ast.parse(code).body if isinstance(n, ast.FunctionDef) and n.name == "check")
    asserts = [n for n in check.body if isinstance(n, ast.Assert)]
    rest = [n for n in check.body if not isinstance(n, (ast.Assert, ast.Pass, ast.Expr))]
    # `assert True, "..."` marks sections of the tests and says nothing.
    asserts = [n for n in asserts if not isinstance(n.test, ast.Constant)]
    return [] if rest else [as_test(n, "candidate", name) for n in asserts]
