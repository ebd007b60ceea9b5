"""A plain function with asserts -> a row of the benchmark: a method of class Solution, in the LeetCode rows' wording.

    def f(a, b): ...      ->   class Solution:
                                   def f(self, a, b): ...
    assert f(1, 2) == 3   ->   assert Solution().f(1, 2) == 3

What is converted is the syntax tree, so that recursion, helpers and constants of the original keep working: every read
of the function's name becomes `Solution().NAME`, and what stands beside it stays where it is. A row has the keys that
leetcode.py reads, so a file of rows is a problem file like any other.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

from problems import CLAUSE

# The LeetCode rows' system prompt, so that all sources look alike to the model.
SYSTEM = (
    "You are an expert Python programmer. Write correct, efficient Python 3 code that solves the problem "
    "and passes all tests. Output the code in the following format: ```python\n<code>\n```"
)
USER = (
    "PROBLEM:\n{question}\n\nYour solution to the problem should be a method of the class Solution called {name} "
    + CLAUSE
    + ". Use the following starter code:\n```python\n{starter}# Add your code here\n```\n\nSOLUTION:\n"
)

# What a program may use without importing it, as on LeetCode. The last line gives pow, which math shadows, back.
SETUP = """\
import bisect
import collections
import datetime
import functools
import heapq
import itertools
import math
import random
import re
import string
import sys
from typing import *
from collections import *
from functools import *
from itertools import *
from heapq import *
from bisect import *
from math import *
from builtins import pow
"""


@dataclass(frozen=True)
class Method:
    """A function as a method of Solution."""

    starter: str
    """`class Solution:` and the signature, up to where the body begins."""
    program: str
    """The whole module with the function as that method."""


class _Reads(ast.NodeTransformer):
    """Replaces every read of the name `old` by `Solution().new`."""

    def __init__(self, old: str, new: str) -> None:
        self.old = old
        self.new = ast.parse(f"Solution().{new}", mode="eval").body

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.new if node.id == self.old else node


def parse_function(code: str, name: str) -> tuple[ast.Module, ast.FunctionDef] | None:
    """(module, its function `name`); None where that is no plain function, or something else has its name."""
    try:
        module = ast.parse(code.replace("\r\n", "\n"))
    except (SyntaxError, ValueError):
        return None
    found = [n for n in module.body if isinstance(n, ast.FunctionDef) and n.name == name]
    if len(found) != 1 or found[0].decorator_list:
        return None
    arguments = {n.arg for n in ast.walk(found[0].args) if isinstance(n, ast.arg)}
    others = [n for n in module.body if n is not found[0]]
    return None if "self" in arguments or any(binds(n, name) for n in others) else (module, found[0])


def binds(tree: ast.AST, name: str) -> bool:
    """Whether something in `tree` gives `name` a value: an assignment, a definition, an argument."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == name and not isinstance(node.ctx, ast.Load):
            return True
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
            return True
        if isinstance(node, ast.arg) and node.arg == name:
            return True
        if isinstance(node, ast.alias) and (node.asname or node.name) == name:
            return True
    return False


def as_method(module: ast.Module, function: ast.FunctionDef) -> Method:
    """The module with `function` as a method of Solution in its place; its docstring is left out. Changes `module`."""
    place, name, arguments = module.body.index(function), function.name, function.args
    if ast.get_docstring(function) is not None:
        function.body = function.body[1:] or [ast.Pass()]
    # Within the function its name may be a local variable instead of a recursion.
    local = any(binds(n, name) for n in (arguments, *function.body))
    for node in module.body:
        if not (local and node is function):
            _Reads(name, name).visit(node)
    (arguments.posonlyargs or arguments.args).insert(0, ast.arg("self"))
    module.body[place] = ast.ClassDef("Solution", bases=[], keywords=[], body=[function], decorator_list=[])
    returns = f" -> {ast.unparse(function.returns)}" if function.returns else ""
    signature = f"    def {name}({ast.unparse(arguments)}){returns}:"
    return Method(
        starter=f"class Solution:\n{signature}\n        ",
        program=ast.unparse(ast.fix_missing_locations(module)) + "\n",
    )


def as_test(node: ast.Assert, called: str, name: str) -> str:
    """The assert with calls of `called` as calls of Solution().NAME, without its message."""
    return f"assert {ast.unparse(_Reads(called, name).visit(node.test))}"


def benchmark_row(
    *, id: str, dataset: str, question: str, name: str, method: Method, tests: list[str], setup: str = ""
) -> dict:
    """One line of a problem file; `setup` is code of the source that stands before every program."""
    user = USER.format(question=question.strip(), name=name, starter=method.starter)
    return {
        "id": id,
        "dataset": dataset,
        "difficulty": "easy",
        "prompt": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}],
        "gt_answer": tests,
        "func_name": f"Solution().{name}",
        "setup_code": SETUP + setup,
        "canonical_solution": method.program,
        "prompt_metadata": {"starter_code": method.starter},
    }
