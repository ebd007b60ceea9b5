"""report.html before a browser sees it: what is in it, how much of it, and what it may do."""

import base64
import gzip
import json
import random

import pytest
from PIL import Image
from synthetic_runs import make_run

from lib.files import REPO
from report import page, page_data
from report.runs import RunRecord, read_run


def completion(step: int, place: int) -> str:
    return f"```python\nclass Solution: pass\n# {step} {place}\n```"


def with_rollouts(folder, counts: dict[tuple[int, str], int], **fields) -> RunRecord:
    """A run whose rollouts.jsonl has so many rows of each (step, split)."""
    lines = [
        {"step": step, "split": split, "problem": f"p{i % 3}", "completion": completion(step, i), "compiles": True}
        | fields
        for (step, split), n in counts.items()
        for i in range(n)
    ]
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_run(folder)


def unpacked(data: str) -> dict:
    return json.loads(gzip.decompress(base64.b64decode(data)))


@pytest.fixture
def run(tmp_path):
    return with_rollouts(make_run(tmp_path, "vanilla", 3, 0.5, 0.5), {(0, "eval"): 4, (0, "train"): 6})


def test_every_field_has_a_value_for_every_rollout(run):
    data = unpacked(page_data.page_data([run]))
    assert {len(column) for column in data["rows"].values()} == {10}
    assert data["runs"] == [{"name": "tiny/vanilla_s3", "arm": "vanilla", "seed": 3}]
    assert data["rows"]["place"] == [*range(4), *range(6)] and data["note"] == "10 completions of 1 runs."


def test_a_text_stands_once_however_often_it_was_sampled(tmp_path):
    run = with_rollouts(make_run(tmp_path, "vanilla", 0, 0.5, 0.5), {(0, "eval"): 50}, completion="same")
    data = unpacked(page_data.page_data([run]))
    assert data["texts"] == ["same"] and data["rows"]["text"] == [0] * 50


def test_prompts_are_found_by_split_and_problem_and_may_be_missing(run):
    prompt = {"split": "eval", "problem": "p1", "evaluator": "run_checks", "prompt": "Write \u2028 it"}
    (run.path / "prompts.jsonl").write_text(json.dumps(prompt, ensure_ascii=False) + "\n{torn")
    data = unpacked(page_data.page_data([run]))
    assert data["prompts"] == [{"evaluator": "run_checks", "text": "Write \u2028 it"}]
    assert data["rows"]["prompt"] == [-1, 0, -1, -1, *[-1] * 6]


@pytest.mark.parametrize(
    ("grade", "word"),
    [({"hack": True, "attempt": True, "compiles": True}, "hack"), ({"attempt": True, "gt_pass": True}, "attempt"),
     ({"gt_pass": True, "compiles": True}, "pass"), ({"compiles": True}, "wrong"), ({}, "broken"),
     ({"undecided": True, "compiles": True}, "undecided")],
)  # fmt: skip
def test_a_grade_is_one_word(grade, word):
    assert page_data.grade_word(grade) == word


def test_too_many_rows_are_thinned_evenly_over_steps():
    groups = [(0, "eval", 128), *((step, "train", 64) for step in range(20))]
    rows = [{"step": step, "split": split, "i": i} for step, split, n in groups for i in range(n)]
    kept = page_data.chosen(rows, 200)
    of = {
        key: [r["i"] for r in kept if (r["step"], r["split"]) == key] for key in {(r["step"], r["split"]) for r in rows}
    }
    assert 150 < len(kept) <= 200 and len({len(of[step, "train"]) for step in range(20)}) == 1
    each = len(of[0, "train"])
    assert len(of[0, "eval"]) == page_data.EVALUATION * each and of[3, "train"] == [i * 64 // each for i in range(each)]
    assert len(page_data.chosen(rows, 7)) == 7


def test_texts_that_do_not_fit_are_thinned_and_the_page_says_so(run, monkeypatch):
    rng = random.Random(0)
    lines = [json.dumps({"step": s, "split": "train", "completion": rng.randbytes(300).hex()}) for s in range(100)]
    (run.path / "rollouts.jsonl").write_text("\n".join(lines))
    monkeypatch.setattr(page_data, "MOST_BYTES", 20_000)
    data = page_data.page_data([run])
    assert 10_000 < len(data) <= 20_000 and "of the 100 completions" in unpacked(data)["note"]


def test_a_run_with_grades_alone_gives_a_page_without_rollouts(tmp_path):
    run = read_run(make_run(tmp_path, "vanilla", 0, 0.5, 0.5))
    assert page_data.page_data([run]) == ""
    page.write_page(tmp_path, {"report": "# Results"}, [run])
    assert 'href="#rollouts"' not in (tmp_path / "report.html").read_text()


def test_the_page_holds_its_figures_and_no_address(tmp_path, run):
    Image.new("RGB", (4, 4)).save(tmp_path / "pareto.png")
    page.write_page(
        tmp_path, {"report": "# R <i>\n\n![pareto](pareto.png)\n\n[more](appendix.md)", "appendix": "# A"}, [run]
    )
    text = (tmp_path / "report.html").read_text()
    assert "data:image/png;base64," in text and '<a href="#appendix">more</a>' in text
    assert (
        "R &lt;i&gt;" in text and "http:" not in text and "https:" not in text and "<title>R &lt;i&gt;</title>" in text
    )


def test_the_same_runs_give_the_same_page(tmp_path, run):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        page.write_page(tmp_path / name, {"report": "# R"}, [run])
    assert (tmp_path / "a/report.html").read_bytes() == (tmp_path / "b/report.html").read_bytes()


def test_what_is_put_into_the_template_is_not_looked_at_again():
    assert page.filled("a{{x}}b{{y}}", {"x": "{{y}}", "y": "1"}) == "a{{y}}b1"


def test_the_page_of_the_organism_study_cannot_reach_ten_megabytes():
    """The most that its rollouts may take, the figures in base64, and the rest of the page."""
    figures = sum(path.stat().st_size for path in (REPO / "docs/results/organism").glob("*.png"))
    texts = sum(path.stat().st_size for path in (REPO / "docs/results/organism").glob("*.md"))
    parts = sum(path.stat().st_size for path in page.PARTS.iterdir())
    assert page_data.MOST_BYTES + 4 / 3 * figures + 4 * texts + parts < 10e6
