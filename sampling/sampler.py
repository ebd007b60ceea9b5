"""sampling.sampler"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from loguru import logger
from torch import Tensor, nn

from sampling.cache import SLOT_BUCKET, _Batch
from sampling.decoder import _attend, _Layer, _load_kernels, _norm, lean_reason
from sampling.noise import draw, row_keys

PREFILL_TOKENS = 16384
"""Tokens of one prefill slice: bounds the MLP's activations."""


@dataclass
class Rollout:
    """Completions of one call, on the model's device."""

    tokens: Tensor
    """[B, T] int64 completion tokens, pad_id beyond the end; T <= max_new, trimmed to the longest."""
    mask: Tensor
    """[B, T] bool, True on completion tokens, the end token included."""
    logprobs: Tensor
    """[B, T] fp32 log softmax(logits / temperature) over the full vocabulary at the sampled token, 0 off the mask."""
    lengths: Tensor
    """[B] int64 = mask.sum(1)."""
    decode_steps: int
    prefill_s: float
    decode_s: float


class Sampler:
    """Samples completions of a transformers causal LM, adapted or plain; see the module docstring.

    eos_ids: end tokens; pad_id fills tokens beyond the end; top_k 0 samples from the whole vocabulary. engine: "auto",
    "graph", "eager" or "generate". max_batch: the most rows decoded together (None: all of a call).
    Raises ValueError where the engine asked for cannot run the model.
    """

    def __init__(self, model: nn.Module, *, eos_ids: Sequence[int], pad_id: int, temperature: float = 1.0,
                 top_k: int = 20, engine: str = "auto", max_batch: int | None = None):  # fmt: skip
        if engine not in ("auto", "graph", "eager", "generate"):
            raise ValueError(f"engine {engine!r} is none of auto, graph, eager, generate")
        self.model, self.pad_id, self.temperature, self.top_k = model, pad_id, temperature, top_k
        self.device, self.max_batch = model.get_input_embeddings().weight.device, max_batch
        self.eos = torch.tensor(list(eos_ids), dtype=torch.long, device=self.device)
        cuda, reason = self.device.type == "cuda", lean_reason(model)
        if engine in ("graph", "eager") and reason:
            raise ValueError(f"engine {engine} cannot run this model ({reason}): use engine auto or generate")
        if engine == "graph" and not cuda:
            raise ValueError("engine graph needs a CUDA device: use engine auto or eager")
        if engine == "auto":
            engine = "generate" if reason else "graph" if cuda else "eager"
            if reason:
                logger.info(f"sampling through transformers generate: {reason}")
        self.engine, self.layers = engine, []
        if engine != "generate":
            self.layers = [_Layer(layer) for layer in model.model.layers]
        self.kernels = _load_kernels(self.layers[0]) if cuda and self.layers else None
        self.check_every = 8 if cuda else 1
        """Decode steps between two looks at which rows have ended: a look waits for the device."""
        self.delta_bits = 8
        """Of the adapter's materialised delta in bf16 models: 8, which needs the Triton kernels, or 16."""
        self._batch: _Batch | None = None
        self._graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}
        self._addresses: list[tuple[int, int]] = []

    def free(self) -> None:
        """Give the cache, the graphs and the materialised delta back; the next call makes them again."""
        self._batch, self._addresses = None, []
        self._graphs.clear()
        for layer in self.layers:
            for linear in layer.linears:
                linear.release()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.no_grad()
    def sample(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], max_new: int) -> Rollout:
        """One completion of at most max_new tokens for each prompt (token ids); seeds: one int64 a row."""
        if len(prompts) != len(seeds) or not prompts or min(map(len, prompts)) == 0 or max_new < 1:
            raise ValueError("sample() needs at least one prompt, no empty prompt, one seed a prompt and max_new >= 1")
        run = self._generate if self.engine == "generate" else self._decode
        size = self.max_batch or len(prompts)
        parts = [run(prompts[i : i + size], seeds[i : i + size], max_new) for i in range(0, len(prompts), size)]
        width = max(p[0].shape[1] for p in parts)
        tokens = torch.cat([F.pad(p[0], (0, width - p[0].shape[1]), value=self.pad_id) for p in parts])
        mask = torch.cat([F.pad(p[1], (0, width - p[1].shape[1]), value=False) for p in parts])
        logprobs = torch.cat([F.pad(p[2], (0, width - p[2].shape[1]), value=0.0) for p in parts])
        return Rollout(tokens, mask, logprobs, mask.sum(1), *(sum(p[i] for p in parts) for i in (3, 4, 5)))

    def _finish(self, tokens: Tensor, logprobs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """tokens, logprobs [B, T] as sampled -> tokens, mask, logprobs trimmed and blanked beyond the first end."""
        ends = torch.isin(tokens, self.eos).long()
        mask = ends.cumsum(1) - ends == 0
        width = int(mask.sum(1).max())
        tokens, mask, logprobs = tokens[:, :width], mask[:, :width], logprobs[:, :width]
        return tokens.masked_fill(~mask, self.pad_id), mask, logprobs.masked_fill(~mask, 0.0)

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    # --- eager and graph ---

    def _decode(self, prompts, seeds, max_new: int) -> tuple[Tensor, Tensor, Tensor, int, float, float]:
        start = self._clock()
        self._refresh()
        batch = self._prefill(prompts, seeds, max_new)
        middle, steps = self._clock(), 0
        while steps + 1 < max_new:
            alive = int((~batch.done[: batch.n]).sum())
            if alive == 0:
                break
            if (size := self._size(alive)) <= 0.85 * batch.n:
                order = batch.done[: batch.n].int().argsort(stable=True)  # those that go on, then some that ended
                batch.keep(order[:size].sort().values)
            for _ in range(min(self.check_every, max_new - 1 - steps)):
                self._advance(batch, prompt_slots=max(map(len, prompts)), steps=steps)
                steps += 1
        n = len(prompts)
        result = self._finish(batch.tokens[:n, : steps + 1], batch.logprobs[:n, : steps + 1])
        return *result, steps, middle - start, self._clock() - middle

    def _refresh(self) -> None:
        """Take over the current delta_S; graphs stay valid while every weight stays where it is."""
        kernels = self.kernels if self.delta_bits == 8 else None
        addresses = [linear.refresh(kernels) for layer in self.layers for linear in layer.linears]
        if addresses != self._addresses:
            self._graphs.clear()
            self._addresses = addresses

    def _size(self, alive: int) -> int:
        """The batch size to decode `alive` rows with: exact without graphs, else one of a few to capture."""
        if self.engine != "graph":
            return alive
        unit = next((u for limit, u in ((2, 1), (4, 2), (8, 4), (32, 8), (128, 16)) if alive <= limit), 32)
        return -(-alive // unit) * unit

    def _advance(self, batch: _Batch, prompt_slots: int, steps: int) -> None:
        """One decode step. The first of a shape runs uncaptured, which warms it up, and is captured for the others."""
        bucket = SLOT_BUCKET if self.engine == "graph" else 1
        slots = min(batch.slots, -(-(prompt_slots + steps + 1) // bucket) * bucket)
        key = (batch.n, 0 if self.kernels else slots)
        if key in self._graphs:
            return self._graphs[key].replay()
        try:
            self._step(batch, batch.n, slots)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if self.kernels is None:
                raise
            logger.warning(f"the Triton decode kernels failed ({error}): going on with plain torch, slower")
            self.kernels = None
            for layer in self.layers:
                for linear in layer.linears:
                    linear.release()
            self._refresh()
            return self._step(batch, batch.n, slots)
        if self.engine == "graph":
            self._capture(key, batch, slots)

    def _capture(self, key: tuple[int, int], batch: _Batch, slots: int) -> None:
        graph = torch.cuda.CUDAGraph()
        pool = next(iter(self._graphs.values())).pool() if self._graphs else None
        try:
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                self._step(batch, batch.n, slots)
            self._graphs[key] = graph
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            logger.warning(f"CUDA graph capture failed ({error}): going on without graphs, several times slower")
            self.engine = "eager"

    def _prefill(self, prompts, seeds, max_new: int) -> _Batch:
        """Run each distinct prompt once, copy its keys and values to its rows and sample every row's first token."""
        distinct = {p: i for i, p in enumerate(dict.fromkeys(map(tuple, prompts)))}
        width, n, group = max(map(len, distinct)), len(prompts), [distinct[tuple(p)] for p in prompts]
        if self._batch is None or not self._batch.fits(n, width + max_new, max_new):
            self._batch = None
            self._graphs.clear()
            slots = width + max_new if self.device.type == "cpu" else -(-(width + max_new) // 64) * 64
            self._batch = _Batch(self.model, self.layers, n, slots, max_new)
        batch = self._batch
        batch.begin(seeds, [len(p) for p in prompts], group, width)
        per_slice, logits = max(1, PREFILL_TOKENS // width), []
        for first in range(0, len(distinct), per_slice):
            part = list(distinct)[first : first + per_slice]
            pairs = [(row, i - first) for row, i in enumerate(group) if first <= i < first + len(part)]
            ids = torch.tensor([list(p) + [0] * (width - len(p)) for p in part], device=self.device)
            rows, source = torch.tensor(pairs, device=self.device).unbind(1)
            logits.append(self._prefill_slice(ids, [len(p) for p in part], batch, rows, source))
        self._emit(batch, n, torch.cat(logits).index_select(0, torch.tensor(group, device=self.device)), batch.step)
        return batch

    def _prefill_slice(self, ids: Tensor, lengths: list[int], batch: _Batch, rows: Tensor, source: Tensor) -> Tensor:
        """Fill the cache of `rows` from prompts ids [p, P] (row rows[i] takes prompt source[i]); logits [p, V]."""
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
        last = torch.tensor([i * width + n - 1 for i, n in enumerate(lengths)], device=self.device)
        return self.model.lm_head(_norm(x[last], self.model.model.norm))

    def _step(self, batch: _Batch, n: int, slots: int) -> None:
        """Feed the last tokens of the first n rows, attend to the first `slots` slots, sample the next tokens."""
        x = F.embedding(batch.last[:n], self.model.get_input_embeddings().weight)
        if self.kernels is not None:
            for layer, (keys, values) in zip(self.layers, batch.cache, strict=True):
                x = layer.decode(x, self.kernels, batch.rotary, keys, values, batch)
        else:
            x = self._layers_in_torch(x, batch, n, slots)
        self._emit(batch, n, self.model.lm_head(_norm(x, self.model.model.norm)), batch.step + 1)

    def _layers_in_torch(self, x: Tensor, batch: _Batch, n: int, slots: int) -> Tensor:
        at, lengths = batch.prompt + batch.step, batch.lengths[:n]
        rotary = tuple(t.index_select(0, lengths + batch.step) for t in batch.rotary)
        slot = torch.arange(slots, device=self.device)
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

    def _emit(self, batch: _Batch, n: int, logits: Tensor, step: Tensor) -> None:
        """Sample from logits [n, V] and write token and logprob at column `step` of the rows' outputs."""
        token, logprob = draw(logits, batch.keys[:n], step, self.temperature, self.top_k)
        at = (batch.row[:n], step.expand(n))
        # A row that ended keeps sampling until it is dropped; _finish cuts at the first end.
        batch.tokens.index_put_(at, token)
        batch.logprobs.index_put_(at, logprob)
        batch.done[:n] |= (token[:, None] == self.eos).any(1)
        batch.last[:n] = token
        batch.step.copy_(step)

    # --- transformers generate ---

    def _generate(self, prompts, seeds, max_new: int) -> tuple[Tensor, Tensor, Tensor, int, float, float]:
        """transformers generate, left-padded; a logits processor draws with our noise, so seeds mean the same."""
        start, width = self._clock(), max(map(len, prompts))
        pad = [width - len(p) for p in prompts]
        ids = torch.tensor([[self.pad_id] * w + list(p) for w, p in zip(pad, prompts, strict=True)], device=self.device)
        attention = torch.tensor([[0] * w + [1] * (width - w) for w in pad], device=self.device)
        keys, drawn = row_keys(torch.tensor(list(seeds), dtype=torch.long, device=self.device)), []

        def processor(input_ids: Tensor, logits: Tensor) -> Tensor:
            drawn.append(draw(logits, keys, len(drawn), self.temperature, self.top_k))
            return torch.full_like(logits, float("-inf")).scatter_(1, drawn[-1][0][:, None], 0.0)

        training = self.model.training
        self.model.eval()
        try:
            self.model.generate(
                ids, attention_mask=attention, max_new_tokens=max_new, do_sample=False, num_beams=1, use_cache=True,
                logits_processor=[processor], eos_token_id=self.eos.tolist(), pad_token_id=self.pad_id,
                temperature=None, top_p=None, top_k=None, repetition_penalty=1.0,
            )  # fmt: skip
        finally:
            self.model.train(training)
        tokens, logprobs = (torch.stack([d[i] for d in drawn], 1) for i in (0, 1))
        return *self._finish(tokens, logprobs), len(drawn) - 1, 0.0, self._clock() - start
