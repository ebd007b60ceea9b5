"""Logprobs of the language-model head, a chunk of positions at a time: a step's largest tensors are [chunk, V] logits.

    logp_i = z_i[target_i] - log sum_v exp z_i[v],   z_i = W h_i / temperature [V]
    d h_i  = g_i / temperature * W^T (onehot(target_i) - softmax(z_i))

Backward makes the logits again and writes their gradient over them; the normalisers are kept from forward. On a GPU in
half precision a chunk is never copied to fp32 (lib/kernels.py): sums are fp32, what lies in memory is half.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lib.fused import training_kernels


def _chunk_logprobs(head: nn.Linear, hidden: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """(log p of the targets, log of the softmax's normaliser), [chunk] fp32 each."""
    logits = head(hidden)
    if kernels := training_kernels(logits):
        return kernels.normalise(logits, targets, temperature)
    logits = logits.float().div_(temperature)
    normaliser = logits.logsumexp(-1)
    return logits.gather(-1, targets[:, None])[:, 0] - normaliser, normaliser


def _chunk_gradient(
    head: nn.Linear, hidden: Tensor, targets: Tensor, normaliser: Tensor, g: Tensor, temperature: float
):
    """d hidden [chunk, d]: d logits = (onehot(target) - softmax) g / temperature is written over the logits."""
    logits = head(hidden)
    if kernels := training_kernels(logits):
        return kernels.gradient(logits, targets, normaliser, g, temperature) @ head.weight
    scale = (g / temperature)[:, None]
    d = logits.float().div_(temperature).sub_(normaliser[:, None]).exp_().mul_(-scale)
    d.scatter_add_(1, targets[:, None], scale)
    return d.to(hidden.dtype) @ head.weight


class HeadLogprobs(torch.autograd.Function):
    """log softmax(head(hidden) / temperature) at the targets: hidden [N, d], targets [N] int64 -> [N] fp32.

    Only `chunk` rows of logits [chunk, V] exist at a time, in either pass; the head is frozen: hidden has a gradient.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, head: nn.Linear, targets: Tensor, temperature: float, chunk: int) -> Tensor:
        parts = zip(hidden.split(chunk), targets.split(chunk), strict=True)
        logp, normaliser = zip(*(_chunk_logprobs(head, h, t, temperature) for h, t in parts), strict=True)
        ctx.save_for_backward(hidden, targets, torch.cat(normaliser))
        ctx.head, ctx.temperature, ctx.chunk = head, temperature, chunk
        return torch.cat(logp)

    @staticmethod
    def backward(ctx, g: Tensor):
        g = g.contiguous()  # of a sum or mean it is one number, expanded
        parts = zip(*(x.split(ctx.chunk) for x in (*ctx.saved_tensors, g)), strict=True)
        d_hidden = torch.cat([_chunk_gradient(ctx.head, *part, ctx.temperature) for part in parts])
        return d_hidden, None, None, None, None
