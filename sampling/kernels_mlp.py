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


@triton.jit(do_not_specialize=["M", "PER"])
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
    BLOCKS,
    PER,
    TOTAL,
    HAS_DELTA: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    EVEN: tl.constexpr,
):
    # A tile is BN outputs, BLOCKS blocks of BK inputs; blocks of all tiles lie in a line, PER of them to a program.
    program, m = tl.program_id(0), tl.arange(0, BM)
    first = program * PER
    end = tl.minimum(first + PER, TOTAL)
    for tile in range(first // BLOCKS, (end + BLOCKS - 1) // BLOCKS):
        n = tile * BN + tl.arange(0, BN)
        # Beyond the last output the last one is read again, and not stored.
        last = tl.minimum(n, N - 1).to(tl.int64)[:, None]
        row, w_row = last * K, last * w_stride
        # The outputs are the product's rows: its left operand may lie in registers, so that int8 is widened there and
        # not written back to shared memory (a fifth faster than x W^T).
        acc = tl.zeros((BN, BM), tl.float32)
        acc_delta = tl.zeros((BN, BM), tl.float32)
        low = tl.maximum(first - tile * BLOCKS, 0)
        for block in range(low, tl.minimum(end - tile * BLOCKS, BLOCKS)):
            k = block * BK + tl.arange(0, BK)
            if EVEN:
                a = tl.load(x + m[:, None] * K + k[None, :], mask=m[:, None] < M, other=0.0)
                w = tl.load(weight + w_row + k[None, :])
            else:
                inside = k[None, :] < K
                a = tl.load(x + m[:, None] * K + k[None, :], mask=(m[:, None] < M) & inside, other=0.0)
                w = tl.load(weight + w_row + k[None, :], mask=inside, other=0.0)
            acc = tl.dot(w, tl.trans(a), acc, input_precision="ieee")
            if HAS_DELTA:
                if EVEN:
                    d = tl.load(delta + row + k[None, :])
                else:
                    d = tl.load(delta + row + k[None, :], mask=inside, other=0)
                acc_delta = tl.dot(d.to(a.dtype), tl.trans(a), acc_delta, input_precision="ieee")
        if HAS_DELTA:
            acc += acc_delta * tl.load(scale + n, mask=n < N, other=0.0)[:, None]
        # Which of the tile's programs this is says where its share goes.
        share = program - tile * BLOCKS // PER
        at = (share * M + m[None, :]) * N + n[:, None]
        tl.store(part + at, acc.to(part.dtype.element_ty), mask=(m[None, :] < M) & (n[:, None] < N))


@triton.jit(do_not_specialize=["M", "PER"])
def _reduce(
    part,
    bias,
    out,
    M,
    N,
    out_stride,
    BLOCKS,
    PER,
    BN: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ADD: tl.constexpr,
    ROWS: tl.constexpr,
):
    tile, m = tl.program_id(0), (tl.program_id(1) * ROWS + tl.arange(0, ROWS))[:, None]
    n = (tile * BN + tl.arange(0, BN))[None, :]
    inside = (m < M) & (n < N)
    shares = (tile * BLOCKS + BLOCKS - 1) // PER - tile * BLOCKS // PER + 1
    acc = tl.zeros((ROWS, BN), tl.float32)
    for share in range(shares):
        acc += tl.load(part + (share * M + m) * N + n, mask=inside, other=0.0)
    if HAS_BIAS:
        acc += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)
    to = out + m * out_stride + n
    if ADD:
        acc += tl.load(to, mask=inside, other=0.0).to(tl.float32)
    tl.store(to, acc.to(out.dtype.element_ty), mask=inside)


LINEAR = {"BN": 64, "BK": 64, "num_warps": 4, "num_stages": 4}
# Programs that fill the device, two a multiprocessor: each takes an equal share of all blocks, wherever tiles end. With
# more tiles than that, one program a tile writes its outputs itself (WHOLE).
LINEAR_PROGRAMS = 264
WHOLE = {"BN": 64, "BK": 128, "num_warps": 4, "num_stages": 2}
# (rows, N, K) -> what bench.decode's row `tune` found fastest on an H100; other shapes follow the rule.
TUNED: dict[tuple[int, int, int], dict] = {}


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
    config: sizes, and programs (0: one a tile) in place of the rule's.
    """
    (M, K), N = x.shape, len(weight)
    BM = max(16, triton.next_power_of_2(M))
    config = config or TUNED.get((BM, N, K))
    if config is None:
        whole = triton.cdiv(N, WHOLE["BN"]) > LINEAR_PROGRAMS
        config = WHOLE | {"programs": 0} if whole else LINEAR | {"programs": LINEAR_PROGRAMS}
    BN, BK = config["BN"], config["BK"]
    tiles, blocks = triton.cdiv(N, BN), triton.cdiv(K, BK)
    per = triton.cdiv(tiles * blocks, config["programs"]) if config["programs"] else blocks
    direct = per == blocks and bias is None and not add and out.is_contiguous()
    shares = 1 if per % blocks == 0 else (blocks - 2) // per + 2  # the most programs of a tile
    part = out if direct else torch.empty((shares, M, N), dtype=torch.float32, device=x.device)
    _linear[(triton.cdiv(tiles * blocks, per),)](
        x,
        weight,
        weight if delta is None else delta,
        x if scale is None else scale,
        part,
        M,
        N,
        K,
        weight.stride(0),
        blocks,
        per,
        tiles * blocks,
        HAS_DELTA=delta is not None,
        BM=BM,
        BN=BN,
        BK=BK,
        EVEN=K % BK == 0,
        num_warps=config["num_warps"],
        num_stages=config["num_stages"],
    )
    if not direct:
        _reduce[(tiles, triton.cdiv(M, 16))](
            part,
            x if bias is None else bias,
            out,
            M,
            N,
            out.stride(0),
            blocks,
            per,
            BN=BN,
            HAS_BIAS=bias is not None,
            ADD=add,
            ROWS=16,
            num_warps=4,
        )
    return out
