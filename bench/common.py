"""What the benches share: models of the real shapes with random weights, rows of a TSV, clocks and the command line.

python -m bench.NAME [--tiny] [--out bench/NAME.tsv]        from the root of the repository
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch
import transformers
from transformers import (
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from antipasto import Adapter, targets, wrap_linear
from config import Config
from grpo import group_advantages
from lib import shapes
from lib.shapes import DeltaNet, Shape
from project import project_grads
from rollouts import Batch, Run
from train import backward

CLASSES = {
    "qwen2": (Qwen2ForCausalLM, Qwen2Config),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config),
    "qwen3_5_text": (Qwen3_5ForCausalLM, Qwen3_5TextConfig),
}
SHAPES = {
    **{name: shapes.SHAPES[hub] for name, hub in shapes.BENCH_NAMES.items()},
    "tiny": Shape("qwen3", 128, 4, 4, 2, 32, 320, 2048, 2048),
    "tiny-hybrid": Shape("qwen3_5_text", 128, 4, 4, 2, 32, 320, 2048, 2048, DeltaNet(2, 4, 32, 32)),
}


def build(name: str, device: str):
    """The model `name` with random weights on `device`: bf16 on a GPU, fp32 on a CPU."""
    cls, config = CLASSES[SHAPES[name].family]
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = cls(config(**SHAPES[name].config())).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    return model.requires_grad_(False)


def adapt(model) -> Adapter:
    """SVDLinears with random factors of an SVD's scale (one of every weight would take minutes) and a small delta."""
    modules = {}
    for name, linear in targets(model):
        w = linear.weight
        r = min(w.shape)
        U, Vh = (
            torch.randn(s, dtype=w.dtype, device=w.device) / max(s) ** 0.5 for s in ((w.shape[0], r), (r, w.shape[1]))
        )
        modules[name] = wrap_linear(model, name, U, torch.ones(r, device=w.device), Vh)
        torch.nn.init.normal_(modules[name].delta_S, std=0.05)
    return Adapter(modules, "random")


def run_of(cfg: Config, model, adapter: Adapter, sampler, device: torch.device, pad_id: int = 0) -> Run:
    """As much of a run as a step without grading needs."""
    return Run(
        cfg=cfg,
        device=device,
        model=model,
        tokenizer=SimpleNamespace(pad_token_id=pad_id),
        adapter=adapter,
        v_hack=None,
        grader=None,
        sampler=sampler,
        prompts=None,
        rebound=None,
    )


def batch_of(prompts: list[list[int]], completions: list[list[int]], old_logprobs: list, rewards_P_G) -> Batch:
    """A graded batch of these rows and rewards."""
    advantages, live = group_advantages(rewards_P_G)
    return Batch(
        problems=[],
        prompts=prompts,
        completions=completions,
        old_logprobs=old_logprobs,
        texts=[],
        grades=[],
        rewards_P_G=rewards_P_G,
        shaped_P_G=rewards_P_G,
        advantages_P_G=advantages,
        live_P=live,
        kept_P_G=torch.ones_like(rewards_P_G, dtype=torch.bool),
        seconds=(0.0, 0.0),
    )


def vanilla_update(run: Run, optimiser: torch.optim.Optimizer, batch: Batch) -> float:
    """What train.train does with a batch in a vanilla run; the loss."""
    optimiser.zero_grad(set_to_none=True)
    loss = backward(run, batch)["loss"]
    project_grads(run.adapter.grads(), None, "none")
    torch.nn.utils.clip_grad_norm_(run.adapter.delta().values(), run.cfg.grad_clip)
    optimiser.step()
    return loss


def sync(device: str) -> float:
    """Seconds of a clock, once the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_gib() -> float:
    """Of torch's allocations since the last reset; 0 on a CPU."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0


def free_memory() -> None:
    """Free what nothing refers to."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def reset_memory() -> None:
    """Free what nothing refers to and forget the peak."""
    free_memory()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def kernel_table(fn, device: str, rows: int = 45) -> str:
    """Where fn spends its time, by kernel (on a CPU: by operator)."""
    from torch.profiler import ProfilerActivity, profile

    cuda = device == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as found:
        fn()
        sync(device)
    by = "self_cuda_time_total" if cuda else "self_cpu_time_total"
    return found.key_averages().table(sort_by=by, row_limit=rows, max_name_column_width=90)


class Report:
    """A TSV on stdout and in the file `out`: a line that says where and with what it was measured, columns, rows."""

    def __init__(
        self, columns: list[str], device: str, out: Path | None, append: bool = True, more: str = "", gpus: str = ""
    ):
        self.file = out.open("a" if append else "w") if out else None
        where = f"{gpus}{torch.cuda.get_device_name()}" if device == "cuda" else "cpu"
        versions = f"torch {torch.__version__} transformers {transformers.__version__}"
        self.emit(f"# {time.strftime('%Y-%m-%d')} {where} {versions} {more}".rstrip())
        self.emit("\t".join(columns))

    def emit(self, line: str) -> None:
        print(line, flush=True)
        if self.file:
            print(line, file=self.file, flush=True)

    def guarded(self, label: str, fn) -> None:
        """Run one row; where it fails, a row saying why, so that the others go on. Memory is freed either way."""
        start = time.perf_counter()
        try:
            fn()
        except Exception as error:
            self.emit(f"{label}\tfailed: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
        print(f"# {label.split(chr(9))[-1]}: {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
        free_memory()


def parser(doc: str, out: str = "append the TSV here, row by row") -> argparse.ArgumentParser:
    """--tiny and --out, which every bench has."""
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tiny", action="store_true", help="small shapes on the CPU")
    p.add_argument("--out", type=Path, help=out)
    return p


def pick_rows(p: argparse.ArgumentParser, rows: str, known: list[str]) -> list[str]:
    """The names in `rows`, separated by commas; p.error where one is not known."""
    names = rows.split(",")
    if unknown := set(names) - set(known):
        p.error(f"unknown rows {', '.join(sorted(unknown))}: choose from {', '.join(known)}")
    return names


def pick_device(args: argparse.Namespace, **tiny) -> str:
    """cuda, or cpu without a GPU or with --tiny: then on one thread, with the sizes in `tiny` put into args."""
    if torch.cuda.is_available() and not args.tiny:
        return "cuda"
    torch.set_num_threads(1)
    vars(args).update(tiny)
    return "cpu"
