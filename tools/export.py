"""A finished run's delta_S as a PEFT LoRA, which is exact on a float32 base, or merged into a plain checkpoint.

    just export RUN_DIR --to lora   --out DIR                      B = U diag(delta_S) [d_out, r], A = Vh [r, d_in]
    just export RUN_DIR --to merged --out DIR [--dtype bfloat16]   W + U diag(delta_S) Vh, plain transformers

LoRA adds (alpha/r) B A x; alpha = r in every module, so the factor is exactly 1 although r differs between modules. The
rank is full, so the file is about as large as the adapted weights themselves.

Merging rounds. With D = U diag(delta_S) Vh and D' = W_merged - W, both against the base in the exported dtype, what is
lost is measured over all modules and printed (and kept in export.json):

    error = |D' - D| / |D|          slope = <D', D> / |D|^2     1 where the delta survives, 0 where it rounds away

Both kinds are written to a temporary folder beside DIR and renamed, so DIR is complete or not there. No peft is needed.
"""

from __future__ import annotations
import lib.interrupt  # noqa: F401 (on top)

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from loguru import logger
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from antipasto import Adapter, load_model
from config import ModelConfig
from lib.errors import UserError, run_main
from lib.files import whole_folder
from lib.models import local_model
from lib.tensors import load_tensors
from tools.lora_difference import difference_sentence, lora_difference

# What an export says of itself; by it --overwrite knows one.
MARK = "export.json"


@dataclass
class ExportConfig:
    """What to export, and as what."""

    run: tyro.conf.Positional[Path]
    """Run directory made by train.py."""
    to: Literal["lora", "merged"]
    """lora: an exact PEFT adapter; merged: a plain checkpoint with its tokenizer."""
    out: Path
    """Folder to write; refused where it exists."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the written weights. bfloat16 loses part of the delta; how much is printed."""
    checkpoint: bool = False
    """Export the last checkpoint of a run that is not complete."""
    overwrite: bool = False
    """Replace an earlier export at --out."""
    model: str = ""
    """Where the run's base model lies now; empty: where the run had it."""
    svd_cache: str = ""
    """Folder of cached SVDs; empty: the run's."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda where there is one."""


def model_config(cfg: ExportConfig) -> tuple[ModelConfig, str]:
    """(the run's model settings, its weights_sha256). Raises UserError where the directory holds no run."""
    try:
        saved = json.loads((cfg.run / "config.json").read_text(encoding="utf-8"))
        known = {f.name for f in dataclasses.fields(ModelConfig)}
        out = ModelConfig(**{k: v for k, v in saved.items() if k in known})
        sha = saved["weights_sha256"]
    except FileNotFoundError as error:
        raise UserError(f"{cfg.run} holds no run (no config.json): pass a directory made by train.py") from error
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        raise UserError(
            f"{cfg.run}/config.json is damaged ({error}): restore it from where the run was copied"
        ) from error
    out.model, out.svd_cache = cfg.model or out.model, cfg.svd_cache or out.svd_cache
    return out, sha


def trained_delta(cfg: ExportConfig, weights_sha256: str) -> tuple[dict[str, Tensor], str]:
    """({module: delta_S [r] fp32}, SHA-256 of the weights that it belongs to), from the finished run or its checkpoint.

    Raises UserError where the run is not complete, AdapterError where the file is torn.
    """
    if cfg.checkpoint:
        path = cfg.run / "checkpoint.safetensors"
        if not path.exists():
            raise UserError(f"{cfg.run} has no checkpoint yet: let it run to one, or export another run")
        tensors, _ = load_tensors(path)
        return {k.removeprefix("delta_S."): t for k, t in tensors.items() if k.startswith("delta_S.")}, weights_sha256
    path = cfg.run / "delta_S.safetensors"
    if not path.exists() or not (cfg.run / "summary.json").exists():
        raise UserError(f"{cfg.run} is not complete: run its command again to finish it, or pass --checkpoint")
    tensors, metadata = load_tensors(path)
    return tensors, metadata.get("weights_sha256", "")


