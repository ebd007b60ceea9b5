"""Exports reload in peft and in plain transformers with the adapted model's logits; refusals leave nothing behind."""

import json
import math
import random
import resource
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import random_model
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from antipasto import load_model
from config import ModelConfig
from lib.errors import run_main
from lib.files import write_json
from lib.models import chat_ids, completion_ids
from lib.svd import weight_sha256
from pairs import load_pairs
from tools import export
from tools.lora_difference import PAIRS_READ


def make_run(folder: Path, model: Path, scale: float, dtype: str = "float32") -> tuple[Path, object]:
    """(run directory as train.py leaves one, the adapted model), with a random delta_S of the given scale."""
    cfg = ModelConfig(model=str(model), dtype=dtype, svd_cache=str(folder / "svd"), device="cpu")
    adapted, _, adapter = load_model(cfg, torch.device("cpu"))
    generator = torch.Generator().manual_seed(random.randrange(2**32))
    with torch.no_grad():
        for parameter in adapter.delta().values():
            parameter.copy_(scale * torch.randn(len(parameter), generator=generator))
    run = folder / "run"
    run.mkdir(parents=True)
    saved = {"model": cfg.model, "revision": None, "dtype": dtype, "svd_cache": cfg.svd_cache, "preset": "tiny",
             "pairs": "default", "weights_sha256": adapter.weights_sha256, "arm": "vanilla"}  # fmt: skip
    write_json(run / "config.json", saved)
    adapter.save(run / "delta_S.safetensors")
    write_json(run / "summary.json", {})
    return run, adapted


def run_export(monkeypatch, *words) -> None:
    monkeypatch.setattr(sys, "argv", ["export.py", *map(str, words)])
    export.main()


def refusal(monkeypatch, capsys, *words) -> str:
    """The one line that the script ends with."""
    monkeypatch.setattr(sys, "argv", ["export.py", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        run_main(export.main)
    assert stop.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


@torch.no_grad()
def logits(model, seed: int = 0) -> torch.Tensor:
    ids = torch.randint(0, 1000, (3, 24), generator=torch.Generator().manual_seed(seed))
    return model(input_ids=ids).logits.float()


@pytest.fixture(params=["qwen2", "qwen3", "qwen3_5"])
def any_model(request, tmp_path) -> Path:
    """A random model of each architecture: with biases, with q/k norms, with a gated delta net."""
    random_model.main(tmp_path / "model", request.param)
    return tmp_path / "model"


def test_lora_is_exact_in_peft(any_model, tmp_path, monkeypatch):
    peft = pytest.importorskip("peft", reason="peft is a development dependency: `just setup`")
    run, adapted = make_run(tmp_path / "work", any_model, 0.1)
    run_export(monkeypatch, run, "--to", "lora", "--out", tmp_path / "lora")
    base = AutoModelForCausalLM.from_pretrained(any_model, dtype=torch.float32)
    before = logits(base)
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "lora")
    ranks = {m.r["default"] for m in loaded.modules() if hasattr(m, "lora_A")}
    assert len(ranks) > 1 and all(m.scaling["default"] == 1.0 for m in loaded.modules() if hasattr(m, "lora_A"))
    assert (logits(adapted) - before).abs().max() > 1e-2, "the delta must matter"
    assert (logits(loaded) - logits(adapted)).abs().max() <= 1e-4
    assert (logits(loaded.merge_and_unload()) - logits(adapted)).abs().max() <= 1e-4


def test_on_a_bf16_base_the_printed_difference_is_pefts(model_dir, tmp_path, monkeypatch, capsys):
    peft = pytest.importorskip("peft", reason="peft is a development dependency: `just setup`")
    run, adapted = make_run(tmp_path / "work", model_dir, 0.1, "bfloat16")
    run_export(monkeypatch, run, "--to", "lora", "--out", tmp_path / "lora")
    about = json.loads((tmp_path / "lora/export.json").read_text())
    printed = capsys.readouterr().out
    assert f"by up to {about['logit_max']:.2g}, {about['logit_mean']:.2g} in the mean" in printed and "exact" in printed
    base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16)
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "lora")
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    worst, total, tokens = 0.0, 0.0, 0
    for pair in load_pairs("default")[:PAIRS_READ]:
        ids = torch.tensor([chat_ids(tokenizer, pair.messages) + completion_ids(tokenizer, pair.clean)])
        with torch.no_grad():
            difference = (loaded(input_ids=ids).logits.float() - adapted(input_ids=ids).logits.float()).abs()
        worst, total, tokens = (
            max(worst, difference.max().item()),
            total + difference.sum().item(),
            tokens + ids.numel(),
        )
    assert about["tokens"] == tokens and 0 < about["logit_mean"] < about["logit_max"]
    assert about["logit_max"] == pytest.approx(worst, rel=0.5)  # one rounding of bf16 may fall otherwise
    assert about["logit_mean"] == pytest.approx(total / tokens / difference.shape[-1], rel=0.1)


