"""A decoder's layer written out over the model's own weights, and the one with attention as its token mixer.

    x <- x + W_o attend(rotate(norm_head(W_qkv norm(x))))        pre-norm attention, H query and Hkv key heads
    x <- x + W_down (act(W_gate norm(x)) * W_up norm(x))         gated MLP, in every layer

Qwen3.5's attention departs in three points: half of q_proj's output is a gate, o = sigmoid(gate) * attend(...); of a
head's D dimensions the first R are rotated; its norms keep weight - 1 and scale in fp32. sampling/delta_net.py has the
other mixer of that family. N: tokens of all rows, d: width of the residual, D: of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sampling.linear import StackedLinear


@dataclass
class PrefillSlice:
    """Prompts first, first + 1, ... of `batch`, a DecodeBatch, in one forward, padded on the right to one width."""

    batch: object
    first: int
    lengths: Tensor
    """[p] int64: tokens of each."""
    width: int
    rotary: tuple[Tensor, Tensor]
    """cos, sin [p width, R]."""


@dataclass
class TorchStep:
    """One token a row of the first n rows of `batch`, without kernels."""

    batch: object
    n: int
    slots: int
    """Of its own that a row attends to."""
    rotary: tuple[Tensor, Tensor]
    """cos, sin [n, R]."""
    bias: Tensor
    """[n, 1, 1, P + slots]: 0 where a row sees, else -inf."""
    fused: bool
    """Whether scaled_dot_product_attention is the faster."""


class MixerLayer:
    """What layers share: two norms, a gated MLP, and the products; a subclass has the token mixer."""

    def __init__(self, layer: nn.Module):
        self.norms = (layer.input_layernorm, layer.post_attention_layernorm)
        self.gate_up = StackedLinear(layer.mlp.gate_proj, layer.mlp.up_proj)
        self.down = StackedLinear(layer.mlp.down_proj)
        self.act = layer.mlp.act_fn

    def mlp(self, x: Tensor) -> Tensor:
        """x [N, d], changed in place."""
        gate, up = self.gate_up(rms_norm(x, self.norms[1])).chunk(2, -1)
        self.down.add_to(x, self.act(gate) * up)
        return x

    def decode_mlp(self, x: Tensor, kernels) -> Tensor:
        """The same through sampling.kernels."""
        self.down.add_to(x, kernels.silu_mul(self.gate_up(kernels.norm(x, self.norms[1]))))
        return x

    def fits_kernels(self) -> bool:
        """Whether sampling.kernels has its shapes."""
        return type(self.act).__name__ in ("SiLU", "SiLUActivation")


class DecoderLayer(MixerLayer):
    """Attention with grouped heads and rotary positions, then a gated MLP."""

    def __init__(self, layer: nn.Module):
        super().__init__(layer)
        attn = layer.self_attn
        self.head_dim = attn.head_dim
        self.kv_heads = attn.k_proj.weight.shape[0] // attn.head_dim
        self.heads = attn.o_proj.weight.shape[1] // attn.head_dim
        self.gated = attn.q_proj.weight.shape[0] == 2 * self.heads * attn.head_dim
        self.head_norm = None
        if hasattr(attn, "q_norm"):
            weights = torch.stack([attn.q_norm.weight.data, attn.k_norm.weight.data])
            if centred(attn.q_norm):
                weights = weights.float() + 1
            self.head_norm = (weights, epsilon(attn.q_norm))
        self.qkv = StackedLinear(attn.q_proj, attn.k_proj, attn.v_proj)
        self.o = StackedLinear(attn.o_proj)
        self.linears = (self.qkv, self.o, self.gate_up, self.down)

    def caches(self, like: Tensor, rows: int, prompts: int, width: int, max_new: int) -> tuple[tuple, tuple]:
        """Zeros in the dtype of `like`: K, V of prompts [prompts, Hkv, width, D], of rows [rows, Hkv, max_new, D]."""
        shapes = (prompts, self.kv_heads, width, self.head_dim), (rows, self.kv_heads, max_new, self.head_dim)
        return tuple((like.new_zeros(shape), like.new_zeros(shape)) for shape in shapes)

    def fits_kernels(self) -> bool:
        return super().fits_kernels() and not self.head_dim & (self.head_dim - 1)

    def __call__(self, x: Tensor, rotary: tuple[Tensor, Tensor], attend) -> Tensor:
        """x [N, d], changed in place; rotary: cos, sin [N, R]; attend(q [N, H, D], k, v [N, Hkv, D]) -> [N, H D]."""
        widths = [(1 + self.gated) * self.heads, self.kv_heads, self.kv_heads]
        q, k, v = self.qkv(rms_norm(x, self.norms[0])).unflatten(-1, (-1, self.head_dim)).split(widths, 1)
        if self.gated:
            q, gate = q.unflatten(1, (self.heads, 2)).unbind(2)
        if self.head_norm is not None:
            weights, eps = self.head_norm
            q, k = ((F.rms_norm(t.to(w), w.shape, None, eps) * w).to(t) for t, w in ((q, weights[0]), (k, weights[1])))
        q, k = (_rotate(t, *rotary) for t in (q, k))
        out = attend(q, k, v)
        if self.gated:
            out = out * gate.flatten(1).sigmoid()
        self.o.add_to(x, out)
        return self.mlp(x)

    def prefill(self, x: Tensor, prompt_kv, own_kv, part: PrefillSlice) -> Tensor:
        """x [p width, d], changed in place; fills the cache of the prompts."""
        p, width, first = len(part.lengths), part.width, part.first

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (t.unflatten(0, (p, width)).transpose(1, 2) for t in (q, k, v))
            for cache, new in zip(prompt_kv, (k, v), strict=True):
                cache[first : first + p, :, :width] = new
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            return out.transpose(1, 2).reshape(p * width, -1)

        return self(x, part.rotary, attend)

    def step(self, x: Tensor, prompt_kv, own_kv, now: TorchStep) -> Tensor:
        """x [n, d], changed in place; in plain torch."""
        batch, n = now.batch, now.n

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            for cache, new in zip(own_kv, (k, v), strict=True):
                cache[:n].index_copy_(2, batch.step[None], new[:, :, None])
            own = tuple(cache[:n, :, : now.slots] for cache in own_kv)
            shared = tuple(cache[: batch.prompts, :, : batch.width] for cache in prompt_kv)
            # The query heads that share a key head are laid out as query positions: no repeated keys.
            q = q.unflatten(1, (k.shape[1], -1))
            if now.fused:
                group = batch.group[:n]
                both = (torch.cat([p.index_select(0, group), o], 2) for p, o in zip(shared, own, strict=True))
                mask = now.bias.expand(-1, -1, q.shape[2], -1)
                return F.scaled_dot_product_attention(q, *both, attn_mask=mask).flatten(1)
            return _attend(q, *shared, *own, now.bias, batch).flatten(1)

        return self(x, now.rotary, attend)

    def decode(self, x: Tensor, kernels, prompt_kv, own_kv, batch) -> Tensor:
        """The same for one token a row, x [n, d], through sampling.kernels.

        prompt_kv, own_kv: the layer's caches in `batch`, a DecodeBatch.
        """
        n = len(x)
        lengths, group = batch.lengths[:n], batch.group[:n]
        qkv = self.qkv(kernels.norm(x, self.norms[0]))
        q = kernels.prepare(qkv, *own_kv, self.head_norm, batch.rotary, lengths, batch.step, gated=self.gated)
        out = kernels.attend(q, *prompt_kv, *own_kv, lengths, group, batch.step)
        if self.gated:
            gate = qkv[:, : 2 * out.shape[1]].view(n, self.heads, 2, self.head_dim)[:, :, 1]
            out.view(n, self.heads, -1).mul_(gate.sigmoid())
        self.o.add_to(x, out)
        return self.decode_mlp(x, kernels)


def centred(norm: nn.Module) -> bool:
    """Whether an RMSNorm of transformers keeps weight - 1, as Qwen3.5's does."""
    return not hasattr(norm, "variance_epsilon")


