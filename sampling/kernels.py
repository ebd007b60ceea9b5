"""Triton kernels of the decode step (CUDA only; sampling/decoder.py loads them where Triton is present).

One new token a row: B rows, H query and Hkv key heads of D dimensions, REP = H / Hkv, cache K, V [B, Hkv, S, D].

    prepare   qkv [B, (H + 2 Hkv) D] -> q [B, H, D] and slot t of K, V: head RMSNorm, rotary, cache write
    attend    softmax(q K^T / sqrt D) V over the prompt's length and t + 1 own tokens, in SPLITS parts, then `merge`d

and from sampling/kernels_mlp.py and sampling/kernels_delta.py the others.

Each replaces 3 to 15 launches of a step that is bound by them. `attend` reads its lengths on the device, so that one
captured graph serves every length. Rows of a prompt read the same keys and values of it, so the L2 cache serves most.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sampling.kernels_delta import convolve, delta_step, norm
from sampling.kernels_mlp import linear, silu_mul

__all__ = ["attend", "convolve", "delta_step", "linear", "norm", "prepare", "silu_mul"]


@triton.jit
def _prepare(
    qkv,
    q_out,
    keys,
    values,
    weights,
    cos,
    sin,
    lengths,
    step,
    row_stride,
    head_stride,
    eps,
    H: tl.constexpr,
    HKV: tl.constexpr,
    D: tl.constexpr,
    R: tl.constexpr,
    Q: tl.constexpr,
    HAS_NORM: tl.constexpr,
):
    b, head = tl.program_id(0), tl.program_id(1)
    dim = tl.arange(0, D)
    source = qkv + b * (H * Q + 2 * HKV * D) + tl.where(head < H, head * Q, H * Q + (head - H) * D)
    x = tl.load(source + dim).to(tl.float32)
    t = tl.load(step)
    slot = b.to(tl.int64) * row_stride + t * D
    if head >= H + HKV:
        target = values + slot + (head - H - HKV) * head_stride
    else:
        # The dimension that is rotated with each: the first R of a head are, in halves.
        other = tl.where(dim < R // 2, dim + R // 2, tl.where(dim < R, dim - R // 2, dim))
        y = tl.load(source + other).to(tl.float32)
        if HAS_NORM:
            scale = tl.rsqrt(tl.sum(x * x, 0) / D + eps)
            weight = weights + tl.where(head < H, 0, D)
            x = x * scale * tl.load(weight + dim).to(tl.float32)
            y = y * scale * tl.load(weight + other).to(tl.float32)
        at = (tl.load(lengths + b) + t) * R
        c = tl.load(cos + at + dim, mask=dim < R, other=1.0).to(tl.float32)
        s = tl.load(sin + at + dim, mask=dim < R, other=0.0).to(tl.float32)
        x = x * c + tl.where(dim < R // 2, -y, y) * s
        target = keys + slot + (head - H) * head_stride
        if head < H:
            target = q_out + (b * H + head) * D
    tl.store(target + dim, x.to(target.dtype.element_ty))


def prepare(
    qkv: Tensor, keys: Tensor, values: Tensor, norms, rotary, lengths: Tensor, step: Tensor, gated: bool = False
) -> Tensor:
    """qkv [B, (H + 2 Hkv) D] -> q [B, H, D]; writes slot `step` of keys, values [>= B, Hkv, T, D].

    norms: (weights [2, D] of q and k, eps) or None; rotary: cos, sin [positions, R], R <= D; lengths [B]: of the
    prompts; gated: every head's query is followed by D more columns, which are not read.
    """
    n, (_, hkv, _, D) = len(qkv), keys.shape
    Q = 2 * D if gated else D
    heads = (qkv.shape[1] - 2 * hkv * D) // Q
    q = torch.empty((n, heads, D), dtype=qkv.dtype, device=qkv.device)
    weights, eps = norms or (qkv, 0.0)
    _prepare[(n, heads + 2 * hkv)](
        qkv,
        q,
        keys,
        values,
        weights,
        *rotary,
        lengths,
        step,
        keys.stride(0),
        keys.stride(1),
        eps,
        H=heads,
        HKV=hkv,
        D=D,
        R=rotary[0].shape[1],
        Q=Q,
        HAS_NORM=norms is not None,
        num_warps=1 if D <= 128 else 2,
    )
    return q


@triton.jit(do_not_specialize=["SPLITS"])  # one compilation for every batch size
def _attend(
    q,
    prompt_keys,
    prompt_values,
    keys,
    values,
    part,
    stats,
    lengths,
    group,
    step,
    prompt_stride,
    prompt_head_stride,
    row_stride,
    head_stride,
    scale,
    SPLITS,
    HKV: tl.constexpr,
    REP: tl.constexpr,
    REP_PAD: tl.constexpr,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
):
    b, h, split = tl.program_id(0) // HKV, tl.program_id(0) % HKV, tl.program_id(1)
    length = tl.load(lengths + b).to(tl.int32)
    total = length + tl.load(step).to(tl.int32) + 1
    shared = tl.load(group + b).to(tl.int64) * prompt_stride + h * prompt_head_stride
    own = b.to(tl.int64) * row_stride + h * head_stride - length * D
    rep, dim = tl.arange(0, REP_PAD), tl.arange(0, D)
    head = (b * HKV + h) * REP + rep
    query = tl.load(q + head[:, None] * D + dim[None, :], mask=rep[:, None] < REP, other=0.0)
    peak = tl.full((REP_PAD,), float("-inf"), tl.float32)
    mass = tl.zeros((REP_PAD,), tl.float32)
    acc = tl.zeros((REP_PAD, D), tl.float32)
    chunk = tl.cdiv(total, SPLITS)
    begin, end = split * chunk, tl.minimum(split * chunk + chunk, total)
    for part_of_row in tl.static_range(2):  # the prompt's slots, then the completion's
        low = begin if part_of_row == 0 else tl.maximum(begin, length)
        high = tl.minimum(end, length) if part_of_row == 0 else end
        k_base = prompt_keys + shared if part_of_row == 0 else keys + own
        v_base = prompt_values + shared if part_of_row == 0 else values + own
        for start in range(low, high, BLOCK):
            j = start + tl.arange(0, BLOCK)
            at = j[:, None] * D + dim[None, :]
            k = tl.load(k_base + at, mask=j[:, None] < high, other=0.0)
            v = tl.load(v_base + at, mask=j[:, None] < high, other=0.0)
            score = tl.dot(query, tl.trans(k), input_precision="ieee") * scale
            score = tl.where(j[None, :] < high, score, float("-inf"))
            new_peak = tl.maximum(peak, tl.max(score, 1))
            weight = tl.exp(score - new_peak[:, None])
            shrink = tl.exp(peak - new_peak)
            mass = mass * shrink + tl.sum(weight, 1)
            acc = acc * shrink[:, None] + tl.dot(weight.to(v.dtype), v, input_precision="ieee")
            peak = new_peak
    cell = head * SPLITS + split
    tl.store(part + cell[:, None] * D + dim[None, :], acc, mask=rep[:, None] < REP)
    tl.store(stats + cell * 2, peak, mask=rep < REP)
    tl.store(stats + cell * 2 + 1, mass, mask=rep < REP)


@triton.jit(do_not_specialize=["SPLITS"])
def _merge(part, stats, out, SPLITS, D: tl.constexpr, MAX_SPLITS: tl.constexpr):
    head, split, dim = tl.program_id(0), tl.arange(0, MAX_SPLITS), tl.arange(0, D)
    inside = split < SPLITS
    peak = tl.load(stats + (head * SPLITS + split) * 2, mask=inside, other=float("-inf"))
    mass = tl.load(stats + (head * SPLITS + split) * 2 + 1, mask=inside, other=0.0)
    weight = tl.exp(peak - tl.max(peak, 0))
    acc = tl.load(part + (head * SPLITS + split)[:, None] * D + dim[None, :], mask=inside[:, None], other=0.0)
    result = tl.sum(acc * weight[:, None], 0) / tl.sum(mass * weight, 0)
    tl.store(out + head * D + dim, result.to(out.dtype.element_ty))


ATTEND = {"BLOCK": 64, "num_warps": 4, "num_stages": 3}
# The same bytes in flight for heads twice as wide.
ATTEND_WIDE = {"BLOCK": 32, "num_warps": 4, "num_stages": 3}
MAX_SPLITS = 16
# Programs that fill the device, about 8 a multiprocessor: a row's slots are split until there are so many.
ATTEND_PROGRAMS = 1024


def attend(
    q: Tensor,
    prompt_keys: Tensor,
    prompt_values: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    group: Tensor,
    step: Tensor,
) -> Tensor:
    """q [B, H, D] -> [B, H D]; row b sees the first lengths[b] slots of prompt group[b], and its own up to `step`.

    prompt_keys, prompt_values [prompts, Hkv, P, D]; keys, values [>= B, Hkv, T, D].
    """
    n, heads, D = q.shape
    hkv = keys.shape[1]
    splits = min(MAX_SPLITS, triton.cdiv(ATTEND_PROGRAMS, n * hkv))
    part = torch.empty((n, heads, splits, D), dtype=torch.float32, device=q.device)
    stats = torch.empty((n, heads, splits, 2), dtype=torch.float32, device=q.device)
    out = torch.empty((n, heads * D), dtype=q.dtype, device=q.device)
    _attend[(n * hkv, splits)](
        q,
        prompt_keys,
        prompt_values,
        keys,
        values,
        part,
        stats,
        lengths,
        group,
        step,
        prompt_keys.stride(0),
        prompt_keys.stride(1),
        keys.stride(0),
        keys.stride(1),
        D**-0.5,
        splits,
        HKV=hkv,
        REP=heads // hkv,
        REP_PAD=max(16, triton.next_power_of_2(heads // hkv)),
        D=D,
        **(ATTEND if D <= 128 else ATTEND_WIDE),
    )
    _merge[(n * heads,)](part, stats, out, splits, D=D, MAX_SPLITS=MAX_SPLITS, num_warps=1)
    return out
