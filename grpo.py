"""The maths of GRPO, with shapes; no model loading, no I/O.

Advantage     A_i = R_i - mean_group(R)                        Dr.GRPO (Liu et al. 2025, eq. 4 without 1/std)
              A_i = (R_i - mean_group(R)) / (std_group(R) + eps)   classic (Shao et al. 2024, section 4.1)
Objective     L = -1/(P G T_max) sum_i sum_t (min(rho A, clip(rho, 1 - eps, 1 + eps) A) - beta k3)
              rho = exp(logp - logp_sampling)                  PPO (Schulman et al. 2017, eq. 7)
KL            k3 = exp(ref - logp) - (ref - logp) - 1 >= 0     (Schulman 2020, "Approximating KL divergence")

The normaliser is the fixed P G T_max, not the number of tokens, so that long answers are not discounted (Dr.GRPO).
Logprobs are of the full softmax at the sampling temperature: top-k truncation is part of the behaviour policy only.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lib.logprobs import HeadLogprobs
from lib.packing import Packed, pack


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
