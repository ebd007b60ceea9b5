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

    def decode(self, x: Tensor, kernels, rotary: tuple[Tensor, Tensor], prompt_kv, own_kv, batch) -> Tensor:
        """The same for one token a row, x [n, d], through sampling.kernels; rotary: cos, sin [positions, D].

        prompt_kv, own_kv: the layer's caches in `batch`, a DecodeBatch.
        """
        n = len(x)
        lengths, group = batch.lengths[:n], batch.group[:n]
        qkv = self.qkv(rms_norm(x, self.norms[0]))
        q = kernels.prepare(qkv, *own_kv, self.head_norm, rotary, lengths, batch.step)
        self.o.add_to(x, kernels.attend(q, *prompt_kv, *own_kv, lengths, group, batch.step))
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

    def prefill(self, ids: Tensor, lengths: list[int], batch, first: int) -> Tensor:
        """Fill the cache of prompts first, first + 1, ... of `batch` from ids [p, P], padded on the right.

        Logits [p, V] after each prompt; lengths: its tokens.
        """
        p, width = ids.shape
        rotary = tuple(t[:width].repeat(p, 1) for t in batch.rotary)
        x = F.embedding(ids.flatten(), self.model.get_input_embeddings().weight)
        for layer, (keys, values) in zip(self.layers, batch.prompt_cache, strict=True):

            def attend(q, k, v, keys=keys, values=values):
                q, k, v = (t.unflatten(0, (p, width)).transpose(1, 2) for t in (q, k, v))
                keys[first : first + p, :, :width] = k
                values[first : first + p, :, :width] = v
                out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
                return out.transpose(1, 2).reshape(p * width, -1)

            x = layer(x, rotary, attend)
        last = torch.tensor([i * width + n - 1 for i, n in enumerate(lengths)], device=ids.device)
        return self.model.lm_head(rms_norm(x[last], self.model.model.norm))

    def step(self, batch, n: int, slots: int) -> Tensor:
        """Logits [n, V] after the last tokens of the first n rows of `batch`.

        slots: a row attends to its prompt and to so many slots of its own; those after `batch.step` are masked.
        """
        x = F.embedding(batch.last[:n], self.model.get_input_embeddings().weight)
        layers = zip(self.layers, batch.prompt_cache, batch.cache, strict=True)
        if self.kernels is not None:
            for layer, prompt_kv, own_kv in layers:
                x = layer.decode(x, self.kernels, batch.rotary, prompt_kv, own_kv, batch)
            return self.model.lm_head(rms_norm(x, self.model.model.norm))

        # In plain torch: what a row sees of its prompt and of itself.
        at, lengths = batch.step, batch.lengths[:n]
        rotary = tuple(t.index_select(0, lengths + at) for t in batch.rotary)
        visible = torch.arange(batch.width, device=x.device) < lengths[:, None]
        visible = torch.cat([visible, (torch.arange(slots, device=x.device) <= at).expand(n, -1)], 1)
        bias = torch.zeros_like(visible, dtype=x.dtype).masked_fill_(~visible, float("-inf"))[:, None, None]
        fused = x.is_cuda or x.dtype != torch.float32
        for layer, prompt_kv, own_kv in layers:

            def attend(q, k, v, prompt_kv=prompt_kv, own_kv=own_kv):
                for cache, new in zip(own_kv, (k, v), strict=True):
                    cache[:n].index_copy_(2, at[None], new[:, :, None])
                own = tuple(cache[:n, :, :slots] for cache in own_kv)
                shared = tuple(cache[: batch.prompts, :, : batch.width] for cache in prompt_kv)
                # The query heads that share a key head are laid out as query positions: no repeated keys.
                q = q.unflatten(1, (k.shape[1], -1))
                if fused:
                    group = batch.group[:n]
                    both = (torch.cat([p.index_select(0, group), o], 2) for p, o in zip(shared, own, strict=True))
                    mask = bias.expand(-1, -1, q.shape[2], -1)
                    return F.scaled_dot_product_attention(q, *both, attn_mask=mask).flatten(1)
                return _attend(q, *shared, *own, bias, batch).flatten(1)

            x = layer(x, rotary, attend)
        return self.model.lm_head(rms_norm(x, self.model.model.norm))


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
