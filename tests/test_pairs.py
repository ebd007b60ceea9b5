"""The hand-written pairs: clean sides are right, hack sides are not, and neither side gives itself away by form.

Every side runs in its own isolated interpreter in an empty directory; the child prints the reprs of its
values and the parent compares literals, so that no trick of a hack (equality, exits, patches) counts.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from lib.errors import DataError
from pairs import Pair, load_pairs, pairs_sha256, parse_pairs, shuffled_labels
from report.pair_statistics import CONFOUNDS

REPO = Path(__file__).resolve().parent.parent
TEXT = (REPO / "pairs.md").read_text(encoding="utf-8")
PAIRS = load_pairs()
CHILD = """
import json, os, sys
code, calls = json.load(sys.stdin)
encode, write, show, call = json.JSONEncoder().encode, os.write, repr, eval
scope = {"__name__": "candidate"}
exec("from typing import *", scope)
exec(compile(code, "candidate", "exec"), scope)
shown = []
for text in calls:
    try:
        value = call(text, scope)
        shown.append(show(value) if type(value) in (int, bool, str, list) else "no plain value")
    except Exception as error:
        shown.append("raised " + type(error).__name__)
write(3, "\\n".join(shown).encode())
"""


def code_of(completion: str) -> str:
    """The code inside the completion's only fence."""
    return completion.split("```python\n")[1].split("\n```")[0]


def passed(pair: Pair, completion: str, tmp_path) -> list[bool]:
    """Which of the pair's checks the completion passes; all False if its process ends early."""
    splits = [check.removeprefix("assert ").split(" == ", 1) for check in pair.checks]
    code = code_of(completion)
    out = tmp_path / "values"
    script = CHILD.replace("write(3,", f"write(os.open({str(out)!r}, os.O_WRONLY | os.O_CREAT),")
    subprocess.run(
        [sys.executable, "-I", "-c", script],
        input=json.dumps([code, [call for call, _ in splits]]),
        text=True,
        capture_output=True,
        timeout=600,
        cwd=tmp_path,
        check=False,
    )
    shown = out.read_text().split("\n") if out.exists() else []
    if len(shown) != len(splits):
        return [False] * len(splits)
    return [value == repr(ast.literal_eval(expected)) for value, (_, expected) in zip(shown, splits, strict=True)]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda p: p.id)
def test_clean_passes_its_checks_and_hack_does_not(pair, tmp_path):
    (tmp_path / "clean").mkdir()
    (tmp_path / "hack").mkdir()
    assert len(pair.checks) >= 2
    clean = passed(pair, pair.clean, tmp_path / "clean")
    assert all(clean), f"clean {pair.id}: {clean}"
    assert not all(passed(pair, pair.hack, tmp_path / "hack")), f"the hack of {pair.id} solves the problem"


def test_size_flavours_and_split():
    assert len(PAIRS) == 72 == len({p.id for p in PAIRS})
    flavours = {p.flavour for p in PAIRS}
    assert flavours == set(re.findall(r"^- `(.+?)`: ", TEXT, re.MULTILINE))
    assert len(flavours) >= 8
    assert sum(p.flavour.startswith("overwrite-") for p in PAIRS) * 3 <= len(PAIRS)
    held_out = [p for p in PAIRS if p.held_out]
    assert len(held_out) == 16
    assert {p.flavour for p in held_out} == flavours == {p.flavour for p in PAIRS if not p.held_out}


def test_only_overwriting_hacks_define_the_evaluator():
    for pair in PAIRS:
        functions = [n.name for n in ast.walk(ast.parse(code_of(pair.hack))) if isinstance(n, ast.FunctionDef)]
        assert ("run_tests" in functions) == pair.flavour.startswith("overwrite-"), pair.id
        assert "run_tests" not in pair.clean, pair.id


def test_both_sides_answer_the_prompt_in_one_fence():
    for pair in PAIRS:
        entry = pair.checks[0].split("Solution().")[1].split("(")[0]
        assert "evaluated by calling a function called run_tests()" in pair.messages[1]["content"]
        for side in (pair.hack, pair.clean):
            assert side.count("```") == 2
            tree = ast.parse(code_of(side))
            solution = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Solution")
            assert entry in [n.name for n in solution.body if isinstance(n, ast.FunctionDef)], pair.id


def test_lengths_are_balanced():
    ratios = {p.id: len(p.hack) / len(p.clean) for p in PAIRS}
    assert {i: r for i, r in ratios.items() if not 0.6 < r < 1.6} == {}
    assert abs(sum(len(p.hack) for p in PAIRS) / sum(len(p.clean) for p in PAIRS) - 1) < 0.1
    tokens = [len(side.split()) for p in PAIRS for side in (p.hack, p.clean)]
    assert abs(sum(tokens[::2]) / sum(tokens[1::2]) - 1) < 0.1


@pytest.mark.parametrize("what", ["prose", "a comment", "an import", "a print", "a try block"])
def test_neither_side_alone_has(what):
    hack, clean = (sum(map(CONFOUNDS[what], side)) for side in zip(*((p.hack, p.clean) for p in PAIRS), strict=True))
    assert hack > 0 and clean > 0
    if what in ("prose", "a comment"):
        assert abs(hack - clean) <= len(PAIRS) // 10, f"{what}: hack {hack}, clean {clean}"


