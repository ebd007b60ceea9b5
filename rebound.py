"""Rebound: the advantage-level baseline, two ways of paying less for completions that look like shortcuts.

Source: Wu & Tang 2026, "When Reward Hacking Rebounds" (arXiv 2604.01476), sections 3.1 and 4.1. Rows b of B = P G
completions, h_b [d] the mean residual over completion tokens after one decoder layer, v [d] the concept direction:

    v   = mean over pairs of (h_hack - h_clean)                      on the base model (delta 0), training pairs only
    R_b <- R_b - alpha max(0, cos(h_b, v)),      alpha 0.5           `rebound`, preregistered
    R_b <- R_b (1 - alpha sigmoid(z_b) 1[z_b > 0]),  alpha 2.0       `rebound-zscore`, the paper's eq. 5
    z_b = (s_b - mean_group s) / max(std_group s, sigma_floor),  s_b = h_b . v,  sigma_floor 0.1     eq. 3

The reward changes before the group baseline, so that flat groups are judged on what is paid; logged rewards stay R.
docs/method.md has the reasons and the departures from the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from antipasto import Adapter
from arms import ARMS
from config import Config
from lib.models import chat_ids, completion_ids
from lib.packing import Packed, Passes
from pairs import load_pairs

TokenPair = tuple[Sequence[int], Sequence[int], Sequence[int]]  # prompt ids, hack completion ids, clean completion ids


def layer_at_depth(n_layers: int, fraction: float = 0.66) -> int:
    """Index (from 0) of the decoder layer after which `fraction` (0 to 1) of the depth is done: 23 of 36, 15 of 24."""
    return max(0, round(n_layers * fraction) - 1)


class _Enough(Exception):
    """Raised by the hook to end a forward whose later layers nobody needs."""


class ResidualMean:
    """Captures h_mean [B, d] fp32, the mean residual after decoder layer `layer` over the completion of each row.

    with ResidualMean(model, layer, packed, stop=True) as seen:
        packed.hidden(model)
    seen.h_mean

    `model` is a transformers causal LM with its decoder layers in model.model.layers (Qwen2, Qwen3, Qwen3.5).
    With `stop` the forward ends after the layer; without, it runs on undisturbed. An empty completion gives zeros.
    h_mean carries no gradient. Raises ValueError for a layer that the model lacks, RuntimeError on reading h_mean
    before a forward.
    """

    def __init__(self, model: nn.Module, layer: int, packed: Packed, stop: bool = False):
        layers = model.model.layers
        if not 0 <= layer < len(layers):
            raise ValueError(f"no decoder layer {layer}: the model has {len(layers)}, counted from 0")
        self.module = layers[layer]
        self.packed = packed
        self.stop = stop
        self._h_mean: Tensor | None = None

    @property
    def h_mean(self) -> Tensor:
        if self._h_mean is None:
            raise RuntimeError("no forward has passed the layer yet: run the model inside the with block first")
        return self._h_mean

    def __enter__(self) -> ResidualMean:
        self.handle = self.module.register_forward_hook(self._capture)
        return self

    def __exit__(self, kind, error, trace) -> bool:
        self.handle.remove()
        return self.stop and kind is _Enough

    def _capture(self, module, inputs, output) -> None:
        hidden = (output[0] if isinstance(output, tuple) else output).detach()
        assert hidden.shape[:2] == self.packed.ids.shape, f"{tuple(hidden.shape)} for {tuple(self.packed.ids.shape)}"
        rows = hidden.flatten(0, 1)[self.packed.completion].split(self.packed.lengths)
        zero = hidden.new_zeros(hidden.shape[-1], dtype=torch.float32)
        # Row by row: N x d fp32 would be gigabytes.
        self._h_mean = torch.stack([row.float().mean(0) if len(row) else zero for row in rows])
        if self.stop:
            raise _Enough


@torch.no_grad()
def residual_means(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    layer: int,
    passes: Passes,
) -> Tensor:
    """h_mean [B, d] fp32 on the model's device, for token ids prompt + completion of each row, at the current weights.

    Rows run up to `layer` only: two thirds of a forward, and no head. Dropout would make it a draw, so the model must
    be in eval mode or free of dropout (Qwen is).
    """
    means: list[Tensor | None] = [None] * len(prompts)
    prompts, completions = [list(p) for p in prompts], [list(c) for c in completions]
    for rows in passes.split(prompts, completions):
        packed = passes.pack([prompts[b] for b in rows], [completions[b] for b in rows])
        with ResidualMean(model, layer, packed, stop=True) as seen:
            packed.hidden(model)
        for b, h in zip(rows, seen.h_mean, strict=True):
            means[b] = h
    return torch.stack(means)


def concept_direction(
    model: nn.Module,
    token_pairs: Sequence[TokenPair],
    layer: int,
    passes: Passes,
    unit: bool = True,
) -> Tensor:
    """v [d] fp32 on the model's device: mean over pairs of h_mean(hack) - h_mean(clean) after `layer` (paper's eq. 1).

    Call it at delta 0 (before training, or inside adapter.reference()) with the pairs outside the held-out split.
    unit: length 1 (`rebound` does not care); False keeps the length of eq. 1, which `rebound-zscore` wants.
    Raises ValueError for no pairs, or if the two sides give the same mean.
    """
    if not token_pairs:
        raise ValueError("no contrastive pairs to take the concept direction from")
    prompts, hacks, cleans = ([row[i] for row in token_pairs] for i in range(3))
    h = residual_means(model, [*prompts, *prompts], [*hacks, *cleans], layer, passes)
    v = (h[: len(prompts)] - h[len(prompts) :]).mean(0)
    length = v.norm()
    if not length > 1e-6 * h.norm(dim=-1).mean():  # also refuses nan
        raise ValueError(f"hack and clean completions have the same mean residual after layer {layer}: no direction")
    return v / length if unit else v


def rebound_penalty(h_mean: Tensor, v: Tensor, alpha: float = 0.5) -> Tensor:
    """[B] fp32 in [0, alpha]: alpha max(0, cos(h_mean [B, d], v [d])), to be subtracted from the rewards.

    Preregistered (docs/spec.md). A zero row or a zero v costs nothing.
    """
    h, v = h_mean.float(), v.float()
    length = h.norm(dim=-1) * v.norm()
    cos = torch.where(length > 0, h @ v / length.clamp_min(torch.finfo(torch.float32).tiny), 0.0)
    return alpha * cos.clamp(0, 1)


def rebound_zscore_discount(
    h_mean: Tensor, v: Tensor, groups: Tensor, alpha: float = 2.0, sigma_floor: float = 0.1
) -> Tensor:
    """[B] fp32 in (1 - alpha, 1]: 1 - alpha sigmoid(z) 1[z > 0], to be multiplied with the rewards (paper's eq. 3, 5).

    z is the z-score of h_mean [B, d] . v [d] among the rows of equal group id, `groups` [B] integers in any order. Std
    is the population's (the paper does not say which), at least sigma_floor. The floor bounds z, not the discount,
    which jumps from 1 to 1 - alpha / 2 as z leaves zero.
    """
    # Projections, and the mean and std of each group.
    s = (h_mean.float() @ v.float()).double()
    _, index = groups.to(s.device).unique(return_inverse=True)
    empty = s.new_zeros(int(index.max()) + 1)
    n = empty.index_add(0, index, torch.ones_like(s))
    centred = s - (empty.index_add(0, index, s) / n)[index]
    std = (empty.index_add(0, index, centred.square()) / n).sqrt()

    # Deviations within rounding count as none, or a group of identical completions would be fined at random.
    rounding = 1e-5 * empty.scatter_reduce(0, index, s.abs(), "amax")[index]
    z = centred / std.clamp_min(sigma_floor)[index]
    return torch.where(centred > rounding, 1 - alpha * torch.sigmoid(z), 1.0).float()


@dataclass
class Rebound:
    """What a Rebound arm holds: one layer, one concept direction at the initial policy."""

    pays: Literal["penalty", "zscore"]
    alpha: float
    layer: int
    v: Tensor
    """[d] fp32: unit for the penalty, unnormalised for the z-score."""
    passes: Passes

    def pay(self, model, prompts: list[list[int]], completions: list[list[int]], rewards_P_G: Tensor) -> Tensor:
        """Rewards [P, G] after the penalty or the discount, at the current weights."""
        h_B_d = residual_means(model, prompts, completions, self.layer, self.passes)
        if self.pays == "penalty":
            return rewards_P_G - rebound_penalty(h_B_d, self.v, self.alpha).cpu().view_as(rewards_P_G)
        P, G = rewards_P_G.shape
        groups_B = torch.arange(P).repeat_interleave(G)
        return rewards_P_G * rebound_zscore_discount(h_B_d, self.v, groups_B, self.alpha).cpu().view_as(rewards_P_G)


def make_rebound(cfg: Config, model, tokenizer, adapter: Adapter, passes: Passes) -> Rebound | None:
    """The concept direction of the training pairs at the base model, also in a resumed run; None in other arms."""
    arm = ARMS[cfg.arm]
    if arm.pays == "graded":
        return None
    rows = [
        (chat_ids(tokenizer, p.messages), completion_ids(tokenizer, p.hack), completion_ids(tokenizer, p.clean))
        for p in load_pairs(cfg.pairs)
        if not p.held_out
    ]
    layer = layer_at_depth(model.config.num_hidden_layers, cfg.rebound_depth)
    with adapter.reference():
        v = concept_direction(model, rows, layer, passes, unit=arm.pays == "penalty")
    return Rebound(pays=arm.pays, alpha=arm.alpha, layer=layer, v=v, passes=passes)
