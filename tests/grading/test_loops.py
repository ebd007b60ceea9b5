"""Loops that cannot end are noticed; programs that end are never taken for one."""
# ruff: noqa: E501

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from running import run_values

from grading.asserts import split_tests
from grading.execution import Execution
from grading.pool import Pool

JAIL = Path(__file__).resolve().parents[2] / "grading" / "jail"


@pytest.fixture(scope="module")
def long():
    """Limits that no test waits for."""
    long = Pool(workers=2, timeout_s=60.0)
    yield long
    long.close()


ENDLESS = {
    "pass": "while True: pass",
    "counter": "i = 0\nwhile True: i += 1",
    "two pointers": "lo, hi = 0, 10\nwhile lo < hi:\n    mid = (lo + hi) // 2\n    lo = mid if mid * mid < 0 else lo",
    "index": "a, i = [1, 2, 3], 0\nwhile i < len(a):\n    if a[i] > 99: i += 1",
    "helper": "def g(x): return x + 1\ni = 0\nwhile i < 10: g(i)",
    "in a helper": "def g(x):\n    while x: pass\ng(1)",
    "attribute": "self.x = 1\nwhile self.x: pass",
    "dictionary": "d = {1: 2}\nwhile 1 in d: x = d[1]",
    "within a for": "for i in range(3):\n    while i < 5: pass",
    "swallows": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "string": "s = 'ab'\nwhile s[0] == 'a': t = s[1:]",
    "swap": "a, b = 1, 2\nwhile a != b: a, b = b, a",
    "round and round": "i = 1\nwhile i: i = i % 7 + 1",
    "underflow that stays": "x = 1e-300\nwhile x > 0: x *= 0.999",
}


def method(body: str) -> Execution:
    lines = "\n        ".join(body.split("\n"))
    return Execution(
        "", f"class Solution:\n    def f(self):\n        {lines}\n        return 7", (("Solution().f()",),)
    )


@pytest.mark.parametrize("name", ENDLESS)
def test_endless_loops_are_noticed(name, long):
    report = long.run([method(ENDLESS[name])])[0]
    assert report.error == "endless loop" and report.seconds < 5, report


def test_an_endless_loop_of_a_module_is_noticed(long):
    assert long.run([Execution("", "while True: pass", (("1",),))])[0].error == "endless loop"


ENDING = {
    "clock": "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass",
    "counted": "i = 0\nwhile i < 6_000_000: i += 1",
    "slow counter": "i = j = 0\nwhile i < 3_000: \n    j += 1\n    if j == 1000: i, j = i + 1, 0",
    "list that grows": "a = []\nwhile len(a) < 2_000_000: a += [1]",
    "set that grows": "s, n = set(), 0\nwhile len(s) < 500_000:\n    n += 1\n    s |= {n}",
    "iterator": "it = iter([1] * 5_000_000)\nwhile 1 in it: pass",
    "iterator of an attribute": "self.it = iter([1] * 3_000_000)\nwhile next(self.it, 0): pass",
    "iterator in a list": "x = [iter([1] * 3_000_000)]\nwhile 1 in x[0]: pass",
    "file of an attribute": "import io\nself.file = io.StringIO('1\\n' * 900_000)\nwhile '1\\n' in self.file: pass",
    "counter of a helper": "def counter():\n    n = 0\n    def more():\n        nonlocal n\n        n += 1\n        return n < 2_000_000\n    return more\nmore = counter()\nwhile more(): pass",
    "length of an object": "class C:\n    n = 0\n    def __len__(self):\n        C.n += 1\n        return int(C.n < 500_000)\nc = C()\nwhile len(c): pass",
    "strings": "s, i = 'ab' * 100_000, 0\nwhile i < 3000:\n    t = s[i:]\n    i += 1",
    "generator": "g = (0 for _ in range(2_000_000))\nwhile next(g, 1) == 0: pass",
    "pop": "a = [0] * 3_000_000\nwhile a: a.pop()",
    "default dictionary": "from collections import defaultdict\nd, n = defaultdict(int), 0\nwhile d[n] == 0 and n < 2_000_000: n += 1",
    "property": "class C:\n    n = 0\n    @property\n    def go(self):\n        self.n += 1\n        return self.n < 500_000\nc = C()\nwhile c.go: pass",
    "signal": "import signal\ndone = []\nsignal.signal(signal.SIGALRM, lambda *a: done.append(1))\nsignal.setitimer(signal.ITIMER_REAL, 1.0)\nwhile not done: pass",
    "random": "import random\nwhile random.random() > 1e-6: pass",
    "index error": "a, i = [1] * 3_000_000, 0\ntry:\n    while True:\n        x = a[i]\n        i += 1\nexcept IndexError: pass",
    "recursion": "def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)\nfib(24)",
    "inner whiles": "n = 0\nwhile n < 2000:\n    m = 0\n    while m < 500: m += 1\n    n += 1",
    "float": "x = 1.0\nwhile x > 0: x *= 0.5",
    "negative zero": "x, n = 0.0, 0\nwhile n < 1_500_000:\n    x = -x\n    n += 1",
    "conditions now and then": "n = k = 0\nwhile True:\n    n += 1\n    if n > 200_000:\n        k += 1\n        n = 0\n    if k > 3: break",
    "big integers": "x = 1\nwhile x.bit_length() < 40_000: x += x",
    "comprehension": "n = 0\nwhile n < 20_000:\n    n += len([i for i in range(9)]) // 9",
    "own trace": "import sys\nsys.settrace(lambda *a: None)\ni = 0\nwhile i < 1_000_000: i += 1",
}


