"""Triton kernels of a ragged causal convolution, forward and backward (CUDA; lib/shared_delta.py has plain torch).

    p_t = sum_j w_j x[from_tj],   y_t = silu(p_t)             from [L, K]: where tap j of token t reads, L for nothing
    dp_t = dy_t silu'(p_t),       dx_s = sum over (t, j) with from_tj = s of w_j dp_t

Of a token within its row from_tj is t - (K - 1 - j), so that the sum runs over the K tokens from s on; what a
completion's first tokens read of their prompt is added apart. The taps are frozen and get no gradient.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from lib.agreement import agrees
from lib.delta_rule import ragged_convolution


@triton.jit
def _sum(x, taps, source, t, c, L, C, K: tl.constexpr):
    acc = tl.zeros(c.shape, tl.float32)
    for j in tl.static_range(K):
        s = tl.load(source + t * K + j).to(tl.int64)
        value = tl.load(x + s * C + c, mask=c < tl.where(s < L, C, 0), other=0.0)
        acc += value.to(tl.float32) * tl.load(taps + c * K + j, mask=c < C, other=0.0).to(tl.float32)
    return acc


@triton.jit
def _forward(x, taps, source, out, L, C, K: tl.constexpr, BLOCK: tl.constexpr):
    t, c = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    p = _sum(x, taps, source, t, c, L, C, K)
    tl.store(out + t * C + c, (p * tl.sigmoid(p)).to(out.dtype.element_ty), mask=c < C)


@triton.jit
def _backward_sum(x, taps, source, g, dp, L, C, K: tl.constexpr, BLOCK: tl.constexpr):
    t, c = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    p = _sum(x, taps, source, t, c, L, C, K)
    share = tl.sigmoid(p)
    up = tl.load(g + t * C + c, mask=c < C, other=0.0).to(tl.float32)
    tl.store(dp + t * C + c, up * share * (1.0 + p * (1.0 - share)), mask=c < C)


@triton.jit
def _backward_input(dp, taps, source, dx, L, C, K: tl.constexpr, BLOCK: tl.constexpr):
    s, c = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    acc = tl.zeros((BLOCK,), tl.float32)
    for lag in tl.static_range(K):
        t = s + lag
        last = tl.minimum(t, L - 1)
        reads = (t < L) & (tl.load(source + last * K + K - 1 - lag) == s)
        value = tl.load(dp + last * C + c, mask=c < tl.where(reads, C, 0), other=0.0)
        acc += value * tl.load(taps + c * K + K - 1 - lag, mask=c < C, other=0.0).to(tl.float32)
    tl.store(dx + s * C + c, acc, mask=c < C)


class RaggedConvolution(torch.autograd.Function):
    """x [L, C], taps [C, 1, K], source [L, K] int32, carried: (t, j, s) [m] each, the reads across rows -> [L, C]."""

    @staticmethod
    def forward(ctx, x: Tensor, taps: Tensor, source: Tensor, carried: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        x, out = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
        _forward[_grid(x)](x, taps, source, out, *x.shape, K=source.shape[1], BLOCK=1024, num_warps=4)
        ctx.save_for_backward(x, taps, source, *carried)
        return out

    @staticmethod
    def backward(ctx, g: Tensor):
        x, taps, source, t, j, s = ctx.saved_tensors
        sizes = dict(K=source.shape[1], BLOCK=1024, num_warps=4)
        dp, dx = (torch.empty(x.shape, dtype=torch.float32, device=x.device) for _ in range(2))
        _backward_sum[_grid(x)](x, taps, source, g.contiguous(), dp, *x.shape, **sizes)
        _backward_input[_grid(x)](dp, taps, source, dx, *x.shape, **sizes)
        dx.index_add_(0, s, dp.index_select(0, t) * taps[:, 0].T.index_select(0, j))
        return dx.to(x.dtype), None, None, None


def _grid(x: Tensor) -> tuple[int, int]:
    return len(x), triton.cdiv(x.shape[1], 1024)


def largest_error(device: torch.device) -> float:
    """The largest relative error of forward and backward against plain torch: a row of 9 tokens, and one of 4 that
    goes on from the first's fifth."""
    L, K, C = 13, 4, 24
    lag = torch.arange(K - 1, -1, -1)
    source = torch.arange(L)[:, None] - lag
    source[source < 0] = L
    source[9:] = torch.where(source[9:] >= 9, source[9:], source[9:] - 4)
    token, tap = (source[9:] < 9).nonzero().T
    carried = tuple(t.to(device) for t in (token + 9, tap, source[token + 9, tap]))

    g = torch.Generator(device).manual_seed(0)
    x, up = (torch.randn(L, C, generator=g, device=device) for _ in range(2))
    taps, source = torch.randn(C, 1, K, generator=g, device=device), source.int().to(device)
    with torch.enable_grad():
        x.requires_grad_()
        pair = RaggedConvolution.apply(x, taps, source, carried), ragged_convolution(x, taps, source)
        pairs = pair, [torch.autograd.grad(y, x, up)[0] for y in pair]
    return max(float((got - want).norm() / want.norm()) for got, want in pairs)


@functools.cache
def usable(device: torch.device) -> bool:
    """Whether the kernels compile on this GPU and agree with plain torch."""
    return agrees("convolutions of gated delta nets without Triton kernels", lambda: largest_error(device), 1e-4)
