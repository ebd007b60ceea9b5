"""Pairs -> per-module gradient difference -> v_hack artifact.

For each pair and side the loss is the mean NLL over the completion's tokens; its gradient at the current delta_S is
g_hack, g_clean [r] per module. Then

    v = unit(mean over pairs of (g_hack - g_clean))                      k = 1, preregistered
    V = top-k right singular vectors of the [n_pairs, r] differences      k > 1, each signed to agree with the mean

Only pairs outside the held-out split are used. The artifact is a safetensors file, one fp32 unit vector [r] a module
([k, r] for k > 1), whose header names the model, weights, dtype, pairs and date.

    python extract_vhack_grad.py --preset P [--out F]

An artifact of these weights and pairs is left as it is, since runs that resume know theirs by its hash (--fresh).
"""

from __future__ import annotations
import lib.interrupt  # noqa: F401 (on top)

from dataclasses import dataclass
from pathlib import Path

import torch
from loguru import logger
from torch import Tensor
from tqdm import tqdm

from antipasto import Adapter, load_model
from config import ModelConfig, check, parse
from grpo import mean_nll
from lib.errors import UserError, run_main
from lib.files import refuse_unwritable
from lib.models import chat_ids, completion_ids, pick_device
from pairs import Pair, load_pairs
from record.v_hack import is_extracted, save_v_hack


@dataclass
class ExtractConfig(ModelConfig):
    """Extract the hack direction of every module."""

    out: str = ""
    """Where to write the artifact; empty: the place where train.py looks for it."""
    svd_only: bool = False
    """Stop once the SVD cache is filled."""
    fresh: bool = False
    """Extract again where an artifact of these weights and pairs is there."""


def pair_differences(model, tokenizer, adapter: Adapter, pairs: list[Pair], desc: str = "pairs") -> dict[str, Tensor]:
    """{module: [n_pairs, r] fp32 on CPU}: gradient of mean NLL on the hack minus on the clean side, at this delta_S."""
    device = next(iter(adapter.delta().values())).device
    parameters = list(adapter.delta().values())
    rows = []
    for pair in tqdm(pairs, desc=desc, disable=None, leave=False):
        prompt = chat_ids(tokenizer, pair.messages)
        grads = []
        for text in (pair.hack, pair.clean):
            nll = mean_nll(model, prompt, completion_ids(tokenizer, text), tokenizer.pad_token_id, device)
            grads.append(torch.autograd.grad(nll, parameters))
        rows.append([(h - c).float().cpu() for h, c in zip(*grads, strict=True)])
    return {name: torch.stack([row[m] for row in rows]) for m, name in enumerate(adapter.modules)}


def directions(differences: dict[str, Tensor], k: int = 1) -> dict[str, Tensor]:
    """{module: [n, r]} -> {module: [r]} for k = 1, [k, r] with orthonormal rows otherwise.

    Raises UserError naming a module whose mean difference is zero or not finite.
    """
    out = {}
    for name, D in differences.items():
        mean = D.mean(0)
        if not torch.isfinite(mean).all() or mean.norm() == 0:
            what = f"no direction (mean gradient difference {mean.norm().item():.3g})"
            raise UserError(f"the pairs give module {name} {what}: check the pairs and the model's dtype")
        if k == 1:
            out[name] = mean / mean.norm()
            continue
        V = torch.linalg.svd(D, full_matrices=False).Vh[:k]
        if len(V) < k:
            raise UserError(f"--n-directions {k} exceeds what {D.shape[0]} pairs and r = {D.shape[1]} of {name} allow")
        sign = torch.where(V @ mean < 0, -1.0, 1.0)
        out[name] = V * sign[:, None]
    return out


def main() -> None:
    cfg = parse(ExtractConfig, description=__doc__)
    check(cfg)
    path = Path(cfg.out) if cfg.out else cfg.v_hack_path()
    if path.is_dir():
        raise UserError(f"--out {path} is a folder: give the path of a file")
    refuse_unwritable(path.parent)  # now, and not after the extraction
    pairs = load_pairs(cfg.pairs)
    model, tokenizer, adapter = load_model(cfg, pick_device(cfg.device, cfg.preset, cfg.threads))
    if cfg.svd_only:
        return
    if not cfg.fresh and is_extracted(path, adapter, cfg):
        logger.info(f"{path} is of these weights and pairs already: nothing to do (--fresh extracts again)")
        return
    train = [p for p in pairs if not p.held_out]
    v_hack = directions(pair_differences(model, tokenizer, adapter, train), cfg.n_directions)
    save_v_hack(path, v_hack, adapter, cfg, pairs)
    logger.info(f"{len(v_hack)} modules from {len(train)} of {len(pairs)} pairs ({cfg.pairs}) -> {path}")


if __name__ == "__main__":
    run_main(main)