def test_lora_config_alone_names_the_base(model_dir, tmp_path, monkeypatch):
    peft = pytest.importorskip("peft", reason="peft is a development dependency: `just setup`")
    run, adapted = make_run(tmp_path / "work", model_dir, 0.1)
    run_export(monkeypatch, run, "--to", "lora", "--out", tmp_path / "lora")
    loaded = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "lora", dtype=torch.float32)
    assert (logits(loaded) - logits(adapted)).abs().max() <= 1e-4


def test_merged_is_exact_in_plain_transformers(any_model, tmp_path, monkeypatch):
    run, adapted = make_run(tmp_path / "work", any_model, 0.1)
    run_export(monkeypatch, run, "--to", "merged", "--out", tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
    assert plain.dtype == torch.float32 and not any("delta_S" in n for n, _ in plain.named_parameters())
    assert (logits(plain) - logits(adapted)).abs().max() <= 1e-4
    base = AutoModelForCausalLM.from_pretrained(any_model).state_dict()
    assert {k: v.shape for k, v in plain.state_dict().items()} == {k: v.shape for k, v in base.items()}
    text = AutoTokenizer.from_pretrained(tmp_path / "merged").apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False
    )
    assert text == "<|im_start|>user\nhi<|im_end|>\n"


def deltas(folder: Path, model: Path, adapter) -> tuple[torch.Tensor, torch.Tensor]:
    """(applied, exact) delta of every adapted weight in float64, flat, read from the two checkpoints alone."""
    plain, base = (AutoModelForCausalLM.from_pretrained(p, dtype=torch.bfloat16).state_dict() for p in (folder, model))
    applied, exact = [], []
    for name, module in adapter.items():
        applied.append((plain[f"{name}.weight"].double() - base[f"{name}.weight"].double()).flatten())
        U, Vh = module.U.double(), module.Vh.double()
        exact.append(((U * module.delta_S.detach().double()) @ Vh).flatten())
    return torch.cat(applied), torch.cat(exact)


@pytest.mark.parametrize("scale, kept", [(7e-5, 0.5), (1e-2, 0.99)])
def test_bf16_rounding_loss_is_measured(scale, kept, model_dir, tmp_path, monkeypatch, capsys):
    run, adapted = make_run(tmp_path / "work", model_dir, scale, "bfloat16")
    run_export(monkeypatch, run, "--to", "merged", "--dtype", "bfloat16", "--out", tmp_path / "merged")
    printed = capsys.readouterr().out
    about = json.loads((tmp_path / "merged" / "export.json").read_text())
    adapter = {n: m for n, m in adapted.named_modules() if hasattr(m, "delta_S")}
    applied, exact = deltas(tmp_path / "merged", model_dir, adapter)
    assert applied.any(), "a bf16 export must differ from the base"
    slope = (applied @ exact / (exact @ exact)).item()
    error = ((applied - exact).norm() / exact.norm()).item()
    assert about["slope"] == pytest.approx(slope, rel=1e-3) and about["rounding_error"] == pytest.approx(
        error, rel=1e-3
    )
    assert f"slope {about['slope']:.4f}" in printed
    assert abs(1 - slope) < 1 - kept or scale < 1e-3
    assert (error > 0.5) == (scale < 1e-3), "the smaller delta is lost to rounding, the larger is not"


def test_a_delta_that_rounds_away_warns(model_dir, tmp_path, monkeypatch, capsys):
    from loguru import logger

    run, _ = make_run(tmp_path / "work", model_dir, 1e-14, "bfloat16")
    sink = logger.add(sys.stderr, format="{message}", level="WARNING")
    try:
        run_export(monkeypatch, run, "--to", "merged", "--dtype", "bfloat16", "--out", tmp_path / "merged")
    finally:
        logger.remove(sink)
    assert "every delta rounded away" in capsys.readouterr().err
    merged, base = (
        AutoModelForCausalLM.from_pretrained(p, dtype=torch.bfloat16) for p in (tmp_path / "merged", model_dir)
    )
    for (name, a), b in zip(merged.named_parameters(), base.parameters(), strict=True):
        assert weight_sha256(a) == weight_sha256(b), name


