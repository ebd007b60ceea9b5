"""Rollouts as gradients, and what they score against a direction.

Of one rollout, g_b [r] is the gradient of its mean NLL per module, read off one backward for a whole batch (per-row
sums, antipasto.Adapter.per_row):

    score          s_b = mean over modules of cos(g_b, v)                        label-free, where v is
    in training    the same of sign(A_b) times the row's share of the step's own gradient (see `scoring`)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from config import Config
from grpo import completion_logprobs
from lib.memory import MOST_ROWS
from lib.packing import Packed, pack
from project import first_direction
from rollouts import Run

SCORED_LAYERS = 3


def rows_a_pass(cfg: Config, longest: int) -> int:
    """Rows of at most `longest` tokens in a padded forward: within micro_batch and, where it is set, micro_tokens."""
    size = cfg.micro_batch or (MOST_ROWS if cfg.micro_tokens else 8)
    return min(size, max(1, cfg.micro_tokens // longest)) if cfg.micro_tokens else size


def row_gradients(run: Run, prompts: list[list[int]], completions: list[list[int]]) -> dict[str, Tensor]:
    """{module: [B, r] fp32 on the CPU}: the gradient of each row's mean NLL per token, at the current delta_S.

    One forward and backward a micro-batch: rows do not see one another, so a row's share of the sum is its gradient.
    Each has its own prompt also where the model shares them: a shared token's gradient belongs to several rows and its
    sum does not say how much to which. Layers are recomputed where training recomputes them.
    """
    cfg, parts = run.cfg, []
    run.model.train(cfg.grad_checkpoint)
    size = rows_a_pass(cfg, max(len(p) + len(c) for p, c in zip(prompts, completions, strict=True)))
    for start in range(0, len(prompts), size):
        rows, ends = prompts[start : start + size], completions[start : start + size]
        packed = pack(rows, ends, run.tokenizer.pad_token_id, run.device, share=False)
        B, L = packed.ids.shape
        row_of_token = torch.arange(B, device=run.device).repeat_interleave(L)
        with run.adapter.per_row(row_of_token, B) as sums:
            logp = completion_logprobs(run.model, packed, cfg.temperature, cfg.logprob_chunk or 1024)
            means = torch.stack([part.mean() for part in logp.split(packed.lengths)])
            torch.autograd.grad(-means.sum(), list(run.adapter.delta().values()))
        parts.append({name: t.cpu() for name, t in sums.items()})
    run.model.eval()
    return {name: torch.cat([part[name] for part in parts]) for name in run.adapter.modules}


def cosines(gradients: dict[str, Tensor], v_hack: dict[str, Tensor]) -> dict[str, Tensor]:
    """{module: [B] fp32 cosine of each row's gradient with v (the first direction of a module)}."""
    return {
        name: torch.nn.functional.cosine_similarity(g_B_r, first_direction(v_hack[name]).to(g_B_r)[None], dim=1)
        for name, g_B_r in gradients.items()
    }


def scores(gradients: dict[str, Tensor], v_hack: dict[str, Tensor]) -> Tensor:
    """[B] fp32: mean over modules of `cosines`."""
    return sum(cosines(gradients, v_hack).values()) / len(gradients)


@contextmanager
def scoring(run: Run, packed: Packed, advantages: list[Tensor], out: list[float]) -> Iterator[None]:
    """Within the context the backward of a step's loss adds to `out` a score of each of its rows, as `in training`.

    No second backward: the row's loss is -A_b sum log p up to the KL term and clipped tokens, so that the sign of A_b
    turns its gradient into that of an NLL. Completion tokens alone count, since rows may share their prompt's, and for
    the cost some SCORED_LAYERS layers stand for all. nan where A_b is 0.
    """
    if not run.cfg.score_rollouts or not run.v_hack:
        out += [float("nan")] * len(advantages)
        yield
        return
    rows = torch.arange(len(advantages), device=run.device).repeat_interleave(
        torch.tensor(packed.lengths, device=run.device), output_size=len(packed.completion)
    )
    row_of_token = torch.full((packed.ids.numel(),), -1, device=run.device).index_put_((packed.completion,), rows)
    every = max(2, run.model.config.num_hidden_layers // SCORED_LAYERS)
    with run.adapter.per_row(row_of_token, len(advantages), every) as sums:
        yield
    signs = torch.stack(advantages).sign().to(run.device)
    out += (scores(sums, run.v_hack) * signs / signs.abs()).tolist()


def auroc(scores_B: Tensor, hack_B: Tensor) -> float:
    """Area under the ROC curve, ties counted half (Mann-Whitney U over n m); nan where one class is empty."""
    a, b = scores_B[hack_B].double(), scores_B[~hack_B].double()
    above = (a[:, None] > b[None]).double() + 0.5 * (a[:, None] == b[None]).double()
    return above.mean().item()
