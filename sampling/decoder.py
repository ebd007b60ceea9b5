"""The Qwen2, Qwen3 and Llama decoder written out over the model's own weights, for prompts and for one token a row.

    x <- x + W_o attend(rotate(norm_head(W_qkv norm(x))))        pre-norm attention, H query and Hkv key heads
    x <- x + W_down (act(W_gate norm(x)) * W_up norm(x))         gated MLP
    logits = W_head norm(x)

A transformers forward costs several milliseconds of Python a step; this one costs the launches, and a CUDA graph can
capture it. Products are StackedLinears, so the adapter's delta is in all of them. N: tokens of all rows, d: width of
the residual, D: of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from loguru import logger
from torch import Tensor, nn

from sampling.linear import StackedLinear

LEAN_TYPES = ("qwen2", "qwen3", "llama")
# Rotary frequencies that do not depend on the length of the row.
STATIC_ROPE = ("default", "linear", "llama3", "yarn")


def lean_reason(model: nn.Module) -> str | None:
    """Why the written-out decoder cannot run `model`, or None where it can."""
    config = model.config
    if config.model_type not in LEAN_TYPES:
        return f"{config.model_type} is not one of {', '.join(LEAN_TYPES)}"
    if set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
        return "some layers are not full attention"
    if (config.rope_parameters or {}).get("rope_type", "default") not in STATIC_ROPE:
        return "its rotary frequencies depend on the length"
    return None


class DecoderLayer:
    """One layer: pre-norm attention with grouped heads and rotary positions, then a gated MLP."""

    def __init__(self, layer: nn.Module):
        attn, mlp = layer.self_attn, layer.mlp
        self.norms = (layer.input_layernorm, layer.post_attention_layernorm)
        self.head_norm = None
        if hasattr(attn, "q_norm"):
            weights = torch.stack([attn.q_norm.weight.data, attn.k_norm.weight.data])
            self.head_norm = (weights, attn.q_norm.variance_epsilon)
        self.qkv = StackedLinear(attn.q_proj, attn.k_proj, attn.v_proj)
        self.o = StackedLinear(attn.o_proj)
        self.gate_up = StackedLinear(mlp.gate_proj, mlp.up_proj)
        self.down = StackedLinear(mlp.down_proj)
        self.linears = (self.qkv, self.o, self.gate_up, self.down)
        self.act = mlp.act_fn
        self.head_dim = attn.head_dim
        self.heads = attn.q_proj.weight.shape[0] // attn.head_dim
        self.kv_heads = attn.k_proj.weight.shape[0] // attn.head_dim

    def __call__(self, x: Tensor, rotary: tuple[Tensor, Tensor], attend) -> Tensor:
        """x [N, d], changed in place; rotary: cos, sin [N, D]; attend(q [N, H, D], k, v [N, Hkv, D]) -> [N, H D]."""
        qkv = self.qkv(rms_norm(x, self.norms[0])).unflatten(-1, (-1, self.head_dim))
        qk, v = qkv.split([self.heads + self.kv_heads, self.kv_heads], 1)
        if self.head_norm is not None:
            weights, eps = self.head_norm
            qk = F.rms_norm(qk, (self.head_dim,), None, eps).split([self.heads, self.kv_heads], 1)
            qk = torch.cat([qk[0] * weights[0], qk[1] * weights[1]], 1)
        q, k = _rotate(qk, *rotary).split([self.heads, self.kv_heads], 1)
        self.o.add_to(x, attend(q, k, v))
        gate, up = self.gate_up(rms_norm(x, self.norms[1])).chunk(2, -1)
        self.down.add_to(x, self.act(gate) * up)
        return x

    def decode(self, x: Tensor, kernels, rotary: tuple[Tensor, Tensor], keys: Tensor, values: Tensor, batch) -> Tensor:
        """The same for one token a row, x [n, d], through sampling.kernels; rotary: cos, sin [positions, D].

        keys, values: the layer's cache in `batch`, a DecodeBatch.
        """
        n, at = len(x), (batch.prompt, batch.step)
        qkv = self.qkv(rms_norm(x, self.norms[0]))
        q = kernels.prepare(qkv, keys, values, self.head_norm, rotary, batch.lengths, *at)
        self.o.add_to(x, kernels.attend(q, keys, values, batch.lengths[:n], batch.leader, *at))
        self.down.add_to(x, kernels.silu_mul(self.gate_up(rms_norm(x, self.norms[1]))))
        return x


class Decoder:
    """All layers of one model, over its own weights."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.layers = [DecoderLayer(layer) for layer in model.model.layers]
        # The module sampling.kernels, where the model runs on a GPU and has shapes that fit.
        self.kernels = None
        if model.get_input_embeddings().weight.is_cuda:
            self.kernels = load_kernels(self.layers[0])
        # Of the adapter's materialised delta in bf16 models: 8, which needs the kernels, or 16.
        self.delta_bits = 8

    @property
    def linears(self) -> list[StackedLinear]:
        return [linear for layer in self.layers for linear in layer.linears]

    def refresh(self) -> list[tuple[int, ...]]:
        """Take over the current delta_S. Returns the addresses of the weights: where they change, graphs are void."""
        kernels = self.kernels if self.delta_bits == 8 else None
        return [linear.refresh(kernels) for linear in self.linears]

    def release(self) -> None:
        """Give the materialised delta back."""
        for linear in self.linears:
            linear.release()

    def prefill(self, ids: Tensor, lengths: list[int], batch, rows: Tensor, source: Tensor) -> Tensor:
        """Fill the cache of `rows` from prompts ids [p, P], padded on the right; logits [p, V] after each prompt.

        Row rows[i] of `batch` takes prompt source[i].
        """
        p, width = ids.shape
        rotary = tuple(t[:width].repeat(p, 1) for t in batch.rotary)
        x = F.embedding(ids.flatten(), self.model.get_input_embeddings().weight)
        for layer, (keys, values) in zip(self.layers, batch.cache, strict=True):

            def attend(q, k, v, keys=keys, values=values):
                q, k, v = (t.unflatten(0, (p, width)).transpose(1, 2) for t in (q, k, v))
                keys[rows, :, :width] = k.index_select(0, source)
                values[rows, :, :width] = v.index_select(0, source)
                out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
                return out.transpose(1, 2).reshape(p * width, -1)

            x = layer(x, rotary, attend)
        last = torch.tensor([i * width + n - 1 for i, n in enumerate(lengths)], device=ids.device)
        return self.model.lm_head(rms_norm(x[last], self.model.model.norm))

    def step(self, batch, n: int, slots: int) -> Tensor:
        """Logits [n, V] after the last tokens of the first n rows of `batch`, attending to the first `slots` slots."""
        x = F.embedding(batch.last[:n], self.model.get_input_embeddings().weight)
        if self.kernels is not None:
            for layer, (keys, values) in zip(self.layers, batch.cache, strict=True):
                x = layer.decode(x, self.kernels, batch.rotary, keys, values, batch)
        else:
            x = self._layers_in_torch(x, batch, n, slots)
        return self.model.lm_head(rms_norm(x, self.model.model.norm))

    def _layers_in_torch(self, x: Tensor, batch, n: int, slots: int) -> Tensor:
        at, lengths = batch.prompt + batch.step, batch.lengths[:n]
        rotary = tuple(t.index_select(0, lengths + batch.step) for t in batch.rotary)

        # A row sees its prompt and its own completion, not the gap between a short prompt and slot P.
        slot = torch.arange(slots, device=x.device)
        visible = (slot < lengths[:, None]) | ((slot >= batch.prompt) & (slot <= at))
        bias = torch.zeros_like(visible, dtype=x.dtype).masked_fill_(~visible, float("-inf"))[:, None, None]

        for layer, (keys, values) in zip(self.layers, batch.cache, strict=True):

            def attend(q, k, v, keys=keys[:n], values=values[:n]):
                keys.index_copy_(2, at[None], k[:, :, None])
                values.index_copy_(2, at[None], v[:, :, None])
                # The query heads that share a key head are laid out as query positions: no repeated keys.
                q, keys, values = q.unflatten(1, (k.shape[1], -1)), keys[:, :, :slots], values[:, :, :slots]
                return _attend(q, keys, values, bias).flatten(1)

            x = layer(x, rotary, attend)
        return x


