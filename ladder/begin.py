"""What some arms make before their first step.

    oracle     the direction of labelled rollouts (ladder/labelled.py)
    gate       advantages are capped at zero above the base model's 90% quantile of s_b without write access
    trusted    w = |d| / max |d|, d the change of delta_S over SFT_STEPS of SGD on the clean sides of the pairs

Sources and departures: docs/method.md, the ladder.
"""

from __future__ import annotations

import torch
from loguru import logger
from torch import Tensor

from arms import ARMS
from grpo import mean_nll
from ladder.gradients import row_gradients, scores
from ladder.labelled import oracle_at, sampled
from lib.models import chat_ids, completion_ids
from pairs import training_pairs
from problems.prompts import tokenise
from rollouts import Run

GATE_QUANTILE = 0.9
GATE_ROLLOUTS = 128
SFT_STEPS = 8


def begin(run: Run, at_start: bool) -> None:
    """What an arm makes before its first step: an oracle's direction (where the run or branch starts: a resumed one has
    it in its checkpoint), the gate's threshold, the trusted weights. The last two are functions of the seed alone.
    """
    arm = ARMS[run.cfg.arm]
    if arm.v in ("oracle", "live") and at_start:
        run.v_hack |= oracle_at(run, arm.k)
    if arm.screen == "gate":
        run.gate = gate_threshold(run)
    if arm.weighs:
        run.weights = trusted_weights(run)


def gate_threshold(run: Run) -> float:
    """GATE_QUANTILE of the scores of the base model's rollouts on prompts without write access; no grade is read."""
    prompts = tokenise(
        run.tokenizer,
        run.prompts.problems,
        write_access=False,
        wording=run.cfg.wording,
        max_prompt=run.cfg.max_prompt,
    )
    with run.adapter.at_zero():
        rows, completions, _ = sampled(run, prompts, GATE_ROLLOUTS, "gate", per_prompt=1)
        s_B = scores(row_gradients(run, rows, completions), run.v_hack)
    threshold = s_B.quantile(GATE_QUANTILE).item()
    logger.info(f"gate: advantages of rollouts that score above {threshold:.4f} are capped at zero")
    return threshold


def trusted_weights(run: Run) -> dict[str, Tensor]:
    """{module: [r] in [0, 1]}: how far each singular value moves in SFT_STEPS of SGD on the pairs' clean sides."""
    delta = run.adapter.delta()
    rows = [
        (chat_ids(run.tokenizer, p.messages), completion_ids(run.tokenizer, p.clean))
        for p in training_pairs(run.cfg.pairs)
    ]
    with run.adapter.at_zero():
        for _ in range(SFT_STEPS):
            total = [torch.zeros_like(p) for p in delta.values()]
            for prompt, clean in rows:
                nll = mean_nll(run.model, prompt, clean, run.tokenizer.pad_token_id, run.device)
                for sum_, g in zip(total, torch.autograd.grad(nll, list(delta.values())), strict=True):
                    sum_ += g / len(rows)
            with torch.no_grad():
                for p, g in zip(delta.values(), total, strict=True):
                    p.sub_(run.cfg.lr * g / g.norm().clamp_min(1e-30))
        return {name: (p.detach().abs() / p.detach().abs().max()).clone() for name, p in delta.items()}
