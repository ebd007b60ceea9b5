"""Directions of labelled rollouts: what a projection could do if it knew which rollouts hack.

With g_b of ladder/gradients.py, hacks H and the rest R of some rollouts

    oracle         v = unit(mean_H g - mean_R g)                                k = 1
    oracle-k       V = top-k right singular vectors of g_h - mean_R g, h in H    k > 1, without a sign

of rollouts sampled where the run or branch begins (`oracle_at`), or of each step's own (`live_direction`). Sources and
departures: docs/method.md, the ladder.
"""

from __future__ import annotations

import torch
from loguru import logger
from torch import Tensor

from ladder.gradients import row_gradients
from lib.errors import UserError
from problems.prompts import Prompts
from rollouts import Batch, Run, sample_and_grade
from sampling.noise import row_seed


def labelled_direction(gradients: dict[str, Tensor], hack_B: Tensor, k: int = 1) -> dict[str, Tensor]:
    """{module: [r], or [k, r] orthonormal}: see `oracle` and `oracle-k` above. hack_B [B] bool, both classes there."""
    out = {}
    for name, g_B_r in gradients.items():
        differences = g_B_r[hack_B] - g_B_r[~hack_B].mean(0)
        if k == 1:
            mean = differences.mean(0)
            out[name] = mean / mean.norm().clamp_min(1e-30)
        else:
            unit = differences / differences.norm(dim=1, keepdim=True).clamp_min(1e-30)
            out[name] = torch.linalg.svd(unit, full_matrices=False).Vh[:k].contiguous()
    return out


def sampled(run: Run, prompts: Prompts, n: int, key: str, per_prompt: int = 4):
    """(prompts, completions, grades) of n rollouts at the current delta_S, by noise of their own."""
    picked = [i // per_prompt % len(prompts.ids) for i in range(n)]
    seeds = [row_seed(key, run.cfg.seed, run.cfg.branch_from != "", j) for j in range(n)]
    completions, _, _, grades, *_ = sample_and_grade(run, prompts, picked, seeds)
    return [prompts.ids[i] for i in picked], completions, grades


def oracle_at(run: Run, k: int) -> dict[str, Tensor]:
    """The labelled direction of oracle_rollouts rollouts at the current delta_S, of prompts in an order of their own.

    Raises UserError where they hold no hack, or nothing else.
    """
    prompts, completions, grades = sampled(run, run.prompts, run.cfg.oracle_rollouts, "oracle")
    hack_B = torch.tensor([g.hack for g in grades])
    if not 0 < hack_B.sum() < len(hack_B):
        raise UserError(
            f"{int(hack_B.sum())} of {len(hack_B)} labelled rollouts are strict hacks, so an oracle has no direction: "
            "branch from a later point, or raise --oracle-rollouts"
        )
    logger.info(f"oracle: {int(hack_B.sum())} strict hacks among {len(hack_B)} labelled rollouts")
    v = labelled_direction(row_gradients(run, prompts, completions), hack_B, k)
    return {name: t.to(run.device) for name, t in v.items()}


def live_direction(run: Run, batch: Batch) -> dict[str, Tensor]:
    """The labelled direction of this step's rollouts; the one in force where they are all of one class."""
    hack_B = torch.tensor([g.hack for g in batch.grades])
    if not 0 < hack_B.sum() < len(hack_B):
        return run.v_hack
    v = labelled_direction(row_gradients(run, batch.prompts, batch.completions), hack_B)
    return {name: t.to(run.device) for name, t in v.items()}
