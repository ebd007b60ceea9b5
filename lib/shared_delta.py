"""A gated delta net over completions that share their prompt, exact, gradients through the state included.

    sequence  [prompt 1 | ... | prompt n | completions of 1 | ... | completions of n]      lib/shared_prefix.py's layout
    prompts      from a zero state, each leaving S [Hv, Dk, Dv] fp32 behind
    completions  from their prompt's S, whose gradient is the sum over its completions

The convolution of a completion's first K - 1 tokens reaches back to the last tokens of its prompt. On a GPU with
flash-linear-attention both runs are over ragged rows; elsewhere over padded ones, whose padding leaves S as it is.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from lib.agreement import kernels_for
from lib.delta_rule import chunk_rule, gates, heads, ragged_convolution, torch_chunk_rule

KERNELS = "lib.delta_kernels"


def take_layouts(net: nn.Module) -> None:
    """Have transformers' gated delta net take a `layout`; without one it is what it was."""
    kernels_for(net.conv1d.weight.device, KERNELS)  # tried here, not in a forward whose tensors are being counted
    net.forward = functools.partial(_forward, net)  # a deep copy's is bound to the copy


def _forward(net: nn.Module, hidden_states: Tensor, cache_params=None, attention_mask=None, layout=None, **kwargs):
    if layout is None:
        return type(net).forward(net, hidden_states, cache_params=cache_params, attention_mask=attention_mask, **kwargs)
    return shared_delta_net(net, hidden_states[0], layout)[None]


def shared_delta_net(net: nn.Module, x: Tensor, layout) -> Tensor:
    """x [L, d] -> [L, d]; layout: lib.shared_prefix.Layout."""
    z, b, a = net.in_proj_z(x), net.in_proj_b(x), net.in_proj_a(x)
    beta, g = gates(net, b, a)
    parts = (*heads(net, convolve(net.in_proj_qkv(x), net.conv1d.weight, layout)), g, beta)
    rule = chunk_rule(x.device, training=True)
    out = _padded(parts, layout) if rule is torch_chunk_rule else _ragged(rule, parts, layout)
    out = net.norm(out.to(x.dtype).flatten(0, 1), z.unflatten(-1, (-1, net.head_v_dim)).flatten(0, 1))
    return net.out_proj(out.view(len(x), -1))


def convolve(mixed: Tensor, taps: Tensor, layout) -> Tensor:
    """silu of the causal convolution within each row, its prompt before it: mixed [L, C], taps [C, 1, K] -> [L, C]."""
    source, carried = layout.sources(taps.shape[-1])
    if kernels := kernels_for(mixed.device, KERNELS):
        return kernels.RaggedConvolution.apply(mixed, taps, source, carried)
    return ragged_convolution(mixed, taps, source)


def _ragged(rule, parts: tuple[Tensor, ...], layout) -> Tensor:
    """o [L, Hv, Dv] of q, k, v, g, beta [L, ...], over rows one after the other."""
    start = layout.start
    out, state = rule(*(t[None, :start] for t in parts), ends=layout.keys[0].long())
    state = state.index_select(0, layout.prompt_of_row)
    out2, _ = rule(*(t[None, start:] for t in parts), state=state, ends=layout.rows[0].long())
    return torch.cat([out[0], out2[0]])


def _padded(parts: tuple[Tensor, ...], layout) -> Tensor:
    """The same over padded rows."""
    prompt_at, row_at, in_prompt, in_row, place = layout.padded

    def run(at: Tensor, real: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        q, k, v, g, beta = (t.index_select(0, at.flatten()).unflatten(0, at.shape) for t in parts)
        g, beta = (t.masked_fill(~real[..., None], 0.0) for t in (g, beta))
        return torch_chunk_rule(q, k, v, g, beta, state)

    out, state = run(prompt_at, in_prompt, None)
    out2, _ = run(row_at, in_row, state.index_select(0, layout.prompt_of_row))
    return torch.cat([out.flatten(0, 1), out2.flatten(0, 1)]).index_select(0, place)
