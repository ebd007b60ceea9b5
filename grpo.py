"""The maths of GRPO, with shapes; no model loading, no I/O.

Advantage     A_i = R_i - mean_group(R)                        Dr.GRPO (Liu et al. 2025, eq. 4 without 1/std)
              A_i = (R_i - mean_group(R)) / (std_group(R) + eps)   classic (Shao et al. 2024, section 4.1)
Objective     L = -1/(P G T_max) sum_i sum_t (min(rho A, clip(rho, 1 - eps, 1 + eps) A) - beta k3)
              rho = exp(logp - logp_sampling)                  PPO (Schulman et al. 2017, eq. 7)
KL            k3 = exp(ref - logp) - (ref - logp) - 1 >= 0     (Schulman 2020, "Approximating KL divergence")

The normaliser is the fixed P G T_max, not the number of tokens, so that long answers are not discounted (Dr.GRPO).
Logprobs are of the full softmax at the sampling temperature: top-k truncation is part of the behaviour policy only.

Rebound (Wu & Tang 2026, arXiv 2604.01476, sections 3.1 and 4.1), the advantage-level baseline: completions that look
like shortcuts are paid less. h_b [d] is the mean residual over the tokens of completion b after one decoder layer:

    v   = mean over pairs of (h_hack - h_clean)                      on the base model (delta 0), training pairs only
    R_b <- R_b - alpha max(0, cos(h_b, v)),      alpha 0.5           `rebound`, preregistered
    R_b <- R_b (1 - alpha sigmoid(z_b) 1[z_b > 0]),  alpha 2.0       `rebound-zscore`, the paper's eq. 5
                                                                     `rebound-shuffled`: by another row's z
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

from lib.logprobs import HeadLogprobs
from lib.packing import Packed, Passes, pack
from lib.residuals import residual_means

TokenPair = tuple[Sequence[int], Sequence[int], Sequence[int]]  # prompt ids, hack completion ids, clean completion ids


def group_advantages(
    rewards_P_G: Tensor, classic: bool = False, flat_eps: float = 1e-4, kept_P_G: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Advantages [P, G] fp32 and the groups worth a forward [P] bool: those with max R - min R >= flat_eps.

    kept_P_G [P, G] bool: rows that are left out count in no group and have the advantage 0.
    """
    if kept_P_G is not None:
        return screened_advantages(rewards_P_G, kept_P_G, classic, flat_eps)
    centred = rewards_P_G - rewards_P_G.mean(1, keepdim=True)
    if classic:
        centred = centred / (rewards_P_G.std(1, keepdim=True, correction=0) + 1e-4)
    return centred, rewards_P_G.amax(1) - rewards_P_G.amin(1) >= flat_eps


def screened_advantages(rewards_P_G: Tensor, kept_P_G: Tensor, classic: bool, flat_eps: float):
    """`group_advantages` of each group's kept rows alone; a group with fewer than two is flat."""
    advantages_P_G, live_P = torch.zeros_like(rewards_P_G), torch.zeros(len(rewards_P_G), dtype=torch.bool)
    for p, kept in enumerate(kept_P_G):
        if kept.sum() > 1:
            part, live = group_advantages(rewards_P_G[p : p + 1, kept], classic, flat_eps)
            advantages_P_G[p, kept], live_P[p] = part[0], live[0]
    return advantages_P_G, live_P


def k3(logp: Tensor, ref: Tensor) -> Tensor:
    """Per-token KL estimate [*], >= 0; unbiased under samples of the full softmax, which top-k samples are not."""
    log_ratio = ref - logp
    return torch.exp(log_ratio) - log_ratio - 1


def clipped_objective(logp: Tensor, old_logp: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """PPO's per-token objective (to be maximised), shapes broadcast, [N]."""
    ratio = torch.exp(logp - old_logp)
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def left_clip(logp: Tensor, old_logp: Tensor, clip: float) -> Tensor:
    """[N] bool: tokens whose ratio lies outside [1 - clip, 1 + clip], whichever way the advantage points."""
    return (torch.exp(logp - old_logp) - 1).abs() > clip


def completion_logprobs(model: nn.Module, packed: Packed, temperature: float = 1.0, chunk: int = 2048) -> Tensor:
    """log p of every completion token, [N] fp32, of the rows in `packed`.

    The head runs on the positions that predict a completion token, `chunk` of them at a time.
    """
    return HeadLogprobs.apply(packed.hidden(model)[packed.predicts], model.lm_head, packed.targets, temperature, chunk)


def mean_nll(model: nn.Module, prompt: list[int], completion: list[int], pad_id: int, device) -> Tensor:
    """Mean negative log likelihood of one completion's tokens, scalar fp32 (the loss of the extraction)."""
    return -completion_logprobs(model, pack([prompt], [completion], pad_id, device)).mean()


# --- Rebound ---


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

    pays: Literal["penalty", "zscore", "shuffled"]
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
        paid_P_G = rebound_zscore_discount(h_B_d, self.v, groups_B, self.alpha).cpu().view(P, G)
        if self.pays == "shuffled":  # rows of a group are independent draws: half a group on is as good as at random
            paid_P_G = paid_P_G.roll(G // 2, dims=1)
        return rewards_P_G * paid_P_G
