"""The adapter's training products in bf16, fewer of them: a drop-in for AdditiveDelta and AtZero of antipasto.py.

    forward      y  = [x, (x Vh^T) * delta_S] [W | U]^T + b      exact: summed in fp32, rounded once
                 y  = [x, x] [W | D]^T + b                       the same with D = U diag(delta_S) Vh held (`wide`)
    recompute    y' = x M^T + b,   M = bf16(W + D)               one product: only gradients are made of it
    backward     dx = g M                                        one product
                 d delta_S = diag(U^T G Vh^T),   G = g^T x       one product over the tokens and a small one

Only what a loss or a logprob is made of needs the delta exact. In the layers that gradient checkpointing recomputes
during backward, and in dx, rounding M to bf16 costs relative noise of 2^-9 in the gradient, not the applied delta.
Products over the tokens, in units of x W^T (Qwen3-4B: U and Vh are 1.34 W): AdditiveDelta 7.0, this 5.6 to 5.9, with
`wide` 5.25, LoRA 3.

`keep` holds M [d_out, d_in] of every Linear between micro-batches (as many bytes as the weights), else it is made in
the recompute and dropped after the Linear's backward. `skip_last`: a block ends in its down_proj plus a residual, so
that product's value is used by nothing in the recompute and is not computed (pre-norm blocks, as in Qwen2 and Qwen3).
`stash` keeps the forward's outputs for the recompute, which then multiplies nothing: 2 bytes a token and output.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Plan:
    """Which products a Linear takes and what it holds; see the module docstring."""

    keep: bool = False
    wide: bool = False
    skip_last: bool = False
    stash: bool = False


def recomputing() -> bool:
    """Whether this runs inside a backward pass, where gradient checkpointing repeats a layer's forward."""
    return torch._C._current_graph_task_id() != -1


@torch.no_grad()
def merged(module: nn.Module) -> Tensor:
    """M = bf16(W + U diag(delta_S) Vh) [d_out, d_in], W itself at delta_S = 0, held until the delta changes."""
    held = module.__dict__.get("_merged")
    if held is None or held[0] != module.delta_S._version:
        M = module.weight
        if not module.is_zero():
            M = torch.addmm(M, module.U * module.delta_S.to(M.dtype), module.Vh)
        held = module.__dict__["_merged"] = (module.delta_S._version, M)
    return held[1]


@torch.no_grad()
def wide(module: nn.Module) -> Tensor:
    """[W | D] [d_out, 2 d_in], held until the delta changes or `drop`; twice the bytes of W."""
    held = module.__dict__.get("_wide")
    if held is None or held[0] != module.delta_S._version:
        both = torch.cat([module.weight, module.delta_weight()], dim=1) if held is None else held[1]
        if held is not None:
            both[:, module.in_features :] = module.delta_weight()
        held = module.__dict__["_wide"] = (module.delta_S._version, both)
    return held[1]


def drop(module: nn.Module) -> None:
    """Free what the plans hold."""
    for name in ("_merged", "_wide", "_stash"):
        module.__dict__.pop(name, None)


def exact(x: Tensor, module: nn.Module, plan: Plan) -> Tensor:
    """y with the applied delta right: summed in fp32, rounded once; at delta_S = 0 the base model's own product."""
    if module.is_zero():
        return F.linear(x, module.weight, module.bias)
    if plan.wide:
        return F.linear(torch.cat([x, x], dim=-1), wide(module), module.bias)
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
    """x [..., d_in] -> [..., d_out] through an SVDLinear in bf16, gradients for x and delta_S only."""

    @staticmethod
    def forward(ctx, x: Tensor, delta_S: Tensor, module: nn.Module, plan: Plan, last: bool) -> Tensor:
        ctx.module, ctx.plan = module, plan
        ctx.save_for_backward(x)
        if recomputing():
            if last and plan.skip_last:
                return x.new_empty((*x.shape[:-1], module.out_features))
            if plan.stash:
                return module.__dict__.pop("_stash")
            return F.linear(x, merged(module), module.bias)
        y = exact(x, module, plan)
        if plan.stash and not (last and plan.skip_last):
            module.__dict__["_stash"] = y.detach()
        return y

    @staticmethod
    def backward(ctx, g: Tensor):
        (x,), module = ctx.saved_tensors, ctx.module
        d_delta = dx = None
        if ctx.needs_input_grad[1]:
            d_delta = delta_gradient(x.flatten(0, -2), g.flatten(0, -2), module)
        if ctx.needs_input_grad[0]:
            dx = g @ merged(module)
        if not ctx.plan.keep:
            module.__dict__.pop("_merged", None)
        return dx, d_delta, None, None, None


def delta_linear(x: Tensor, module: nn.Module, plan: Plan = Plan(), last: bool = False) -> Tensor:
    """y [..., d_out] of an SVDLinear for bf16 x [..., d_in]; `last`: the product that ends a pre-norm block."""
    if not torch.is_grad_enabled():
        return exact(x, module, plan)
    return DeltaLinear.apply(x, module.delta_S, module, plan, last)