@pytest.mark.parametrize("name", ENDING)
def test_loops_that_end_are_not(name, long):
    reports, values = run_values(long, [method(ENDING[name])])
    assert reports[0].finished and values[0] == [[7]], reports[0]


# Runs programs in this interpreter and looks at them every millisecond of CPU.
EVERY_MS = """
import json, signal, sys
sys.path.insert(0, {jail!r})
import loops
loops.FIRST_S, loops.LOOKS = 0.001, 10**9
arm = signal.setitimer
signal.setitimer = lambda which, seconds: arm(which, 0.001)
found = []
for setup, source, tests in json.load(sys.stdin):
    watch = loops.LoopWatch(lambda: found.append(source))
    namespace = {{"__name__": "solution"}}
    exec(compile(setup, "<setup>", "exec"), namespace)
    watch.arm()
    exec(compile(source, "<solution>", "exec"), namespace)
    for calls in tests:
        for call in calls:
            eval(call, namespace)
    arm(signal.ITIMER_PROF, 0)
    sys.settrace(None)
    sys.setprofile(None)
print(len(found), watch.looks)
"""


def test_a_look_never_exceeds_the_recursion_limit(long):
    """Programs that use nearly all of it are looked at like others, or not at all."""
    deep = "def g(n):\n    x = 0\n    while x < 30: x += 1\n    return 0 if n < 2 else 1 + g(n - 1)\nroom = 1000\n"
    deep += "while True:\n    try:\n        g(room)\n        break\n    except RecursionError: room -= 1\n"
    deep += "for _ in range(400): g(room - 1)"
    reports = long.run([method(deep)] * 4)
    assert all(report.finished for report in reports), reports


DEEPEST = """
import signal, sys
sys.path.insert(0, {jail!r})
import loops
signal.signal(signal.SIGPROF, loops.LoopWatch(lambda: None).look)
def deep(n, last=lambda: None):
    return deep(n - 1, last) if n else last()
def told():
    signal.raise_signal(signal.SIGPROF)
most = sys.getrecursionlimit()
while True:
    try:
        deep(most)
        break
    except RecursionError:
        most -= 1
for spare in range(2, 12):  # told() and the handler itself take two
    deep(most - spare, told)
print("fine")
"""


def test_a_look_in_the_last_frames_before_the_limit_does_not_reach_the_program():
    done = subprocess.run([sys.executable, "-c", DEEPEST.format(jail=str(JAIL))], capture_output=True, text=True)
    assert done.stdout == "fine\n", done.stderr[-500:]


def test_no_canonical_solution_is_taken_for_a_loop(leetcode):
    """Looked at a hundred times as often as in the jail: 60 solutions, all but the slowest tests."""
    slow = {"3312", "3317", "3337", "3472"}
    jobs = [
        (p.setup_code, p.canonical, [test.calls for test in split_tests(p.tests, p.entry)][:40])
        for p in leetcode
        if str(p.id) not in slow
    ][:60]
    command = [sys.executable, "-c", EVERY_MS.format(jail=str(JAIL))]

    done = subprocess.run(command, input=json.dumps(jobs), capture_output=True, text=True, timeout=300)
    assert done.stdout.startswith("0 "), done