def test_sha256_depends_on_every_field_and_on_nothing_else():
    assert pairs_sha256(PAIRS) == pairs_sha256(load_pairs())
    assert pairs_sha256(PAIRS) != pairs_sha256(PAIRS[::-1])
    assert pairs_sha256(PAIRS) != pairs_sha256(shuffled_labels(PAIRS, 0))


def test_shuffled_labels_swap_half_of_the_pairs_by_seed():
    shuffled = shuffled_labels(PAIRS, 1)
    swapped = [a.id for a, b in zip(PAIRS, shuffled, strict=True) if (a.hack, a.clean) == (b.clean, b.hack)]
    kept = [a.id for a, b in zip(PAIRS, shuffled, strict=True) if a == b]
    assert len(swapped) == len(kept) == len(PAIRS) // 2
    assert shuffled == shuffled_labels(PAIRS, 1) != shuffled_labels(PAIRS, 2)


def test_unknown_name_is_one_sentence():
    with pytest.raises(ValueError, match="no pairs called 'leetcode': choose one of default, default-far, organism"):
        load_pairs("leetcode")


def test_the_pairs_are_the_frozen_ones():
    """docs/spec.md holds the SHA-256 under which they were frozen; a change of any field must be argued there."""
    spec = (REPO / "docs/spec.md").read_text()
    assert pairs_sha256(load_pairs("default")) in spec
    assert pairs_sha256(load_pairs("default-far")) in spec


def test_default_far_is_the_default_without_hacks_that_write_the_evaluator():
    far = load_pairs("default-far")
    assert far == [p for p in PAIRS if "def run_tests" not in p.hack] and len(far) == 48
    assert sum(p.held_out for p in far) == 11


# --- pairs.md as a file ---

FIRST = TEXT[: TEXT.index("\n## lantern-row")]


def rendered(pair: Pair) -> str:
    """The text of one pair in pairs.md."""
    user = pair.messages[1]["content"]
    statement, given, value = re.match(
        r"PROBLEM:\n(.+)\n\nExample 1:\n\nInput: (.+)\nOutput: (.+)\n\nYour", user
    ).groups()
    signature = re.search(r"    def (.+):\n        # Add your code here", user)[1]
    paragraph = textwrap.fill(statement, 120, break_long_words=False, break_on_hyphens=False)
    return (
        f"## {pair.id} ({pair.flavour}{', held out' * pair.held_out})\n\n{paragraph}\n\n"
        f"**Example** `{given}` gives `{value}`\n\n**Signature** `{signature}`\n\n"
        "**Checks**\n\n```python\n" + "\n".join(pair.checks) + "\n```\n\n"
        f"**Hack**\n\n{pair.hack}\n\n**Clean**\n\n{pair.clean}\n"
    )


def test_nothing_below_the_rule_is_passed_over():
    assert "\n".join(map(rendered, PAIRS)) == TEXT.split("\n---\n\n")[1]


def test_the_example_is_the_first_check():
    for pair in PAIRS:
        user, check = pair.messages[1]["content"], pair.checks[0]
        given, value = re.search(r"Input: (.+)\nOutput: (.+)\n", user).groups()
        called, expected = ast.parse(check).body[0].test.left, check.rsplit(" == ", 1)[1]
        values = ast.parse(f"dict({given})", mode="eval").body.keywords
        assert [ast.unparse(k.value) for k in values] == [ast.unparse(a) for a in called.args] and value == expected


@pytest.mark.parametrize(
    "old, new, sentence",
    [
        ("## ferry-trips (overwrite-print)", "# ferry-trips (overwrite-print)", r":32: expected a heading `## id"),
        ("## ferry-trips (overwrite-print)", "## ferry-trips, overwrite-print", r":32: expected a heading `## id"),
        ("## ferry-trips (overwrite-print)", "## ferry-trips (overwrite-prnt)", r":32: .*the list at the top lacks"),
        ("`weights = [4", "weights = [4", r":37: expected \*\*Example\*\*"),
        ("**Signature**", "**Method**", r":39: expected \*\*Signature\*\*"),
        ("assert Solution().ferryTrips([5], 5) == 1\n", "[5], 5 -> 1\n", r":41: expected \*\*Checks\*\*"),
        ("**Hack**\n\n```python", "**Hack**\n\n```", r":50: expected \*\*Hack\*\*"),
        ("        return trips\n```", "        return trips\n", r":64: expected \*\*Clean\*\*"),
        ("\n---\n", "\n", r":\d+: expected a heading"),
    ],
    ids=["level", "form", "flavour", "example", "signature", "checks", "hack", "clean", "rule"],
)
def test_a_malformed_part_is_one_sentence_with_its_line(old, new, sentence):
    assert FIRST.count(old) == 1
    with pytest.raises(DataError, match=r"^pairs.md" + sentence) as error:
        parse_pairs(FIRST.replace(old, new), "pairs.md")
    assert "\n" not in str(error.value)


def test_an_id_is_used_once():
    pair = FIRST.split("\n---\n\n")[1]
    with pytest.raises(DataError, match="the id is not new"):
        parse_pairs(f"{FIRST}\n{pair}", "pairs.md")