def test_a_checkpoint_can_be_exported(model_dir, tmp_path, monkeypatch, capsys):
    from lib.tensors import load_tensors, save_atomic

    run, adapted = make_run(tmp_path / "work", model_dir, 0.1)
    tensors, _ = load_tensors(run / "delta_S.safetensors")
    save_atomic({f"{kind}.{n}": t.clone() for n, t in tensors.items() for kind in ("delta_S", "exp_avg")},
                run / "checkpoint.safetensors", {})  # fmt: skip
    (run / "summary.json").unlink()
    line = refusal(monkeypatch, capsys, run, "--to", "merged", "--out", tmp_path / "merged")
    assert "is not complete" in line and "--checkpoint" in line and not (tmp_path / "merged").exists()
    run_export(monkeypatch, run, "--to", "merged", "--out", tmp_path / "merged", "--checkpoint")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert (logits(plain) - logits(adapted)).abs().max() <= 1e-4


def test_refusals_are_one_sentence(model_dir, tmp_path, monkeypatch, capsys):
    run, _ = make_run(tmp_path / "work", model_dir, 0.1)
    out = tmp_path / "out"
    assert "holds no run" in refusal(monkeypatch, capsys, tmp_path, "--to", "lora", "--out", out)
    random_model.main(tmp_path / "other", seed=1)
    words = [run, "--to", "lora", "--out", out]
    assert "trained on other weights" in refusal(monkeypatch, capsys, *words, "--model", tmp_path / "other")
    assert "no config.json there" in refusal(monkeypatch, capsys, *words, "--model", tmp_path / "nowhere")
    (run / "delta_S.safetensors").rename(tmp_path / "delta")
    assert "is not complete" in refusal(monkeypatch, capsys, *words)
    (run / "delta_S.safetensors").write_bytes((tmp_path / "delta").read_bytes()[:100])
    assert "torn" in refusal(monkeypatch, capsys, *words)
    assert not out.exists()
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    (tmp_path / "delta").rename(run / "delta_S.safetensors")
    assert "exists" in refusal(monkeypatch, capsys, *words)
    assert "no earlier export" in refusal(monkeypatch, capsys, *words, "--overwrite")
    assert (out / "mine.txt").read_text() == "kept"
    (run / "config.json").write_text("[]")
    assert "config.json is damaged" in refusal(monkeypatch, capsys, *words)


def test_an_earlier_export_is_replaced_only_when_told(model_dir, tmp_path, monkeypatch, capsys):
    run, _ = make_run(tmp_path / "work", model_dir, 0.1)
    words = [run, "--out", tmp_path / "out", "--to"]
    run_export(monkeypatch, *words, "lora")
    assert "--overwrite" in refusal(monkeypatch, capsys, *words, "merged")
    run_export(monkeypatch, *words, "merged", "--overwrite")
    assert (tmp_path / "out/model.safetensors").exists() and not (tmp_path / "out/adapter_config.json").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "work"]


@contextmanager
def largest_file(size: int):
    """The kernel refuses writes past `size` bytes, which a script meets as it meets a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("kind", ["lora", "merged"])
def test_a_full_disk_leaves_the_earlier_export(kind, model_dir, tmp_path, monkeypatch, capsys):
    run, _ = make_run(tmp_path / "work", model_dir, 0.1)
    words = [run, "--to", kind, "--out", tmp_path / "out"]
    run_export(monkeypatch, *words)
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    with largest_file(128 * 1024):
        line = refusal(monkeypatch, capsys, *words, "--overwrite")
    assert "could not be written" in line
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "work"]


def test_rounding_figures_of_known_weights():
    W = torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=torch.bfloat16)
    D = torch.tensor([[2**-7, 2**-10], [0.0, 0.0]])  # the first is one unit in the last place of 1, the second vanishes
    loss = export.Loss()
    loss.add("m", W, (W.float() + D).to(torch.bfloat16), D)
    row = loss.row()
    assert row["slope"] == pytest.approx(64 / 65) and row["rounding_error"] == pytest.approx(math.sqrt(1 / 65))
    assert row["modules"] == row["modules_changed"] == 1
