"""The decoder's products: Linears of one input as one, the adapter's delta added to the weights.

    y = x W'^T + b        W' [sum d_out, d_in] = W + D stacked,  D = U diag(delta_S) Vh of each, made once a call

fp32: W' is the sum, which holds D to a part in a thousand. bf16: rounding the sum to nearest would lose a small D, so
it is rounded up or down by a threshold of each weight's own (`dithered`): the mean of W' is W + D, a weight without a
delta stays as it is, and a decode step costs what the base model's does. docs/method.md has what that does to a policy.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class StackedLinear:
    """Linears of one input (plain ones or the adapter's SVDLinear) as one product."""

    def __init__(self, *modules: nn.Module):
        self.modules = modules
        self.sizes = [len(m.weight) for m in modules]
        self.d_in = modules[0].weight.shape[1]
        self.release()

    def release(self) -> None:
        """Give W' back; `refresh` makes it again."""
        # W, a view of the modules' own, or W' [sum d_out, d_in].
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None
        self.merged: Tensor | None = None

    @torch.no_grad()
    def refresh(self) -> tuple[int, ...]:
        """Take over the current weights and delta_S.

        Returns the addresses of what a step reads, which change only with the weights.
        """
        self.weight = _stacked(self.modules)
        if any(m.bias is not None for m in self.modules) and self.bias is None:
            self.bias = torch.cat(
                [m.weight.new_zeros(len(m.weight)) if m.bias is None else m.bias for m in self.modules]
            )

        # W' stays once a delta was on, so that graphs stay valid.
        adapted = [m for m in self.modules if hasattr(m, "delta_S") and m.enabled]
        if adapted and self.merged is None:
            self.merged = self.weight.new_empty((sum(self.sizes), self.d_in))
        if self.merged is not None:
            for module, rows in zip(self.modules, self.merged.split(self.sizes), strict=True):
                rows.copy_(_merged(module) if module in adapted else module.weight)
            self.weight = self.merged
        return tuple(t.data_ptr() for t in (self.weight, self.bias) if t is not None)

    def __call__(self, x: Tensor) -> Tensor:
        """[N, d_in] -> [N, sum d_out]."""
        return F.linear(x, self.weight, self.bias)

    def add_to(self, y: Tensor, x: Tensor) -> None:
        """y [N, d_out] += self(x), without a kernel of its own for the sum."""
        y.addmm_(x, self.weight.t())
        if self.bias is not None:
            y += self.bias


def dithered(x: Tensor) -> Tensor:
    """x fp32 in bf16, each number rounded up or down with the odds that make x the mean of the outcomes.

    Stochastic rounding (Gupta et al. 2015, arXiv 1502.02551, section 3) with thresholds that depend on x's shape alone:
    the same x gives the same bits, what bf16 holds exactly stays as it is, and no outcome falls as |x| grows.
    """
    g = torch.Generator(x.device).manual_seed(0)
    # bf16 is the upper half of fp32: what is added to the lower half carries into it, or does not.
    threshold = torch.randint(1 << 16, x.shape, generator=g, dtype=torch.int32, device=x.device)
    return threshold.add_(x.view(torch.int32)).bitwise_and_(-(1 << 16)).view(torch.float32).bfloat16()


def _merged(module: nn.Module) -> Tensor:
    """W + D [d_out, d_in] of an SVDLinear, in the dtype of W."""
    delta, weight = module.delta_weight(), module.weight
    total = delta.float().add_(weight)
    return total if weight.dtype == torch.float32 else dithered(total)


def _stacked(modules: Sequence[nn.Module]) -> Tensor:
    """The modules' weights as one matrix [sum d_out, d_in], without a second copy: their own become views of it.

    The adapter's [W | U] have as many columns as U has; in the stack all rows have the longest one's.
    """
    owner = "weight_U" if all(hasattr(m, "weight_U") for m in modules) else "weight"
    return _stack([getattr(m, owner) for m in modules])[:, : modules[0].weight.shape[1]]


def _stack(tensors: list[Tensor]) -> Tensor:
    """Tensors [n_i, width_i] as one [sum n_i, width], of which each becomes a view, if they are not yet one."""
    first, width = tensors[0].data, max(t.shape[1] for t in tensors)
    at, storage, adjacent = first.data_ptr(), first.untyped_storage().data_ptr(), True
    for t in tensors:
        adjacent &= t.data_ptr() == at and t.stride() == (width, 1) and t.untyped_storage().data_ptr() == storage
        at += len(t) * width * t.element_size()
    if adjacent:
        return first.as_strided((sum(map(len, tensors)), width), (width, 1))
    stack = first.new_zeros((sum(map(len, tensors)), width))
    for t, rows in zip(tensors, stack.split([len(t) for t in tensors]), strict=True):
        rows[:, : t.shape[1]] = t.data
        t.data = rows[:, : t.shape[1]]
    return stack
