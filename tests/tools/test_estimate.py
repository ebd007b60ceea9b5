"""Estimates: the measured step comes back as it was, larger runs cost more, and bad input is one sentence."""

import dataclasses
import json

import pytest

from config import PRESETS
from lib.errors import UserError
from lib.shapes import SHAPES
from tools.estimate import EstimateConfig, estimate_table, from_bench, from_run, main

BENCH = """# 2026-01-01 old
model\trow\tP\tG\tmax_new\ts\tpeak_gib\tnote
qwen3-4b\ttrain_additive\t8\t12\t1024\t999\t99\t
# 2026-01-02 GPU
model\trow\tP\tG\tmax_new\ts\tpeak_gib\tnote
qwen3-4b\trollout\t8\t12\t1024\t12.5\t41\t
qwen3-4b\ttrain_padded\t8\t12\t1024\t40\t58\tmicro-batch 8, 12 passes
qwen3-4b\ttrain_shared\t8\t12\t1024\t21\t57.5\tmicro-tokens 16384, 4 passes
qwen3-4b\tgrade\t8\t12\t1024\t0.75\t57\t
qwen3-4b\tlargest_G_mb8\t8\t20\t1024\t\t70\t
"""


@pytest.fixture
def full(tmp_path):
    (tmp_path / "step.tsv").write_text(BENCH)
    return EstimateConfig(preset="full", **PRESETS["full"], bench=str(tmp_path / "step.tsv"))


def test_the_measured_step_comes_back(full):
    e = from_bench(full)
    assert (e.rollout, e.training, e.grading) == pytest.approx((12.5, 21, 0.75 + full.grade_timeout))
    assert e.gib == pytest.approx(57.5, abs=0.1)
    assert "2026-01-02" in e.source


def test_rows_with_prompts_of_their_own_are_estimated_from_padded_passes(full):
    padded = from_bench(dataclasses.replace(full, share_prefix=False))
    assert (padded.training, padded.gib) == pytest.approx((40, 58), abs=0.1)
    cut = from_bench(dataclasses.replace(full, micro_tokens=1600))
    assert from_bench(full).training < cut.training < padded.training, "a prompt that is cut runs again"
    assert cut.gib < from_bench(full).gib


def test_every_part_shrinks_with_the_group_the_length_and_the_model(full):
    e = from_bench(full)
    for change in ({"group": 6}, {"max_new": 512}, {"model": "Qwen/Qwen2.5-Coder-0.5B-Instruct"}):
        less = from_bench(dataclasses.replace(full, **change))
        assert less.rollout < e.rollout and less.training < e.training and less.gib < e.gib


def test_the_price_is_hours_times_the_rate(full):
    text = estimate_table(
        dataclasses.replace(full, rate=2.0, steps=100, eval_every=100, n_eval=24, eval_samples=2), from_bench(full)
    )
    grading = 0.75 + full.grade_timeout
    hours = (100 * (12.5 + 21 + grading) + 2 * (12.5 + grading)) / 3600  # two evaluations of 96 completions
    assert f"{2 * hours:.2f} USD" in text


def test_unknown_models_and_missing_measurements_say_what_to_do(full, tmp_path):
    with pytest.raises(UserError, match="--run"):
        from_bench(dataclasses.replace(full, model="Qwen/Qwen3-32B"))
    with pytest.raises(UserError, match="bench/step"):
        from_bench(dataclasses.replace(full, bench=str(tmp_path / "none.tsv")))


@pytest.mark.parametrize(("flags", "says"), [
    (["--eval-every", "0"], "--eval-every 0 is below 1"),
    (["--rate", "-1"], "--rate -1.0 is below 0"),
    (["--bench", __file__], "is none of bench/step.py's"),
])  # fmt: skip
def test_wrong_values_are_one_sentence(flags, says, monkeypatch):
    monkeypatch.setattr("sys.argv", ["estimate.py", "--preset", "full", *flags])
    with pytest.raises(UserError, match=says):
        main()


def test_a_run_gives_the_median_of_its_steps_without_the_first(full, tmp_path):
    rows = [("90", "2", "80"), ("10", "1", "20"), ("12", "1", "22"), ("11", "1", "30")]
    lines = ["step\tt_roll\tt_grade\tt_train\tgib", *(f"{i}\t" + "\t".join(r) + "\t50" for i, r in enumerate(rows))]
    (tmp_path / "steps.tsv").write_text("\n".join(lines) + "\n")
    (tmp_path / "config.json").write_text(json.dumps({"group": 12}))
    e = from_run(tmp_path, full)
    assert (e.rollout, e.grading, e.training, e.gib) == (11, 1, 22, 50)
    with pytest.raises(UserError, match="--group 12"):
        from_run(tmp_path, dataclasses.replace(full, group=6))


def test_qwen3_4b_has_its_published_size():
    shape = SHAPES["Qwen/Qwen3-4B"]
    assert shape.weights() + shape.vocab * shape.d == pytest.approx(4.02e9, rel=0.005)


@pytest.mark.parametrize("name, billions", [("0.8B", 0.752), ("2B", 1.88), ("4B", 4.21)])
def test_qwen3_5_has_its_published_sizes(name, billions):
    shape = SHAPES[f"Qwen/Qwen3.5-{name}"]
    assert shape.weights() + shape.vocab * shape.d == pytest.approx(billions * 1e9, rel=0.005)


def test_qwen3_5_2b_has_the_preregistered_number_of_singular_values():
    linears = SHAPES["Qwen/Qwen3.5-2B"].linears()
    assert sum(linears.values()) == 186 and sum(n for size, n in linears.items() if min(size) == 16) == 36
    assert sum(n * min(size) for size, n in linears.items()) == 289_344


def test_mid_is_estimated_from_another_model_and_says_so(full):
    mid = EstimateConfig(preset="mid", **PRESETS["mid"], bench=full.bench)
    e = from_bench(mid)
    assert 0 < e.rollout < 12.5 and 0 < e.training < 21 and 10 < e.gib < 57 and "scaled" in e.source
    longer = from_bench(dataclasses.replace(mid, max_new=2048))
    assert longer.rollout > 2 * e.rollout and longer.gib > e.gib


def test_a_measurement_of_the_model_itself_comes_before_a_later_one(full, tmp_path):
    small = BENCH.replace("qwen3-4b", "qwen2.5-0.5b").replace("\t26\t", "\t7\t").replace("\t21\t", "\t7\t")
    (tmp_path / "step.tsv").write_text(small + BENCH)
    dev = dataclasses.replace(full, model="Qwen/Qwen2.5-Coder-0.5B-Instruct")
    assert from_bench(dev).training == pytest.approx(7) and "scaled" not in from_bench(dev).source
    (tmp_path / "step.tsv").write_text(BENCH)
    assert "scaled" in from_bench(dev).source
