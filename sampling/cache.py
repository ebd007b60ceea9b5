"""sampling.cache"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sampling.decoder import _Layer
from sampling.noise import row_keys

SLOT_BUCKET = 128
"""Graphs without Triton attend to a multiple of so many slots."""


class _Batch:
    """The rows being decoded: their cache and what the step reads and writes, at fixed addresses for the graphs."""

    def __init__(self, model: nn.Module, layers: list[_Layer], rows: int, slots: int, max_new: int):
        weight = model.get_input_embeddings().weight
        shape, device = (rows, layers[0].kv_heads, slots, layers[0].head_dim), weight.device
        self.rows, self.slots, self.max_new, self.n = rows, slots, max_new, 0
        self.cache = [(weight.new_zeros(shape), weight.new_zeros(shape)) for _ in layers]
        """K, V [rows, Hkv, slots, D] of each layer."""
        self.last, self.lengths, self.keys, self.row, self.group, self.leader = (
            torch.zeros(rows, dtype=torch.long, device=device) for _ in range(6)
        )
        """[rows]: token sampled last, prompt length, noise key, row of the output, prompt number, first row with it."""
        self.done = torch.zeros(rows, dtype=torch.bool, device=device)
        self.step, self.prompt = (torch.zeros((), dtype=torch.long, device=device) for _ in range(2))
        """Index of the token sampled last; P, the slot of token 0."""
        self.tokens = torch.zeros((rows, max_new), dtype=torch.long, device=device)
        self.logprobs = torch.zeros((rows, max_new), dtype=torch.float32, device=device)
        positions = torch.arange(slots, device=device)[None]
        cos, sin = model.model.rotary_emb(weight[:1, None], positions)
        self.rotary = (cos[0].contiguous(), sin[0].contiguous())
        """cos, sin [slots, D]."""

    def fits(self, rows: int, slots: int, max_new: int) -> bool:
        return rows <= self.rows and slots <= self.slots and max_new <= self.max_new

    def begin(self, seeds: Sequence[int], lengths: list[int], group: list[int], width: int) -> None:
        """Reset for one call: rows b of prompt number group[b] and length lengths[b], padded to `width`."""
        device, self.n = self.last.device, len(seeds)
        self.keys[: self.n] = row_keys(torch.tensor(list(seeds), dtype=torch.long, device=device))
        self.lengths[: self.n] = torch.tensor(lengths, device=device)
        self.group[: self.n] = torch.tensor(group, device=device)
        self.row.copy_(torch.arange(self.rows, device=device))
        self.done.zero_()
        self.step.zero_()
        self.prompt.fill_(width)
        self._lead()

    def _lead(self) -> None:
        group = self.group[: self.n]
        self.leader[: self.n] = (group[:, None] == group).int().argmax(1)

    def keep(self, index: Tensor) -> None:
        """Move the rows `index` [m] (ascending) to the front and forget the others."""
        m = len(index)
        vectors = (self.last, self.lengths, self.keys, self.row, self.group, self.done)
        for tensor in (*vectors, *(t for kv in self.cache for t in kv)):
            tensor[:m] = tensor.index_select(0, index)
        self.n = m
        self._lead()
