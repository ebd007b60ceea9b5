"""Triton kernels of the decode step's norms and of Qwen3.5's gated delta net (CUDA only; sampling/kernels.py has more).

norm        RMSNorm of transformers, weight or weight - 1 kept, in fp32
convolve    one token's causal convolution and silu, shifting its K - 1 earlier inputs
delta_step  one token of the gated delta rule: S [Hv, Dk, Dv] fp32 in place, its gates, the gated norm of its output

y [B, C + Hv Dv + 2 Hv] is what the layer's stacked projection gives: C = 2 Hk Dk + Hv Dv inputs of the convolution, z,
b and a. delta_step reads and writes S once, which is what bounds it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from lib.delta_rule import UNIT_EPS
from sampling.layers import centred, epsilon


@triton.jit
def _norm(x, weight, out, d, eps, CENTRED: tl.constexpr, BLOCK: tl.constexpr):
    row, i = tl.program_id(0).to(tl.int64) * d, tl.arange(0, BLOCK)
    value = tl.load(x + row + i, mask=i < d, other=0.0).to(tl.float32)
    scale = tl.load(weight + i, mask=i < d, other=0.0).to(tl.float32)
    if CENTRED:
        scale += 1.0
    value = value * tl.rsqrt(tl.sum(value * value, 0) / d + eps) * scale
    tl.store(out + row + i, value.to(out.dtype.element_ty), mask=i < d)


def norm(x: Tensor, module: nn.Module) -> Tensor:
    """The RMSNorm `module` of transformers on x [B, d]."""
    out = torch.empty_like(x)
    block = triton.next_power_of_2(x.shape[1])
    _norm[(len(x),)](
        x,
        module.weight,
        out,
        x.shape[1],
        epsilon(module),
        CENTRED=centred(module),
        BLOCK=block,
        num_warps=8 if block > 1024 else 4,
    )
    return out


@triton.jit
def _convolve(y, taps, inputs, out, C, y_stride, K: tl.constexpr, BLOCK: tl.constexpr):
    b, c = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = c < C
    new = tl.load(y + b * y_stride + c, mask=inside)
    acc = new.to(tl.float32) * tl.load(taps + c * K + K - 1, mask=inside).to(tl.float32)
    before = inputs + b * (K - 1) * C + c
    for j in tl.static_range(K - 1):
        old = tl.load(before + j * C, mask=inside)
        acc += old.to(tl.float32) * tl.load(taps + c * K + j, mask=inside).to(tl.float32)
        if j > 0:
            tl.store(before + (j - 1) * C, old, mask=inside)
    tl.store(before + (K - 2) * C, new, mask=inside)
    tl.store(out + b * C + c, (acc * tl.sigmoid(acc)).to(out.dtype.element_ty), mask=inside)


def convolve(y: Tensor, taps: Tensor, inputs: Tensor) -> Tensor:
    """The first C columns of y [B, >= C] through taps [C, 1, K] -> silu [B, C]; inputs [>= B, K - 1, C] in place."""
    n, (_, before, C) = len(y), inputs.shape
    out = torch.empty((n, C), dtype=y.dtype, device=y.device)
    _convolve[(n, triton.cdiv(C, 1024))](y, taps, inputs, out, C, y.stride(0), K=before + 1, BLOCK=1024, num_warps=4)
    return out


@triton.jit
def _delta_step(
    mixed,
    y,
    state,
    A_log,
    dt_bias,
    weight,
    out,
    y_stride,
    scale,
    unit_eps,
    eps,
    HK: tl.constexpr,
    HV: tl.constexpr,
    DK: tl.constexpr,
    DV: tl.constexpr,
):
    b, h = (tl.program_id(0) // HV).to(tl.int64), tl.program_id(0) % HV
    kd, vd = tl.arange(0, DK), tl.arange(0, DV)
    C = 2 * HK * DK + HV * DV
    # Start on S first: the rest is small.
    tile = state + ((b * HV + h) * DK + kd[:, None]) * DV + vd[None, :]
    S = tl.load(tile)

    # q and k of unit length, v, and the gates.
    row = mixed + b * C + h // (HV // HK) * DK + kd
    q, k = tl.load(row).to(tl.float32), tl.load(row + HK * DK).to(tl.float32)
    v = tl.load(mixed + b * C + 2 * HK * DK + h * DV + vd).to(tl.float32)
    q *= tl.rsqrt(tl.sum(q * q, 0) + unit_eps) * scale
    k *= tl.rsqrt(tl.sum(k * k, 0) + unit_eps)
    gates = y + b * y_stride + C + HV * DV + h
    beta = tl.sigmoid(tl.load(gates).to(tl.float32)).to(out.dtype.element_ty).to(tl.float32)
    a = tl.load(gates + HV).to(tl.float32) + tl.load(dt_bias + h).to(tl.float32)
    rate = tl.where(a > 20.0, a, tl.log(1.0 + tl.exp(tl.minimum(a, 20.0))))
    S *= tl.exp(-tl.exp(tl.load(A_log + h).to(tl.float32)) * rate)

    # The rule; o = S_new^T q without a second pass over S.
    u = beta * (v - tl.sum(S * k[:, None], 0))
    o = tl.sum(S * q[:, None], 0) + tl.sum(q * k, 0) * u
    tl.store(tile, S + k[:, None] * u[None, :])

    # The gated norm, rounded where transformers rounds.
    o = o.to(out.dtype.element_ty).to(tl.float32)
    o = (o * tl.rsqrt(tl.sum(o * o, 0) / DV + eps)).to(out.dtype.element_ty).to(tl.float32)
    o = (o * tl.load(weight + vd).to(tl.float32)).to(out.dtype.element_ty).to(tl.float32)
    z = tl.load(y + b * y_stride + C + h * DV + vd).to(tl.float32)
    tl.store(out + (b * HV + h) * DV + vd, (o * z * tl.sigmoid(z)).to(out.dtype.element_ty))


def delta_step(
    mixed: Tensor,
    y: Tensor,
    state: Tensor,
    A_log: Tensor,
    dt_bias: Tensor,
    out_norm: nn.Module,
    key_heads: int,
    num_warps: int = 4,
) -> Tensor:
    """mixed [B, C], y as above, state [>= B, Hv, Dk, Dv] fp32 in place -> W_out's input [B, Hv Dv]."""
    n, (_, heads, DK, DV) = len(mixed), state.shape
    out = torch.empty((n, heads * DV), dtype=mixed.dtype, device=mixed.device)
    _delta_step[(n * heads,)](
        mixed,
        y,
        state,
        A_log,
        dt_bias,
        out_norm.weight,
        out,
        y.stride(0),
        DK**-0.5,
        UNIT_EPS,
        out_norm.variance_epsilon,
        HK=key_heads,
        HV=heads,
        DK=DK,
        DV=DV,
        num_warps=num_warps,
    )
    return out
