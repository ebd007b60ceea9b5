"""The products of one adapted Linear (antipasto.SVDLinear): forward, recompute, backward, and a row's share of it.

x [T, d_in], g [T, d_out], D = U diag(delta_S) Vh:

    bf16  forward     y  = [x, (x Vh^T) * delta_S] [W | U]^T + b   summed in fp32, rounded once
          recompute   y' = x M^T + b,   M = bf16(W + D)            one product: only gradients are made of it
          backward    dx = g M                                     one product
                      d delta_S = diag(U^T G Vh^T),   G = g^T x    one product over the tokens and a small one
    fp32  the same with M = W + D in forward too, since fp32 loses nothing of the sum

Rounding x W^T to bf16 first would put it on the grid, and a delta of less than half a unit in the last place would
round away. Only what a loss or a logprob is made of needs all of the delta: in the layers that gradient checkpointing
recomputes during backward, and in dx, M's rounding is relative noise of 2^-9 in the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def recomputing() -> bool:
    """Whether this runs inside a backward pass, where gradient checkpointing repeats a layer's forward."""
    return torch._C._current_graph_task_id() != -1


def merged(module: nn.Module) -> Tensor:
    """M = W + U diag(delta_S) Vh [d_out, d_in] in W's dtype; W itself at delta_S = 0."""
    if module.is_zero():
        return module.weight
    return torch.addmm(module.weight, module.U * module.delta_S.to(module.U.dtype), module.Vh)


def exact(x: Tensor, module: nn.Module) -> Tensor:
    """y [..., d_out], summed in fp32 and rounded once, so that no delta is lost to W x.

    In bf16 delta_S and h delta_S are rounded first, to a relative 2^-9: a change of delta_S by less than 0.2 to 0.4% of
    itself shows once it has added up.
    """
    if module.is_zero():
        return F.linear(x, module.weight, module.bias)
    h = F.linear(x, module.Vh)
    return F.linear(torch.cat([x, h * module.delta_S.to(h.dtype)], dim=-1), module.weight_U, module.bias)


def delta_gradient(x: Tensor, g: Tensor, module: nn.Module) -> Tensor:
    """d delta_S [r] fp32 of x [T, d_in] and g [T, d_out]; through G where T is so large that U^T G Vh^T is the less."""
    if len(x) < len(module.delta_S):
        return ((x @ module.Vh.T).float() * (g @ module.U).float()).sum(0)
    G = g.T @ x
    if module.out_features >= module.in_features:
        return ((module.U.T @ G).float() * module.Vh).sum(1)
    return ((G @ module.Vh.T).float() * module.U).sum(0)


@dataclass
class RowSums:
    """Where a backward adds each row's share of d delta_S, of one module."""

    rows: Tensor
    """[n, t] fp32, 1 where a row has a token."""
    tokens: Tensor | None
    """[t] int64: the tokens that belong to a row; None: all of them do."""
    sums: Tensor
    """[n, r] fp32."""


def row_gradient(x: Tensor, g: Tensor, module: nn.Module) -> Tensor:
    """d delta_S [r] as `delta_gradient`, with each row's share of it added to module.row_sums."""
    into = module.row_sums
    mine = (x, g) if into.tokens is None else (x[into.tokens], g[into.tokens])
    share = (mine[0] @ module.Vh.T).float() * (mine[1] @ module.U).float()
    into.sums.addmm_(into.rows, share)
    return share.sum(0) if into.tokens is None else delta_gradient(x, g, module)


class DeltaLinear(torch.autograd.Function):
    """x [..., d_in] -> [..., d_out] through an SVDLinear, gradients for x and delta_S only."""

    @staticmethod
    def forward(ctx, x: Tensor, delta_S: Tensor, module: nn.Module) -> Tensor:
        M, again = module.weight, recomputing()
        if again and module.ends_block:  # nothing in the recompute reads what a block ends in: it is not computed
            y = x.new_empty((*x.shape[:-1], module.out_features))
        elif again or x.dtype == torch.float32:
            M = merged(module)
            y = F.linear(x, M, module.bias)
        else:
            y = exact(x, module)
        ctx.module = module
        # W stands in for an M that was not made: checkpointing wants as many tensors of the same shapes both times.
        ctx.save_for_backward(x, M)
        return y

    @staticmethod
    def backward(ctx, g: Tensor):
        x, M = ctx.saved_tensors
        module, d_delta, dx = ctx.module, None, None
        if ctx.needs_input_grad[1]:
            gradient = delta_gradient if module.row_sums is None else row_gradient
            d_delta = gradient(x.flatten(0, -2), g.flatten(0, -2), module)
        if ctx.needs_input_grad[0]:
            dx = g @ (merged(module) if M.data_ptr() == module.weight.data_ptr() else M)
        return dx, d_delta, None
