"""The decoder's products: Linears of one input as one, with the adapter's delta as a matrix of its own.

    y = x W^T + b + x D^T        W [sum d_out, d_in] stacked,  D = U diag(delta_S) Vh of each, made once a call

fp32: W + D is one matrix, which still holds D to a part in a thousand. bf16: D apart, in bf16 or, with kernels given,
as int8 with a scale per output (error 0.9% of D x, a random one; half the bytes, read in W's pass).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class StackedLinear:
    """Linears of one input (plain ones or the adapter's SVDLinear) as one product."""

    def __init__(self, *modules: nn.Module):
        self.modules = modules
        self.sizes = [len(m.weight) for m in modules]
        self.d_in = modules[0].weight.shape[1]
        self.release()

    def release(self) -> None:
        """Give the delta back; `refresh` makes it again."""
        # W, or W + D [sum d_out, d_in].
        self.weight: Tensor | None = None
        self.bias = self.delta = self.scale = self.kernels = None

    @torch.no_grad()
    def refresh(self, kernels=None) -> tuple[int, ...]:
        """Take over the current weights and delta_S; kernels: the module sampling.kernels, or None for plain torch.

        Returns the addresses of what a step reads, which change only with the weights.
        """
        self.weight, self.kernels = _stacked(self.modules), kernels
        if any(m.bias is not None for m in self.modules) and self.bias is None:
            self.bias = torch.cat(
                [m.weight.new_zeros(len(m.weight)) if m.bias is None else m.bias for m in self.modules]
            )

        # D, in the dtype of W or in int8; it stays once a delta was on, so that graphs stay valid.
        adapted = [m for m in self.modules if hasattr(m, "delta_S") and m.enabled]
        if adapted and self.delta is None:
            weight, rows = self.weight, sum(self.sizes)
            int8 = kernels is not None and weight.dtype != torch.float32
            self.delta = weight.new_empty((rows, self.d_in), dtype=torch.int8 if int8 else None)
            self.scale = weight.new_empty(rows, dtype=torch.float32) if int8 else None
        if self.delta is not None:
            self._refresh_delta(adapted)

        # In fp32 the sum replaces W.
        self.merged = self.delta is not None and self.delta.dtype == torch.float32
        if self.merged:
            self.delta += self.weight
            self.weight = self.delta
        return tuple(t.data_ptr() for t in (self.weight, self.bias, self.delta) if t is not None)

    def _refresh_delta(self, adapted: list[nn.Module]) -> None:
        at = 0
        for module, size in zip(self.modules, self.sizes, strict=True):
            rows = slice(at, at := at + size)
            delta = module.delta_weight() if module in adapted else torch.zeros_like(module.weight)
            if self.scale is not None:
                self.scale[rows] = delta.abs().amax(1).float().clamp_min(1e-30) / 127
                delta = (delta / self.scale[rows, None]).round_()
            self.delta[rows].copy_(delta)

    def __call__(self, x: Tensor) -> Tensor:
        """[N, d_in] -> [N, sum d_out]."""
        return self._apply(x, x.new_empty((len(x), sum(self.sizes))), add=False)

    def add_to(self, y: Tensor, x: Tensor) -> None:
        """y [N, d_out] += self(x), without a kernel of its own for the sum."""
        self._apply(x, y, add=True)

    def _apply(self, x: Tensor, y: Tensor, add: bool) -> Tensor:
        fused = self.scale is not None and len(x) <= 128
        if not fused and self.delta is not None and not self.merged:
            return self._apply_rounded_once(x, y, add)
        if fused:
            self.kernels.linear(x, self.weight, self.bias, self.delta, self.scale, y, add)
        elif add:
            y.addmm_(x, self.weight.t())
            if self.bias is not None:
                y += self.bias
        elif self.bias is None:
            torch.mm(x, self.weight.t(), out=y)
        else:
            torch.addmm(self.bias, x, self.weight.t(), out=y)
        return y

    def _apply_rounded_once(self, x: Tensor, y: Tensor, add: bool) -> Tensor:
        """The same with D apart, in fp32 up to the end: x W^T rounded to bf16 would swallow a small x D^T."""
        delta = self.delta if self.scale is None else (self.delta * self.scale[:, None]).to(x.dtype)
        total = _product(x, self.weight) + _product(x, delta)
        if self.bias is not None:
            total += self.bias
        return y.copy_(total + y if add else total)


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """x W^T in fp32, [N, d_out], of operands in any dtype."""
    if x.is_cuda:
        return torch.mm(x, weight.t(), out_dtype=torch.float32)
    return x.float() @ weight.t().float()


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
