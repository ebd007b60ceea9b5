"""Ground-truth tests taken apart and judged: `assert EXPR == EXPECTED` -> calls for the child, a judgement here.

The program calls (EXPR: the largest subexpressions that start at the entry's first name, as Solution().f(...)) go to
the sandbox and come back as encoded builtin values. Everything around them (the comparison, EXPECTED, abs(...) < eps,
is_same_list(...), not, sorted) is evaluated in the trainer, by Python's own rules for those builtin values: 1 == True,
(1, 2) != [1, 2], no float tolerance, nan != nan. A test must be one assert whose other names are in HELPERS.
"""

from __future__ import annotations

import ast
import math
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from loguru import logger

from grading.execution import CUT, ExecutionReport, Judge
from grading.jail.protocol import FLOOD, KILLED, STARVED, TIME
from grading.syntax import root_name
from lib.errors import TestError
from problems import Problem

# --- values ---


class Opaque:
    """A result that no test can compare: equal to nothing, not even to itself."""

    def __eq__(self, other) -> bool:
        return False

    __hash__ = None


@dataclass(frozen=True)
class Nodes:
    """A linked list or binary tree, by its values ("n": in order; "r": breadth first, [value] or None)."""

    kind: str
    values: list


def decode(value, depth: int = 0):
    """The builtin value behind the sandbox's encoding (child.encode). Raises ValueError on anything malformed."""
    if not isinstance(value, list):
        return value
    if depth > 120 or not value or not isinstance(value[0], str):
        raise ValueError("malformed value")
    tag, items = value[0], value[1:]
    if tag == "i":
        if len(items[0]) > 20_000:  # division is quadratic
            raise ValueError("integer too large")
        return int(items[0], 16)
    if tag == "b":
        return bytes.fromhex(items[0])
    if tag == "w":
        return bytes.fromhex(items[0]).decode("utf-32-le", "surrogatepass")
    if tag == "c":
        return complex(*items)
    if tag == "o":
        return Opaque()
    if tag == "d":
        return _hashed(dict, [(decode(k, depth + 1), decode(v, depth + 1)) for k, v in items])
    if tag == "r":
        return Nodes("r", [None if item is None else [decode(item[0], depth + 1)] for item in items])
    decoded = [decode(item, depth + 1) for item in items]
    if tag == "n":
        return Nodes("n", decoded)
    return {"l": list, "t": tuple, "s": _set, "q": deque}[tag](decoded)


def _hashed(kind, items):
    """A set or dict whose keys were not chosen to collide: those would stall the trainer."""
    keys = [key for key, _ in items] if kind is dict else items
    if len(keys) > 100 * len(set(map(hash, keys))):
        raise ValueError("set or dict entries collide")
    return kind(items)


def _set(items=()):
    return _hashed(set, list(items))


def _list_node(values):
    return Nodes("n", list(values)) if values else None


def _tree_node(values):
    """As the data set's tree_node: children are listed for present nodes only."""
    values = list(values)
    while values and values[-1] is None:
        values.pop()
    return Nodes("r", [None if v is None else [v] for v in values]) if values else None


def _same(a, b):
    return a == b


# Names that a test may use beside its program calls.
HELPERS = {
    "abs": abs, "all": all, "any": any, "bool": bool, "float": float, "int": int, "isclose": math.isclose, "len": len,
    "list": list, "max": max, "min": min, "round": round, "set": _set, "sorted": sorted, "str": str, "sum": sum,
    "tuple": tuple, "inf": math.inf, "nan": math.nan, "list_node": _list_node, "tree_node": _tree_node,
    "is_same_list": _same, "is_same_tree": _same, "True": True, "False": False, "None": None,
}  # fmt: skip
# Syntax that may stand around program calls.
NODES = (ast.Constant, ast.Name, ast.Load, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.UnaryOp, ast.unaryop, ast.BoolOp,
         ast.boolop, ast.operator, ast.Compare, ast.cmpop, ast.Call, ast.keyword, ast.Expression)  # fmt: skip


# --- splitting ---


@dataclass(frozen=True)
class Test:
    """One assert, taken apart."""

    __test__ = False

    calls: tuple[str, ...]
    """Program calls, in the order in which Python evaluates them; all that the sandbox sees."""
    judge: Callable[[list], bool]
    """Results of the calls -> whether the assert holds; may raise, which is a failure."""


