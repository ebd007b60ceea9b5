"""The learning rate of a step."""

from __future__ import annotations

import math

import torch


def learning_rate(cfg, step: int) -> float:
    """Linear warm-up over `warmup` steps, then constant, or cosine to zero at `anneal` or the last step.

    cfg: a config.Config, of which lr, warmup, schedule, anneal and steps are read.
    """
    if step < cfg.warmup:
        return cfg.lr * (step + 1) / cfg.warmup
    if cfg.schedule == "constant":
        return cfg.lr
    progress = (step - cfg.warmup) / max(1, (cfg.anneal or cfg.steps) - cfg.warmup)
    return cfg.lr * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimiser: torch.optim.AdamW, lr: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = lr
