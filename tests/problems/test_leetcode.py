"""Problem files: what is read, and that a malformed row is named with its line."""

from __future__ import annotations

import json

import pytest

from lib.errors import DataError
from problems import CLAUSE
from problems.leetcode import load_problems

USER = {"role": "user", "content": f"Write f {CLAUSE}."}
ROW = {"id": 7, "prompt": [USER], "gt_answer": ["assert f() == 1"], "func_name": "f", "setup_code": "import math"}
MALFORMED = {
    "torn": b"{",
    "a list": b"[1]",
    "no text": b"\xff\xfe",
    "too deep": b"[" * 200_000,
    "no function name": json.dumps(ROW | {"func_name": None}).encode(),
    "set-up does not compile": json.dumps(ROW | {"setup_code": "import ("}).encode(),
    "a message without text": json.dumps(ROW | {"prompt": [USER | {"content": None}, USER]}).encode(),
    "a lone surrogate": json.dumps(ROW | {"prompt": [USER | {"content": USER["content"] + "\ud800"}]}).encode(),
    "tests as one string": json.dumps(ROW | {"gt_answer": "assert f() == 1"}).encode(),
    "no prompt": json.dumps({k: v for k, v in ROW.items() if k != "prompt"}).encode(),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "problems.jsonl"


@pytest.mark.parametrize("line", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_row_is_named_with_its_line(line, path):
    path.write_bytes(json.dumps(ROW).encode() + b"\n\n" + line + b"\n")
    with pytest.raises(DataError, match=r"problems.jsonl:3: not a problem row") as error:
        load_problems(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("row", [ROW | {"gt_answer": []}, ROW | {"prompt": [{"role": "user", "content": "Write f."}]}])
def test_a_row_without_tests_or_clause_is_named(row, path):
    path.write_text(json.dumps(row))
    with pytest.raises(DataError, match=r"problems.jsonl:1: problem 7 has no tests, or its prompt lacks"):
        load_problems(path)


def test_an_empty_file_is_an_error(path):
    path.write_text("\n")
    with pytest.raises(DataError, match="holds no problems"):
        load_problems(path)


def test_every_field_is_read(path):
    path.write_text(json.dumps(ROW | {"difficulty": "a\tb", "canonical_solution": "def f(): return 1"}))
    [problem] = load_problems(path)
    assert (problem.id, problem.messages, problem.tests, problem.entry) == ("7", (USER,), ("assert f() == 1",), "f")
    assert (problem.setup_code, problem.canonical) == ("import math", "def f(): return 1")
    assert problem.stratum == "a b", "it goes into a TSV"


@pytest.mark.parametrize("text", [json.dumps(ROW) + "\r\n", "\ufeff" + json.dumps(ROW)], ids=["crlf", "bom"])
def test_other_systems_files_are_read(text, path):
    path.write_text(text, newline="", encoding="utf-8")
    assert len(load_problems(path)) == 1


def test_a_line_separator_within_a_string_ends_no_line(path):
    path.write_text(json.dumps(ROW | {"setup_code": "# \u2028"}, ensure_ascii=False), encoding="utf-8")
    assert len(load_problems(path)) == 1