class _Split(ast.NodeTransformer):
    """Replaces program calls by names _0, _1 ... and refuses what the trainer should not evaluate."""

    def __init__(self, roots: set[str]) -> None:
        self.roots, self.calls = roots, []

    def visit(self, node):
        if isinstance(node, (ast.Call, ast.Attribute, ast.Subscript, ast.Name)) and root_name(node) in self.roots:
            self.calls.append(ast.unparse(node))
            return ast.copy_location(ast.Name(f"_{len(self.calls) - 1}", ast.Load()), node)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("math.inf", "math.nan", "math.isclose"):
            return ast.copy_location(ast.Name(node.attr, ast.Load()), node)
        if isinstance(node, ast.Name) and node.id not in HELPERS:
            raise TestError(f"it uses the name {node.id!r}")
        if isinstance(node, ast.BinOp):
            before = len(self.calls)
            self.generic_visit(node)
            # A program's value times or modulo something can be made to take all memory; sums cannot.
            if len(self.calls) > before and not isinstance(node.op, (ast.Add, ast.Sub, ast.Div, ast.FloorDiv)):
                raise TestError(f"it applies {type(node.op).__name__} to a result")
            return node
        if not isinstance(node, NODES):
            raise TestError(f"it holds a {type(node).__name__}")
        return self.generic_visit(node)


def split_test(text: str, entry: str) -> Test:
    """Take one ground-truth assert apart. Raises TestError for a test that is not one assert over program calls."""
    try:
        tree = ast.parse(text)
        if len(tree.body) != 1 or not isinstance(tree.body[0], ast.Assert):
            raise TestError("it is not one assert")
        splitter = _Split({re.split(r"\W", entry, maxsplit=1)[0] or "Solution", "Solution"} - HELPERS.keys())
        expression = ast.fix_missing_locations(ast.Expression(splitter.visit(tree.body[0].test)))
        if not splitter.calls:
            raise TestError(f"it never calls {entry}")
    except (SyntaxError, TestError, ValueError, RecursionError) as error:
        advice = f"write it as `assert {entry}(...) == VALUE`"
        raise TestError(f"cannot grade by {text[:200]!r}: {error}; {advice}") from None

    # Nearly all tests: a call compared with a literal, and so no code to keep.
    body = expression.body
    if isinstance(body, ast.Compare) and [type(op) for op in body.ops] == [ast.Eq] and isinstance(body.left, ast.Name):
        try:
            expected = ast.literal_eval(body.comparators[0])
        except ValueError:
            pass
        else:
            return Test(tuple(splitter.calls), lambda values: bool(values[0] == expected))

    # Any other expression: whitelisted nodes and names over builtin values.
    code = compile(expression, "<test>", "eval")

    def judge(values: list) -> bool:
        names = HELPERS | {f"_{i}": value for i, value in enumerate(values)}
        return bool(eval(code, {"__builtins__": {}}, names))

    return Test(tuple(splitter.calls), judge)


@lru_cache(maxsize=4096)
def split_tests(tests: tuple[str, ...], entry: str) -> tuple[Test, ...]:
    """split_test for every test of a problem."""
    return tuple(split_test(text, entry) for text in tests)


# --- judging ---


STOPS = {
    TIME: "time limit",
    FLOOD: "output limit",
    KILLED: "killed, as memory ran out",
    STARVED: "not graded: the host left it no time",
    CUT: "not graded: the batch's time was up",
}


def failure(report: ExecutionReport, tests: Sequence[Test]) -> str:
    """Why a run does not pass the ground truth; "" if it does."""
    if report.wrong:
        return f"test {report.wrong} of {len(tests)}: wrong result"
    if report.stop:
        return STOPS.get(report.stop) or f"not graded: {report.error or report.stop}"
    if report.error:
        where = f"test {report.tested + 1} of {len(tests)}" if report.loaded else "loading"
        return f"{where}: {report.error}"
    if not report.finished or report.tested != len(tests):
        return "the program ended the process"
    return ""


def judge_of(tests: Sequence[Test]) -> Judge:
    """What tells whether a child's results of test i, from 0, are right."""
    return lambda i, values: holds(tests[i], values)


def holds(test: Test, values: Sequence) -> bool:
    """Whether the assert holds for a child's results; whatever goes wrong in finding out is a failure."""
    if len(values) != len(test.calls):
        return False
    try:
        return test.judge([decode(value) for value in values])
    except Exception:
        return False


def check_gradable(*sets: Sequence[Problem]) -> None:
    """Take the first test of every problem apart, so that a wrong func_name is said now, not hours into a run.

    Raises TestError naming the test; warns where problems of a set share an id.
    """
    for problems in sets:
        for problem in problems:
            split_test(problem.tests[0], problem.entry)
        if len(ids := {p.id for p in problems}) < len(problems):
            logger.warning(f"{len(problems)} problems share {len(ids)} ids")