def set_delta(adapter: Adapter, delta: dict[str, Tensor], weights_sha256: str, where: str) -> None:
    """Put the trained delta_S into the adapter. Raises UserError where it belongs to other weights."""
    shapes = {name: p.shape for name, p in adapter.delta().items()}
    if weights_sha256 != adapter.weights_sha256 or {name: d.shape for name, d in delta.items()} != shapes:
        raise UserError(f"{where} was trained on other weights than this model's: pass --model with the ones it had")
    adapter.load(delta)


def lora_tensors(adapter: Adapter, dtype: torch.dtype) -> dict[str, Tensor]:
    """PEFT's state dict: lora_A.weight = Vh [r, d_in] and lora_B.weight = U diag(delta_S) [d_out, r], on CPU."""
    out = {}
    for name, module in adapter.modules.items():
        B = module.U.float() * module.delta_S.detach()
        out[f"base_model.model.{name}.lora_A.weight"] = module.Vh.to("cpu", dtype).contiguous()
        out[f"base_model.model.{name}.lora_B.weight"] = B.to("cpu", dtype).contiguous()
    return out


def lora_config(adapter: Adapter, base: ModelConfig) -> dict:
    """adapter_config.json as peft reads it; rank and alpha of each module by its full name, so that alpha/r = 1."""
    ranks = {name: module.delta_S.numel() for name, module in adapter.modules.items()}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_source(base),
        "revision": base.revision,
        "r": max(ranks.values()),
        "lora_alpha": max(ranks.values()),
        "rank_pattern": ranks,
        "alpha_pattern": ranks,
        "target_modules": list(ranks),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def base_source(base: ModelConfig) -> str:
    """The base model as transformers finds it from anywhere: a hub id, or the directory's full path."""
    return str(local.resolve()) if (local := local_model(base.model)) else base.model


def write_lora(
    folder: Path, model: nn.Module, tokenizer, adapter: Adapter, base: ModelConfig, dtype: torch.dtype
) -> dict:
    """adapter_model.safetensors and adapter_config.json into `folder`; what export.json says of it."""
    tensors = lora_tensors(adapter, dtype)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(lora_config(adapter, base), indent=1) + "\n")
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    logger.info(f"LoRA of {len(adapter.modules)} modules, {size / 2**20:.1f} MiB")
    about = {"modules": len(adapter.modules), "bytes": size}
    if base.dtype == "bfloat16":
        about |= (found := lora_difference(model, tokenizer, adapter, base.pairs, dtype))
        print(difference_sentence(found))
    return about


@dataclass
class Loss:
    """Sums over the entries of the modules merged so far, from which the rounding loss follows."""

    error: float = 0.0
    """sum |D' - D|^2"""
    product: float = 0.0
    """sum D' D"""
    norm: float = 0.0
    """sum |D|^2"""
    moved: int = 0
    """Modules with a delta whose merged weight differs from the base."""
    modules: int = 0
    """Modules with a delta."""
    worst: tuple[float, str] = (math.inf, "")
    """Lowest slope of one module, and the module."""

    def add(self, name: str, W: Tensor, merged: Tensor, D: Tensor) -> None:
        """One module: base W and merged weight in the exported dtype, exact D in fp32, all [d_out, d_in]."""
        applied = merged.float() - W.float()
        product = (applied * D).double().sum().item()
        norm = D.double().square().sum().item()
        if norm == 0:
            return
        self.error += (applied - D).double().square().sum().item()
        self.product += product
        self.norm += norm
        self.modules += 1
        self.moved += bool(applied.any())
        self.worst = min(self.worst, (product / norm, name))

    def row(self) -> dict:
        """The figures of export.json; without error and slope where delta_S is zero everywhere."""
        if self.norm == 0:
            return {"modules": 0, "modules_changed": 0}
        return {
            "rounding_error": math.sqrt(self.error / self.norm),
            "slope": self.product / self.norm,
            "modules": self.modules,
            "modules_changed": self.moved,
            "lowest_slope": self.worst[0],
            "lowest_module": self.worst[1],
        }


