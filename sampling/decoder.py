"""The Qwen2, Qwen3, Qwen3.5 and Llama decoders written out over the model's own weights: prompts, and one token a row.

    x = embedding;  each layer of sampling/layers.py or sampling/delta_net.py;  logits = W_head norm(x)

A transformers forward costs several milliseconds of Python a step; this one costs the launches, and a CUDA graph can
capture it. Products are StackedLinears, so the adapter's delta is in all of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from loguru import logger
from torch import Tensor, nn

from lib.families import other_architecture
from sampling.delta_net import DeltaNetLayer
from sampling.layers import DecoderLayer, MixerLayer, PrefillSlice, TorchStep, rms_norm
from sampling.linear import StackedLinear

# Rotary frequencies that do not depend on the length of the row.
STATIC_ROPE = ("default", "linear", "llama3", "yarn")


def lean_reason(model: nn.Module) -> str | None:
    """Why the written-out decoder cannot run `model`, or None where it can."""
    if reason := other_architecture(model.config):
        return reason
    if (model.config.rope_parameters or {}).get("rope_type", "default") not in STATIC_ROPE:
        return "its rotary frequencies depend on the length"
    return None


class Decoder:
    """All layers of one model, over its own weights."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.layers: list[MixerLayer] = [
            (DeltaNetLayer if hasattr(layer, "linear_attn") else DecoderLayer)(layer) for layer in model.model.layers
        ]
        # The module sampling.kernels, where the model runs on a GPU and has shapes that fit.
        self.kernels = None
        if model.get_input_embeddings().weight.is_cuda:
            self.kernels = load_kernels(self.layers)

    @property
    def linears(self) -> list[StackedLinear]:
        return [linear for layer in self.layers for linear in layer.linears]

    def refresh(self) -> list[tuple[int, ...]]:
        """Take over the current delta_S. Returns the addresses of the weights: where they change, graphs are void."""
        return [linear.refresh() for linear in self.linears]

    def release(self) -> None:
        """Give the merged weights back."""
        for linear in self.linears:
            linear.release()

    def prefill(self, ids: Tensor, lengths: list[int], batch, first: int) -> Tensor:
        """Fill the cache of prompts first, first + 1, ... of `batch` from ids [p, P], padded on the right.

        Logits [p, V] after each prompt; lengths: its tokens.
        """
        p, width = ids.shape
        rotary = tuple(t[:width].repeat(p, 1) for t in batch.rotary)
        part = PrefillSlice(batch, first, torch.tensor(lengths, device=ids.device), width, rotary)
        x = F.embedding(ids.flatten(), self.model.get_input_embeddings().weight)
        for layer, prompt_cache, own_cache in zip(self.layers, batch.prompt_cache, batch.cache, strict=True):
            x = layer.prefill(x, prompt_cache, own_cache, part)
        last = torch.tensor([i * width + n - 1 for i, n in enumerate(lengths)], device=ids.device)
        return self.model.lm_head(rms_norm(x[last], self.model.model.norm))

    def step(self, batch, n: int, slots: int) -> Tensor:
        """Logits [n, V] after the last tokens of the first n rows of `batch`.

        slots: a row attends to its prompt and to so many slots of its own; those after `batch.step` are masked.
        """
        x = F.embedding(batch.last[:n], self.model.get_input_embeddings().weight)
        layers = zip(self.layers, batch.prompt_cache, batch.cache, strict=True)
        if self.kernels is not None:
            for layer, prompt_cache, own_cache in layers:
                x = layer.decode(x, self.kernels, prompt_cache, own_cache, batch)
            return self.model.lm_head(self.kernels.norm(x, self.model.model.norm))

        # In plain torch: what a row sees of its prompt and of itself.
        at, lengths = batch.step, batch.lengths[:n]
        rotary = tuple(t.index_select(0, lengths + at) for t in batch.rotary)
        visible = torch.arange(batch.width, device=x.device) < lengths[:, None]
        visible = torch.cat([visible, (torch.arange(slots, device=x.device) <= at).expand(n, -1)], 1)
        bias = torch.zeros_like(visible, dtype=x.dtype).masked_fill_(~visible, float("-inf"))[:, None, None]
        now = TorchStep(batch, n, slots, rotary, bias, fused=x.is_cuda or x.dtype != torch.float32)
        for layer, prompt_cache, own_cache in layers:
            x = layer.step(x, prompt_cache, own_cache, now)
        return self.model.lm_head(rms_norm(x, self.model.model.norm))


def load_kernels(layers: list[MixerLayer]):
    """The module sampling.kernels, or None where Triton is missing or a shape is none of its."""
    if not all(layer.fits_kernels() for layer in layers):
        return None
    try:
        from sampling import kernels
    except ImportError as error:
        logger.warning(f"decoding without Triton kernels ({error}): slower")
        return None
    return kernels
