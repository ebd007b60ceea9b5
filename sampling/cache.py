"""The rows being decoded: their keys and values, and what a step reads and writes, at fixed addresses for the graphs.

    slots [0, P)   the prompt, padded on the right to P
    slot  P + t    the completion's token y_t

Prompts are padded on the right rather than on the left, so that prefill is plainly causal and needs no mask; the gap
between a short prompt and slot P is masked in decode. Equal prompts are prefilled once. Rows that ended are dropped by
compacting the others to the front.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sampling.decoder import DecoderLayer
from sampling.noise import row_keys


class DecodeBatch:
    """Memory of at most `rows` rows of `slots` slots; `n` of them are being decoded."""

    def __init__(self, model: nn.Module, layers: list[DecoderLayer], rows: int, slots: int, max_new: int):
        weight = model.get_input_embeddings().weight
        device = weight.device
        shape = (rows, layers[0].kv_heads, slots, layers[0].head_dim)
        self.rows = rows
        self.slots = slots
        self.max_new = max_new
        self.n = 0
        # K, V [rows, Hkv, slots, D] of each layer.
        self.cache = [(weight.new_zeros(shape), weight.new_zeros(shape)) for _ in layers]

        # [rows] int64: the token sampled last, prompt length, noise key, row of the output, number of the prompt, and
        # the first row with the same prompt, whose keys and values a kernel reads for all of them.
        def zeros() -> Tensor:
            return torch.zeros(rows, dtype=torch.long, device=device)

        self.last = zeros()
        self.lengths = zeros()
        self.keys = zeros()
        self.row = zeros()
        self.group = zeros()
        self.leader = zeros()
        self.done = torch.zeros(rows, dtype=torch.bool, device=device)

        # Scalars: the index of the token sampled last; P, the slot of token 0.
        self.step = torch.zeros((), dtype=torch.long, device=device)
        self.prompt = torch.zeros((), dtype=torch.long, device=device)

        # What was sampled, by row of the output.
        self.tokens = torch.zeros((rows, max_new), dtype=torch.long, device=device)
        self.logprobs = torch.zeros((rows, max_new), dtype=torch.float32, device=device)

        # cos, sin [slots, D].
        positions = torch.arange(slots, device=device)[None]
        cos, sin = model.model.rotary_emb(weight[:1, None], positions)
        self.rotary = (cos[0].contiguous(), sin[0].contiguous())

    def fits(self, rows: int, slots: int, max_new: int) -> bool:
        """Whether a call of this size needs no new memory."""
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
        self._find_leaders()

    def _find_leaders(self) -> None:
        group = self.group[: self.n]
        self.leader[: self.n] = (group[:, None] == group).int().argmax(1)

    def keep(self, index: Tensor) -> None:
        """Move the rows `index` [m] (ascending) to the front and forget the others."""
        m = len(index)
        vectors = (self.last, self.lengths, self.keys, self.row, self.group, self.done)
        for tensor in (*vectors, *(t for kv in self.cache for t in kv)):
            tensor[:m] = tensor.index_select(0, index)
        self.n = m
        self._find_leaders()