def epsilon(norm: nn.Module) -> float:
    return norm.eps if centred(norm) else norm.variance_epsilon


def rms_norm(x: Tensor, norm: nn.Module) -> Tensor:
    """The RMSNorm module `norm` of transformers on x [..., d]."""
    if centred(norm):
        return F.rms_norm(x.float(), (x.shape[-1],), norm.weight.float() + 1, norm.eps).to(x.dtype)
    return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [N, heads, D], cos and sin [N, R]: the first R dimensions of each head are rotated."""
    R = cos.shape[-1]
    first, rest = x[..., :R], x[..., R:]
    a, b = first.chunk(2, -1)
    out = (first * cos[:, None]).addcmul_(torch.cat((-b, a), -1), sin[:, None])
    return torch.cat([out, rest], -1) if rest.shape[-1] else out


def _attend(q: Tensor, prompt_keys, prompt_values, keys, values, bias: Tensor, batch) -> Tensor:
    """softmax(q K^T / sqrt D + bias) V on a CPU, where products this small take half the time of fused attention.

    q [n, Hkv, H / Hkv, D]; prompt_keys, prompt_values [prompts, Hkv, P, D], read once for all rows of a prompt; keys,
    values [n, Hkv, S, D]; bias [n, 1, 1, P + S].
    """
    n, heads, rep, D = q.shape
    q = q * D**-0.5
    width, (prompts, most) = prompt_keys.shape[2], batch.members.shape

    def by_prompt(x: Tensor) -> Tensor:
        """[n, Hkv, rep, *] -> [prompts Hkv, most rep, *], rows in their prompt's place."""
        x = x.index_select(0, batch.members.flatten()).unflatten(0, (prompts, most))
        return x.transpose(1, 2).reshape(prompts * heads, most * rep, -1)

    def by_row(x: Tensor) -> Tensor:
        """The way back."""
        x = x.view(prompts, heads, most, rep, -1).transpose(1, 2).flatten(0, 1)
        return x.index_select(0, batch.place)

    # Scores against the prompt, by prompt, and against the row's own slots; one softmax over both.
    scores = torch.bmm(by_prompt(q), prompt_keys.flatten(0, 1).transpose(1, 2))
    own = torch.bmm(q.flatten(0, 1), keys.flatten(0, 1).transpose(1, 2)).unflatten(0, (n, heads))
    share = torch.cat([by_row(scores), own], -1).add_(bias).softmax(-1)
    out = by_row(torch.bmm(by_prompt(share[..., :width]), prompt_values.flatten(0, 1)))
    own = torch.bmm(share[..., width:].flatten(0, 1), values.flatten(0, 1))
    return out.add_(own.unflatten(0, (n, heads)))
