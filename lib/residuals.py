"""The residual stream of completions, after one decoder layer and in the mean over their tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lib.packing import Packed, Passes


def layer_at_depth(n_layers: int, fraction: float = 0.66) -> int:
    """Index (from 0) of the decoder layer after which `fraction` (0 to 1) of the depth is done: 23 of 36, 15 of 24."""
    return max(0, round(n_layers * fraction) - 1)


class _Enough(Exception):
    """Raised by the hook to end a forward whose later layers nobody needs."""


class ResidualMean:
    """Captures h_mean [B, d] fp32, the mean residual after decoder layer `layer` over the completion of each row.

    with ResidualMean(model, layer, packed, stop=True) as seen:
        packed.hidden(model)
    seen.h_mean

    `model` is a transformers causal LM with its decoder layers in model.model.layers (Qwen2, Qwen3, Qwen3.5).
    With `stop` the forward ends after the layer; without, it runs on undisturbed. An empty completion gives zeros.
    h_mean carries no gradient. Raises ValueError for a layer that the model lacks, RuntimeError on reading h_mean
    before a forward.
    """

    def __init__(self, model: nn.Module, layer: int, packed: Packed, stop: bool = False):
        layers = model.model.layers
        if not 0 <= layer < len(layers):
            raise ValueError(f"no decoder layer {layer}: the model has {len(layers)}, counted from 0")
        self.module = layers[layer]
        self.packed = packed
        self.stop = stop
        self._h_mean: Tensor | None = None

    @property
    def h_mean(self) -> Tensor:
        if self._h_mean is None:
            raise RuntimeError("no forward has passed the layer yet: run the model inside the with block first")
        return self._h_mean

    def __enter__(self) -> ResidualMean:
        self.handle = self.module.register_forward_hook(self._capture)
        return self

    def __exit__(self, kind, error, trace) -> bool:
        self.handle.remove()
        return self.stop and kind is _Enough

    def _capture(self, module, inputs, output) -> None:
        hidden = (output[0] if isinstance(output, tuple) else output).detach()
        assert hidden.shape[:2] == self.packed.ids.shape, f"{tuple(hidden.shape)} for {tuple(self.packed.ids.shape)}"
        rows = hidden.flatten(0, 1)[self.packed.completion].split(self.packed.lengths)
        zero = hidden.new_zeros(hidden.shape[-1], dtype=torch.float32)
        # Row by row: N x d fp32 would be gigabytes.
        self._h_mean = torch.stack([row.float().mean(0) if len(row) else zero for row in rows])
        if self.stop:
            raise _Enough


@torch.no_grad()
def residual_means(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    layer: int,
    passes: Passes,
) -> Tensor:
    """h_mean [B, d] fp32 on the model's device, for token ids prompt + completion of each row, at the current weights.

    Rows run up to `layer` only: two thirds of a forward, and no head. Dropout would make it a draw, so the model must
    be in eval mode or free of dropout (Qwen is).
    """
    means: list[Tensor | None] = [None] * len(prompts)
    prompts, completions = [list(p) for p in prompts], [list(c) for c in completions]
    for rows in passes.split(prompts, completions):
        packed = passes.pack([prompts[b] for b in rows], [completions[b] for b in rows])
        with ResidualMean(model, layer, packed, stop=True) as seen:
            packed.hidden(model)
        for b, h in zip(rows, seen.h_mean, strict=True):
            means[b] = h
    return torch.stack(means)
