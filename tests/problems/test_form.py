"""A function as a method of Solution: recursion, helpers, local names, and the asserts that call it."""

import ast

import pytest

from pairs import SYSTEM as PAIRS_SYSTEM
from problems import CLAUSE
from problems.form import SETUP, SYSTEM, as_method, as_test, benchmark_row, parse_function


def solution(code: str, name: str):
    """An instance of the class that `code` becomes."""
    scope: dict = {}
    exec(SETUP + as_method(*parse_function(code, name)).program, scope)
    return scope["Solution"]()


def test_recursion_calls_the_method():
    code = "def fact(n: int) -> int:\n    return 1 if n < 2 else n * fact(n - 1)\n"
    method = as_method(*parse_function(code, "fact"))
    assert method.starter == "class Solution:\n    def fact(self, n: int) -> int:\n        "
    assert "Solution().fact(n - 1)" in method.program
    assert solution(code, "fact").fact(5) == 120


def test_helpers_and_constants_stay_in_their_place():
    code = "K = 3\ndef twice(x):\n  return 2 * x\ndef f(x):\n  return twice(x) + K + later()\ndef later():\n  return 1"
    assert solution(code, "f").f(5) == 14


def test_a_helper_may_call_the_function():
    code = "def even(n):\n    return n == 0 or odd(n - 1)\n\ndef odd(n):\n    return n != 0 and even(n - 1)\n"
    assert solution(code, "even").even(10) is True


def test_a_local_variable_of_the_functions_name_stays_local():
    code = "def total(xs):\n    total = 0\n    for x in xs:\n        total += x\n    return total\n"
    assert solution(code, "total").total([1, 2, 3]) == 6


def test_a_method_may_have_a_builtins_name():
    code = "def size(xs):\n    return sum([1 for _ in xs])\n\ndef sum(a, b):\n    return a + b\n"
    assert solution(code.replace("size", "n").replace("sum([", "len(["), "sum").sum(2, 3) == 5


def test_the_docstring_is_left_out():
    code = 'def f(x):\n    """Text of the problem."""\n    return x\n'
    assert "Text" not in as_method(*parse_function(code, "f")).program


@pytest.mark.parametrize(
    "code",
    [
        "def f(:\n    pass",
        "g = 1\n",
        "def f(x):\n    return x\n\nf = abs\n",
        "def f(self):\n    return self\n",
        "import functools\n\n@functools.cache\ndef f(x):\n    return x\n",
        "def f(x):\n    return x\n\ndef f(x):\n    return -x\n",
        "from math import sqrt as f\n\ndef f(x):\n    return x\n",
        "from things import f\n\ndef f(x):\n    return x\n",
    ],
)
def test_what_is_no_plain_function_of_that_name_is_refused(code):
    assert parse_function(code, "f") is None


def test_an_assert_calls_the_method_and_loses_its_message():
    node = ast.parse("assert abs(candidate(2.5) - 0.5) < 1e-06, 'text'").body[0]
    assert as_test(node, "candidate", "f") == "assert abs(Solution().f(2.5) - 0.5) < 1e-06"


def test_python_keeps_its_pow_and_abs_after_the_setup_code():
    scope: dict = {}
    exec(SETUP, scope)
    assert eval("pow(3, 2, 5), abs(-1), max([1, 2])", scope) == (4, 1, 2)
    assert eval("sqrt(4), Counter('aa')['a'], List[int] is not None, reduce, re.match", scope)[:2] == (2.0, 2)


def test_the_wording_is_that_of_the_other_sources(leetcode):
    method = as_method(*parse_function("def f(x):\n    return x\n", "f"))
    row = benchmark_row(id="a", dataset="d", question="Return x.", name="f", method=method, tests=[])
    system, user = (m["content"] for m in row["prompt"])
    assert system == SYSTEM == PAIRS_SYSTEM == leetcode[0].messages[0]["content"]
    assert user.count(CLAUSE) == 1

    real = leetcode[0].messages[1]["content"]
    assert real.startswith("PROBLEM:\n") and user.startswith("PROBLEM:\nReturn x.\n\n")
    name = leetcode[0].entry.removeprefix("Solution().")
    bridge = real[real.index("\n\nYour solution") : real.index("class Solution:")]
    assert bridge.replace(name, "f") in user
    assert user.endswith(real[real.index("# Add your code here") :])
