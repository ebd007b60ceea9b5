"""Sampling completions fast: prefill once a prompt, decode with early stop, every row from its own seed.

Row b of prompt x_b and seed s_b samples y_0, y_1, ... until an end token or max_new (sampling/noise.py has the draw).

Engines. `eager`: the decoder written out (sampling/decoder.py). `graph`: the same step, sampling included, captured as
CUDA graphs. `generate`: transformers generate with the same noise, for every other architecture (sliding windows). All
of them give the same tokens up to the numerics of their products.

Rows that end are dropped while the others go on; with graphs in a few batch sizes only, since each is a capture.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from loguru import logger
from torch import Tensor, nn

from sampling.cache import DecodeBatch
from sampling.decoder import Decoder, lean_reason
from sampling.generate import generate
from sampling.noise import draw

# Receives (row, its tokens) of the rows that ended since the last call, maybe none, while others are decoded.
Ended = Callable[[list[tuple[int, list[int]]]], None]

ENGINES = ("auto", "graph", "eager", "generate")
# Tokens of one prefill slice: bounds the MLP's activations.
PREFILL_TOKENS = 16384
# Graphs without Triton attend to a multiple of so many slots.
SLOT_BUCKET = 128
# With graphs, `alive` rows are decoded in a multiple of unit rows: (most rows, unit).
BATCH_UNITS = ((2, 1), (4, 2), (8, 4), (32, 8), (128, 16))


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


def choose_engine(engine: str, model: nn.Module, device: torch.device) -> str:
    """graph, eager or generate for what was asked. Raises ValueError where that cannot run the model."""
    if engine not in ENGINES:
        raise ValueError(f"engine {engine!r} is none of auto, graph, eager, generate")
    cuda, reason = device.type == "cuda", lean_reason(model)
    if engine in ("graph", "eager") and reason:
        raise ValueError(f"engine {engine} cannot run this model ({reason}): use engine auto or generate")
    if engine == "graph" and not cuda:
        raise ValueError("engine graph needs a CUDA device: use engine auto or eager")
    if engine != "auto":
        return engine
    if reason:
        logger.info(f"sampling through transformers generate: {reason}")
        return "generate"
    return "graph" if cuda else "eager"


class Sampler:
    """Samples completions of a transformers causal LM, adapted or plain.

    eos_ids: end tokens; pad_id fills tokens beyond the end; top_k 0 samples from the whole vocabulary. engine: "auto",
    "graph", "eager" or "generate". max_batch: the most rows decoded together (None: all of a call).
    Raises ValueError where the engine asked for cannot run the model.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        eos_ids: Sequence[int],
        pad_id: int,
        temperature: float = 1.0,
        top_k: int = 20,
        engine: str = "auto",
        max_batch: int | None = None,
    ):
        self.model = model
        self.device = model.get_input_embeddings().weight.device
        self.eos = torch.tensor(list(eos_ids), dtype=torch.long, device=self.device)
        self.pad_id = pad_id
        self.temperature = temperature
        self.top_k = top_k
        self.engine = choose_engine(engine, model, self.device)
        self.max_batch = max_batch
        # Decode steps between two looks at which rows have ended: a look waits for the device.
        self.check_every = 8 if self.device.type == "cuda" else 1

        # The written-out model, the memory of the rows, and by (rows, slots) the captured steps.
        self.decoder = None if self.engine == "generate" else Decoder(model)
        self.batch: DecodeBatch | None = None
        self.graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}
        self._addresses: list[tuple[int, ...]] = []

    def free(self) -> None:
        """Give the cache, the graphs and the merged weights back; the next call makes them again."""
        self.batch, self._addresses = None, []
        self.graphs.clear()
        if self.decoder is not None:
            self.decoder.release()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], max_new: int, ended: Ended | None = None
    ) -> Rollout:
        """One completion of at most max_new tokens for each prompt (token ids); seeds: one int64 a row.

        ended: called between decode steps, while a GPU decodes on. It hears of rows that reached an end token, each
        once; of those that max_new cut, and of all rows with engine generate, only the result tells.
        """
        if len(prompts) != len(seeds) or not prompts or min(map(len, prompts)) == 0 or max_new < 1:
            raise ValueError("sample() needs at least one prompt, no empty prompt, one seed a prompt and max_new >= 1")
        size, parts = self.max_batch or len(prompts), []
        for i in range(0, len(prompts), size):
            part = (prompts[i : i + size], seeds[i : i + size], max_new)
            tell = (lambda rows, i=i: ended([(i + b, tokens) for b, tokens in rows])) if ended else None
            parts.append(self._generate(*part) if self.engine == "generate" else self._decode(*part, tell))

        # Rows of all parts, padded to the longest.
        width = max(p.tokens.shape[1] for p in parts)
        tokens = torch.cat([F.pad(p.tokens, (0, width - p.tokens.shape[1]), value=self.pad_id) for p in parts])
        mask = torch.cat([F.pad(p.mask, (0, width - p.mask.shape[1]), value=False) for p in parts])
        logprobs = torch.cat([F.pad(p.logprobs, (0, width - p.logprobs.shape[1]), value=0.0) for p in parts])
        return Rollout(
            tokens=tokens,
            mask=mask,
            logprobs=logprobs,
            lengths=mask.sum(1),
            decode_steps=sum(p.decode_steps for p in parts),
            prefill_s=sum(p.prefill_s for p in parts),
            decode_s=sum(p.decode_s for p in parts),
        )

    @torch.no_grad()
    def fill_cache(self, prompts: Sequence[Sequence[int]], max_new: int) -> DecodeBatch | None:
        """Take the memory that `sample` takes for these prompts and run their prefill; the batch, ready to decode.

        Engine generate keeps nothing: it samples two tokens, frees its cache again and returns None.
        """
        seeds = range(len(prompts))
        if self.engine == "generate":
            self.sample(prompts, seeds, 2)
            return None
        self.refresh()
        return self._prefill(prompts, seeds, max_new)

    def refresh(self) -> None:
        """Take over the current delta_S; graphs stay valid while every weight stays where it is."""
        addresses = self.decoder.refresh()
        if addresses != self._addresses:
            self.graphs.clear()
            self._addresses = addresses

    def emit(self, batch: DecodeBatch, n: int, logits: Tensor, step: Tensor) -> None:
        """Sample from logits [n, V] and write token and logprob at column `step` of the rows' outputs."""
        kernels = self.decoder.kernels
        how = kernels.draws.draw if kernels and kernels.draws.fits(logits, self.top_k) else draw
        token, logprob = how(logits, batch.keys[:n], step, self.temperature, self.top_k)
        at = (batch.row[:n], step.expand(n))
        # A row that ended keeps sampling until it is dropped; _finish cuts at the first end.
        batch.tokens.index_put_(at, token)
        batch.logprobs.index_put_(at, logprob)
        batch.done[:n] |= (token[:, None] == self.eos).any(1)
        batch.last[:n] = token
        batch.step.copy_(step)

    def _finish(self, tokens: Tensor, logprobs: Tensor, steps: int, prefill_s: float, decode_s: float) -> Rollout:
        """tokens, logprobs [B, T] as sampled, trimmed and blanked beyond the first end."""
        ends = torch.isin(tokens, self.eos).long()
        mask = ends.cumsum(1) - ends == 0
        width = int(mask.sum(1).max())
        tokens, mask, logprobs = tokens[:, :width], mask[:, :width], logprobs[:, :width]
        return Rollout(
            tokens=tokens.masked_fill(~mask, self.pad_id),
            mask=mask,
            logprobs=logprobs.masked_fill(~mask, 0.0),
            lengths=mask.sum(1),
            decode_steps=steps,
            prefill_s=prefill_s,
            decode_s=decode_s,
        )

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    # --- eager and graph ---

    def _decode(self, prompts, seeds, max_new: int, ended: Ended | None = None) -> Rollout:
        start = self._clock()
        self.refresh()
        batch = self._prefill(prompts, seeds, max_new)
        middle, steps = self._clock(), 0
        told = torch.zeros(len(prompts), dtype=torch.bool, device=self.device)
        while steps + 1 < max_new:
            # Drop rows that ended, where that saves enough.
            alive = int((~batch.done[: batch.n]).sum())
            news = self._newly_ended(batch, told, steps) if ended else []
            if alive == 0:
                if ended:
                    ended(news)
                break
            if (size := self._size(alive)) <= 0.85 * batch.n:
                order = batch.done[: batch.n].int().argsort(stable=True)  # those that go on, then some that ended
                batch.keep(order[:size].sort().values)

            # Decode some steps without looking.
            for _ in range(min(self.check_every, max_new - 1 - steps)):
                if not self._advance(batch, steps):
                    batch = self._prefill(prompts, seeds, max_new)
                    self._advance(batch, steps)
                steps += 1
            if ended:
                ended(news)
        tokens, logprobs = (t[: len(prompts), : steps + 1] for t in (batch.tokens, batch.logprobs))
        return self._finish(tokens, logprobs, steps, middle - start, self._clock() - middle)

    def _newly_ended(self, batch: DecodeBatch, told: Tensor, steps: int) -> list[tuple[int, list[int]]]:
        """(row, tokens up to its end) of the rows that are done and not yet `told` [B], and marks them."""
        rows = batch.row[: batch.n][batch.done[: batch.n]]
        rows = rows[~told[rows]]
        told[rows] = True
        tokens = batch.tokens[rows, : steps + 1]
        lengths = torch.isin(tokens, self.eos).int().argmax(1) + 1
        return [(b, t[:n]) for b, t, n in zip(rows.tolist(), tokens.tolist(), lengths.tolist(), strict=True)]

    def _size(self, alive: int) -> int:
        """The batch size to decode `alive` rows with: exact without graphs, else one of a few to capture."""
        if self.engine != "graph":
            return alive
        unit = next((u for most, u in BATCH_UNITS if alive <= most), 32)
        return -(-alive // unit) * unit

    def _advance(self, batch: DecodeBatch, steps: int) -> bool:
        """One decode step. The first of a shape runs uncaptured, which warms it up, and is captured for the others.

        False where the kernels failed in the first step and may have moved the rows' states: prefill is to run again.
        """
        bucket = SLOT_BUCKET if self.engine == "graph" else 1
        slots = min(batch.tokens.shape[1], -(-(steps + 1) // bucket) * bucket)
        key = (batch.n, 0 if self.decoder.kernels else slots)
        if key in self.graphs:
            self.graphs[key].replay()
            return True
        try:
            self._step(batch, slots)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            # A step that is run twice writes the same keys and values, but moves a state twice.
            if self.decoder.kernels is None or (batch.has_state and steps):
                raise
            logger.warning(f"the Triton decode kernels failed ({error}): going on with plain torch, slower")
            self.decoder.kernels = None
            if batch.has_state:
                return False
            self._step(batch, slots)
            return True
        if self.engine == "graph":
            self._capture(key, batch, slots)
        return True

    def _step(self, batch: DecodeBatch, slots: int) -> None:
        """Feed the last tokens of the rows, attend to `slots` of their slots, sample the next tokens."""
        self.emit(batch, batch.n, self.decoder.step(batch, batch.n, slots), batch.step + 1)

    def _capture(self, key: tuple[int, int], batch: DecodeBatch, slots: int) -> None:
        graph = torch.cuda.CUDAGraph()
        pool = next(iter(self.graphs.values())).pool() if self.graphs else None
        try:
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                self._step(batch, slots)
            self.graphs[key] = graph
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            logger.warning(f"CUDA graph capture failed ({error}): going on without graphs, several times slower")
            self.engine = "eager"

    def _prefill(self, prompts, seeds, max_new: int) -> DecodeBatch:
        """Run each distinct prompt once and sample every row's first token."""
        distinct = {p: i for i, p in enumerate(dict.fromkeys(map(tuple, prompts)))}
        group = [distinct[tuple(p)] for p in prompts]
        width, n = max(map(len, distinct)), len(prompts)

        # Memory for the rows: the last call's where that is large enough.
        need = (n, len(distinct), width, max_new)
        if self.batch is None or any(a > b for a, b in zip(need, self.batch.size, strict=True)):
            had = self.batch.size if self.batch else (0, 0, 0, 0)
            self.batch = None
            self.graphs.clear()
            self.batch = DecodeBatch(self.model, self.decoder.layers, *map(max, need, had))
        batch = self.batch
        batch.begin(seeds, [len(p) for p in prompts], group)

        # Prompts in slices of bounded size.
        per_slice, logits = max(1, PREFILL_TOKENS // width), []
        for first in range(0, len(distinct), per_slice):
            part = list(distinct)[first : first + per_slice]
            ids = torch.tensor([list(p) + [0] * (width - len(p)) for p in part], device=self.device)
            logits.append(self.decoder.prefill(ids, [len(p) for p in part], batch, first))
        self.emit(batch, n, torch.cat(logits).index_select(0, torch.tensor(group, device=self.device)), batch.step)
        return batch

    # --- transformers generate ---

    def _generate(self, prompts, seeds, max_new: int) -> Rollout:
        start = self._clock()
        tokens, logprobs = generate(
            self.model,
            prompts,
            seeds,
            max_new,
            eos_ids=self.eos.tolist(),
            pad_id=self.pad_id,
            temperature=self.temperature,
            top_k=self.top_k,
        )
        return self._finish(tokens, logprobs, tokens.shape[1] - 1, 0.0, self._clock() - start)
