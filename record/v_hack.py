"""The v_hack artifact: written whole, and read as what it says it is.

A safetensors file, one fp32 unit vector [r] a module ([k, r] orthonormal for k > 1), whose header names the model,
weights, dtype, pairs and date. `adapter`: an antipasto.Adapter, whose modules and weights they are.
"""

from __future__ import annotations

import datetime
from pathlib import Path

import torch
from torch import Tensor

from config import ModelConfig
from lib.errors import UserError
from lib.tensors import load_tensors, save_atomic
from pairs import Pair, load_pairs, pairs_sha256
from record.inputs import missing_v_hack


def save_v_hack(path: Path, v_hack: dict[str, Tensor], adapter, cfg: ModelConfig, pairs: list[Pair]) -> None:
    """Write the artifact atomically."""
    metadata = {
        "model": cfg.model,
        "revision": cfg.revision or "",
        "dtype": cfg.dtype,
        "weights_sha256": adapter.weights_sha256,
        "pairs": cfg.pairs,
        "pairs_sha256": pairs_sha256(pairs),
        "n_pairs": str(len(pairs)),
        "n_directions": str(cfg.n_directions),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_atomic({k: v.contiguous() for k, v in v_hack.items()}, path, metadata)


def load_v_hack(path: Path, adapter, cfg: ModelConfig) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(v_hack, header) checked against this model and these pairs.

    Raises UserError where the file is missing, belongs to other weights, dtype or pairs, or is not unit norm.
    """
    if not path.exists():
        raise UserError(missing_v_hack(cfg))
    tensors, metadata = load_tensors(path)

    # The header: the same weights, pairs and number of directions.
    if metadata.get("weights_sha256") != adapter.weights_sha256:
        made = f"was extracted from {metadata.get('model')} ({metadata.get('dtype')})"
        wrong = f"whose weights are not those of {cfg.model} ({cfg.dtype})"
        raise UserError(f"{path} {made}, {wrong}: run `just extract-vhack {cfg.preset}`")
    if metadata.get("pairs_sha256") != pairs_sha256(load_pairs(cfg.pairs)):
        raise UserError(f"{path} was extracted from other pairs than --pairs {cfg.pairs}: extract again")
    if (k := metadata.get("n_directions", "1")) != str(cfg.n_directions):
        what = f"holds {k} directions a module, not {cfg.n_directions}"
        raise UserError(f"{path} {what}: pass --n-directions {k}, or extract again")

    # The tensors: orthonormal rows for every module.
    for name in adapter.modules:
        if name not in tensors:
            raise UserError(f"{path} has no direction for module {name}: extract again")
        gram = tensors[name].double().reshape(-1, tensors[name].shape[-1])
        if not torch.allclose(gram @ gram.T, torch.eye(len(gram), dtype=gram.dtype), atol=1e-4):
            raise UserError(f"{path}: the direction of module {name} is not of unit norm: extract again")
    return tensors, metadata


def is_extracted(path: Path, adapter, cfg: ModelConfig) -> bool:
    """Whether the artifact is there, whole, and of this model and these pairs."""
    try:
        load_v_hack(path, adapter, cfg)
    except UserError:
        return False
    return True
