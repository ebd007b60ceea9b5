"""The gated delta rule over whole rows: Qwen3.5's recurrence, by chunks, differentiable.

    S_t = exp(g_t) S_(t-1) + k_t u_t^T,   u_t = beta_t (v_t - exp(g_t) S_(t-1)^T k_t),   o_t = S_t^T q_t

q and k of unit length, q over sqrt(Dk) (Yang, Kautz, Hatamizadeh 2024, Gated Delta Networks). Where
flash-linear-attention is installed and the tensors are on a GPU its kernels run, else `torch_chunk_rule`.
"""

from __future__ import annotations

import functools
import re
import sys
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from loguru import logger
from torch import Tensor, nn

CHUNK = 64
# Added to the squared length of q and k.
UNIT_EPS = 1e-6


def gates(net: nn.Module, b: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """beta and g [..., Hv] fp32 of what in_proj_b and in_proj_a give; net: transformers' gated delta net."""
    return b.sigmoid().float(), -net.A_log.float().exp() * F.softplus(a.float() + net.dt_bias.float())


def heads(net: nn.Module, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k [..., Hk, Dk], v [..., Hv, Dv] of the convolution's output [..., C]."""
    q, k, v = mixed.split([net.key_dim, net.key_dim, net.value_dim], -1)
    q, k = (t.unflatten(-1, (-1, net.head_k_dim)) for t in (q, k))
    return q, k, v.unflatten(-1, (-1, net.head_v_dim))


def ragged_convolution(mixed: Tensor, taps: Tensor, source: Tensor) -> Tensor:
    """silu(sum_j w_j mixed[source_tj]): mixed [L, C], taps [C, 1, K], source [L, K] int32, L where nothing is read."""
    padded = torch.cat([mixed, mixed.new_zeros(1, mixed.shape[1])]).float()
    pairs = zip(source.T, taps[:, 0].T.float(), strict=True)
    return F.silu(sum(padded.index_select(0, at) * w for at, w in pairs)).to(mixed.dtype)


def unit(x: Tensor) -> Tensor:
    """x [..., D] fp32 over its length."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + UNIT_EPS)


@functools.cache
def backward_refused(device: torch.device) -> str | None:
    """Why flash-linear-attention will not run backward on `device`: it raises there, as Triton would compile it wrongly
    (its chunk_o.py, issue 640). None where it does, or is not installed."""
    if device.type != "cuda" or find_spec("fla") is None or torch.cuda.get_device_capability(device)[0] != 9:
        return None
    import triton

    version = tuple(int(n) for n in re.findall(r"\d+", triton.__version__)[:3])
    if not (3, 4, 0) <= version < (3, 7, 1):
        return None
    return f"flash-linear-attention has no backward pass on Hopper GPUs with Triton {triton.__version__} (3.7.1 has)"


def replace_refused_rule(model: nn.Module) -> None:
    """Where flash-linear-attention does not run backward, have transformers' own layers run `torch_chunk_rule`."""
    nets = [layer.linear_attn for layer in model.model.layers if hasattr(layer, "linear_attn")]
    if nets and (reason := backward_refused(nets[0].conv1d.weight.device)):
        logger.warning(f"gated delta nets train in plain torch, slower: {reason}")
        take_torch_rule(nets[0])


def take_torch_rule(net: nn.Module) -> None:
    """Have every gated delta net of the class of `net` run `torch_chunk_rule` over whole rows."""

    def rule(query, key, value, g, beta, initial_state=None, output_final_state=False, **kwargs):
        out, state = torch_chunk_rule(query, key, value, g, beta, initial_state)
        return out.to(query.dtype), state if output_final_state else None

    sys.modules[type(net).__module__].torch_chunk_gated_delta_rule = rule


@functools.cache
def chunk_rule(device: torch.device, training: bool = False):
    """flash-linear-attention's rule where it is installed and `device` is a GPU, else torch_chunk_rule; training: where
    it runs backward too.

    The former also takes `ends`, cumulated lengths [p + 1] int64 of rows that lie one after the other in q [1, L, ...].
    """
    if device.type != "cuda" or (training and backward_refused(device)):
        return torch_chunk_rule
    try:
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule
    except ImportError:
        return torch_chunk_rule

    def rule(q, k, v, g, beta, state=None, ends=None):
        times = v.shape[2] // k.shape[2]
        wide_q, wide_k = (t.repeat_interleave(times, 2) if times > 1 else t.contiguous() for t in (q, k))
        try:
            return chunk_gated_delta_rule(
                wide_q,
                wide_k,
                v.contiguous(),
                g=g,
                beta=beta.to(v.dtype),
                initial_state=state,
                output_final_state=True,
                use_qk_l2norm_in_kernel=True,
                cu_seqlens=ends,
            )
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if ends is not None:
                raise
            logger.warning(f"a prompt without flash-linear-attention, which failed ({error}): slower")
            return torch_chunk_rule(q, k, v, g, beta, state)

    return rule


def torch_chunk_rule(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The rule over whole rows: (o [p, T, Hv, Dv] fp32, S [p, Hv, Dk, Dv] fp32 after them).

    q, k [p, T, Hk, Dk], v [p, T, Hv, Dv], g, beta [p, T, Hv]; state: S before, zero where None. With c_i the sum of a
    chunk's g up to token i and A_ij = beta_i (k_i k_j) exp(c_i - c_j) for j < i, the chunk's updates are
    u = (I + A)^-1 (beta v - beta exp(c) k S), and S <- exp(c_last) S + sum_i exp(c_last - c_i) k_i u_i^T.
    """
    (p, T, heads, Dv), Dk = v.shape, k.shape[-1]
    times, chunks = heads // k.shape[2], -(-T // CHUNK)

    # [p, Hv, chunks, CHUNK, ...] in fp32, padded with tokens that do nothing.
    def by_chunk(x: Tensor) -> Tensor:
        x = F.pad(x.float().flatten(3), (0, 0, 0, 0, 0, chunks * CHUNK - T))
        return x.unflatten(1, (chunks, CHUNK)).permute(0, 3, 1, 2, 4)

    q, k = (by_chunk(unit(t.float()).repeat_interleave(times, 2)) for t in (q, k))
    v, beta, c = by_chunk(v), by_chunk(beta[..., None]), by_chunk(g[..., None])[..., 0].cumsum(-1)
    q = q * Dk**-0.5

    # What does not depend on the state.
    lower = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=v.device).tril()
    decay = (c[..., :, None] - c[..., None, :]).masked_fill(~lower, float("-inf")).exp()
    A = (beta * k) @ k.mT * decay
    own = torch.linalg.solve_triangular(
        A, torch.cat([beta * v, beta * c.exp()[..., None] * k], -1), upper=False, unitriangular=True
    )
    from_v, from_state = own.split([Dv, Dk], -1)
    scores = q @ k.mT * decay
    q, k = q * c.exp()[..., None], k * (c[..., -1:] - c).exp()[..., None]

    # One chunk after the other.
    state, out = v.new_zeros(p, heads, Dk, Dv) if state is None else state, []
    for i in range(chunks):
        u = from_v[:, :, i] - from_state[:, :, i] @ state
        out.append(q[:, :, i] @ state + scores[:, :, i] @ u)
        state = state * c[:, :, i, -1].exp()[..., None, None] + k[:, :, i].mT @ u
    return torch.cat(out, 2)[:, :, :T].transpose(1, 2), state
