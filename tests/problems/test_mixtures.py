"""Splits and mixtures: the same for every arm and seed, in the shares asked for, disjoint, one sentence where not."""

import hashlib
import json
from pathlib import Path

import pytest

from lib.errors import UserError
from problems.leetcode import load_problems
from problems.mixtures import apportion, mixture
from problems.sources import SOURCES, problems_sha256, split_problems

SMOKE = str(Path(__file__).resolve().parents[1] / "data/smoke_problems.jsonl")


def write(path: Path, ids: range, dataset: str | None = None, difficulty: str = "easy") -> str:
    """A problem file of our own; returns its path."""
    rows = []
    for i in ids:
        user = f"PROBLEM {path.stem} {i} and should pass all tests."
        row = {"id": f"{path.stem}/{i}", "difficulty": difficulty, "prompt": [{"role": "user", "content": user}],
               "gt_answer": ["assert Solution().f(1) == 1"], "func_name": "Solution().f"}  # fmt: skip
        rows.append(row | ({"dataset": dataset} if dataset else {}))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def files(tmp_path):
    """Two files: 40 problems of "alpha easy", 30 of "two" (a file's stem) "hard"."""
    return write(tmp_path / "one.jsonl", range(40), "alpha"), write(tmp_path / "two.jsonl", range(30), None, "hard")


def counts(problems) -> dict[str, int]:
    strata = [p.stratum for p in problems]
    return {s: strata.count(s) for s in sorted(set(strata))}


def contents(problems) -> set[str]:
    return {p.messages[-1]["content"] for p in problems}


# --- one name or path: as at commit 5a225de


def test_a_single_file_splits_as_before(files):
    train, held_out = split_problems(files[0], "", 7)
    order = sorted(load_problems(files[0]), key=lambda p: hashlib.sha256(p.id.encode()).digest())
    assert (train, held_out) == (order[7:], order[:7])
    assert counts(train) == {"easy": 33}


def test_two_files_are_taken_as_they_are(files):
    train, held_out = split_problems(files[0], files[1], 5)
    assert (train, held_out) == (load_problems(files[0]), load_problems(files[1])[:5])


def test_strata_of_an_evaluation_file_of_several_sources_name_them(files, tmp_path):
    both = tmp_path / "both.jsonl"
    both.write_text("".join(Path(file).read_text() for file in files))
    _, held_out = split_problems(write(tmp_path / "three.jsonl", range(3)), str(both), 70)
    assert counts(held_out) == {"alpha easy": 40, "both hard": 30}


# problems_sha256 of the splits that commit 5a225de makes.
BEFORE = {
    ("organism", 256): "f22201d19f51dc73fa96195137d22efddf02a6059eceacee6ceed0826455de9a",
    (SMOKE, 2): "26af81738305f47f4902b51e4fa91f5d76949cdc16d28eedd44f94a21953aa99",
}


@pytest.mark.parametrize("problems, n_eval", BEFORE)
def test_the_splits_of_existing_runs_have_not_changed(problems, n_eval):
    assert problems_sha256(*split_problems(problems, "", n_eval)) == BEFORE[problems, n_eval]


def test_a_file_that_is_too_small_is_refused_as_before(files):
    with pytest.raises(UserError, match=r"has 40 problems, not more than --n-eval 40"):
        split_problems(files[0], "", 40)


def test_a_path_with_a_colon_or_comma_is_a_path_where_it_is_there(tmp_path):
    path = write(tmp_path / "a,b:12", range(5))
    assert len(split_problems(path, "", 2)[0]) == 3


# --- mixtures


def test_a_mixture_has_the_shares_that_were_asked_for(files):
    train, held_out = split_problems(f"{files[0]}:20,{files[1]}:10", "", 12)
    assert counts(train) == {"alpha easy": 20, "two hard": 10}
    assert counts(held_out) == {"alpha easy": 8, "two hard": 4}
    assert not contents(train) & contents(held_out)


def test_a_share_of_one_file_with_all_the_rest_is_the_single_files_split(files):
    single, mixed = split_problems(files[0], "", 7), split_problems(f"{files[0]}:33", "", 7)
    assert problems_sha256(*single) == problems_sha256(*mixed)


def test_the_choice_does_not_depend_on_the_files_order(files, tmp_path):
    lines = Path(files[0]).read_text().splitlines()
    (tmp_path / "one.jsonl").write_text("\n".join(reversed(lines)))
    before = split_problems(f"{files[0]}:10,{files[1]}:5", "", 6)
    Path(files[0]).write_text("\n".join(reversed(lines)))
    assert split_problems(f"{files[0]}:10,{files[1]}:5", "", 6) == before


def test_a_larger_share_holds_the_smaller_and_leaves_the_evaluation_alone(files):
    (few, held_out), (many, again) = (split_problems(f"{files[0]}:{n}", "", 5) for n in (10, 30))
    assert contents(few) < contents(many)
    assert held_out == again


def test_a_problem_that_two_files_share_is_in_the_mixture_once(files, tmp_path):
    copy = tmp_path / "copy.jsonl"
    copy.write_text(Path(files[0]).read_text().replace('"id": "', '"id": "copy-') + Path(files[1]).read_text())
    train, held_out = split_problems(f"{files[0]}:20,{copy}:20", "", 10)
    texts = [p.messages[-1]["content"] for p in [*train, *held_out]]
    assert len(set(texts)) == len(texts) == 50


def test_eval_file_may_be_a_mixture_and_leaves_training_problems_out(files):
    train, held_out = split_problems(f"{files[0]}:30,{files[1]}:5", f"{files[0]}:5,{files[1]}:10", 12)
    assert counts(held_out) == {"alpha easy": 4, "two hard": 8}
    assert not contents(train) & contents(held_out)


