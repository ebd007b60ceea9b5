"""What the benches share: models of the real shapes with random weights, rows of a TSV, clocks and the command line."""

from __future__ import annotations

import argparse
import gc
import sys
import time
from pathlib import Path

import torch
import transformers
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from antipasto import Adapter, targets, wrap_linear

SHAPES = {
    "qwen3-4b": (Qwen3ForCausalLM, Qwen3Config, dict(
        hidden_size=2560, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8, head_dim=128,
        intermediate_size=9728, vocab_size=151936, tie_word_embeddings=True, max_position_embeddings=40960)),
    "qwen2.5-0.5b": (Qwen2ForCausalLM, Qwen2Config, dict(
        hidden_size=896, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2,
        intermediate_size=4864, vocab_size=151936, tie_word_embeddings=True, max_position_embeddings=32768)),
    "tiny": (Qwen3ForCausalLM, Qwen3Config, dict(
        hidden_size=128, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
        intermediate_size=320, vocab_size=512, tie_word_embeddings=True)),
}  # fmt: skip


def build(name: str, device: str):
    cls, config, shape = SHAPES[name]
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = cls(config(**shape)).eval()
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


def sync(device: str) -> float:
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


class Report:
    """A TSV on stdout and in the file `out`: a line that says where and with what it was measured, columns, rows."""

    def __init__(self, columns: list[str], device: str, out: Path | None, append: bool = True, more: str = "",
                 gpus: str = ""):  # fmt: skip
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
