"""The rows being decoded: their keys and values, and what a step reads and writes, at fixed addresses for the graphs.

    prompt_cache   K, V [prompts, Hkv, P, D] a layer: a distinct prompt once, padded on the right to P
    cache          K, V [rows, Hkv, T, D] a layer: slot t of row b has the completion's token y_t; a gated delta net's
                   inputs of the convolution and state, which hold the row's prompt too

Row b attends to prompt group[b] and to its own slots. Prompts are padded on the right rather than on the left, so that
prefill is plainly causal and needs no mask; the padding is masked in decode. Rows that ended are dropped by compacting
the others to the front, in their order; so are prompts without a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sampling.layers import MixerLayer
from sampling.noise import row_keys


class DecodeBatch:
    """Memory of at most `rows` rows and `prompts` prompts; `n` rows are being decoded."""

    def __init__(self, model: nn.Module, layers: list[MixerLayer], rows: int, prompts: int, width: int, max_new: int):
        """width: slots of a prompt; max_new: slots of a completion."""
        weight = model.get_input_embeddings().weight
        device = weight.device
        self.size = (rows, prompts, width, max_new)
        self.n = 0

        # By layer: tensors by prompt, and tensors by row.
        caches = [layer.caches(weight, *self.size) for layer in layers]
        self.prompt_cache: list[tuple[Tensor, ...]] = [prompt for prompt, _ in caches]
        self.cache: list[tuple[Tensor, ...]] = [own for _, own in caches]
        # Whether a step changes what it read: a gated delta net's state, which has nothing by prompt.
        self.has_state = not all(self.prompt_cache)

        # [rows] int64: the token sampled last, prompt length, noise key, row of the output and number of the prompt.
        def zeros() -> Tensor:
            return torch.zeros(rows, dtype=torch.long, device=device)

        self.last = zeros()
        self.lengths = zeros()
        self.keys = zeros()
        self.row = zeros()
        self.group = zeros()
        self.done = torch.zeros(rows, dtype=torch.bool, device=device)

        # Scalar: the index of the token sampled last.
        self.step = torch.zeros((), dtype=torch.long, device=device)

        # What was sampled, by row of the output.
        self.tokens = torch.zeros((rows, max_new), dtype=torch.long, device=device)
        self.logprobs = torch.zeros((rows, max_new), dtype=torch.float32, device=device)

        # cos, sin [width + max_new, R]; Qwen3.5's positions are three, of time, height and width, equal in text.
        positions = torch.arange(width + max_new, device=device)[None]
        if hasattr(model.model.rotary_emb, "mrope_section"):
            positions = positions.expand(3, 1, -1)
        cos, sin = model.model.rotary_emb(weight[:1, None], positions)
        self.rotary = (cos[0].contiguous(), sin[0].contiguous())

    def begin(self, seeds: Sequence[int], lengths: list[int], group: list[int]) -> None:
        """Reset for one call: rows b of prompt number group[b] and prompt length lengths[b]."""
        device, self.n = self.last.device, len(seeds)
        # Slots of a prompt that a step in plain torch looks at; a captured step keeps its shapes.
        self.width = max(lengths) if device.type == "cpu" else self.size[2]
        self.keys[: self.n] = row_keys(torch.tensor(list(seeds), dtype=torch.long, device=device))
        self.lengths[: self.n] = torch.tensor(lengths, device=device)
        self.group[: self.n] = torch.tensor(group, device=device)
        self.row.copy_(torch.arange(len(self.row), device=device))
        self.done.zero_()
        self.step.zero_()
        self._find_members()

    def keep(self, index: Tensor) -> None:
        """Move the rows `index` [m] (ascending) to the front and forget the others, and prompts without a row."""
        m = len(index)
        vectors = (self.last, self.lengths, self.keys, self.row, self.group, self.done)
        for tensor in (*vectors, *(t for own in self.cache for t in own)):
            tensor[:m] = tensor.index_select(0, index)
        self.n = m

        used, group = self.group[:m].unique(return_inverse=True)
        if len(used) < self.prompts:
            self.group[:m] = group
            for tensor in (t for own in self.prompt_cache for t in own):
                tensor[: len(used)] = tensor.index_select(0, used)
        self._find_members()

    def _find_members(self) -> None:
        """Rows of each prompt, for a CPU: members [prompts, most rows] int64, row 0 where there are fewer; place [n],
        where each row stands in members.flatten()."""
        group = self.group[: self.n]
        self.prompts = int(group.max()) + 1
        if group.is_cuda:
            return
        order = group.argsort(stable=True)
        counts = group.bincount()
        rank = torch.empty_like(group)
        rank[order] = torch.arange(self.n) - (counts.cumsum(0) - counts)[group[order]]
        most = int(counts.max())
        self.place = group * most + rank
        self.members = torch.zeros(len(counts) * most, dtype=torch.long).index_put_((self.place,), torch.arange(self.n))
        self.members = self.members.view(len(counts), most)
