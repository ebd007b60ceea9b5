"""Sampling without a random generator: every token is a function of (row seed, step, token id).

    z     = logits / temperature                             [B, V] fp32
    y_t   = argmax over the top_k of z of z_i + g_i          Gumbel-max: an exact draw from softmax over the top_k
    g_i   = -log(-log u(s_b, t, i))                          u: a counter-based hash (splitmix64) of seed, step, token
    logp  = z[y_t] - logsumexp(z)                            over the FULL vocabulary, what the PPO ratio divides by

A row's tokens depend on its prompt and its seed alone: neither other rows nor an evaluation between two steps can
change them. The noise belongs to token ids, not to ranks.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

# splitmix64's increment, 0x9E3779B97F4A7C15.
_GOLDEN = -7046029254386353131


def _mix(z: Tensor) -> Tensor:
    """splitmix64's finaliser (Steele, Lea & Flood 2014) on int64, which wraps alike on CPU and CUDA."""
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * -4658895280553007687  # 0xBF58476D1CE4E5B9; masks make the shifts logical
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685  # 0x94D049BB133111EB
    return z ^ ((z >> 31) & 0x1FFFFFFFF)


def row_keys(seeds: Tensor) -> Tensor:
    """One hash a row, [B] int64, of seeds [B] int64."""
    return _mix(seeds + _GOLDEN)


def uniform(keys: Tensor, step: Tensor | int, ids: Tensor) -> Tensor:
    """Uniforms in (0, 1), fp32 [B, K], from row keys [B], the step and token ids [B, K]."""
    step = torch.as_tensor(step, dtype=torch.long, device=keys.device)
    key = _mix(keys ^ ((step + 1) * -2643881736870682267))  # 0xDB4F0B9175AE2165, any odd constant
    bits = (_mix(key[:, None] + ids * _GOLDEN) >> 41) & 0x7FFFFF  # 23 bits: + 0.5 is then exact in fp32
    return (bits.float() + 0.5) * 2.0**-23


def draw(logits: Tensor, keys: Tensor, step: Tensor | int, temperature: float, top_k: int) -> tuple[Tensor, Tensor]:
    """Sampled ids [B] int64 and their full-vocabulary logprobs [B] fp32, from logits [B, V]; top_k 0 means no cut."""
    z = logits if temperature == 1.0 else logits.float() / temperature
    logprobs = z.log_softmax(-1, dtype=torch.float32)
    # Ranking z rather than the logprobs reads half the bytes in bf16; the order is the same.
    ids = z.topk(min(top_k, z.shape[-1]) if top_k > 0 else z.shape[-1], dim=-1, sorted=False).indices
    candidates = logprobs.gather(-1, ids)
    gumbel = -(-uniform(keys, step, ids).log()).log()
    choice = (candidates + gumbel).argmax(-1, keepdim=True)
    return ids.gather(-1, choice)[:, 0], candidates.gather(-1, choice)[:, 0]


def row_seed(*key) -> int:
    """63-bit seed of one sampled row, a hash of what names it: split, run seed, step, row."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little") >> 1