@torch.no_grad()
def merge(model: nn.Module, adapter: Adapter, dtype: torch.dtype) -> Loss:
    """Replace every SVDLinear of `model` by a plain Linear with W + U diag(delta_S) Vh, and cast the model to `dtype`.

    The sum is made in fp32 and rounded once. Returns what the rounding took.
    """
    loss = Loss()
    for name, module in adapter.modules.items():
        W, D = module.weight, module.delta_weight(torch.float32)
        merged = (W.float() + D).to(dtype)
        loss.add(name, W.to(dtype), merged, D)
        linear = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None, device="meta")
        linear.weight = nn.Parameter(merged, requires_grad=False)
        if module.bias is not None:
            linear.bias = nn.Parameter(module.bias, requires_grad=False)
        model.set_submodule(name, linear)
    if dtype != W.dtype:  # a model that keeps some parameters in fp32 beside bf16 weights keeps them so
        model.to(dtype)
    return loss


def write_merged(folder: Path, model: nn.Module, tokenizer, adapter: Adapter, dtype: torch.dtype) -> dict:
    """The merged checkpoint and its tokenizer into `folder`; the rounding loss, also printed."""
    loss = merge(model, adapter, dtype)
    row = loss.row()
    if loss.modules == 0:
        logger.warning("delta_S is zero in every module: the merged checkpoint is the base model")
    elif loss.moved == 0:
        logger.warning(
            f"every delta rounded away in {dtype}: the merged checkpoint is the base model; "
            "export it in float32, or --to lora"
        )
    else:
        print(
            f"{dtype} merge: relative error of the applied delta {row['rounding_error']:.3g}, "
            f"slope {row['slope']:.4f} (lowest {row['lowest_slope']:.4f} in {row['lowest_module']}), "
            f"{loss.moved} of {loss.modules} modules differ from the base"
        )
        if row["slope"] < 0.9:
            logger.warning("much of the delta rounded away: export it in float32, or --to lora, to keep it")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return row


def check_out(out: Path, overwrite: bool) -> None:
    """Raises UserError where `out` exists, but for an earlier export that --overwrite gives up."""
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists: pass another --out, or --overwrite to replace an earlier export")
    if out.exists() and not (out / MARK).exists():
        raise UserError(f"{out} is no earlier export (no {MARK}), so --overwrite leaves it alone: pass another --out")


def write_export(cfg: ExportConfig, base: ModelConfig, weights_sha256: str, write: Callable[[Path], dict]) -> None:
    """Let `write` fill a folder and add export.json with its figures; the folder is at --out whole or not at all.

    Raises UserError where the disk refuses it.
    """
    about = {
        "run": str(cfg.run),
        "to": cfg.to,
        "dtype": cfg.dtype,
        "checkpoint": cfg.checkpoint,
        "base": base_source(base),
        "revision": base.revision,
        "weights_sha256": weights_sha256,
    }
    try:
        with whole_folder(cfg.out) as folder:
            figures = write(folder)
            (folder / MARK).write_text(json.dumps({**about, **figures}, indent=1) + "\n")
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{cfg.out} could not be written ({reason}): nothing was left there; export again, elsewhere or "
            "after making room"
        ) from error


def main() -> None:
    cfg = tyro.cli(ExportConfig, prog="just export", description=__doc__)
    if cfg.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here; leave it out")
    cuda = cfg.device != "cpu" and torch.cuda.is_available()
    base, sha = model_config(cfg)
    delta, delta_sha = trained_delta(cfg, sha)
    check_out(cfg.out, cfg.overwrite)
    model, tokenizer, adapter = load_model(base, torch.device("cuda" if cuda else "cpu"))
    set_delta(adapter, delta, delta_sha, str(cfg.run))
    dtype = getattr(torch, cfg.dtype)

    def write(folder: Path) -> dict:
        if cfg.to == "lora":
            return write_lora(folder, model, tokenizer, adapter, base, dtype)
        return write_merged(folder, model, tokenizer, adapter, dtype)

    write_export(cfg, base, delta_sha, write)
    print(f"done: {cfg.out}")


if __name__ == "__main__":
    run_main(main)
