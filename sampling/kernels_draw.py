"""The draw of sampling/noise.py on a GPU: one pass over the logits, and a small one (Triton, CUDA only).

A row of V logits is cut into CHUNKS chunks. `survey` leaves of each its maximum and its sum of exponentials; the k
largest logits lie in the k chunks of largest maximum, so `topk` looks at these alone; `choose` has the noise, the
argmax and the logprob over the full vocabulary.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from lib.agreement import agrees
from sampling import noise

CHUNKS = 128


@triton.jit
def _survey(logits, peaks, masses, WIDTH, row_stride, scale, CHUNKS: tl.constexpr, BLOCK: tl.constexpr):
    row, chunk, i = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.arange(0, BLOCK)
    z = tl.load(logits + row * row_stride + chunk * WIDTH + i, mask=i < WIDTH, other=float("-inf")).to(tl.float32)
    z *= scale
    peak = tl.max(z, 0)
    tl.store(peaks + row * CHUNKS + chunk, peak)
    tl.store(masses + row * CHUNKS + chunk, tl.sum(tl.exp(z - peak), 0))


@triton.jit
def _mix(z):
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return z ^ ((z >> 31) & 0x1FFFFFFFF)


@triton.jit
def _choose(
    top, values, peaks, masses, keys, step, token, logprob, scale, K, CHUNKS: tl.constexpr, BLOCK: tl.constexpr
):
    row, i, chunk = tl.program_id(0), tl.arange(0, BLOCK), tl.arange(0, CHUNKS)
    peak = tl.load(peaks + row * CHUNKS + chunk)
    highest = tl.max(peak, 0)
    total = highest + tl.log(tl.sum(tl.load(masses + row * CHUNKS + chunk) * tl.exp(peak - highest), 0))

    # The noise of noise.uniform, the same bits.
    ids = tl.load(top + row * K + i, mask=i < K, other=0)
    key = _mix(tl.load(keys + row) ^ ((tl.load(step) + 1) * -2643881736870682267))
    bits = (_mix(key + ids * -7046029254386353131) >> 41) & 0x7FFFFF
    uniform = (bits.to(tl.float32) + 0.5) * 1.1920928955078125e-07
    logp = tl.load(values + row * K + i, mask=i < K, other=0.0).to(tl.float32) * scale - total
    score = tl.where(i < K, logp - tl.log(-tl.log(uniform)), float("-inf"))
    chosen = i == tl.argmax(score, 0)
    tl.store(token + row, tl.sum(tl.where(chosen, ids, 0), 0))
    tl.store(logprob + row, tl.sum(tl.where(chosen, logp, 0.0), 0))


def fits(logits: Tensor, top_k: int) -> bool:
    """Whether `draw` serves logits [B, V] with this top_k."""
    return logits.shape[1] % CHUNKS == 0 and 0 < top_k <= min(64, logits.shape[1] // CHUNKS) and usable(logits.device)


def draw(logits: Tensor, keys: Tensor, step: Tensor, temperature: float, top_k: int) -> tuple[Tensor, Tensor]:
    """noise.draw for logits that `fits`: ids [B] int64, logprobs [B] fp32. step: scalar int64 on the device."""
    n, width = len(logits), logits.shape[1] // CHUNKS
    peaks, masses = (torch.empty((n, CHUNKS), dtype=torch.float32, device=logits.device) for _ in range(2))
    _survey[(n, CHUNKS)](
        logits, peaks, masses, width, logits.stride(0), 1.0 / temperature,
        CHUNKS=CHUNKS, BLOCK=triton.next_power_of_2(width), num_warps=4,
    )  # fmt: skip

    # The k largest of the k chunks with the largest maximum.
    chunk = peaks.topk(top_k, sorted=False).indices
    candidates = logits.unflatten(1, (CHUNKS, width)).gather(1, chunk[:, :, None].expand(-1, -1, width))
    values, at = candidates.flatten(1).topk(top_k, sorted=False)
    ids = chunk.gather(1, at // width) * width + at % width

    token = torch.empty(n, dtype=torch.long, device=logits.device)
    logprob = torch.empty(n, dtype=torch.float32, device=logits.device)
    _choose[(n,)](
        ids, values, peaks, masses, keys, step, token, logprob, 1.0 / temperature, top_k,
        CHUNKS=CHUNKS, BLOCK=max(16, triton.next_power_of_2(top_k)), num_warps=4,
    )  # fmt: skip
    return token, logprob


def disagreement(device: torch.device, rows: int = 50) -> float:
    """The largest difference from noise.draw on a random case; infinite where a token differs."""
    g = torch.Generator(device).manual_seed(0)
    logits = 4 * torch.randn(rows, 37 * CHUNKS, generator=g, device=device)
    keys, step = noise.row_keys(torch.arange(rows, device=device)), torch.tensor(3, device=device)
    worst = 0.0
    for temperature, top_k in ((1.0, 20), (0.7, 5)):
        want, got = (f(logits, keys, step, temperature, top_k) for f in (noise.draw, draw))
        worst = max(worst, float((want[1] - got[1]).abs().max()) if want[0].equal(got[0]) else float("inf"))
    return worst


@functools.cache
def usable(device: torch.device) -> bool:
    """Whether the kernels compile on this GPU and draw what noise.draw draws."""
    return agrees("drawing tokens without Triton kernels", lambda: disagreement(device), 1e-3)
