"""Triton kernels of the decode step (CUDA only; sampling/decoder.py loads them where Triton is present).

One new token a row: B rows, H query and Hkv key heads of D dimensions, REP = H / Hkv, cache K, V [B, Hkv, S, D].

    prepare   qkv [B, (H + 2 Hkv) D] -> q [B, H, D] and slot t of K, V: head RMSNorm, rotary, cache write
    attend    softmax(q K^T / sqrt D) V over the prompt's length and t + 1 own tokens, in parts, then `merge`d
    silu_mul  gate, up [B, 2 I] -> silu(gate) * up [B, I]

and from sampling/kernels_delta.py and sampling/kernels_draw.py the others.

Each replaces 3 to 15 launches of a step that is bound by them. `attend` reads its lengths on the device, so that one
captured graph serves every length. Rows of a prompt that stand side by side read its keys and values together.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sampling import kernels_draw as draws
from sampling.kernels_delta import convolve, delta_step, norm

__all__ = ["attend", "convolve", "delta_step", "draws", "norm", "prepare", "silu_mul"]


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


@triton.jit
def _slots(query, k_base, v_base, low, high, mine, peak, mass, acc, scale, D: tl.constexpr, BLOCK: tl.constexpr):
    """Softmax of the queries `mine` over slots [low, high) of one head, joined with what was seen before."""
    dim = tl.arange(0, D)
    for start in range(low, high, BLOCK):
        j = start + tl.arange(0, BLOCK)
        at = j[:, None] * D + dim[None, :]
        k = tl.load(k_base + at, mask=j[:, None] < high, other=0.0)
        v = tl.load(v_base + at, mask=j[:, None] < high, other=0.0)
        score = tl.dot(query, tl.trans(k), input_precision="ieee") * scale
        score = tl.where(mine[:, None] & (j[None, :] < high), score, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(score, 1))
        weight = tl.exp(score - new_peak[:, None])
        shrink = tl.exp(peak - new_peak)
        mass = mass * shrink + tl.sum(weight, 1)
        acc = acc * shrink[:, None] + tl.dot(weight.to(v.dtype), v, input_precision="ieee")
        peak = new_peak
    return peak, mass, acc


@triton.jit(do_not_specialize=["N", "SHARED", "OWN"])  # one compilation for every batch size
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
    N,
    SHARED,
    OWN,
    HKV: tl.constexpr,
    REP: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # Programs s < SHARED: a share of the prompts of ROWS rows, for all of them; the others: a share of one row's slots.
    block, h, s = tl.program_id(0) // HKV, tl.program_id(0) % HKV, tl.program_id(1)
    shared, m, dim = s < SHARED, tl.arange(0, TILE), tl.arange(0, D)
    own_row = block * ROWS + (s - SHARED) // OWN
    row = tl.where(shared, block * ROWS + m // REP, own_row + m * 0)
    rep = tl.where(shared, m % REP, m)
    mine = (m < tl.where(shared, ROWS * REP, REP)) & (row < N)
    head = (row * HKV + h) * REP + rep
    query = tl.load(q + head[:, None] * D + dim[None, :], mask=mine[:, None], other=0.0)
    peak = tl.full((TILE,), -1.0e30, tl.float32)  # finite, so that a query that sees nothing here is no nan
    mass = tl.zeros((TILE,), tl.float32)
    acc = tl.zeros((TILE, D), tl.float32)

    if shared:
        of = tl.load(group + row, mask=mine, other=0).to(tl.int32)
        length_of = tl.load(lengths + row, mask=mine, other=0).to(tl.int32)
        first = tl.min(tl.where(mine, of, 2147483647), 0)
        for i in range(0, tl.max(tl.where(mine, of, -1), 0) - first + 1):
            g = first + i
            members = mine & (of == g)
            length = tl.max(tl.where(members, length_of, 0), 0)
            chunk = tl.cdiv(length, SHARED)
            low = s * chunk
            base = g.to(tl.int64) * prompt_stride + h * prompt_head_stride
            peak, mass, acc = _slots(
                query, prompt_keys + base, prompt_values + base, low, tl.minimum(low + chunk, length), members,
                peak, mass, acc, scale, D, BLOCK,
            )  # fmt: skip
    else:
        count = tl.load(step).to(tl.int32) + 1
        chunk = tl.cdiv(count, OWN)
        low = (s - SHARED) % OWN * chunk
        high = tl.where(own_row < N, tl.minimum(low + chunk, count), 0)
        base = own_row.to(tl.int64) * row_stride + h * head_stride
        peak, mass, acc = _slots(
            query, keys + base, values + base, low, high, mine, peak, mass, acc, scale, D, BLOCK
        )  # fmt: skip

    cell = head * (SHARED + OWN) + tl.where(shared, s, SHARED + (s - SHARED) % OWN)
    tl.store(part + cell[:, None] * D + dim[None, :], acc, mask=mine[:, None])
    tl.store(stats + cell * 2, peak, mask=mine)
    tl.store(stats + cell * 2 + 1, mass, mask=mine)


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
# Programs that fill the device: prompts and completions are split until there are so many of either.
SHARED_PROGRAMS, OWN_PROGRAMS = 256, 512


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

    prompt_keys, prompt_values [prompts, Hkv, P, D]; keys, values [>= B, Hkv, T, D]. Neighbouring rows of one prompt
    read it together.
    """
    n, heads, D = q.shape
    hkv = keys.shape[1]
    rep = heads // hkv
    tile = max(16, triton.next_power_of_2(rep))
    rows = tile // rep
    blocks = triton.cdiv(n, rows)
    shared = min(MAX_SPLITS // 2, triton.cdiv(SHARED_PROGRAMS, blocks * hkv))
    own = min(MAX_SPLITS // 2, triton.cdiv(OWN_PROGRAMS, n * hkv))
    splits = shared + own
    part = torch.empty((n, heads, splits, D), dtype=torch.float32, device=q.device)
    stats = torch.empty((n, heads, splits, 2), dtype=torch.float32, device=q.device)
    out = torch.empty((n, heads * D), dtype=q.dtype, device=q.device)
    _attend[(blocks * hkv, shared + rows * own)](
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
        n,
        shared,
        own,
        HKV=hkv,
        REP=rep,
        ROWS=rows,
        TILE=tile,
        D=D,
        **(ATTEND if D <= 128 else ATTEND_WIDE),
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
