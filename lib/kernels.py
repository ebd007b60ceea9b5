"""Triton kernels of the training pass (CUDA, half precision; sampling/ has the decode step's).

    normalise    logits [N, V] -> log p of the targets and log of the softmax's normaliser, read once, in bf16
    gradient     the gradient of those log p, written over the logits
    merge        two attentions of the same queries into the first, by their log-sum-exp
    silu_mul     silu(gate) * up, and its two gradients

Each does what the plain form in the module that uses it does, without its fp32 copies; `usable` tries them once.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from lib.agreement import agrees

# Lower than any logit, and finite: a lane that saw nothing is no nan.
LOWEST = tl.constexpr(-1.0e30)


@triton.jit
def _normalise(logits, targets, logp, normaliser, V, row_stride, scale, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    base, lane = logits + row * row_stride, tl.arange(0, BLOCK)
    peak = tl.full((BLOCK,), LOWEST, tl.float32)
    mass = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, V, BLOCK):
        inside = start + lane < V
        z = tl.load(base + start + lane, mask=inside, other=0.0).to(tl.float32) * scale
        z = tl.where(inside, z, LOWEST)
        higher = tl.maximum(peak, z)
        mass = mass * tl.exp(peak - higher) + tl.exp(z - higher)
        peak = higher
    top = tl.max(peak, 0)
    total = top + tl.log(tl.sum(mass * tl.exp(peak - top), 0))
    at_target = tl.load(base + tl.load(targets + row)).to(tl.float32) * scale
    tl.store(logp + row, at_target - total)
    tl.store(normaliser + row, total)


def normalise(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """logits [N, V], targets [N] int64 -> (log p of the targets, log of the normaliser of logits / temperature), [N]
    fp32 each."""
    n, vocab = logits.shape
    logp, normaliser = (torch.empty(n, dtype=torch.float32, device=logits.device) for _ in range(2))
    _normalise[(n,)](
        logits, targets, logp, normaliser, vocab, logits.stride(0), 1.0 / temperature, BLOCK=2048, num_warps=8
    )  # fmt: skip
    return logp, normaliser


@triton.jit
def _gradient(logits, targets, normaliser, g, V, row_stride, scale, BLOCK: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    at, inside = logits + row * row_stride + column, column < V
    z = tl.load(at, mask=inside, other=0.0).to(tl.float32) * scale
    share = tl.load(g + row) * scale
    d = -share * tl.exp(z - tl.load(normaliser + row))
    d = tl.where(column == tl.load(targets + row), d + share, d)
    tl.store(at, d.to(logits.dtype.element_ty), mask=inside)


def gradient(logits: Tensor, targets: Tensor, normaliser: Tensor, g: Tensor, temperature: float) -> Tensor:
    """Over logits [N, V]: (onehot(target) - softmax(logits / temperature)) g / temperature; g [N] fp32."""
    n, vocab = logits.shape
    _gradient[(n, triton.cdiv(vocab, 4096))](
        logits, targets, normaliser, g, vocab, logits.stride(0), 1.0 / temperature, BLOCK=4096, num_warps=8
    )  # fmt: skip
    return logits


@triton.jit(do_not_specialize=["N", "L", "start"])  # one compilation for every length
def _merge(out, out2, lse, lse2, N, H, L, start, D: tl.constexpr, BLOCK: tl.constexpr):
    pair = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside, token, head = pair < N * H, pair // H, pair % H
    at1, at2 = lse + head * L + start + token, lse2 + head * N + token
    l1, l2 = tl.load(at1, mask=inside, other=0.0), tl.load(at2, mask=inside, other=0.0)
    top = tl.maximum(l1, l2)
    total = top + tl.log(tl.exp(l1 - top) + tl.exp(l2 - top))
    tl.store(at1, total, mask=inside)
    dim = tl.arange(0, D)[None, :]
    to, of = out + (start * H + pair)[:, None] * D + dim, out2 + pair[:, None] * D + dim
    o1 = tl.load(to, mask=inside[:, None], other=0.0).to(tl.float32) * tl.exp(l1 - total)[:, None]
    o2 = tl.load(of, mask=inside[:, None], other=0.0).to(tl.float32) * tl.exp(l2 - total)[:, None]
    tl.store(to, (o1 + o2).to(out.dtype.element_ty), mask=inside[:, None])


def merge(out: Tensor, lse: Tensor, out2: Tensor, lse2: Tensor) -> None:
    """Into the last N tokens of out [L, H, D], lse [H, L] fp32: their softmax joined with that of out2 [N, H, D], lse2
    [H, N]. All contiguous, D a power of two."""
    n, heads, D = out2.shape
    start = len(out) - n
    _merge[(triton.cdiv(n * heads, 32),)](
        out, out2, lse, lse2, n, heads, len(out), start, D=D, BLOCK=32, num_warps=4
    )  # fmt: skip


@triton.jit
def _silu_mul(gate, up, out, total, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(gate + i, mask=i < total, other=0.0).to(tl.float32)
    b = tl.load(up + i, mask=i < total, other=0.0).to(tl.float32)
    tl.store(out + i, (a * tl.sigmoid(a) * b).to(out.dtype.element_ty), mask=i < total)


@triton.jit
def _silu_mul_backward(g, gate, up, d_gate, d_up, total, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < total
    a = tl.load(gate + i, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(up + i, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(g + i, mask=inside, other=0.0).to(tl.float32)
    s = tl.sigmoid(a)
    tl.store(d_gate + i, (grad * b * s * (1 + a * (1 - s))).to(d_gate.dtype.element_ty), mask=inside)
    tl.store(d_up + i, (grad * a * s).to(d_up.dtype.element_ty), mask=inside)


class SiluMul(torch.autograd.Function):
    """silu(gate) * up, elementwise, rounded once; gate, up of one shape."""

    @staticmethod
    def forward(ctx, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        out = torch.empty_like(gate)
        _silu_mul[(triton.cdiv(gate.numel(), 2048),)](gate, up, out, gate.numel(), BLOCK=2048, num_warps=8)
        ctx.save_for_backward(gate, up)
        return out

    @staticmethod
    def backward(ctx, g: Tensor):
        gate, up = ctx.saved_tensors
        d_gate, d_up, total = torch.empty_like(gate), torch.empty_like(up), gate.numel()
        _silu_mul_backward[(triton.cdiv(total, 2048),)](
            g.contiguous(), gate, up, d_gate, d_up, total, BLOCK=2048, num_warps=8
        )  # fmt: skip
        return d_gate, d_up


def largest_error(device: torch.device, dtype: torch.dtype) -> float:
    """The largest relative error of any kernel against plain fp32 torch, on small random cases."""
    g, errors = torch.Generator(device).manual_seed(0), []

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, device=device)

    def check(got: Tensor, want: Tensor) -> None:
        errors.append(float((got.float() - want).norm() / want.norm()))

    # The head: a vocabulary that fills no block, at a temperature.
    logits, targets, up = (3 * random(5, 3001)).to(dtype), torch.arange(5, device=device) * 700, random(5)
    z = (logits.float() / 0.7).requires_grad_()
    want = z.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    logp, normaliser = normalise(logits, targets, 0.7)
    check(logp, want.detach())
    check(gradient(logits, targets, normaliser, up, 0.7), torch.autograd.grad(want, z, up)[0] / 0.7)

    # Two attentions of seven queries, of which the first is that of the last tokens.
    scores, values = random(3, 7, 19), random(19, 3, 16)
    first, second = scores[..., :8], scores[..., 8:]
    parts = [
        torch.einsum("hqk,khd->qhd", s.softmax(-1), v).contiguous()
        for s, v in ((first, values[:8]), (second, values[8:]), (scores, values))
    ]
    out, lse = torch.cat([random(2, 3, 16), parts[0]]).to(dtype), torch.cat([random(3, 2), first.logsumexp(-1)], 1)
    before = out[:2].clone()
    merge(out, lse, parts[1].to(dtype), second.logsumexp(-1))
    check(out[2:], parts[2])
    check(lse[:, 2:], scores.logsumexp(-1))
    errors.append(0.0 if out[:2].equal(before) else 1.0)

    # The MLP, in both passes.
    with torch.enable_grad():
        gate, up, d = random(3, 70), random(3, 70), random(3, 70)
        exact, half = ([t.clone().to(kind).requires_grad_() for t in (gate, up)] for kind in (torch.float32, dtype))
        want, got = F.silu(exact[0]) * exact[1], SiluMul.apply(*half)
        check(got.detach(), want.detach())
        wants, gots = torch.autograd.grad(want, exact, d), torch.autograd.grad(got, half, d.to(dtype))
    for a, b in zip(gots, wants, strict=True):
        check(a, b)
    return max(errors)


@functools.cache
def usable(device: torch.device) -> bool:
    """Whether the kernels compile on this GPU and agree with plain torch to bf16's resolution."""
    return agrees("training without Triton kernels", lambda: largest_error(device, torch.bfloat16), 0.02)
