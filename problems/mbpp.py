"""MBPP (Austin et al. 2021, google-research, CC BY 4.0) in the benchmark's form: entry-level problems with three tests.

The text alone often leaves the order of arguments or the result's type open, so the first test is shown as an example;
the others are hidden. Left out are problems that this form cannot hold (tests with set-up code or with anything but
calls of the one function) and those whose tests a constant passes.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from problems.form import as_method, as_test, benchmark_row, parse_function
from problems.hub import Hub

HUB = Hub(
    id="google-research-datasets/mbpp",
    config="full",
    revision="4bb6404fdc6cacfda99d4ac4205087b89d32030c",
    columns=("task_id", "text", "code", "test_list", "test_setup_code"),
)

# Its own solution takes 14 s, which is above any time limit of grading.
SLOW = {123}


def rows(records: Iterable[dict]) -> Iterator[dict]:
    """Records of the hub (HUB.columns) -> rows of a problem file in the order of task_id; unfit ones are left out."""
    for record in sorted(records, key=lambda r: r["task_id"]):
        asserts = test_asserts(record["test_list"])
        name = tested_name(record["code"], asserts)
        found = parse_function(record["code"], name)
        if found is None or record["test_setup_code"].strip() or record["task_id"] in SLOW or one_answer(asserts):
            continue
        tests = [as_test(node, name, name) for node in asserts]
        yield benchmark_row(
            id=f"MBPP/{record['task_id']}",
            dataset="mbpp",
            question=f"{record['text'].strip()}\n\nExample:\n\n{tests[0]}",
            name=name,
            method=as_method(*found),
            tests=tests,
        )


def test_asserts(tests: list[str]) -> list[ast.Assert]:
    """The tests as syntax trees; [] where one is not a single assert."""
    try:
        bodies = [ast.parse(test.replace("\r\n", "\n")).body for test in tests]
    except SyntaxError:
        return []
    return [b[0] for b in bodies] if all(len(b) == 1 and isinstance(b[0], ast.Assert) for b in bodies) else []


def one_answer(asserts: list[ast.Assert]) -> bool:
    """Whether a constant passes all of the tests, as it does one."""
    compared = [a.test for a in asserts if isinstance(a.test, ast.Compare)]
    expected = {ast.unparse(c.comparators[-1]) for c in compared}
    return len(asserts) < 2 or (len(compared) == len(asserts) and len(expected) == 1)


def tested_name(code: str, asserts: list[ast.Assert]) -> str:
    """The one function of `code` that every assert calls; "" where there is none."""
    try:
        defined = {n.name for n in ast.parse(code.replace("\r\n", "\n")).body if isinstance(n, ast.FunctionDef)}
    except (SyntaxError, ValueError):
        return ""
    called = [{n.func.id for n in ast.walk(a) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
              for a in asserts]  # fmt: skip
    common = defined.intersection(*called)
    return common.pop() if len(common) == 1 else ""