def load_kernels(layer: DecoderLayer):
    """The module sampling.kernels, or None where Triton is missing or a shape is none of its."""
    if layer.head_dim & (layer.head_dim - 1) or type(layer.act).__name__ not in ("SiLU", "SiLUActivation"):
        return None
    try:
        from sampling import kernels
    except ImportError as error:
        logger.warning(f"decoding without Triton kernels ({error}): slower")
        return None
    return kernels


def rms_norm(x: Tensor, norm: nn.Module) -> Tensor:
    """The RMSNorm module `norm` of transformers on x [..., d], as one kernel."""
    return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [N, heads, D], cos and sin [N, D]."""
    a, b = x.chunk(2, -1)
    return (x * cos[:, None]).addcmul_(torch.cat((-b, a), -1), sin[:, None])


def _attend(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """softmax(q K^T / sqrt D + bias) V: q [n, Hkv, H / Hkv, D], keys, values [n, Hkv, S, D], bias [n, 1, 1, S]."""
    if q.dtype != torch.float32 or q.is_cuda:
        mask = bias.expand(-1, -1, q.shape[2], -1)
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
    # Products this small take half the time of the CPU's fused attention.
    q3, keys, values = (t.flatten(0, 1) for t in (q * q.shape[-1] ** -0.5, keys, values))
    scores = torch.bmm(q3, keys.transpose(1, 2)).unflatten(0, q.shape[:2]).add_(bias)
    return torch.bmm(scores.softmax(-1).flatten(0, 1), values).unflatten(0, q.shape[:2])
