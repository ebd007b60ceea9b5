"""The products of one adapted Linear, forward and backward, in as few and as cheap ones as the numerics allow.

x [T, d_in], g [T, d_out], W [d_out, d_in], U [d_out, r], Vh [r, d_in], D = U diag(delta_S) Vh:

    bf16  forward     y  = [x, (x Vh^T) * delta_S] [W | U]^T + b   exact: summed in fp32, rounded once
          recompute   y' = x M^T + b,   M = bf16(W + D)            one product: only gradients are made of it
          backward    dx = g M                                     one product
                      d delta_S = diag(U^T G Vh^T),   G = g^T x    one product over the tokens and a small one
    fp32  the same with M = W + D in forward too, since fp32 loses nothing of the sum

Only what a loss or a logprob is made of needs the delta exact: bf16(W + D) loses a small D, but in the layers that
gradient checkpointing recomputes during backward, and in dx, that is relative noise of 2^-9 in the gradient.
At delta_S = 0 every product is the base model's own, bit for bit. Figures: bench/train.tsv.
"""

from __future__ import annotations

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
    """y [..., d_out] with all of the delta in it: summed in fp32, rounded once."""
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


class DeltaLinear(torch.autograd.Function):
    """x [..., d_in] -> [..., d_out] through an antipasto.SVDLinear, gradients for x and delta_S only."""

    @staticmethod
    def forward(ctx, x: Tensor, delta_S: Tensor, module: nn.Module) -> Tensor:
        ctx.module, M, again = module, module.weight, recomputing()
        if again and module.ends_block:  # nothing in the recompute reads what a block ends in: it is not computed
            y = x.new_empty((*x.shape[:-1], module.out_features))
        elif again or x.dtype == torch.float32:
            M = merged(module)
            y = F.linear(x, M, module.bias)
        else:
            y = exact(x, module)
        # W stands in for an M that was not made: checkpointing wants as many tensors of the same shapes both times.
        ctx.save_for_backward(x, M)
        return y

    @staticmethod
    def backward(ctx, g: Tensor):
        (x, M), module, d_delta, dx = ctx.saved_tensors, ctx.module, None, None
        if ctx.needs_input_grad[1]:
            d_delta = delta_gradient(x.flatten(0, -2), g.flatten(0, -2), module)
        if ctx.needs_input_grad[0]:
            dx = g @ (merged(module) if M.data_ptr() == module.weight.data_ptr() else M)
        return dx, d_delta, None
