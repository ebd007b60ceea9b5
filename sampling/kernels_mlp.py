"""Triton kernels of the decode step's products (CUDA only; sampling/kernels.py has the attention's).

linear    x W^T + b + (x D8^T) * scale, D8 in int8, in one pass over W and D8, for at most 128 rows
silu_mul  gate, up [B, 2 I] -> silu(gate) * up [B, I]
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


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
    # Beyond the last output the last one is read again, and not stored.
    last = tl.minimum(n, N - 1).to(tl.int64)[:, None]
    row, w_row = last * K, last * w_stride
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
            inside = k[None, :] < K
            a = tl.load(x + m[:, None] * K + k[None, :], mask=(m[:, None] < M) & inside, other=0.0)
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
# (rows, N, K) -> what bench.decode's row `tune` found fastest on an H100 (Qwen3-4B: qkv, o, gate and up, down).
TUNED = {
    (64, 6144, 2560): {"BN": 64, "BK": 64, "num_warps": 4, "num_stages": 5, "splits": 1},
    (64, 2560, 4096): {"BN": 64, "BK": 64, "num_warps": 4, "num_stages": 5, "splits": 3},
    (64, 19456, 2560): {"BN": 64, "BK": 128, "num_warps": 4, "num_stages": 2, "splits": 1},
    (64, 2560, 9728): {"BN": 64, "BK": 64, "num_warps": 4, "num_stages": 5, "splits": 3},
}


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
    (M, K), N = x.shape, len(weight)
    BM = max(16, triton.next_power_of_2(M))
    config = config or TUNED.get((BM, N, K), LINEAR)
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
        BM=BM,
        BN=BN,
        BK=BK,
        EVEN=K % BK == 0,
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
