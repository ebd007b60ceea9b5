"""Qwen3.5's gated delta net as a layer's token mixer: a matrix a head for a memory, instead of keys and values.

    q, k, v = silu(conv(W_qkv norm(x)))        causal, K taps a channel; q, k of unit length, q / sqrt(Dk)
    beta = sigmoid(W_b norm(x)),  g = -exp(A_log) softplus(W_a norm(x) + dt_bias)
    S <- exp(g) S,  u = beta (v - S^T k),  S <- S + k u^T,  o = S^T q          S [Hv, Dk, Dv] fp32
    x <- x + W_out (norm(o) * silu(W_z norm(x)))                              then the MLP

(Yang, Kautz, Hatamizadeh 2024, Gated Delta Networks.) A prompt runs by lib/delta_rule.py; what it leaves behind, S and
the last K - 1 inputs of the convolution, is copied to each of its rows. Padding has beta = g = 0, which leaves S as it
is. A step is in place.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.delta_rule import chunk_rule, gates, heads, unit
from sampling.layers import MixerLayer, PrefillSlice, TorchStep, rms_norm
from sampling.linear import StackedLinear


class DeltaNetLayer(MixerLayer):
    """A gated delta net with Hk key and Hv value heads, then a gated MLP."""

    def __init__(self, layer: nn.Module):
        super().__init__(layer)
        net = self.net = layer.linear_attn
        self.key_heads, self.value_heads = net.num_k_heads, net.num_v_heads
        self.key_dim, self.value_dim = net.head_k_dim, net.head_v_dim
        # Of the convolution: q and k of all key heads, then v.
        self.channels = 2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim
        self.taps = net.conv1d.weight.shape[-1]
        self.into = StackedLinear(net.in_proj_qkv, net.in_proj_z, net.in_proj_b, net.in_proj_a)
        self.out = StackedLinear(net.out_proj)
        self.linears = (self.into, self.out, self.gate_up, self.down)

    def caches(self, like: Tensor, rows: int, prompts: int, width: int, max_new: int) -> tuple[tuple, tuple]:
        """Nothing of prompts; of rows: inputs of the convolution [rows, K - 1, C] and S [rows, Hv, Dk, Dv] fp32."""
        inputs = like.new_zeros((rows, self.taps - 1, self.channels))
        state = (rows, self.value_heads, self.key_dim, self.value_dim)
        return (), (inputs, like.new_zeros(state, dtype=torch.float32))

    def fits_kernels(self) -> bool:
        sizes = (self.key_dim, self.value_dim)
        return super().fits_kernels() and not any(n & (n - 1) for n in sizes) and max(sizes) <= 256

    def prefill(self, x: Tensor, _, own, part: PrefillSlice) -> Tensor:
        """x [p width, d], changed in place; sets the state of every row of these prompts."""
        p, width, lengths, batch = len(part.lengths), part.width, part.lengths, part.batch
        y = self.into(rms_norm(x, self.norms[0])).unflatten(0, (p, width))
        mixed, z, b, a = self._split(y)

        # Convolution, and the K - 1 inputs before each prompt's end.
        before = F.pad(mixed, (0, 0, self.taps - 1, 0))
        at = lengths[:, None] + torch.arange(self.taps - 1, device=x.device)
        inputs = before.gather(1, at[..., None].expand(-1, -1, self.channels))
        mixed = self._convolve(before, width)

        # The rule, with padding that leaves the state alone.
        padding = (torch.arange(width, device=x.device) >= lengths[:, None])[..., None]
        beta, g = (t.masked_fill(padding, 0.0) for t in gates(self.net, b, a))
        q, k, v = heads(self.net, mixed)
        out, state = chunk_rule(x.device)(q, k, v, g, beta)

        # Rows of these prompts start from what they leave behind.
        group = batch.group[: batch.n] - part.first
        rows = ((group >= 0) & (group < p)).nonzero()[:, 0]
        for cache, new in zip(own, (inputs, state), strict=True):
            cache.index_copy_(0, rows, new.index_select(0, group[rows]).to(cache.dtype))
        self.out.add_to(x, self._norm_out(out, z).flatten(0, 1))
        return self.mlp(x)

    def step(self, x: Tensor, _, own, now: TorchStep) -> Tensor:
        """x [n, d], changed in place; in plain torch."""
        inputs, state = (t[: now.n] for t in own)
        mixed, z, b, a = self._split(self.into(rms_norm(x, self.norms[0])))
        window = torch.cat([inputs, mixed[:, None]], 1)
        inputs.copy_(window[:, 1:])
        beta, g = gates(self.net, b, a)
        q, k, v = (t.float()[:, 0] for t in heads(self.net, self._convolve(window, 1)))
        out = recurrent_step(q, k, v, g, beta, state)
        self.out.add_to(x, self._norm_out(out, z))
        return self.mlp(x)

    def decode(self, x: Tensor, kernels, _, own, batch) -> Tensor:
        """The same through sampling.kernels."""
        inputs, state = own
        y = self.into(kernels.norm(x, self.norms[0]))
        mixed = kernels.convolve(y, self.net.conv1d.weight, inputs)
        net = self.net
        out = kernels.delta_step(mixed, y, state, net.A_log, net.dt_bias, net.norm, self.key_heads)
        self.out.add_to(x, out)
        return self.decode_mlp(x, kernels)

    # --- pieces, of [..., width] ---

    def _split(self, y: Tensor) -> tuple[Tensor, ...]:
        """What the convolution takes, z, b and a."""
        n = self.value_heads
        return y.split([self.channels, n * self.value_dim, n, n], -1)

    def _convolve(self, before: Tensor, width: int) -> Tensor:
        """silu of the convolution at `width` tokens: before [p, K - 1 + width, C] -> [p, width, C]."""
        taps = self.net.conv1d.weight[:, 0].float()
        out = before[:, :width] * taps[:, 0]
        for j in range(1, self.taps):
            out = out.addcmul_(before[:, j : j + width], taps[:, j])
        return F.silu(out).to(before.dtype)

    def _norm_out(self, out: Tensor, z: Tensor) -> Tensor:
        """The gated norm over each head: out [..., Hv, Dv], z [..., Hv Dv] -> [..., Hv Dv] in z's dtype."""
        norm = self.net.norm
        out = F.rms_norm(out.to(z.dtype).float(), (self.value_dim,), None, norm.variance_epsilon).to(z.dtype)
        gate = F.silu(z.float())
        return ((norm.weight * out).flatten(-2) * gate).to(z.dtype)


def recurrent_step(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> Tensor:
    """One token, all fp32: q, k [n, Hk, Dk], v [n, Hv, Dv], g, beta [n, Hv] -> [n, Hv, Dv]; state [n, Hv, Dk, Dv] in
    place."""
    times = v.shape[1] // k.shape[1]
    q, k = (unit(t).repeat_interleave(times, 1) for t in (q, k))
    state *= g.exp()[..., None, None]
    u = (v - torch.einsum("nhkv,nhk->nhv", state, k)) * beta[..., None]
    state += k[..., None] * u[..., None, :]
    return torch.einsum("nhkv,nhk->nhv", state, q) * q.shape[-1] ** -0.5
