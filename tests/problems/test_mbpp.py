"""MBPP's records become rows: what is kept, what is left out, and that their solutions pass the real grader."""

import json

import pytest

from problems import mbpp
from problems.hub import load_records
from problems.leetcode import load_problems
from rewards import Grader


def record(number: int, text: str, code: str, tests: list[str], setup: str = "") -> dict:
    """A record in the format of the hub's data set (config full), of our own making."""
    return {"task_id": number, "text": text, "code": code, "test_list": tests, "test_setup_code": setup,
            "challenge_test_list": []}  # fmt: skip


SHARED_OF = record(
    12,
    "Write a function to find what two tuples share. ",
    "def shared(a,b):\r\n  res = tuple(set(a) & set(b))\r\n  return (res) ",
    ["assert set(shared((3, 4),(4, 5))) == set((4,))", "assert set(shared((1,),(2,))) == set(())"],
)
TWO = record(
    11,
    "Write a python function to find the area of a grid of given rows.",
    "WIDTH = 3\r\ndef cell(n):\r\n\treturn n * WIDTH\r\ndef area(n):\r\n\treturn cell(n)",
    ["assert area(2) == 6", "assert area(0)==0", "assert area(5) == 15"],
)
KEPT = [TWO, SHARED_OF]
LEFT_OUT = [
    record(13, "Set-up code.", "def f(x):\n  return x", ["assert f(a) == 1", "assert f(a) == 1"], "a = 1"),
    record(14, "Two functions.", "def f(x):\n  return x\ndef g(x):\n  return x",
           ["assert f(g(1)) == 1", "assert g(f(1)) == 1"]),
    record(15, "Python 2.", "def f(x):\n  print x", ["assert f(1) == 1", "assert f(2) == 2"]),
    record(16, "No assert.", "def f(x):\n  return x", ["f(1)", "assert f(1) == 1"]),
    record(17, "One test.", "def f(x):\n  return x", ["assert f(1) == 1"]),
    record(18, "A constant.", "def f(x):\n  return True", ["assert f(1) == True", "assert f(2)==True"]),
    record(123, "Slow.", "def f(x):\n  return x", ["assert f(1) == 1", "assert f(2) == 2"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    """KEPT and LEFT_OUT, two splits of a folder as the hub has them, through `datasets` and a problem file."""
    work = tmp_path_factory.mktemp("mbpp")
    upstream = work / "upstream"
    upstream.mkdir()
    for split, records in (("train", [SHARED_OF, *LEFT_OUT]), ("test", [TWO])):
        (upstream / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    found = load_records(mbpp.HUB, str(upstream), cache=str(work / "cache"))
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in mbpp.rows(found)))
    return load_problems(work / "rows.jsonl")


def test_all_splits_in_the_order_of_their_ids_without_what_does_not_fit(problems):
    assert [(p.id, p.source, p.stratum) for p in problems] == [(f"MBPP/{r['task_id']}", "mbpp", "easy") for r in KEPT]


def test_the_first_test_is_shown_and_the_others_are_not(problems):
    text = problems[0].messages[-1]["content"]
    assert "given rows.\n\nExample:\n\nassert Solution().area(2) == 6\n\nYour solution" in text
    assert "area(5)" not in text and "area(5)" in problems[0].tests[2]


def test_own_solutions_pass_the_real_grader(problems):
    with Grader(workers=1, timeout_s=20.0) as grader:
        grades = grader.grade([f"```python\n{p.canonical}```" for p in problems], problems)
    assert [(g.gt_pass, g.hack, g.reason) for g in grades] == [(True, False, "")] * len(problems)