def test_eval_file_of_a_mixture_may_be_one_of_its_files(files):
    train, held_out = split_problems(f"{files[0]}:30,{files[1]}:5", files[0], 100)
    assert counts(held_out) == {"alpha easy": 10}
    assert not contents(train) & contents(held_out)


def test_a_named_source_mixes_with_a_file(files):
    train, held_out = split_problems(f"organism:50,{files[0]}:25", "", 9)
    assert counts(train) == {"alpha easy": 25, **counts(train[:50])}
    assert sum(counts(train[:50]).values()) == 50 and set(counts(train[:50])) == {
        "organism solvable", "organism underspecified"}  # fmt: skip
    assert counts(held_out)["alpha easy"] == 3


@pytest.mark.parametrize(
    "problems, eval_file, n_eval, sentence",
    [
        ("{one}:41", "", 5, r"one.jsonl has 40 problems, not 41"),
        ("{one}:40", "", 5, r"leaves no problem to evaluate on: ask for fewer, or pass --eval-file"),
        ("{one}:20,{two}:28", "", 20, r"20 evaluation problems in these shares take 12 of .*two.jsonl, which has 2 "
                                      r"left: pass --n-eval 4, or other numbers"),
        ("{one}:20,{two}:30", "", 1, r"take 1 of .*two.jsonl, which has 0 left: ask for other numbers"),
        ("{one}:5,elsewhere:5", "", 5, r"no source elsewhere: choose of organism, leetcode, humaneval, mbpp, or give"),
        ("{one}:5,{one}:6", "", 5, r"names .*one.jsonl twice"),
        ("{one},{two}", "", 5, r"one.jsonl is not SOURCE:NUMBER, as in leetcode:60,humaneval:75"),
        ("{one}:none", "", 5, r"one.jsonl:none is not SOURCE:NUMBER"),
        ("{one}:0", "", 5, r"one.jsonl:0 is not SOURCE:NUMBER"),
        ("{one}:5,", "", 5, r"an empty part is not SOURCE:NUMBER"),
        ("{one}:5", "{one}:0", 5, r"--eval-file .*one.jsonl:0 is not SOURCE:NUMBER"),
        ("{one}:40", "{one}", 5, r"--eval-file .*: every one of its problems is a training problem"),
    ],
)  # fmt: skip
def test_what_cannot_be_mixed_is_one_sentence(files, problems, eval_file, n_eval, sentence):
    names = {"one": files[0], "two": files[1]}
    with pytest.raises(UserError, match=sentence) as told:
        split_problems(problems.format(**names), eval_file.format(**names), n_eval)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["leetcode", "humaneval", "mbpp"])
@pytest.mark.parametrize("form", ["{}", "{}:5"])
def test_a_source_that_was_not_fetched_says_what_to_run(name, form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"{name} needs data/\w+.jsonl, .*: run `just data --sets {name}`"):
        split_problems(form.format(name), "", 5)


def test_fetched_sources_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    write(tmp_path / "data/humaneval.jsonl", range(20), "humaneval")
    write(tmp_path / "data/leetcode_train_medhard_filtered.jsonl", range(20), "leetcode", "medium")
    write(tmp_path / "data/leetcode_test_medhard.jsonl", range(8), "leetcode", "medium")
    assert [len(part) for part in split_problems("humaneval", "", 5)] == [15, 5]
    assert [len(part) for part in split_problems("leetcode", "", 5)] == [20, 5]
    assert [len(part) for part in split_problems("humaneval", "leetcode", 7)] == [20, 7]
    train, held_out = split_problems("leetcode:10,humaneval:5", "", 6)
    assert counts(train) == {"humaneval easy": 5, "leetcode medium": 10}
    assert counts(held_out) == {"humaneval easy": 2, "leetcode medium": 4}


def test_the_155_and_80_rows_mix():
    data = Path(__file__).resolve().parents[3] / "shared/data"
    one, two = data / "leetcode_medhard_80.jsonl", data / "humaneval_155.jsonl"
    if not (one.exists() and two.exists()):
        pytest.skip("the shared rows are not at ../shared/data")
    train, held_out = split_problems(f"{one}:60,{two}:75", "", 45)
    assert counts(train) == {"humaneval easy": 75, **{k: v for k, v in counts(train).items() if "leetcode" in k}}
    assert sum(v for k, v in counts(held_out).items() if "leetcode" in k) == 20
    assert not contents(train) & contents(held_out)


# --- parts


@pytest.mark.parametrize("text", ["organism", "a/path.jsonl", SMOKE])
def test_one_name_or_path_is_no_mixture(text):
    assert mixture(text, "--problems", SOURCES) is None


def test_a_mixture_is_read_in_its_order():
    assert list(mixture("b:2, a/x.jsonl:10", "--problems", SOURCES).items()) == [("b", 2), ("a/x.jsonl", 10)]


@pytest.mark.parametrize(
    "n, shares, wanted",
    [
        (10, {"a": 1, "b": 1}, [5, 5]),
        (3, {"a": 1, "b": 1}, [2, 1]),
        (45, {"a": 60, "b": 75}, [20, 25]),
        (1, {"a": 1, "b": 2, "c": 3}, [0, 0, 1]),
        (0, {"a": 1}, [0]),
    ],
)
def test_shares_become_whole_numbers_that_sum_up(n, shares, wanted):
    assert list(apportion(n, shares).values()) == wanted


def test_the_hash_sees_content_order_and_side(files):
    train, held_out = split_problems(files[0], "", 7)
    hashes = {
        problems_sha256(train, held_out),
        problems_sha256(held_out, train),
        problems_sha256([*train, held_out[0]], held_out[1:]),
        problems_sha256(train[::-1], held_out),
    }
    assert len(hashes) == 4
