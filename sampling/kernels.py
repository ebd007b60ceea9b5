"""Triton kernels of the decode step (CUDA only; sampling/decoder.py loads them where Triton is present).

One new token a row: B rows, H query and Hkv key heads of D dimensions, REP = H / Hkv, cache K, V [B, Hkv, S, D].

    prepare   qkv [B, (H + 2 Hkv) D] -> q [B, H, D] and slot P + t of K, V: head RMSNorm, rotary, cache write
    attend    softmax(q K^T / sqrt D) V over the row's length + t + 1 tokens, in SPLITS parts, then `merge`d
    silu_mul  gate, up [B, 2 I] -> silu(gate) * up [B, I]
    linear    x W^T + b + (x D8^T) * scale, D8 in int8, in one pass over W and D8

Each replaces 3 to 15 launches of a step that is bound by them. `attend` reads its lengths on the device, so that one
captured graph serves every length, skips the gap between a prompt and slot P, and reads a prompt's keys and values
from `leader`, one row of those that share the prompt, so that the L2 cache serves the others.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


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
    prompt,
    step,
    row_stride,
    head_stride,
    eps,
    H: tl.constexpr,
    HKV: tl.constexpr,
    D: tl.constexpr,
    HAS_NORM: tl.constexpr,
):
    b, head = tl.program_id(0), tl.program_id(1)
    half = tl.arange(0, D // 2)
    source = qkv + (b * (H + 2 * HKV) + head) * D
    x0, x1 = tl.load(source + half).to(tl.float32), tl.load(source + D // 2 + half).to(tl.float32)
    t = tl.load(step)
    slot = b.to(tl.int64) * row_stride + (tl.load(prompt) + t) * D
    if head >= H + HKV:
        target = values + slot + (head - H - HKV) * head_stride
    else:
        if HAS_NORM:
            scale = tl.rsqrt((tl.sum(x0 * x0, 0) + tl.sum(x1 * x1, 0)) / D + eps)
            weight = weights + tl.where(head < H, 0, D)
            x0 = x0 * scale * tl.load(weight + half).to(tl.float32)
            x1 = x1 * scale * tl.load(weight + D // 2 + half).to(tl.float32)
        at = (tl.load(lengths + b) + t) * D
        c, s = tl.load(cos + at + half).to(tl.float32), tl.load(sin + at + half).to(tl.float32)
        x0, x1 = x0 * c - x1 * s, x1 * c + x0 * s
        target = keys + slot + (head - H) * head_stride
        if head < H:
            target = q_out + (b * H + head) * D
    tl.store(target + half, x0.to(target.dtype.element_ty))
    tl.store(target + D // 2 + half, x1.to(target.dtype.element_ty))


def prepare(qkv: Tensor, keys: Tensor, values: Tensor, norms, rotary, lengths: Tensor, prompt: Tensor, step: Tensor):
    """qkv [B, (H + 2 Hkv) D] -> q [B, H, D]; writes slot prompt + step of keys, values [>= B, Hkv, S, D].

    norms: (weights [2, D] of q and k, eps) or None; rotary: cos, sin [positions, D]; prompt, step: scalars.
    """
    n, (_, hkv, _, D) = len(qkv), keys.shape
    heads = qkv.shape[1] // D - 2 * hkv
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
        prompt,
        step,
        keys.stride(0),
        keys.stride(1),
        eps,
        H=heads,
        HKV=hkv,
        D=D,
        HAS_NORM=norms is not None,
        num_warps=1,
    )
    return q


@triton.jit(do_not_specialize=["SPLITS"])  # one compilation for every batch size
def _attend(
    q,
    keys,
    values,
    part,
    stats,
    lengths,
    leader,
    prompt,
    step,
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
    length, first = tl.load(lengths + b).to(tl.int32), tl.load(prompt).to(tl.int32)
    total = length + tl.load(step).to(tl.int32) + 1
    own = b.to(tl.int64) * row_stride + h * head_stride + (first - length) * D
    shared = tl.load(leader + b).to(tl.int64) * row_stride + h * head_stride
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
        base = shared if part_of_row == 0 else own
        for start in range(low, high, BLOCK):
            j = start + tl.arange(0, BLOCK)
            at = base + j[:, None] * D + dim[None, :]
            k = tl.load(keys + at, mask=j[:, None] < high, other=0.0)
            v = tl.load(values + at, mask=j[:, None] < high, other=0.0)
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
MAX_SPLITS = 16
# Programs that fill the device, about 8 a multiprocessor: a row's slots are split until there are so many.
ATTEND_PROGRAMS = 1024


def attend(q: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, leader: Tensor, prompt: Tensor, step: Tensor):
    """q [B, H, D] against keys, values [>= B, Hkv, S, D] -> [B, H D]; slots [0, lengths) are read from row `leader`."""
    n, heads, D = q.shape
    hkv = keys.shape[1]
    splits = min(MAX_SPLITS, triton.cdiv(ATTEND_PROGRAMS, n * hkv))
    part = torch.empty((n, heads, splits, D), dtype=torch.float32, device=q.device)
    stats = torch.empty((n, heads, splits, 2), dtype=torch.float32, device=q.device)
    out = torch.empty((n, heads * D), dtype=q.dtype, device=q.device)
    _attend[(n * hkv, splits)](
        q,
        keys,
        values,
        part,
        stats,
        lengths,
        leader,
        prompt,
        step,
        keys.stride(0),
        keys.stride(1),
        D**-0.5,
        splits,
        HKV=hkv,
        REP=heads // hkv,
        REP_PAD=max(16, triton.next_power_of_2(heads // hkv)),
        D=D,
        **ATTEND,
    )
    _merge[(n * heads,)](part, stats, out, splits, D=D, MAX_SPLITS=MAX_SPLITS, num_warps=1)
    return out


@triton.jit
def _silu_mul(x, out, width, BLOCK: tl.constexpr):
    b, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    gate = tl.load(x + b * 2 * width + i, mask=i < width).to(tl.float32)
    up = tl.load(x + b * 2 * width + width + i, mask=i < width).to(tl.float32)
    tl.store(out + b * width + i, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=i < width)


def silu_mul(x: Tensor) -> Tensor:
    """[B, 2 I] -> silu(first half) * second half, [B, I]."""
    n, width = len(x), x.shape[1] // 2
    out = torch.empty((n, width), dtype=x.dtype, device=x.device)
    _silu_mul[(n, triton.cdiv(width, 1024))](x, out, width, BLOCK=1024, num_warps=4)
    return out


@triton.jit(do_not_specialize=["M"])
def _linear(
    x,
    weight,
    delta,
    scale,
    part,
    M,
    N,
    K,
    w_stride,
    k_chunk,
    HAS_DELTA: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    EVEN: tl.constexpr,
):
    split, m, n = tl.program_id(1), tl.arange(0, BM), tl.program_id(0) * BN + tl.arange(0, BN)
    row, w_row = n.to(tl.int64)[:, None] * K, n.to(tl.int64)[:, None] * w_stride
    # The outputs are the product's rows: its left operand may lie in registers, so that int8 is widened there and
    # not written back to shared memory (a fifth faster than x W^T).
    acc = tl.zeros((BN, BM), tl.float32)
    acc_delta = tl.zeros((BN, BM), tl.float32)
    for start in range(split * k_chunk, tl.minimum(split * k_chunk + k_chunk, K), BK):
        k = start + tl.arange(0, BK)
        if EVEN:
            a = tl.load(x + m[:, None] * K + k[None, :], mask=m[:, None] < M, other=0.0)
            w = tl.load(weight + w_row + k[None, :])
        else:
            inside = (n[:, None] < N) & (k[None, :] < K)
            a = tl.load(x + m[:, None] * K + k[None, :], mask=(m[:, None] < M) & (k[None, :] < K), other=0.0)
            w = tl.load(weight + w_row + k[None, :], mask=inside, other=0.0)
        acc = tl.dot(w, tl.trans(a), acc, input_precision="ieee")
        if HAS_DELTA:
            d = tl.load(delta + row + k[None, :]) if EVEN else tl.load(delta + row + k[None, :], mask=inside, other=0)
            acc_delta = tl.dot(d.to(a.dtype), tl.trans(a), acc_delta, input_precision="ieee")
    if HAS_DELTA:
        acc += acc_delta * tl.load(scale + n, mask=n < N, other=0.0)[:, None]
    at = (split * M + m[None, :]) * N + n[:, None]
    tl.store(part + at, acc.to(part.dtype.element_ty), mask=(m[None, :] < M) & (n[:, None] < N))


@triton.jit(do_not_specialize=["SPLITS"])
def _reduce(
    part, bias, out, total, N, out_stride, SPLITS, HAS_BIAS: tl.constexpr, ADD: tl.constexpr, BLOCK: tl.constexpr
):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < total
    acc = tl.zeros((BLOCK,), tl.float32)
    for split in range(SPLITS):
        acc += tl.load(part + split * total + i, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        acc += tl.load(bias + i % N, mask=inside, other=0.0).to(tl.float32)
    out += i // N * out_stride + i % N
    if ADD:
        acc += tl.load(out, mask=inside, other=0.0).to(tl.float32)
    tl.store(out, acc.to(out.dtype.element_ty), mask=inside)


LINEAR = {"BN": 64, "BK": 128, "num_warps": 4, "num_stages": 3}
# Programs that fill the device: the input axis is split until there are so many.
LINEAR_PROGRAMS = 264


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    delta: Tensor | None,
    scale: Tensor | None,
    out: Tensor,
    add: bool = False,
    config: dict | None = None,
) -> Tensor:
    """out = or += x W^T + b + (x delta^T) * scale for few rows, in one pass over the weights; summed in fp32.

    x [M <= 128, K], weight [N, K] and out [M, N] with any row stride; delta [N, K] int8 with scale [N] fp32, or None.
    """
    (M, K), N, config = x.shape, len(weight), config or LINEAR
    BN, BK = config["BN"], config["BK"]
    tiles = triton.cdiv(N, BN)
    splits = config.get("splits") or max(1, min(8, LINEAR_PROGRAMS // tiles))
    k_chunk = triton.cdiv(triton.cdiv(K, splits), BK) * BK
    splits = triton.cdiv(K, k_chunk)
    direct = splits == 1 and bias is None and not add and out.is_contiguous()
    part = out if direct else torch.empty((splits, M, N), dtype=torch.float32, device=x.device)
    _linear[(tiles, splits)](
        x,
        weight,
        weight if delta is None else delta,
        x if scale is None else scale,
        part,
        M,
        N,
        K,
        weight.stride(0),
        k_chunk,
        HAS_DELTA=delta is not None,
        BM=max(16, triton.next_power_of_2(M)),
        BN=BN,
        BK=BK,
        EVEN=N % BN == 0 and K % BK == 0,
        num_warps=config["num_warps"],
        num_stages=config["num_stages"],
    )
    if not direct:
        _reduce[(triton.cdiv(M * N, 1024),)](
            part,
            x if bias is None else bias,
            out,
            M * N,
            N,
            out.stride(0),
            splits,
            HAS_BIAS=bias is not None,
            ADD=add,
            BLOCK=1024,
            num_warps=4,
        )
    return out
